//! Client certificates, and the headers that the front proxy may set with its own.
//!
//! Whether a chain leads to an authority is worked out here and kept per certificate for a while: TLS has proven that the
//! client holds the key, nothing more is taken from it.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use dashmap::DashMap;
use http::HeaderMap;
use jiff::Timestamp;
use keelson_pki::Certificate;
use keelson_pki::tls::ClientVerifier;
use rustls_pki_types::CertificateDer;
use sha2::{Digest, Sha256};

use super::{AuthenticationError, AuthenticationRequest, Authenticator};
use crate::config::ApiServerConfig;
use crate::user::{ALL_AUTHENTICATED, UserInfo};

/// A verified chain is believed this long (seconds) without looking again.
const BELIEVED: i64 = 300;
/// So many chains are remembered; then all are forgotten.
const REMEMBERED: usize = 4096;

/// User, groups, UID and credential id of a certificate.
pub(super) fn user_of(certificate: &Certificate) -> Option<UserInfo> {
    let subject = certificate.subject();
    if subject.common_name.is_empty() {
        return None;
    }
    let mut groups = subject.organizations.clone();
    groups.push(ALL_AUTHENTICATED.to_owned());
    let credential = vec![format!("X509SHA256={}", certificate.sha256())];
    Some(UserInfo {
        name: subject.common_name.clone(),
        uid: subject.uid.clone().unwrap_or_default(),
        groups,
        extra: BTreeMap::from([(
            "authentication.kubernetes.io/credential-id".to_owned(),
            credential,
        )]),
    })
}

/// A leaf that was found good, and who it is.
struct Known {
    leaf: Certificate,
    user: Option<UserInfo>,
}

/// Chains judged lately.
struct Verified {
    verifier: ClientVerifier,
    known: DashMap<[u8; 32], (i64, Arc<Known>)>,
}

impl Verified {
    fn new(ca_pem: &[u8]) -> Result<Self, keelson_pki::Error> {
        let cas = Certificate::all_from_pem(&String::from_utf8_lossy(ca_pem))?;
        if cas.is_empty() {
            return Err(keelson_pki::Error::NoPemBlock("CERTIFICATE"));
        }
        Ok(Self {
            verifier: ClientVerifier::new(&cas)?,
            known: DashMap::new(),
        })
    }

