//! Whom the server believes when it is the client.

use std::sync::{Arc, LazyLock};

use keelson_pki::{Certificate, Leaf};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

/// How a server is verified and who the client is.
#[derive(Clone, Debug, Default)]
pub(crate) struct TlsOptions<'a> {
    /// PEM bundle of authorities; the machine's own when empty.
    pub(crate) ca_bundle: &'a [u8],
    /// The server's certificate is not verified.
    pub(crate) insecure: bool,
    /// What the client shows when it is asked.
    pub(crate) identity: Option<&'a Leaf>,
}

/// The authorities of this machine, read once.
static SYSTEM_ROOTS: LazyLock<Vec<CertificateDer<'static>>> = LazyLock::new(|| {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::debug!(%error, "an authority of this machine cannot be read");
    }
    found.certs
});

/// A client's configuration for HTTP/1.1; the error is for people.
pub(crate) fn client_config(options: &TlsOptions<'_>) -> Result<ClientConfig, String> {
    let mut config = keelson_pki::tls::client_config(&[], options.identity).map_err(|e| e.to_string())?;
    if options.insecure {
        keelson_pki::tls::accept_any(&mut config);
        return Ok(config);
    }
    let given = if options.ca_bundle.is_empty() {
        SYSTEM_ROOTS.clone()
    } else {
        let text = String::from_utf8_lossy(options.ca_bundle);
        let parsed = Certificate::all_from_pem(&text).map_err(|e| e.to_string())?;
        parsed.iter().map(|c| c.der().clone()).collect()
    };
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(given.iter().cloned());
    if roots.is_empty() {
        return Err("unable to load root certificates: no certificate in the bundle can be used".to_owned());
    }
    let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), keelson_pki::tls::crypto())
        .build()
        .map_err(|e| e.to_string())?;
    let verifier = Bundle { inner, given };
    config.dangerous().set_certificate_verifier(Arc::new(verifier));
    Ok(config)
}

/// Trusts the authorities of a bundle and, as Go does, also a certificate that is in the bundle itself: many webhooks serve
/// with the self-signed certificate that they give as their authority.
#[derive(Debug)]
struct Bundle {
    inner: Arc<WebPkiServerVerifier>,
    given: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Bundle {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let result = self
            .inner
            .verify_server_cert(end_entity, intermediates, server_name, ocsp, now);
        match result {
            Err(rustls::Error::InvalidCertificate(error)) if self.given.iter().any(|c| c == end_entity) => {
                use rustls::CertificateError as E;
                match error {
                    E::NotValidForName
                    | E::NotValidForNameContext { .. }
                    | E::Expired
                    | E::ExpiredContext { .. }
                    | E::NotValidYet
                    | E::NotValidYetContext { .. } => Err(error.into()),
                    _ => vouched_for_by_itself(end_entity, server_name, now),
                }
            }
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Name and time of a certificate that needs no other to be trusted.
fn vouched_for_by_itself(
    certificate: &CertificateDer<'_>,
    server_name: &ServerName<'_>,
    now: UnixTime,
) -> Result<ServerCertVerified, rustls::Error> {
    let parsed = rustls::server::ParsedCertificate::try_from(certificate)?;
    rustls::client::verify_server_name(&parsed, server_name)?;
    let certificate = Certificate::from_der(certificate.as_ref())
        .map_err(|_| rustls::Error::InvalidCertificate(rustls::CertificateError::BadEncoding))?;
    let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    if seconds < certificate.not_before().as_second() {
        return Err(rustls::CertificateError::NotValidYet.into());
    }
    if seconds > certificate.not_after().as_second() {
        return Err(rustls::CertificateError::Expired.into());
    }
    Ok(ServerCertVerified::assertion())
}
