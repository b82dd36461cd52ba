//! Joining: from a token to a node's own certificates, as kubeadm's TLS bootstrap does it.
//!
//! The first connection only reads the server's chain and compares the authority with the token's hash; the token itself
//! is sent only to a server that this authority vouches for.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use keelson_pki::{AltNames, CertificateRequest, Kubeconfig, PrivateKey, Subject};
use kube::api::{ObjectMeta, PostParams};
use kube::runtime::wait::await_condition;
use kube::{Api, Client};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::{Digest, Sha256};

use crate::paths::write_atomically;
use crate::token::JoinToken;

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

/// Makes sure that the node in `dir` has its certificates; talks to the cluster only for what is missing.
pub async fn ensure(
    dir: &Path,
    server: &str,
    token: Option<&JoinToken>,
    node: &str,
    node_ip: IpAddr,
) -> Result<NodeCredentials, Error> {
    let files = NodeCredentials::in_directory(dir);
    if !files.kubeconfig.exists() {
        let token = token.ok_or(Error::TokenNeeded)?;
        let ca = fetch_authority(server, &token.ca_hash).await?;
        let client = bootstrap_client(server, &ca, token)?;
        let subject = Subject::new(&format!("system:node:{node}"), &["system:nodes"]);
        let (certificate, key) = request(
            &client,
            &subject,
            &AltNames::default(),
            "kubernetes.io/kube-apiserver-client-kubelet",
            "client auth",
        )
        .await?;
        write(&files.ca, ca.as_bytes())?;
        let kubeconfig = Kubeconfig {
            cluster: "keelson",
            server,
            certificate_authority: &ca,
            user: &subject.common_name,
            client: Some((&certificate, &key)),
            token: None,
            context: None,
        };
        write(&files.kubeconfig, kubeconfig.render().as_bytes())?;
    }
    if !files.serving_certificate.exists() {
        let client = keelson_client::client_from_kubeconfig(&files.kubeconfig)
            .await
            .map_err(|error| Error::Write {
                path: files.kubeconfig.clone(),
                source: std::io::Error::other(error),
            })?;
        let subject = Subject::new(&format!("system:node:{node}"), &["system:nodes"]);
        let names = AltNames::from_hosts(&[node.to_owned(), node_ip.to_string()]);
        let (certificate, key) = request(
            &client,
            &subject,
            &names,
            "kubernetes.io/kubelet-serving",
            "server auth",
        )
        .await?;
        write(&files.serving_key, key.as_bytes())?;
        write(&files.serving_certificate, certificate.as_bytes())?;
    }
    Ok(files)
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
        .map_err(|error| match error {
            kube::Error::Api(status) if status.code == 401 => Error::TokenRefused,
            source => Error::Api {
                operation: "creating a CertificateSigningRequest",
                source: Box::new(source),
            },
        })?;
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
    let certificate = keelson_pki::Certificate::from_pem(ca_pem)?;
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
    let connect = async {
        let tcp = tokio::net::TcpStream::connect((host.as_str(), port)).await?;
        let name = ServerName::try_from(host.clone()).map_err(std::io::Error::other)?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(chain_reader()));
        connector.connect(name, tcp).await
    };
    let tls = tokio::time::timeout(Duration::from_secs(15), connect)
        .await
        .map_err(|_| unreachable(std::io::ErrorKind::TimedOut.into()))?
        .map_err(unreachable)?;
    let chain = tls.get_ref().1.peer_certificates().unwrap_or_default();
    for certificate in chain {
        let Ok(authority) = keelson_pki::Certificate::from_der(certificate) else {
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

/// The hash of an authority's public key, `sha256:…`.
pub fn authority_hash(authority: &keelson_pki::Certificate) -> Result<String, keelson_pki::Error> {
    Ok(format!(
        "sha256:{}",
        hex::encode(Sha256::digest(authority.public_key()?.spki()))
    ))
}

fn chain_reader() -> rustls::ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let schemes = provider.signature_verification_algorithms.supported_schemes();
    rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("invariant: the provider supports the default versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ReadChain(schemes)))
        .with_no_client_auth()
}

/// Accepts any chain: it is judged by the token's hash afterwards, and nothing is said on this connection.
#[derive(Debug)]
struct ReadChain(Vec<rustls::SignatureScheme>);

impl ServerCertVerifier for ReadChain {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.clone()
    }
}