    fn check(&self, chain: &[CertificateDer<'static>], now: Timestamp) -> Result<Arc<Known>, String> {
        let mut hash = Sha256::new();
        for certificate in chain {
            hash.update((certificate.len() as u64).to_be_bytes());
            hash.update(certificate);
        }
        let key: [u8; 32] = hash.finalize().into();
        if let Some(entry) = self.known.get(&key)
            && now.as_second() < entry.0
        {
            return Ok(entry.1.clone());
        }
        let leaf = Certificate::from_der(&chain[0]).map_err(|e| e.to_string())?;
        self.verifier
            .verify(chain, now)
            .map_err(|error| describe(&error, &leaf, now))?;
        let until = (now.as_second() + BELIEVED).min(leaf.not_after().as_second());
        if self.known.len() >= REMEMBERED {
            self.known.clear();
        }
        let user = user_of(&leaf);
        let known = Arc::new(Known { leaf, user });
        self.known.insert(key, (until, known.clone()));
        Ok(known)
    }
}

/// In the words of Go's verifier, which end up in logs that people search for.
fn describe(error: &rustls::Error, leaf: &Certificate, now: Timestamp) -> String {
    use rustls::CertificateError::{
        Expired, ExpiredContext, InvalidPurpose, InvalidPurposeContext, NotValidYet, NotValidYetContext,
        UnknownIssuer,
    };
    let words = match error {
        rustls::Error::InvalidCertificate(Expired | ExpiredContext { .. }) => format!(
            "x509: certificate has expired or is not yet valid: current time {now} is after {}",
            leaf.not_after()
        ),
        rustls::Error::InvalidCertificate(NotValidYet | NotValidYetContext { .. }) => format!(
            "x509: certificate has expired or is not yet valid: current time {now} is before {}",
            leaf.not_before()
        ),
        rustls::Error::InvalidCertificate(UnknownIssuer) => {
            "x509: certificate signed by unknown authority".to_owned()
        }
        rustls::Error::InvalidCertificate(InvalidPurpose | InvalidPurposeContext { .. }) => {
            "x509: certificate specifies an incompatible key usage".to_owned()
        }
        other => other.to_string(),
    };
    format!(
        "verifying certificate SN={}, CN={} failed: {words}",
        hex::encode(leaf.serial()),
        leaf.subject().common_name
    )
}

/// Client certificates of the cluster's authority.
pub(super) struct CertificateAuthenticator {
    verified: Verified,
}

impl CertificateAuthenticator {
    pub(super) fn new(ca_pem: &[u8]) -> Result<Self, keelson_pki::Error> {
        Ok(Self {
            verified: Verified::new(ca_pem)?,
        })
    }
}

#[async_trait]
impl Authenticator for CertificateAuthenticator {
    async fn authenticate(
        &self,
        request: &AuthenticationRequest<'_>,
    ) -> Result<Option<UserInfo>, AuthenticationError> {
        let Some(chain) = request.peer_certificates.filter(|chain| !chain.is_empty()) else {
            // A transport inside the process has no TLS; it says itself who it is.
            return Ok(request.certificate_user.cloned());
        };
        let known = self
            .verified
            .check(chain, Timestamp::now())
            .map_err(AuthenticationError)?;
        Ok(known.user.clone())
    }
}

/// `X-Remote-User`, `X-Remote-Group`, `X-Remote-Uid` and `X-Remote-Extra-*` from a client with the front proxy's
/// certificate.
pub(super) struct RequestHeaderAuthenticator {
    verified: Verified,
    allowed_names: Vec<String>,
}

impl RequestHeaderAuthenticator {
    pub(super) fn new(config: &ApiServerConfig) -> Result<Option<Self>, keelson_pki::Error> {
        let Some(ca) = &config.request_header_ca_pem else {
            return Ok(None);
        };
        let allowed_names = config.request_header_allowed_names.clone();
        Ok(Some(Self {
            verified: Verified::new(ca)?,
            allowed_names,
        }))
    }
}

fn values(headers: &HeaderMap, name: &str) -> Vec<String> {
    headers
        .get_all(name)
        .iter()
        .map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned())
        .collect()
}

