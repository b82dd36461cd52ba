//! Joining: from a token to a node's own certificates, as kubeadm's TLS bootstrap does it.
//!
//! The first connection only reads the server's chain and compares the authority with the token's hash; the token itself
//! is sent only to a server that this authority vouches for.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use k8s_openapi::api::core::v1::Node;
use keelson_pki::{AltNames, Certificate, CertificateRequest, Kubeconfig, Leaf, PrivateKey, Subject};
use kube::api::{ObjectMeta, PostParams};
use kube::runtime::wait::await_condition;
use kube::{Api, Client};
use rustls::pki_types::ServerName;
use sha2::{Digest, Sha256};

use crate::paths::write_atomically;
use crate::rotation;
use crate::token::JoinToken;
use crate::up::is_ready;

/// How long the cluster may take to sign a certificate.
const SIGNING_PATIENCE: Duration = Duration::from_secs(60);

/// This machine could not join.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server's URL is not one.
    #[error("{0} is not the URL of a server; it looks like https://10.0.0.5:6443")]
    Url(String),
    /// Nobody answers.
    #[error("cannot reach {server}; is the address right, is the cluster up, is the port open?")]
    Unreachable {
        /// The server.
        server: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The server's authority is not the one of the token.
    #[error(
        "the server at {server} does not belong to the cluster of this token: its authority has another key than {expected}"
    )]
    WrongCluster {
        /// The server.
        server: String,
        /// The hash in the token.
        expected: String,
    },
    /// The server does not accept the token.
    #[error(
        "the server refused the token: it is wrong or has expired; make a new one with `keelson token create`"
    )]
    TokenRefused,
    /// The cluster did not sign.
    #[error("the certificate request {0} was not signed in time; look at `kubectl get csr`")]
    NotSigned(String),
    /// The request was refused.
    #[error("the certificate request {name} was denied: {message}")]
    Denied {
        /// The request.
        name: String,
        /// Why.
        message: String,
    },
    /// The API refused a request.
    #[error("{operation} failed")]
    Api {
        /// What was tried.
        operation: &'static str,
        /// The cause.
        #[source]
        source: Box<kube::Error>,
    },
    /// Keys or certificates.
    #[error("cannot make a certificate request")]
    Pki(#[from] keelson_pki::Error),
    /// A file.
    #[error("cannot write {path}", path = path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// One of two clocks is wrong.
    #[error(
        "{what} is valid from {from} to {until}, and this machine's clock says {now}: set the clock of this machine or of \
        the server (see `timedatectl`)"
    )]
    Clock {
        /// Whose certificate.
        what: String,
        /// First second.
        from: Timestamp,
        /// Last second.
        until: Timestamp,
        /// This machine's time.
        now: Timestamp,
    },
    /// The node was away for so long that its certificate has ended.
    #[error(
        "this node's certificate ended at {end}: it has to join again with a new --token; `keelson token create` on the \
        server prints one"
    )]
    Ended {
        /// When.
        end: Timestamp,
    },
    /// Another machine has the name.
    #[error(
        "the cluster has a node {name} already, and it is Ready: choose another --node-name, or `kubectl delete node {name}` \
        if that one is gone for good"
    )]
    NameTaken {
        /// The name.
        name: String,
    },
    /// A file of the node.
    #[error("cannot use {path}; delete it and start the agent again, with a new --token if it asks for one", path = path.display())]
    Credentials {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The first start needs a token.
    #[error(
        "this machine has not joined yet: --token is needed; `keelson token create` on the server prints one"
    )]
    TokenNeeded,
}

/// What a node has after joining.
#[derive(Clone, Debug)]
pub struct NodeCredentials {
    /// The kubelet's kubeconfig.
    pub kubeconfig: PathBuf,
    /// The cluster's authority.
    pub ca: PathBuf,
    /// The kubelet's serving certificate.
    pub serving_certificate: PathBuf,
    /// Its key.
    pub serving_key: PathBuf,
}

impl NodeCredentials {
    /// The files of the node in `dir`.
    pub fn in_directory(dir: &Path) -> Self {
        Self {
            kubeconfig: dir.join("kubelet.kubeconfig"),
            ca: dir.join("ca.crt"),
            serving_certificate: dir.join("kubelet.crt"),
            serving_key: dir.join("kubelet.key"),
        }
    }
}

