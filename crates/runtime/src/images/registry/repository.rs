//! A repository as its endpoints serve it: which to ask, manifests, small blobs.

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Method, Response};
use hyper::body::Incoming;
use rand::Rng as _;
use url::Url;

use super::endpoint::Endpoint;
use super::http::{HttpClients, read_body};
use crate::images::config::{AuthConfig, Credentials, ImageConfig, RegistriesConfig};
use crate::images::digest::Digest;
use crate::images::error::ImageError;
use crate::images::reference::Reference;
use crate::images::spec::{self, Descriptor};

/// As large as registries accept.
const MAX_MANIFEST: usize = 8 * 1024 * 1024;
const MAX_CONFIG: u64 = 32 * 1024 * 1024;
/// Finding the image fails soon, so that the user learns of a wrong name or a registry that is down.
const MAX_RESOLVE_RETRIES: u32 = 2;

/// Reaches registries as configured.
#[derive(Debug)]
pub(crate) struct Registry {
    config: RegistriesConfig,
    clients: HttpClients,
    timeout: Duration,
    pub(super) max_retries: u32,
    backoff: Duration,
}

/// One repository for the length of one pull.
pub(crate) struct Repository<'a> {
    pub(super) registry: &'a Registry,
    reference: Reference,
    endpoints: Vec<Endpoint>,
    /// The endpoint that answered last, asked first for what follows.
    preferred: AtomicUsize,
}

/// A manifest as it was received and verified.
pub(crate) struct FetchedManifest {
    pub(crate) bytes: Bytes,
    pub(crate) content_type: String,
    pub(crate) digest: Digest,
}

impl Registry {
    pub(crate) fn new(config: &ImageConfig) -> Result<Self, ImageError> {
        Ok(Self {
            config: config.registries.clone(),
            clients: HttpClients::default(),
            timeout: config.io_timeout,
            max_retries: config.max_retries,
            backoff: config.retry_backoff,
        })
    }

    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Waits before retry number `attempt` (from 1): doubling, at most 30 times the base, 50 to 100 % of it.
    pub(super) async fn pause(&self, attempt: u32) {
        let factor = 2_u32.saturating_pow(attempt.saturating_sub(1)).min(30);
        let jitter = rand::rng().random_range(0.5..1.0);
        tokio::time::sleep((self.backoff * factor).mul_f64(jitter)).await;
    }

