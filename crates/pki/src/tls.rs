//! rustls configurations: servers, clients, and the verification of client certificates.
//!
//! As upstream, the server asks for a client certificate in the handshake, checks that the client holds its key, and
//! leaves the question whether the certificate is to be trusted to authentication ([`ClientVerifier`]): a bad
//! certificate is answered with 401, not with a broken connection.

use std::sync::{Arc, RwLock};
use std::time::Duration;

use jiff::Timestamp;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring as provider};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use crate::{Certificate, Error, Leaf};

/// The one cryptographic provider of the project.
pub fn crypto() -> Arc<CryptoProvider> {
    Arc::new(provider::default_provider())
}

/// A serving certificate that can be exchanged while connections are accepted.
#[derive(Debug)]
pub struct ServingCertificate {
    current: RwLock<Arc<CertifiedKey>>,
}

impl ServingCertificate {
    /// Serves `leaf`.
    pub fn new(leaf: &Leaf) -> Result<Arc<Self>, Error> {
        Ok(Arc::new(Self {
            current: RwLock::new(Arc::new(certified(leaf)?)),
        }))
    }

    /// Serves `leaf` followed by `chain`, so that a client without the authority can see who vouches.
    pub fn with_chain(leaf: &Leaf, chain: &[Certificate]) -> Result<Arc<Self>, Error> {
        let mut certified = certified(leaf)?;
        certified
            .cert
            .extend(chain.iter().map(|certificate| certificate.der().clone()));
        Ok(Arc::new(Self {
            current: RwLock::new(Arc::new(certified)),
        }))
    }

    /// Serves a PEM chain with its PEM key.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Arc<Self>, Error> {
        let certificates = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| Error::Certificate(error.to_string()))?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| Error::Key(error.to_string()))?;
        Ok(Arc::new(Self {
            current: RwLock::new(Arc::new(CertifiedKey::from_der(certificates, key, &crypto())?)),
        }))
    }

    /// Serves `leaf` to connections accepted from now on, followed by what followed the one before.
    pub fn replace(&self, leaf: &Leaf) -> Result<(), Error> {
        let mut new = certified(leaf)?;
        let mut current = self
            .current
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        new.cert.extend(current.cert.iter().skip(1).cloned());
        *current = Arc::new(new);
        Ok(())
    }
}

impl ResolvesServerCert for ServingCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(
            self.current
                .read()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .clone(),
        )
    }
}

fn certified(leaf: &Leaf) -> Result<CertifiedKey, Error> {
    let key = provider::sign::any_supported_type(&leaf.key.to_rustls())?;
    Ok(CertifiedKey::new(vec![leaf.certificate.der().clone()], key))
}

/// A server that asks for client certificates without judging them; `hint_cas` are the authorities it names. Protocols
/// are `h2` and `http/1.1`.
pub fn server_config(
    certificate: Arc<ServingCertificate>,
    hint_cas: &[&Certificate],
) -> Result<ServerConfig, Error> {
    let verifier = RequestClientCert {
        hints: hint_cas
            .iter()
            .map(|ca| DistinguishedName::from(ca.subject_der().to_vec()))
            .collect(),
        algorithms: provider::default_provider().signature_verification_algorithms,
    };
    let mut config = ServerConfig::builder_with_provider(crypto())
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// A client that trusts `cas` alone and shows `identity` if asked. No ALPN is set.
pub fn client_config(cas: &[Certificate], identity: Option<&Leaf>) -> Result<ClientConfig, Error> {
    let builder = ClientConfig::builder_with_provider(crypto())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots(cas)?);
    Ok(match identity {
        Some(leaf) => {
            builder.with_client_auth_cert(vec![leaf.certificate.der().clone()], leaf.key.to_rustls())?
        }
        None => builder.with_no_client_auth(),
    })
}

/// Makes a client believe any server: what is said is encrypted, and the server has the key of the certificate that it
/// shows, but nobody vouches for it. For servers that are judged otherwise, or not at all as upstream has it.
pub fn accept_any(config: &mut ClientConfig) {
    let verifier = AnyServer {
        algorithms: provider::default_provider().signature_verification_algorithms,
    };
    config.dangerous().set_certificate_verifier(Arc::new(verifier));
}

#[derive(Debug)]
struct AnyServer {
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for AnyServer {
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
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn roots(cas: &[Certificate]) -> Result<RootCertStore, Error> {
    let mut store = RootCertStore::empty();
    for ca in cas {
        store.add(ca.der().clone())?;
    }
    Ok(store)
}

/// Decides whether a client's certificate chain leads to one of the given authorities.
#[derive(Clone, Debug)]
pub struct ClientVerifier {
    inner: Arc<dyn ClientCertVerifier>,
}

impl ClientVerifier {
    /// Trusts `cas`.
    pub fn new(cas: &[Certificate]) -> Result<Self, Error> {
        let inner = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(cas)?), crypto())
            .build()
            .map_err(|e| Error::Tls(rustls::Error::General(e.to_string())))?;
        Ok(Self { inner })
    }

    /// Checks signatures, validity at `now` and the usage `client auth` of a chain whose first is the client's.
    pub fn verify(&self, chain: &[CertificateDer<'_>], now: Timestamp) -> Result<(), rustls::Error> {
        let (leaf, intermediates) = chain
            .split_first()
            .ok_or(rustls::Error::NoCertificatesPresented)?;
        let seconds = u64::try_from(now.as_second()).unwrap_or(0);
        let now = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        self.inner
            .verify_client_cert(leaf, intermediates, now)
            .map(|_| ())
    }
}

/// Go's `tls.RequestClientCert`.
#[derive(Debug)]
struct RequestClientCert {
    hints: Vec<DistinguishedName>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for RequestClientCert {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        // Trust is decided by authentication, per request; possession of the key is proven below.
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