/// Who a node is.
#[derive(Clone, Debug)]
pub struct NodeIdentity {
    /// The server it talks to.
    pub server: String,
    /// The Node object's name.
    pub name: String,
    /// Its address.
    pub ip: IpAddr,
}

impl NodeIdentity {
    fn subject(&self) -> Subject {
        Subject::new(&format!("system:node:{}", self.name), &["system:nodes"])
    }
}

/// Makes sure that the node in `dir` has its certificates; talks to the cluster only for what is missing or has ended.
pub async fn ensure(
    dir: &Path,
    token: Option<&JoinToken>,
    identity: &NodeIdentity,
) -> Result<NodeCredentials, Error> {
    let files = NodeCredentials::in_directory(dir);
    let now = Timestamp::now();
    let joined = files.kubeconfig.exists() && !ended(&client_certificate(&files.kubeconfig)?, token, now)?;
    if !joined {
        let token = token.ok_or(Error::TokenNeeded)?;
        let ca = fetch_authority(&identity.server, &token.ca_hash).await?;
        let client = bootstrap_client(&identity.server, &ca, token)?;
        if !files.kubeconfig.exists() {
            name_is_free(&client, &identity.name).await?;
        }
        write(&files.ca, ca.as_bytes())?;
        request_client(&client, &files, identity).await?;
    }
    let usable = serving_leaf(&files).is_ok_and(|leaf| leaf.certificate.not_after() > now);
    if !usable {
        let client = keelson_client::client_from_kubeconfig(&files.kubeconfig, "kubelet")
            .await
            .map_err(|source| Error::Credentials {
                path: files.kubeconfig.clone(),
                source: source.into(),
            })?;
        request_serving(&client, &files, identity).await?;
    }
    Ok(files)
}

/// Whether the node has to join again. An error when it has no token for that, or its clock is wrong.
fn ended(certificate: &Certificate, token: Option<&JoinToken>, now: Timestamp) -> Result<bool, Error> {
    if certificate.not_before() > now {
        return Err(Error::Clock {
            what: "this node's certificate".into(),
            from: certificate.not_before(),
            until: certificate.not_after(),
            now,
        });
    }
    let end = certificate.not_after();
    match (end <= now, token) {
        (true, None) => Err(Error::Ended { end }),
        (ended, _) => Ok(ended),
    }
}

/// The node's certificate in its kubeconfig.
pub(crate) fn client_certificate(kubeconfig: &Path) -> Result<Certificate, Error> {
    let bad = |source: Box<dyn std::error::Error + Send + Sync>| Error::Credentials {
        path: kubeconfig.into(),
        source,
    };
    let parsed = kube::config::Kubeconfig::read_from(kubeconfig).map_err(|error| bad(error.into()))?;
    let user = parsed
        .auth_infos
        .into_iter()
        .next()
        .and_then(|user| user.auth_info);
    let data = user.and_then(|user| user.client_certificate_data);
    let data = data.ok_or_else(|| bad("it has no client certificate".into()))?;
    let pem = base64::engine::general_purpose::STANDARD
        .decode(data)
        .map_err(|error| bad(error.into()))?;
    Certificate::from_pem(&String::from_utf8_lossy(&pem)).map_err(|error| bad(error.into()))
}

/// The kubelet's serving certificate with its key.
pub(crate) fn serving_leaf(files: &NodeCredentials) -> Result<Leaf, Error> {
    rotation::read_leaf(&files.serving_certificate, &files.serving_key).map_err(|source| Error::Credentials {
        path: files.serving_certificate.clone(),
        source,
    })
}

/// A name that a living node has would be taken from it.
async fn name_is_free(client: &Client, name: &str) -> Result<(), Error> {
    let node = Api::<Node>::all(client.clone())
        .get_opt(name)
        .await
        .map_err(refused("looking for a node of this name"))?;
    if node.is_some_and(|node| is_ready(&node)) {
        return Err(Error::NameTaken { name: name.into() });
    }
    Ok(())
}

/// Requests a client certificate and writes the kubeconfig with it. `ca` is there already.
pub(crate) async fn request_client(
    client: &Client,
    files: &NodeCredentials,
    identity: &NodeIdentity,
) -> Result<(), Error> {
    let subject = identity.subject();
    let (certificate, key) = request(
        client,
        &subject,
        &AltNames::default(),
        "kubernetes.io/kube-apiserver-client-kubelet",
        "client auth",
    )
    .await?;
    let ca = std::fs::read_to_string(&files.ca).map_err(|source| Error::Credentials {
        path: files.ca.clone(),
        source: source.into(),
    })?;
    let kubeconfig = Kubeconfig {
        cluster: "keelson",
        server: &identity.server,
        certificate_authority: &ca,
        user: &subject.common_name,
        client: Some((&certificate, &key)),
        token: None,
        context: None,
    };
    write(&files.kubeconfig, kubeconfig.render().as_bytes())
}

