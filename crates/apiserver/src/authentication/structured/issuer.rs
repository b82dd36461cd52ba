//! One issuer: from its token to a user.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use keelson_api::field::quote;
use serde_json::{Map, Value, json};

use super::configuration::JwtAuthenticator;
use super::distributed::Distributed;
use super::flags::SIGNING_ALGORITHMS;
use super::keys::IssuerKeys;
use super::validate::Programs;
use crate::admission::Connections;
use crate::authentication::jwt;
use crate::expiring::Expiring;
use crate::outbound::{Fetcher, TlsOptions, client_config};
use crate::user::{ALL_AUTHENTICATED, UserInfo};

/// Who a token is is believed this long, as upstream's cache of tokens does.
const BELIEVED: Duration = Duration::from_secs(10);
/// How far the issuer's clock may be ahead for `nbf`, seconds.
const LEEWAY: i64 = 60;

/// What is asked of every token of an issuer.
pub(super) struct Checks {
    audiences: Vec<String>,
    algorithms: Vec<String>,
}

/// An issuer that is trusted.
pub(super) struct TrustedIssuer {
    configuration: JwtAuthenticator,
    programs: Programs,
    checks: Checks,
    keys: IssuerKeys,
    distributed: Option<Distributed>,
    known: Expiring<UserInfo>,
}

type Claims = Map<String, Value>;

impl Checks {
    /// The claims of a token of `issuer`, verified.
    pub(super) async fn verify(
        &self,
        token: &str,
        issuer: &str,
        keys: &IssuerKeys,
    ) -> Result<Claims, String> {
        let signed = jwt::Signed::of(token).map_err(|_| "oidc: malformed jwt".to_owned())?;
        if !self.algorithms.contains(&signed.algorithm) {
            return Err(format!(
                "oidc: id token signed with unsupported algorithm, expected {} got {}",
                quoted(&self.algorithms),
                quote(&signed.algorithm)
            ));
        }
        let Value::Object(claims) = signed.claims().map_err(|_| "oidc: malformed jwt".to_owned())? else {
            return Err("oidc: failed to unmarshal claims".to_owned());
        };
        let found = issuer_of(&claims);
        if found != issuer {
            return Err(format!(
                "oidc: id token issued by a different provider, expected {} got {}",
                quote(issuer),
                quote(found)
            ));
        }
        self.check_audience(&claims)?;
        check_times(&claims, Timestamp::now())?;
        keys.verify(&signed).await?;
        Ok(claims)
    }

    fn check_audience(&self, claims: &Claims) -> Result<(), String> {
        let found = strings(claims.get("aud")).unwrap_or_default();
        if found.iter().any(|audience| self.audiences.contains(audience)) {
            return Ok(());
        }
        Err(match self.audiences.as_slice() {
            [one] => format!("oidc: expected audience {} got {}", quote(one), quoted(&found)),
            many => format!(
                "oidc: expected audience in {} got {}",
                quoted(many),
                quoted(&found)
            ),
        })
    }
}

/// `iss`; Google's old form means the new one.
pub(super) fn issuer_of(claims: &Claims) -> &str {
    match claims.get("iss").and_then(Value::as_str).unwrap_or_default() {
        "accounts.google.com" => "https://accounts.google.com",
        issuer => issuer,
    }
}

/// As Go's `%q` shows lists.
fn quoted(list: &[String]) -> String {
    let items: Vec<String> = list.iter().map(|item| quote(item)).collect();
    format!("[{}]", items.join(" "))
}

/// A string or a list of strings.
fn strings(value: Option<&Value>) -> Option<Vec<String>> {
    match value? {
        Value::String(one) => Some(vec![one.clone()]),
        Value::Array(many) => many.iter().map(|v| v.as_str().map(str::to_owned)).collect(),
        _ => None,
    }
}

fn check_times(claims: &Claims, now: Timestamp) -> Result<(), String> {
    let seconds = |claim: &str| claims.get(claim).and_then(Value::as_f64).map(|s| s as i64);
    let shown = |s: i64| Timestamp::from_second(s).map_or_else(|_| s.to_string(), |at| at.to_string());
    let expires = seconds("exp").unwrap_or(0);
    if expires < now.as_second() {
        return Err(format!(
            "oidc: token is expired (Token Expiry: {})",
            shown(expires)
        ));
    }
    match seconds("nbf") {
        Some(from) if now.as_second() + LEEWAY < from => Err(format!(
            "oidc: current time {now} before the nbf (not before) time: {}",
            shown(from)
        )),
        _ => Ok(()),
    }
}

