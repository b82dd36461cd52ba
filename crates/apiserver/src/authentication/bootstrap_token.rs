//! Bootstrap tokens: `<id>.<secret>`, kept in Secrets `bootstrap-token-<id>` of `kube-system`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::Value;

use crate::resources::{Reader, Resources};
use crate::user::{ALL_AUTHENTICATED, UserInfo};

const SECRET_TYPE: &str = "bootstrap.kubernetes.io/token";
const DEFAULT_GROUP: &str = "system:bootstrappers";

/// Verifies bootstrap tokens.
pub(super) struct BootstrapTokens {
    secrets: Reader,
}

impl BootstrapTokens {
    pub(super) fn new(resources: &Resources) -> Self {
        Self {
            secrets: resources.resource("", "secrets"),
        }
    }

    /// `None`: not the form of a bootstrap token, or not a valid one.
    pub(super) async fn authenticate(&self, token: &str, now: Timestamp) -> Option<UserInfo> {
        let (id, secret) = parse(token)?;
        let object = self
            .secrets
            .get_latest("kube-system", &format!("bootstrap-token-{id}"))
            .await
            .ok()??;
        user_of(&object.parse(), id, secret, now)
    }
}

/// Six and sixteen of `a-z0-9` with a dot between.
fn parse(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let fits = |s: &str, n| s.len() == n && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    (fits(id, 6) && fits(secret, 16)).then_some((id, secret))
}

fn user_of(object: &Value, id: &str, secret: &str, now: Timestamp) -> Option<UserInfo> {
    let data = |key: &str| -> String {
        let value = object
            .pointer(&format!("/data/{key}"))
            .and_then(Value::as_str)
            .unwrap_or_default();
        String::from_utf8(STANDARD.decode(value).unwrap_or_default()).unwrap_or_default()
    };
    if object.get("type").and_then(Value::as_str) != Some(SECRET_TYPE)
        || object.pointer("/metadata/deletionTimestamp").is_some()
        || data("token-id") != id
    {
        return None;
    }
    let stored = data("token-secret");
    if stored.is_empty() || !constant_time_equal(stored.as_bytes(), secret.as_bytes()) {
        return None;
    }
    let expiration = data("expiration");
    if !expiration.is_empty() {
        // What cannot be read has expired.
        let at: Timestamp = expiration.parse().ok()?;
        if now >= at {
            return None;
        }
    }
    if data("usage-bootstrap-authentication") != "true" {
        return None;
    }
    let mut groups = vec![DEFAULT_GROUP.to_owned()];
    for group in data("auth-extra-groups")
        .split(',')
        .map(str::trim)
        .filter(|g| !g.is_empty())
    {
        if !valid_group(group) {
            return None;
        }
        if !groups.iter().any(|g| g == group) {
            groups.push(group.to_owned());
        }
    }
    groups.push(ALL_AUTHENTICATED.to_owned());
    Some(UserInfo {
        name: format!("system:bootstrap:{id}"),
        groups,
        ..UserInfo::default()
    })
}

/// `\Asystem:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]\z`
fn valid_group(group: &str) -> bool {
    let Some(rest) = group.strip_prefix("system:bootstrappers:") else {
        return false;
    };
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    rest.len() <= 256
        && rest.bytes().all(|b| alphanumeric(b) || b == b':' || b == b'-')
        && rest.bytes().last().is_some_and(alphanumeric)
}

/// Compares without telling by time where the difference is.
pub(super) fn constant_time_equal(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len()
        && a.iter()
            .zip(b)
            .fold(0u8, |difference, (x, y)| difference | (x ^ y))
            == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn secret(changes: &[(&str, &str)]) -> Value {
        let mut all = vec![
            ("token-id", "abcdef"),
            ("token-secret", "0123456789abcdef"),
            ("usage-bootstrap-authentication", "true"),
            ("expiration", "2030-01-01T00:00:00Z"),
            (
                "auth-extra-groups",
                "system:bootstrappers:kubeadm:default-node-token",
            ),
        ];
        all.extend(changes);
        let data: serde_json::Map<String, Value> = all
            .iter()
            .map(|(k, v)| ((*k).to_owned(), STANDARD.encode(v).into()))
            .collect();
        json!({"type": SECRET_TYPE, "metadata": {"name": "bootstrap-token-abcdef"}, "data": data})
    }

    #[test]
    fn who_it_is() {
        let now: Timestamp = "2026-11-22T00:00:00Z".parse().unwrap();
        let ask = |changes: &[(&str, &str)]| user_of(&secret(changes), "abcdef", "0123456789abcdef", now);
        let user = ask(&[]).unwrap();
        assert_eq!(user.name, "system:bootstrap:abcdef");
        assert_eq!(
            user.groups,
            [
                "system:bootstrappers",
                "system:bootstrappers:kubeadm:default-node-token",
                "system:authenticated"
            ]
        );
        for changed in [
            ("token-id", "abcdeg"),
            ("token-secret", "0123456789abcdee"),
            ("token-secret", ""),
            ("usage-bootstrap-authentication", "false"),
            ("expiration", "2026-11-21T00:00:00Z"),
            ("expiration", "tomorrow"),
            ("auth-extra-groups", "system:masters"),
        ] {
            assert_eq!(ask(&[changed]), None, "{changed:?}");
        }
        assert_eq!(
            parse("abcdef.0123456789abcdef"),
            Some(("abcdef", "0123456789abcdef"))
        );
        for bad in [
            "abcdef",
            "ABCDEF.0123456789abcdef",
            "abcdef.0123456789abcde",
            "abcde/.0123456789abcdef",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