/// Requests a serving certificate and writes it. A crash between both files is noticed by [`serving_leaf`].
pub(crate) async fn request_serving(
    client: &Client,
    files: &NodeCredentials,
    identity: &NodeIdentity,
) -> Result<Leaf, Error> {
    let names = AltNames::from_hosts(&[identity.name.clone(), identity.ip.to_string()]);
    let signer = "kubernetes.io/kubelet-serving";
    let (certificate, key) = request(client, &identity.subject(), &names, signer, "server auth").await?;
    write(&files.serving_key, key.as_bytes())?;
    write(&files.serving_certificate, certificate.as_bytes())?;
    serving_leaf(files)
}

fn write(path: &Path, contents: &[u8]) -> Result<(), Error> {
    write_atomically(path, contents).map_err(|source| Error::Write {
        path: path.into(),
        source,
    })
}

/// A signed certificate and its key, both PEM.
async fn request(
    client: &Client,
    subject: &Subject,
    names: &AltNames,
    signer: &str,
    usage: &str,
) -> Result<(String, String), Error> {
    let key = PrivateKey::generate()?;
    let request = CertificateRequest::create(subject, names, &key)?;
    let object = CertificateSigningRequest {
        metadata: ObjectMeta {
            generate_name: Some("node-csr-".into()),
            ..ObjectMeta::default()
        },
        spec: CertificateSigningRequestSpec {
            request: ByteString(request.into_bytes()),
            signer_name: signer.into(),
            usages: Some(vec!["digital signature".into(), usage.into()]),
            ..CertificateSigningRequestSpec::default()
        },
        status: None,
    };
    let api = Api::<CertificateSigningRequest>::all(client.clone());
    let created = api
        .create(&PostParams::default(), &object)
        .await
        .map_err(refused("creating a CertificateSigningRequest"))?;
    let name = created.metadata.name.unwrap_or_default();
    let decided = await_condition(api, &name, |request: Option<&CertificateSigningRequest>| {
        request.is_some_and(|request| certificate(request).is_some() || denial(request).is_some())
    });
    let signed = tokio::time::timeout(SIGNING_PATIENCE, decided)
        .await
        .map_err(|_| Error::NotSigned(name.clone()))?
        .map_err(|_| Error::NotSigned(name.clone()))?
        .ok_or_else(|| Error::NotSigned(name.clone()))?;
    if let Some(message) = denial(&signed) {
        return Err(Error::Denied { name, message });
    }
    let certificate = certificate(&signed).ok_or(Error::NotSigned(name))?;
    Ok((certificate, key.to_pem()))
}

fn refused(operation: &'static str) -> impl FnOnce(kube::Error) -> Error {
    move |error| match error {
        kube::Error::Api(status) if status.code == 401 => Error::TokenRefused,
        source => Error::Api {
            operation,
            source: Box::new(source),
        },
    }
}

fn certificate(request: &CertificateSigningRequest) -> Option<String> {
    let ByteString(bytes) = request.status.as_ref()?.certificate.as_ref()?;
    String::from_utf8(bytes.clone())
        .ok()
        .filter(|pem| !pem.is_empty())
}

fn denial(request: &CertificateSigningRequest) -> Option<String> {
    let conditions = request.status.as_ref()?.conditions.as_ref()?;
    let denied = conditions
        .iter()
        .find(|c| c.type_ == "Denied" || c.type_ == "Failed")?;
    Some(denied.message.clone().unwrap_or_default())
}

fn bootstrap_client(server: &str, ca_pem: &str, token: &JoinToken) -> Result<Client, Error> {
    let url = server.parse().map_err(|_| Error::Url(server.into()))?;
    let mut config = kube::Config::new(url);
    let certificate = Certificate::from_pem(ca_pem)?;
    config.root_cert = Some(vec![certificate.der().to_vec()]);
    config.auth_info.token = Some(token.bearer().into());
    Client::try_from(config).map_err(|source| Error::Api {
        operation: "making a client",
        source: Box::new(source),
    })
}