impl TrustedIssuer {
    /// From a configuration that was found good.
    ///
    /// # Errors
    /// The issuer's authority cannot be used.
    pub(super) fn new(
        configuration: JwtAuthenticator,
        programs: Programs,
        connections: &Connections,
    ) -> Result<Self, String> {
        let tls = client_config(&TlsOptions {
            ca_bundle: configuration.issuer.certificate_authority.as_bytes(),
            ..TlsOptions::default()
        })?;
        let fetcher = Fetcher::new(tls, connections);
        let issuer = &configuration.issuer;
        let all = || SIGNING_ALGORITHMS.map(str::to_owned).to_vec();
        let groups_claim = &configuration.claim_mappings.groups.claim;
        Ok(Self {
            checks: Checks {
                audiences: issuer.audiences.clone(),
                algorithms: configuration.signing_algorithms.clone().unwrap_or_else(all),
            },
            keys: IssuerKeys::new(&issuer.url, &issuer.discovery_url, fetcher.clone()),
            distributed: (!groups_claim.is_empty()).then(|| Distributed::new(groups_claim, fetcher)),
            programs,
            configuration,
            known: Expiring::default(),
        })
    }

    /// The configuration that it was made from.
    pub(super) fn configuration(&self) -> &JwtAuthenticator {
        &self.configuration
    }

    /// `Ok(None)`: a token of somebody else.
    ///
    /// # Errors
    /// A token of this issuer that is not good, or does not fit the configuration.
    pub(super) async fn authenticate(&self, token: &str) -> Result<Option<UserInfo>, String> {
        let Ok(Value::Object(unverified)) = jwt::claims_unverified(token) else {
            return Ok(None);
        };
        let url = &self.configuration.issuer.url;
        if issuer_of(&unverified) != url {
            return Ok(None);
        }
        let key = Expiring::<UserInfo>::key(&[token]);
        if let Some(user) = self.known.get(&key) {
            return Ok(Some(user));
        }
        let verified = self.checks.verify(token, url, &self.keys).await;
        let mut claims = verified.map_err(|e| format!("oidc: verify token: {e}"))?;
        if let Some(distributed) = &self.distributed {
            let expanded = distributed.expand(&mut claims, &self.checks).await;
            expanded.map_err(|e| format!("oidc: could not expand distributed claims: {e}"))?;
        }
        let expires = claims.get("exp").and_then(Value::as_f64).unwrap_or_default() as i64;
        let user = self.user(claims)?;
        let left = u64::try_from(expires - Timestamp::now().as_second()).unwrap_or(0);
        self.known
            .insert(key, user.clone(), BELIEVED.min(Duration::from_secs(left)));
        Ok(Some(user))
    }

    /// Maps verified claims to a user, and asks the rules.
    fn user(&self, claims: Claims) -> Result<UserInfo, String> {
        let claims = Value::Object(claims);
        let name = self.username(&claims)?;
        let mut groups = self.groups(&claims)?;
        let uid = self.uid(&claims)?;
        let extra = self.extra(&claims)?;
        self.check_claims(&claims)?;
        let seen = json!({"username": name, "uid": uid, "groups": groups, "extra": extra});
        for (rule, message) in &self.programs.user_rules {
            let failed = |why| format!("oidc: error evaluating user info validation rule: {why}");
            if !rule.holds(&seen).map_err(failed)? {
                return Err(failed(refused(message)));
            }
        }
        if !groups.iter().any(|g| g == ALL_AUTHENTICATED) {
            groups.push(ALL_AUTHENTICATED.to_owned());
        }
        Ok(UserInfo {
            name,
            uid,
            groups,
            extra,
        })
    }

