//! Distributed claims (OpenID Connect Core 5.6.2): a token says where the groups are, and they are fetched from there as a
//! token of their own.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Map, Value};

use super::issuer::{Checks, issuer_of};
use super::keys::IssuerKeys;
use crate::authentication::jwt;
use crate::outbound::Fetcher;

/// Issuers of distributed claims that are remembered.
const MOST_ISSUERS: usize = 64;

/// Finds one claim elsewhere.
pub(super) struct Distributed {
    claim: String,
    fetcher: Fetcher,
    issuers: Mutex<HashMap<String, Arc<IssuerKeys>>>,
}

impl Distributed {
    /// For the claim of groups.
    pub(super) fn new(claim: &str, fetcher: Fetcher) -> Self {
        Self {
            claim: claim.to_owned(),
            fetcher,
            issuers: Mutex::default(),
        }
    }

    /// Puts the claim in if the token only says where it is.
    ///
    /// # Errors
    /// It cannot be fetched or verified.
    pub(super) async fn expand(
        &self,
        claims: &mut Map<String, Value>,
        checks: &Checks,
    ) -> Result<(), String> {
        let claim = &self.claim;
        if claims.contains_key(claim) {
            return Ok(());
        }
        let Some(source) = claims.get("_claim_names").and_then(|names| names[claim].as_str()) else {
            return Ok(());
        };
        let found = claims
            .get("_claim_sources")
            .map(|sources| sources[source].clone());
        let found = found.filter(|source| !source.is_null());
        let found =
            found.ok_or_else(|| format!("token contains source {source} that is not in claim sources"))?;
        let Some(url) = found["endpoint"].as_str().filter(|url| !url.is_empty()) else {
            // Aggregated claims, which upstream ignores as well.
            return Ok(());
        };
        let fetched = self.fetcher.get(url, found["access_token"].as_str()).await;
        let fetched = fetched.map_err(|e| format!("while getting distributed claim {claim:?}: {e}"))?;
        let token = String::from_utf8_lossy(&fetched);
        let unverified = match jwt::claims_unverified(token.trim()) {
            Ok(Value::Object(unverified)) => unverified,
            _ => {
                return Err(format!(
                    "getting untrusted issuer from endpoint {url} failed for claim {claim:?}"
                ));
            }
        };
        let issuer = issuer_of(&unverified);
        let keys = self.keys(issuer);
        let verified = checks.verify(token.trim(), issuer, &keys).await;
        let mut verified = verified.map_err(|e| format!("verify distributed claim token: {e}"))?;
        let value = verified.remove(claim).ok_or_else(|| {
            format!("jwt returned by distributed claim endpoint {url:?} did not contain claim: {claim}")
        })?;
        claims.insert(claim.clone(), value);
        Ok(())
    }

    fn keys(&self, issuer: &str) -> Arc<IssuerKeys> {
        let mut issuers = self.issuers.lock();
        if let Some(known) = issuers.get(issuer) {
            return known.clone();
        }
        if issuers.len() >= MOST_ISSUERS {
            issuers.clear();
        }
        let keys = Arc::new(IssuerKeys::new(issuer, "", self.fetcher.clone()));
        issuers.insert(issuer.to_owned(), keys.clone());
        keys
    }
}
