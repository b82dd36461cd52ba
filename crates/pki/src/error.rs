//! What can go wrong with keys and certificates.

use std::path::PathBuf;

/// An operation on keys or certificates failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error("{operation} {path}: {source}", path = path.display())]
    File {
        /// `read`, `write` or `create directory`.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file has the wrong content.
    #[error("{path}: {source}", path = path.display())]
    InFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Box<Error>,
    },
    /// No PEM block of the wanted kind.
    #[error("no PEM block of type {0} found")]
    NoPemBlock(&'static str),
    /// The content of a PEM block is not base64.
    #[error("PEM block of type {0} is not valid base64")]
    BadPem(String),
    /// Not a certificate.
    #[error("not an X.509 certificate: {0}")]
    Certificate(String),
    /// Not a certificate signing request.
    #[error("not a PKCS#10 certificate signing request: {0}")]
    Request(String),
    /// The request is not signed by its own key.
    #[error("the certificate signing request has an invalid signature")]
    RequestSignature,
    /// The key is of a kind that is not supported, or broken.
    #[error("unsupported or invalid private key: {0}")]
    Key(String),
    /// The key could not be generated or could not sign.
    #[error("cryptographic operation failed: {0}")]
    Crypto(&'static str),
    /// A time outside of what a certificate can express.
    #[error("time {0} cannot be expressed in a certificate")]
    Time(jiff::Timestamp),
    /// A name that cannot stand in a certificate.
    #[error("name {0:?} cannot stand in a certificate")]
    Name(String),
    /// rustls refused a configuration.
    #[error("TLS configuration: {0}")]
    Tls(#[from] rustls::Error),
    /// The certificate does not belong to the key.
    #[error("certificate and private key do not belong together")]
    Mismatch,
}