    /// The endpoints for `reference`: its mirrors, then the registry itself.
    pub(crate) fn repository(
        &self,
        reference: &Reference,
        auth: Option<&AuthConfig>,
        actions: &str,
    ) -> Result<Repository<'_>, ImageError> {
        let domain = reference.domain();
        let mut endpoints = Vec::new();
        let mirror = self
            .config
            .mirrors
            .get(domain)
            .or_else(|| self.config.mirrors.get("*"));
        let (origin, configured) = match domain {
            "docker.io" => ("registry-1.docker.io", false),
            other => (other, is_loopback(other)),
        };
        let mut has_origin = false;
        for address in mirror.iter().flat_map(|m| &m.endpoint) {
            let url = Url::parse(address)
                .map_err(|e| ImageError::InvalidConfig(format!("endpoint {address:?}: {e}")))?;
            let is_origin = host_port(&url) == origin;
            has_origin |= is_origin;
            let auth = auth.filter(|_| is_origin);
            endpoints.push(self.endpoint(&url, reference, auth, actions, !is_origin)?);
        }
        if !has_origin {
            let https = Url::parse(&format!("https://{origin}/"))
                .map_err(|e| ImageError::InvalidConfig(format!("registry {origin:?}: {e}")))?;
            endpoints.push(self.endpoint(&https, reference, auth, actions, false)?);
            if configured {
                let http = Url::parse(&format!("http://{origin}/"))
                    .map_err(|e| ImageError::InvalidConfig(format!("registry {origin:?}: {e}")))?;
                let mut endpoint = self.endpoint(&http, reference, auth, actions, false)?;
                endpoint.plain_fallback = true;
                endpoints.push(endpoint);
            }
        }
        Ok(Repository {
            registry: self,
            reference: reference.clone(),
            endpoints,
            preferred: AtomicUsize::new(0),
        })
    }

    fn endpoint(
        &self,
        address: &Url,
        reference: &Reference,
        auth: Option<&AuthConfig>,
        actions: &str,
        mirror: bool,
    ) -> Result<Endpoint, ImageError> {
        let host = host_port(address);
        let settings = self.config.configs.get(&host).or_else(|| {
            (host == "registry-1.docker.io")
                .then(|| self.config.configs.get("docker.io"))
                .flatten()
        });
        let mut credentials = Credentials::Anonymous;
        if let Some(auth) = auth {
            credentials = auth.credentials_for(reference.domain())?;
        }
        if credentials == Credentials::Anonymous
            && let Some(auth) = settings.and_then(|s| s.auth.as_ref())
        {
            credentials = auth.credentials_for(&host)?;
        }
        let prefix = address.path().trim_matches('/');
        let prefix = match prefix.strip_suffix("v2").unwrap_or(prefix).trim_end_matches('/') {
            "" => String::new(),
            prefix => format!("{prefix}/"),
        };
        let mut base = address
            .join(&format!("/{prefix}v2/{}/", reference.path()))
            .map_err(|e| ImageError::InvalidConfig(format!("endpoint {address}: {e}")))?;
        if mirror {
            base.query_pairs_mut().append_pair("ns", reference.domain());
        }
        Ok(Endpoint {
            base,
            plain_fallback: false,
            client: self
                .clients
                .get(&host, settings.and_then(|s| s.tls.as_ref()), self.timeout)?,
            credentials,
            scope: format!("repository:{}:{actions}", reference.path()),
            timeout: self.timeout,
            authorization: tokio::sync::Mutex::new(None),
        })
    }
}

