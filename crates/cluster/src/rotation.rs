//! Certificates of a joined node, renewed while it runs: between 70 and 90 % of their life, as upstream's kubelet does it,
//! by a CertificateSigningRequest that the node makes with its old certificate.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use http::{Request, Response};
use jiff::{SignedDuration, Timestamp};
use keelson_pki::tls::ServingCertificate;
use keelson_pki::{Certificate, Leaf, PrivateKey};
use kube::Client;
use kube::client::Body;
use parking_lot::RwLock;
use tokio_util::sync::CancellationToken;
use tower::{BoxError, Service};

use crate::join::{self, NodeCredentials, NodeIdentity};

/// First and longest wait after a renewal that failed.
const RETRY: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(600));
/// Longest sleep: the clock may be set, and a machine may be suspended, meanwhile.
const LONGEST_SLEEP: Duration = Duration::from_secs(600);

/// A client whose requests go through the newest identity of the node. Watches that run go on as they are and come back
/// with the new one; until then the old certificate is valid for a tenth of its life at least.
#[derive(Clone)]
pub(crate) struct CurrentClient(Arc<RwLock<Client>>);

impl CurrentClient {
    pub(crate) fn new(client: Client) -> Self {
        Self(Arc::new(RwLock::new(client)))
    }

    /// A client over whatever is current at each request, used by the part of that name.
    pub(crate) fn client(&self, component: &str) -> Client {
        keelson_client::component_client(self.clone(), component)
    }

    fn replace(&self, client: Client) {
        *self.0.write() = client;
    }
}

impl Service<Request<Body>> for CurrentClient {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<Body>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // Asked of the client of the moment, in `call`.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let client = self.0.read().clone();
        Box::pin(async move { client.send(request).await.map_err(BoxError::from) })
    }
}

/// When a certificate is to be renewed: at 70 % of its life and up to 20 % later; `jitter` is between 0 and 1.
fn renewal(certificate: &Certificate, jitter: f64) -> Timestamp {
    let life = certificate.not_after().duration_since(certificate.not_before());
    let age = SignedDuration::try_from_secs_f64(life.as_secs_f64() * (0.7 + 0.2 * jitter));
    age.ok()
        .and_then(|age| certificate.not_before().checked_add(age).ok())
        .unwrap_or(certificate.not_after())
}

/// Renews a node's certificates until `shutdown`.
pub(crate) struct Rotation {
    pub(crate) directory: PathBuf,
    pub(crate) identity: NodeIdentity,
    pub(crate) client: CurrentClient,
    pub(crate) serving: Arc<ServingCertificate>,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Client,
    Serving,
}

impl Rotation {
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        tokio::join!(
            self.keep(Kind::Client, shutdown.clone()),
            self.keep(Kind::Serving, shutdown)
        );
    }

    async fn keep(&self, kind: Kind, shutdown: CancellationToken) {
        let mut retry = RETRY.0;
        let jitter = rand::random::<f64>();
        loop {
            let wait = match self.current(kind) {
                Ok(certificate) => until(renewal(&certificate, jitter)),
                Err(error) => {
                    tracing::error!(%error, ?kind, "the node's certificate cannot be read; asking for another");
                    Duration::ZERO
                }
            };
            let wait = if wait.is_zero() {
                tracing::info!(?kind, "renewing the node's certificate");
                let renewed = tokio::select! {
                    () = shutdown.cancelled() => return,
                    renewed = self.renew(kind) => renewed,
                };
                match renewed {
                    Ok(()) => {
                        tracing::info!(?kind, "the node's certificate is renewed");
                        retry = RETRY.0;
                        continue;
                    }
                    Err(error) => {
                        tracing::warn!(
                            error = &error as &dyn std::error::Error,
                            ?kind,
                            "the node's certificate is not renewed; trying again"
                        );
                        let wait = retry;
                        retry = (retry * 2).min(RETRY.1);
                        wait
                    }
                }
            } else {
                wait.min(LONGEST_SLEEP)
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    fn files(&self) -> NodeCredentials {
        NodeCredentials::in_directory(&self.directory)
    }

    fn current(&self, kind: Kind) -> Result<Certificate, join::Error> {
        match kind {
            Kind::Client => join::client_certificate(&self.files().kubeconfig),
            Kind::Serving => join::serving_leaf(&self.files()).map(|leaf| leaf.certificate),
        }
    }

    async fn renew(&self, kind: Kind) -> Result<(), join::Error> {
        let files = self.files();
        let client = self.client.client("kubelet");
        match kind {
            Kind::Client => {
                join::request_client(&client, &files, &self.identity).await?;
                let renewed = keelson_client::client_from_kubeconfig(&files.kubeconfig, "kubelet").await;
                self.client
                    .replace(renewed.map_err(|source| join::Error::Credentials {
                        path: files.kubeconfig,
                        source: source.into(),
                    })?);
            }
            Kind::Serving => {
                let leaf = join::request_serving(&client, &files, &self.identity).await?;
                self.serving.replace(&leaf)?;
            }
        }
        Ok(())
    }
}

/// How long from now; zero when it is over.
pub(crate) fn until(end: Timestamp) -> Duration {
    let left = end.duration_since(Timestamp::now());
    Duration::try_from(left).unwrap_or(Duration::ZERO)
}

/// A certificate and its key from two files, which must belong together.
pub(crate) fn read_leaf(
    certificate: &Path,
    key: &Path,
) -> Result<Leaf, Box<dyn std::error::Error + Send + Sync>> {
    let leaf = Leaf {
        certificate: Certificate::from_pem(&std::fs::read_to_string(certificate)?)?,
        key: PrivateKey::from_pem(&std::fs::read_to_string(key)?)?,
    };
    if leaf.certificate.public_key()? != leaf.key.public() {
        return Err("the key belongs to another certificate".into());
    }
    Ok(leaf)
}

#[cfg(test)]
mod tests {
    use keelson_pki::{AltNames, CertificateAuthority, Profile, Subject};

    use super::*;

    #[test]
    fn renewal_is_between_70_and_90_percent_of_the_life() {
        let start = Timestamp::from_second(1_800_000_000).unwrap();
        let ca = CertificateAuthority::create("ca", SignedDuration::from_hours(1000), start).unwrap();
        let profile = Profile::client(SignedDuration::from_hours(100));
        let subject = Subject::new("system:node:one", &["system:nodes"]);
        let (certificate, _) = ca.issue(&subject, &AltNames::default(), &profile, start).unwrap();
        let life = certificate.not_after().as_second() - certificate.not_before().as_second();
        for (jitter, percent) in [(0.0, 70), (0.5, 80), (1.0, 90)] {
            let age = renewal(&certificate, jitter).as_second() - certificate.not_before().as_second();
            assert!(
                (age - life * percent / 100).abs() <= 1,
                "{jitter}: {age} of {life}"
            );
        }
    }
}