    fn username(&self, claims: &Value) -> Result<String, String> {
        if let Some(expression) = &self.programs.username {
            let failed = |why| format!("oidc: error evaluating username claim expression: {why}");
            let name = expression.text(claims, "username").map_err(failed)?;
            // A user without a name is nobody that a rule could speak of.
            return match name.as_str() {
                "" => Err(failed(
                    "username claim expression must not return an empty string".to_owned(),
                )),
                _ => Ok(name),
            };
        }
        let mapping = &self.configuration.claim_mappings.username;
        let failed = |why: &str| format!("oidc: parse username claims {}: {why}", quote(&mapping.claim));
        let name = match &claims[&mapping.claim] {
            Value::String(name) => name,
            _ if claims.get(&mapping.claim).is_none() => return Err(failed("claim not present")),
            _ => return Err(failed("claim is not a string")),
        };
        if mapping.claim == "email" {
            match claims.get("email_verified") {
                None | Some(Value::Bool(true)) => {}
                Some(Value::Bool(false)) => return Err("oidc: email not verified".to_owned()),
                Some(_) => return Err("oidc: parse 'email_verified' claim: not a boolean".to_owned()),
            }
        }
        Ok(format!("{}{name}", mapping.prefix.as_deref().unwrap_or_default()))
    }

    fn groups(&self, claims: &Value) -> Result<Vec<String>, String> {
        if let Some(expression) = &self.programs.groups {
            let failed = |why| format!("oidc: error evaluating group claim expression: {why}");
            return expression.texts(claims).map_err(failed);
        }
        let mapping = &self.configuration.claim_mappings.groups;
        let found = match claims.get(&mapping.claim) {
            None => return Ok(Vec::new()),
            Some(_) if mapping.claim.is_empty() => return Ok(Vec::new()),
            Some(Value::Null) => return Ok(Vec::new()),
            found => strings(found),
        };
        let prefix = mapping.prefix.as_deref().unwrap_or_default();
        let found = found.ok_or_else(|| {
            let claim = quote(&mapping.claim);
            format!("oidc: parse groups claim {claim}: neither a string nor a list of strings")
        })?;
        Ok(found
            .into_iter()
            .map(|group| format!("{prefix}{group}"))
            .collect())
    }

    fn uid(&self, claims: &Value) -> Result<String, String> {
        let claim = &self.configuration.claim_mappings.uid.claim;
        if !claim.is_empty() {
            let failed = |why: &str| format!("oidc: parse uid claim {}: {why}", quote(claim));
            return match claims.get(claim) {
                Some(Value::String(uid)) => Ok(uid.clone()),
                Some(_) => Err(failed("claim is not a string")),
                None => Err(failed("claim not present")),
            };
        }
        let failed = |why| format!("oidc: error evaluating uid claim expression: {why}");
        match &self.programs.uid {
            Some(expression) => expression.text(claims, "uid").map_err(failed),
            None => Ok(String::new()),
        }
    }

    fn extra(&self, claims: &Value) -> Result<BTreeMap<String, Vec<String>>, String> {
        let mut extra = BTreeMap::new();
        for (key, expression) in &self.programs.extra {
            let failed = |why| format!("oidc: error evaluating extra claim expression: {key}: {why}");
            let values = expression.texts(claims).map_err(failed)?;
            if !values.is_empty() {
                extra.insert(key.clone(), values);
            }
        }
        Ok(extra)
    }

    fn check_claims(&self, claims: &Value) -> Result<(), String> {
        for rule in &self.configuration.claim_validation_rules {
            let (claim, wanted) = (&rule.claim, &rule.required_value);
            if claim.is_empty() {
                continue;
            }
            match claims.get(claim) {
                None => return Err(format!("oidc: required claim {claim} not present in ID token")),
                Some(Value::String(found)) if found == wanted => {}
                Some(Value::String(found)) => {
                    return Err(format!(
                        "oidc: required claim {claim} value does not match. Got = {found}, want = {wanted}"
                    ));
                }
                Some(_) => return Err(format!("oidc: parse claim {claim}: not a string")),
            }
        }
        for (rule, message) in &self.programs.claim_rules {
            let failed = |why| format!("oidc: error evaluating claim validation expression: {why}");
            if !rule.holds(claims).map_err(failed)? {
                return Err(failed(refused(message)));
            }
        }
        Ok(())
    }
}

fn refused(message: &str) -> String {
    match message {
        "" => "validation expression failed".to_owned(),
        message => format!("validation expression failed: {message}"),
    }
}