/// The PEM of the authority in the server's chain whose public key has the hash `expected`.
async fn fetch_authority(server: &str, expected: &str) -> Result<String, Error> {
    let bad_url = || Error::Url(server.into());
    let url: http::Uri = server.parse().map_err(|_| bad_url())?;
    let host = url
        .host()
        .ok_or_else(bad_url)?
        .trim_matches(['[', ']'])
        .to_owned();
    let port = url.port_u16().unwrap_or(6443);
    let unreachable = |source| Error::Unreachable {
        server: server.into(),
        source,
    };
    // Any chain will do: it is judged by the token's hash afterwards, and nothing is said on this connection.
    let mut reader = keelson_pki::tls::client_config(&[], None)?;
    keelson_pki::tls::accept_any(&mut reader);
    let connect = async {
        let tcp = tokio::net::TcpStream::connect((host.as_str(), port)).await?;
        let name = ServerName::try_from(host.clone()).map_err(std::io::Error::other)?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(reader));
        connector.connect(name, tcp).await
    };
    let tls = tokio::time::timeout(Duration::from_secs(15), connect)
        .await
        .map_err(|_| unreachable(std::io::ErrorKind::TimedOut.into()))?
        .map_err(unreachable)?;
    let chain = tls.get_ref().1.peer_certificates().unwrap_or_default();
    if let Some(leaf) = chain.first().and_then(|leaf| Certificate::from_der(leaf).ok()) {
        check_clock(server, &leaf, Timestamp::now())?;
    }
    for certificate in chain {
        let Ok(authority) = Certificate::from_der(certificate) else {
            continue;
        };
        let Ok(hash) = authority_hash(&authority) else {
            continue;
        };
        if authority.is_ca() && hash == expected {
            return Ok(authority.to_pem());
        }
    }
    Err(Error::WrongCluster {
        server: server.into(),
        expected: expected.into(),
    })
}

/// A certificate of the server that is not valid now: it renews its own in time, so one of both clocks is wrong.
fn check_clock(server: &str, leaf: &Certificate, now: Timestamp) -> Result<(), Error> {
    if (leaf.not_before()..=leaf.not_after()).contains(&now) {
        return Ok(());
    }
    Err(Error::Clock {
        what: format!("the certificate of {server}"),
        from: leaf.not_before(),
        until: leaf.not_after(),
        now,
    })
}

/// The hash of an authority's public key, `sha256:…`.
pub fn authority_hash(authority: &Certificate) -> Result<String, keelson_pki::Error> {
    Ok(format!(
        "sha256:{}",
        hex::encode(Sha256::digest(authority.public_key()?.spki()))
    ))
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use keelson_pki::{CertificateAuthority, Profile};

    use super::*;

    fn certificate(from: Timestamp, hours: i64) -> Certificate {
        let ca = CertificateAuthority::create("ca", SignedDuration::from_hours(10_000), from).unwrap();
        let profile = Profile::server(SignedDuration::from_hours(hours));
        ca.issue(&Subject::new("x", &[]), &AltNames::default(), &profile, from)
            .unwrap()
            .0
    }

    #[test]
    fn clocks_that_disagree_are_told() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let leaf = certificate(now, 1000);
        assert!(check_clock("https://s:6443", &leaf, now).is_ok());
        for wrong in [
            now - SignedDuration::from_hours(24 * 300),
            now + SignedDuration::from_hours(2000),
        ] {
            let error = check_clock("https://s:6443", &leaf, wrong)
                .unwrap_err()
                .to_string();
            assert!(
                error.starts_with("the certificate of https://s:6443 is valid from 20"),
                "{error}"
            );
            assert!(
                error.contains(&format!("this machine's clock says {wrong}: set the clock")),
                "{error}"
            );
        }
    }

    #[test]
    fn a_certificate_that_has_ended_needs_a_token() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let leaf = certificate(now, 1000);
        let token: JoinToken = format!("abcdef.0123456789abcdef@sha256:{}", "0".repeat(64))
            .parse()
            .unwrap();
        let later = now + SignedDuration::from_hours(1001);
        assert!(!ended(&leaf, None, now + SignedDuration::from_hours(1)).unwrap());
        assert!(ended(&leaf, Some(&token), later).unwrap());
        assert!(matches!(ended(&leaf, None, later), Err(Error::Ended { .. })));
        let before = now - SignedDuration::from_hours(24);
        assert!(matches!(
            ended(&leaf, Some(&token), before),
            Err(Error::Clock { .. })
        ));
    }
}
