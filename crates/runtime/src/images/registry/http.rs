//! HTTP connections: one client for each set of TLS files.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use parking_lot::Mutex;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::images::config::TlsFiles;
use crate::images::error::ImageError;

/// Error texts and token answers are cut here.
const MAX_SMALL_BODY: usize = 1024 * 1024;

pub(super) type HttpClient = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// Clients by the host whose TLS files they use; the empty name is for all hosts without any.
#[derive(Debug, Default)]
pub(super) struct HttpClients {
    clients: Mutex<HashMap<String, HttpClient>>,
}

impl HttpClients {
    pub(super) fn get(
        &self,
        host: &str,
        tls: Option<&TlsFiles>,
        timeout: Duration,
    ) -> Result<HttpClient, ImageError> {
        let key = if tls.is_some() { host } else { "" };
        let mut clients = self.clients.lock();
        if let Some(client) = clients.get(key) {
            return Ok(client.clone());
        }
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(timeout));
        tcp.set_nodelay(true);
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls_config(tls)?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .build::<_, Full<Bytes>>(connector);
        clients.insert(key.to_owned(), client.clone());
        Ok(client)
    }
}

fn tls_config(files: Option<&TlsFiles>) -> Result<ClientConfig, ImageError> {
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    for error in &system.errors {
        tracing::debug!(%error, "system certificate not read");
    }
    roots.add_parsable_certificates(system.certs);
    if let Some(ca_file) = files.and_then(|f| f.ca_file.as_deref()) {
        for certificate in read_certificates(ca_file)? {
            roots
                .add(certificate)
                .map_err(|e| ImageError::InvalidConfig(format!("{}: {e}", ca_file.display())))?;
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| ImageError::InvalidConfig(e.to_string()))?
        .with_root_certificates(roots);
    match files.map(|f| (f.cert_file.as_deref(), f.key_file.as_deref())) {
        Some((Some(cert), Some(key))) => {
            let chain = read_certificates(cert)?;
            let private = PrivateKeyDer::from_pem_file(key)
                .map_err(|e| ImageError::InvalidConfig(format!("{}: {e}", key.display())))?;
            builder
                .with_client_auth_cert(chain, private)
                .map_err(|e| ImageError::InvalidConfig(format!("{}: {e}", cert.display())))
        }
        Some((None, None)) | None => Ok(builder.with_no_client_auth()),
        Some(_) => Err(ImageError::InvalidConfig(
            "cert_file and key_file belong together".into(),
        )),
    }
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ImageError> {
    let invalid = |e: &dyn std::fmt::Display| ImageError::InvalidConfig(format!("{}: {e}", path.display()));
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(|e| invalid(&e))?
        .collect::<Result<_, _>>()
        .map_err(|e| invalid(&e))?;
    if certificates.is_empty() {
        return Err(invalid(&"no certificate in it"));
    }
    Ok(certificates)
}

/// Sends `request` and waits for the head of the answer, at most `timeout`.
pub(super) async fn send(
    client: &HttpClient,
    request: Request<Full<Bytes>>,
    timeout: Duration,
) -> Result<Response<Incoming>, ImageError> {
    let uri = request.uri().clone();
    let host = uri.authority().map(ToString::to_string).unwrap_or_default();
    match tokio::time::timeout(timeout, client.request(request)).await {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(error)) => {
            let chain = chain(&error);
            match tls_cause(&error) {
                Some(tls) => Err(ImageError::Tls {
                    host,
                    reason: tls.to_string(),
                    peer_speaks_tls: matches!(
                        tls,
                        rustls::Error::InvalidCertificate(_)
                            | rustls::Error::AlertReceived(_)
                            | rustls::Error::PeerIncompatible(_)
                            | rustls::Error::NoCertificatesPresented
                    ),
                }),
                None => Err(ImageError::RegistryUnavailable(format!("{host}: {chain}"))),
            }
        }
        Err(_) => Err(ImageError::RegistryUnavailable(format!(
            "{host}: no answer within {} s",
            timeout.as_secs_f32()
        ))),
    }
}

/// The rustls error that ended a handshake, if one did.
fn tls_cause<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    if let Some(tls) = error.downcast_ref::<rustls::Error>() {
        return Some(tls);
    }
    // An I/O error gives what it wraps by `get_ref`, not as `source`; here several are nested.
    match error
        .downcast_ref::<std::io::Error>()
        .and_then(std::io::Error::get_ref)
    {
        Some(inner) => tls_cause(inner),
        None => error.source().and_then(tls_cause),
    }
}

/// An error with its causes.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut current = error.source();
    while let Some(e) = current {
        text.push_str(": ");
        text.push_str(&e.to_string());
        current = e.source();
    }
    text
}

/// Reads a small body whole.
pub(super) async fn read_body(
    response: Response<Incoming>,
    limit: usize,
    timeout: Duration,
) -> Result<Bytes, ImageError> {
    let body = Limited::new(response.into_body(), limit).collect();
    match tokio::time::timeout(timeout, body).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(e)) if e.is::<http_body_util::LengthLimitError>() => Err(ImageError::manifest(
            "answer",
            format!("longer than {limit} bytes"),
        )),
        Ok(Err(e)) => Err(ImageError::RegistryUnavailable(format!(
            "connection broke: {}",
            chain(e.as_ref())
        ))),
        Err(_) => Err(ImageError::RegistryUnavailable("connection went silent".into())),
    }
}

/// The registry's own words about a failure, prefixed by `: `, or nothing.
pub(super) async fn error_detail(response: Response<Incoming>, timeout: Duration) -> String {
    #[derive(serde::Deserialize)]
    struct Body {
        #[serde(default)]
        errors: Vec<Item>,
        #[serde(default)]
        details: String,
    }
    #[derive(serde::Deserialize)]
    struct Item {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let Ok(bytes) = read_body(response, MAX_SMALL_BODY, timeout).await else {
        return String::new();
    };
    let Ok(body) = serde_json::from_slice::<Body>(&bytes) else {
        return String::new();
    };
    let mut parts: Vec<_> = body
        .errors
        .iter()
        .map(|e| format!("{}: {}", e.code, e.message))
        .collect();
    if !body.details.is_empty() {
        parts.push(body.details);
    }
    if parts.is_empty() {
        String::new()
    } else {
        format!(": {}", parts.join("; "))
    }
}
