//! A serving certificate that can be replaced while the server runs.

use std::sync::Arc;

use parking_lot::RwLock;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// The certificate and key that the server shows. Clones share them.
#[derive(Clone, Debug)]
pub struct ServingCertificate {
    current: Arc<RwLock<Arc<CertifiedKey>>>,
}

/// The PEM text is no certificate chain with its key.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// Not PEM.
    #[error("not a PEM certificate or key")]
    Pem(#[from] rustls_pki_types::pem::Error),
    /// The key does not fit or is of an unknown kind.
    #[error("the private key cannot be used with the certificate")]
    Key(#[from] rustls::Error),
}

fn load(certificates: &[u8], key: &[u8]) -> Result<Arc<CertifiedKey>, CertificateError> {
    let chain = CertificateDer::pem_slice_iter(certificates).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(key)?;
    let provider = rustls::crypto::ring::default_provider();
    Ok(Arc::new(CertifiedKey::from_der(chain, key, &provider)?))
}

impl ServingCertificate {
    /// From a PEM chain and its PEM key.
    ///
    /// # Errors
    /// Text that is not PEM, or a key that does not fit.
    pub fn from_pem(certificates: &[u8], key: &[u8]) -> Result<Self, CertificateError> {
        Ok(Self {
            current: Arc::new(RwLock::new(load(certificates, key)?)),
        })
    }

    /// Replaces both; connections made from now on see them.
    ///
    /// # Errors
    /// As [`Self::from_pem`]; the old ones stay then.
    pub fn replace_pem(&self, certificates: &[u8], key: &[u8]) -> Result<(), CertificateError> {
        *self.current.write() = load(certificates, key)?;
        Ok(())
    }
}

impl ResolvesServerCert for ServingCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.read().clone())
    }
}
