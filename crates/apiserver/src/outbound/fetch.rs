//! Documents fetched over HTTPS from wherever their URLs lead.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, HeaderValue};
use http::{Method, Request};
use parking_lot::Mutex;
use rustls::ClientConfig;
use url::Url;

use super::client::{Client, Place};
use crate::admission::Connections;

/// Longest time until a document is there.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Largest document.
const MAX_DOCUMENT: usize = 4 << 20;

/// Fetches documents; connections are kept per host.
#[derive(Clone)]
pub(crate) struct Fetcher {
    tls: ClientConfig,
    connections: Connections,
    clients: Arc<Mutex<HashMap<(String, u16), Client>>>,
}

impl Fetcher {
    /// Verifies servers as `tls` says.
    pub(crate) fn new(tls: ClientConfig, connections: &Connections) -> Self {
        Self {
            tls,
            connections: connections.clone(),
            clients: Arc::default(),
        }
    }

    fn client(&self, url: &Url) -> Result<Client, String> {
        if url.scheme() != "https" {
            return Err(format!(
                "unsupported protocol scheme {:?}: only https is",
                url.scheme()
            ));
        }
        let host = url.host_str().unwrap_or_default();
        let port = url.port_or_known_default().unwrap_or(443);
        let mut clients = self.clients.lock();
        if let Some(client) = clients.get(&(host.to_owned(), port)) {
            return Ok(client.clone());
        }
        let place = Place::Host(host.trim_matches(['[', ']']).to_owned(), port);
        let Connections { tasks, shutdown } = &self.connections;
        let client = Client::new(place, host, self.tls.clone(), tasks, shutdown)?;
        clients.insert((host.to_owned(), port), client.clone());
        Ok(client)
    }

    /// The document at a URL; `token` is shown as bearer token. The error is for people and names the URL.
    pub(crate) async fn get(&self, url: &str, token: Option<&str>) -> Result<Bytes, String> {
        let failed = |why: &dyn std::fmt::Display| format!("Get {url:?}: {why}");
        let parsed = Url::parse(url).map_err(|e| failed(&e))?;
        let client = self.client(&parsed).map_err(|e| failed(&e))?;
        let path = match parsed.query() {
            Some(query) => format!("{}?{query}", parsed.path()),
            None => parsed.path().to_owned(),
        };
        let mut request = Request::new(Bytes::new());
        *request.method_mut() = Method::GET;
        *request.uri_mut() = client.uri(&path).map_err(|e| failed(&e))?;
        let headers = request.headers_mut();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json, */*"));
        if let Some(token) = token {
            let value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|e| failed(&e))?;
            headers.insert(AUTHORIZATION, value);
        }
        let answer = match tokio::time::timeout(TIMEOUT, client.exchange(request, MAX_DOCUMENT)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(failed(&error)),
            Err(_) => return Err(failed(&"context deadline exceeded")),
        };
        if !answer.status().is_success() {
            let body = String::from_utf8_lossy(answer.body());
            let body: String = body.chars().take(512).collect();
            return Err(failed(&format!("{}: {body}", answer.status())));
        }
        Ok(answer.into_body())
    }
}