impl Repository<'_> {
    /// Asks the endpoints in turn for `path` below the repository. Without an answer, the registry's own error
    /// counts, for it is asked last.
    pub(super) async fn get(
        &self,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<Response<Incoming>, ImageError> {
        self.try_endpoints(&Method::GET, path, headers, Bytes::new())
            .await
            .map(|(_, response)| response)
    }

    pub(super) async fn try_endpoints(
        &self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<(&Endpoint, Response<Incoming>), ImageError> {
        let first = self.preferred.load(Ordering::Relaxed);
        let order = [first]
            .into_iter()
            .chain((0..self.endpoints.len()).filter(|i| *i != first));
        let mut failure: Option<(usize, ImageError)> = None;
        for index in order {
            let endpoint = &self.endpoints[index];
            // A server that speaks TLS without being trusted is not spoken to in plain text instead.
            let speaks_tls = matches!(
                failure,
                Some((
                    _,
                    ImageError::Tls {
                        peer_speaks_tls: true,
                        ..
                    }
                ))
            );
            if endpoint.plain_fallback && speaks_tls {
                continue;
            }
            let mut url = endpoint
                .base
                .join(path)
                .map_err(|e| ImageError::InvalidConfig(format!("{}: {e}", endpoint.base)))?;
            if url.query().is_none() {
                url.set_query(endpoint.base.query());
            }
            match endpoint.request(method, &url, headers, body.clone()).await {
                Ok(response) => {
                    self.preferred.store(index, Ordering::Relaxed);
                    return Ok((endpoint, response));
                }
                Err(error) => {
                    tracing::debug!(endpoint = endpoint.base.authority(), %error, "registry request failed");
                    match &failure {
                        Some((other, _)) if *other > index => {}
                        _ => failure = Some((index, error)),
                    }
                }
            }
        }
        Err(failure
            .expect("invariant: there is at least the registry itself")
            .1)
    }

    /// Fetches and verifies a manifest or index by tag or digest.
    pub(crate) async fn manifest(&self, selector: &str) -> Result<FetchedManifest, ImageError> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(spec::ACCEPT));
        let path = format!("manifests/{selector}");
        let retries = self.registry.max_retries.min(MAX_RESOLVE_RETRIES);
        let mut attempt = 0;
        let (headers, bytes) = loop {
            let fetch = async {
                let response = self.get(&path, &headers).await?;
                let headers = response.headers().clone();
                Ok((
                    headers,
                    read_body(response, MAX_MANIFEST, self.registry.timeout).await?,
                ))
            };
            match fetch.await {
                Err(ImageError::NotFound(_)) => {
                    let name = match selector.parse::<Digest>() {
                        Ok(digest) => self.reference.with_digest(&digest).to_string(),
                        Err(_) => self.reference.to_string(),
                    };
                    return Err(ImageError::NotFound(name));
                }
                Err(e) if e.is_retryable() && attempt < retries => {
                    attempt += 1;
                    self.registry.pause(attempt).await;
                }
                other => break other?,
            }
        };
        let expected = match selector.parse::<Digest>() {
            Ok(digest) => Some(digest),
            Err(_) => headers
                .get("docker-content-digest")
                .and_then(|v| v.to_str().ok())
                .and_then(|v| v.parse::<Digest>().ok()),
        };
        let digest = match expected {
            Some(digest) => {
                digest.verify(&bytes, &format!("manifest {selector}"))?;
                digest
            }
            None => Digest::sha256(&bytes),
        };
        let content_type = headers
            .get(CONTENT_TYPE)
            .and_then(|v| v.to_str().ok())
            .map(|v| v.split(';').next().unwrap_or_default().trim().to_owned())
            .unwrap_or_default();
        Ok(FetchedManifest {
            bytes,
            content_type,
            digest,
        })
    }

    /// Fetches and verifies a small blob (an image configuration).
    pub(crate) async fn small_blob(&self, descriptor: &Descriptor, what: &str) -> Result<Bytes, ImageError> {
        if descriptor.size > MAX_CONFIG {
            return Err(ImageError::manifest(
                what,
                format!("{} bytes are too many", descriptor.size),
            ));
        }
        let limit = usize::try_from(descriptor.size).unwrap_or(usize::MAX);
        let path = format!("blobs/{}", descriptor.digest);
        let mut attempt = 0;
        loop {
            let fetch = async {
                let response = self.get(&path, &HeaderMap::new()).await?;
                let bytes = read_body(response, limit, self.registry.timeout).await?;
                if bytes.len() != limit {
                    return Err(ImageError::SizeMismatch {
                        what: what.to_owned(),
                        expected: descriptor.size,
                        actual: bytes.len() as u64,
                    });
                }
                Ok(bytes)
            };
            match fetch.await {
                Err(e) if e.is_retryable() && attempt < self.registry.max_retries => {
                    attempt += 1;
                    self.registry.pause(attempt).await;
                }
                Err(e) => return Err(e),
                Ok(bytes) => {
                    descriptor.digest.verify(&bytes, what)?;
                    return Ok(bytes);
                }
            }
        }
    }
}

/// `host[:port]` as it was written.
fn host_port(url: &Url) -> String {
    match (url.host_str(), url.port()) {
        (Some(host), Some(port)) => format!("{host}:{port}"),
        (Some(host), None) => host.to_owned(),
        _ => String::new(),
    }
}

/// `localhost`, `127.0.0.0/8` or `::1`, with or without a port.
fn is_loopback(domain: &str) -> bool {
    let host = if let Some(rest) = domain.strip_prefix('[') {
        rest.split(']').next().unwrap_or_default()
    } else {
        domain.split(':').next().unwrap_or_default()
    };
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_registries() {
        for (domain, expected) in [
            ("localhost", true),
            ("localhost:5000", true),
            ("127.0.0.1:5000", true),
            ("127.1.2.3", true),
            ("[::1]:5000", true),
            ("localhost.example.com", false),
            ("127.0.0.1.example.com", false),
            ("10.0.0.1:5000", false),
            ("[fe80::1]", false),
        ] {
            assert_eq!(is_loopback(domain), expected, "{domain}");
        }
    }
}