#[async_trait]
impl Authenticator for RequestHeaderAuthenticator {
    async fn authenticate(
        &self,
        request: &AuthenticationRequest<'_>,
    ) -> Result<Option<UserInfo>, AuthenticationError> {
        let Some(name) = values(request.headers, "x-remote-user")
            .into_iter()
            .find(|n| !n.is_empty())
        else {
            return Ok(None);
        };
        let Some(chain) = request.peer_certificates.filter(|chain| !chain.is_empty()) else {
            return Ok(None);
        };
        // A certificate of another authority is not wrong here: it is the next authenticator's.
        let Ok(known) = self.verified.check(chain, Timestamp::now()) else {
            return Ok(None);
        };
        let proxy = &known.leaf.subject().common_name;
        if !self.allowed_names.is_empty() && !self.allowed_names.contains(proxy) {
            return Err(AuthenticationError(format!(
                "x509: subject with cn={proxy} is not in the allowed list"
            )));
        }
        let mut groups = values(request.headers, "x-remote-group");
        if !groups.iter().any(|g| g == ALL_AUTHENTICATED) {
            groups.push(ALL_AUTHENTICATED.to_owned());
        }
        let mut extra = BTreeMap::new();
        for header in request.headers.keys() {
            if let Some(key) = header.as_str().strip_prefix("x-remote-extra-") {
                let key = crate::http::query::percent_decode(key, false).into_owned();
                extra.insert(key, values(request.headers, header.as_str()));
            }
        }
        let uid = values(request.headers, "x-remote-uid")
            .into_iter()
            .next()
            .unwrap_or_default();
        Ok(Some(UserInfo {
            name,
            uid,
            groups,
            extra,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::SignedDuration;
    use keelson_pki::{AltNames, CertificateAuthority, Profile, Subject};

    fn ca(name: &str) -> CertificateAuthority {
        CertificateAuthority::create(name, SignedDuration::from_hours(10), Timestamp::now()).unwrap()
    }

    fn client(
        ca: &CertificateAuthority,
        name: &str,
        groups: &[&str],
        issued: Timestamp,
    ) -> Vec<CertificateDer<'static>> {
        let profile = Profile::client(SignedDuration::from_hours(1));
        let (certificate, _) = ca
            .issue(
                &Subject::new(name, groups),
                &AltNames::default(),
                &profile,
                issued,
            )
            .unwrap();
        vec![certificate.der().clone()]
    }

    #[tokio::test]
    async fn certificates() {
        let (ours, theirs) = (ca("ours"), ca("theirs"));
        let authenticator = CertificateAuthenticator::new(ours.certificate().to_pem().as_bytes()).unwrap();
        let now = Timestamp::now();
        let headers = HeaderMap::new();
        let ask = async |chain: Option<&[CertificateDer<'static>]>| {
            let request = AuthenticationRequest {
                path: "/",
                headers: &headers,
                peer_certificates: chain,
                certificate_user: None,
            };
            authenticator.authenticate(&request).await.map_err(|e| e.0)
        };
        let chain = client(&ours, "jane", &["a", "b"], now);
        for _ in 0..2 {
            let user = ask(Some(&chain)).await.unwrap().unwrap();
            assert_eq!(
                (user.name.as_str(), user.groups.join(" ")),
                ("jane", "a b system:authenticated".into())
            );
            assert!(user.extra["authentication.kubernetes.io/credential-id"][0].starts_with("X509SHA256="));
        }
        assert_eq!(ask(None).await, Ok(None));
        let stranger = ask(Some(&client(&theirs, "jane", &[], now))).await.unwrap_err();
        assert!(
            stranger.contains("x509: certificate signed by unknown authority"),
            "{stranger}"
        );
        let old = now - SignedDuration::from_hours(5);
        let expired = ask(Some(&client(&ours, "jane", &[], old))).await.unwrap_err();
        assert!(expired.contains("certificate has expired"), "{expired}");
        assert_eq!(ask(Some(&client(&ours, "", &["a"], now))).await, Ok(None));
    }

    #[tokio::test]
    async fn front_proxy() {
        let (ours, theirs) = (ca("front"), ca("clients"));
        let authenticator = RequestHeaderAuthenticator {
            verified: Verified::new(ours.certificate().to_pem().as_bytes()).unwrap(),
            allowed_names: vec!["front-proxy-client".into()],
        };
        let mut headers = HeaderMap::new();
        headers.insert("x-remote-user", "bob".parse().unwrap());
        headers.append("x-remote-group", "g1".parse().unwrap());
        headers.append("x-remote-group", "g2".parse().unwrap());
        headers.insert("x-remote-extra-scopes%2fa", "s".parse().unwrap());
        let now = Timestamp::now();
        let ask = async |chain: &[CertificateDer<'static>], headers: &HeaderMap| {
            let request = AuthenticationRequest {
                path: "/",
                headers,
                peer_certificates: Some(chain),
                certificate_user: None,
            };
            authenticator.authenticate(&request).await.map_err(|e| e.0)
        };
        let proxy = client(&ours, "front-proxy-client", &[], now);
        let user = ask(&proxy, &headers).await.unwrap().unwrap();
        assert_eq!(user.name, "bob");
        assert_eq!(user.groups, ["g1", "g2", "system:authenticated"]);
        assert_eq!(user.extra["scopes/a"], ["s"]);
        assert_eq!(ask(&proxy, &HeaderMap::new()).await, Ok(None));
        assert_eq!(
            ask(&client(&theirs, "front-proxy-client", &[], now), &headers).await,
            Ok(None)
        );
        assert!(
            ask(&client(&ours, "other", &[], now), &headers)
                .await
                .unwrap_err()
                .contains("allowed list")
        );
    }
}
