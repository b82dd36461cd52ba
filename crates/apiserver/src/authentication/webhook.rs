//! Tokens that a webhook knows: it is asked by TokenReview, and its answers are remembered for a while.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::TokenWebhookConfig;
use super::service_account::Identified;
use crate::admission::Connections;
use crate::expiring::Expiring;
use crate::outbound::Remote;
use crate::user::{ALL_AUTHENTICATED, UserInfo};

/// Longest time for an answer.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The webhook.
pub(super) struct TokenWebhook {
    remote: Remote,
    version: &'static str,
    lifetime: Duration,
    known: Expiring<Option<Identified>>,
}

impl TokenWebhook {
    /// Reads the kubeconfig.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub(super) fn open(config: &TokenWebhookConfig, connections: &Connections) -> Result<Self, String> {
        let version = match config.version.as_str() {
            "v1" => "authentication.k8s.io/v1",
            "v1beta1" => "authentication.k8s.io/v1beta1",
            other => {
                return Err(format!(
                    "unsupported webhook authenticator version {other:?}, supported versions are \"v1\", \"v1beta1\""
                ));
            }
        };
        Ok(Self {
            remote: Remote::open(&config.config_file, connections)?,
            version,
            lifetime: config.cache_ttl,
            known: Expiring::default(),
        })
    }

    /// Whose token it is, and for which of `wanted` it is good. A webhook that names no audiences knows those of this server
    /// (`implicit`).
    ///
    /// # Errors
    /// The webhook cannot be asked, or it says why the token is not good.
    pub(super) async fn authenticate(
        &self,
        token: &str,
        wanted: &[String],
        implicit: &[String],
    ) -> Result<Option<Identified>, String> {
        let mut parts = vec![token];
        parts.extend(wanted.iter().map(String::as_str));
        let key = Expiring::<Option<Identified>>::key(&parts);
        if let Some(known) = self.known.get(&key) {
            return Ok(known);
        }
        let mut question = json!({
            "kind": "TokenReview",
            "apiVersion": self.version,
            "metadata": {"creationTimestamp": null},
            "spec": {"token": token},
            "status": {"user": {}},
        });
        if !wanted.is_empty() {
            question["spec"]["audiences"] = json!(wanted);
        }
        let answer = match self.remote.ask(&question, TIMEOUT).await {
            Ok(answer) => answer,
            Err(error) => {
                tracing::error!(%error, "Failed to make webhook authenticator request");
                return Err(error.to_string());
            }
        };
        let identified = identified(&answer, self.version, wanted, implicit)?;
        self.known.insert(key, identified.clone(), self.lifetime);
        Ok(identified)
    }
}

/// What a webhook's answer says.
fn identified(
    answer: &Value,
    version: &str,
    wanted: &[String],
    implicit: &[String],
) -> Result<Option<Identified>, String> {
    if answer["kind"] != "TokenReview" || answer["apiVersion"] != version {
        return Err(format!(
            "the webhook did not answer with a TokenReview of {version}, but with kind {} of {}",
            answer["kind"], answer["apiVersion"]
        ));
    }
    let status = &answer["status"];
    let texts = |value: &Value| -> Vec<String> {
        let list = value.as_array().into_iter().flatten();
        list.filter_map(|v| v.as_str().map(str::to_owned)).collect()
    };
    let mut accepted = Vec::new();
    if !wanted.is_empty() {
        let given = texts(&status["audiences"]);
        let given = if given.is_empty() { implicit } else { &given };
        accepted = wanted.iter().filter(|a| given.contains(a)).cloned().collect();
        if accepted.is_empty() {
            return Ok(None);
        }
    }
    if status["authenticated"] != true {
        return match status["error"].as_str().unwrap_or_default() {
            "" => Ok(None),
            error => Err(error.to_owned()),
        };
    }
    let user = &status["user"];
    let text = |field: &str| user[field].as_str().unwrap_or_default().to_owned();
    let mut groups = texts(&user["groups"]);
    if !groups.iter().any(|g| g == ALL_AUTHENTICATED) {
        groups.push(ALL_AUTHENTICATED.to_owned());
    }
    let extra: BTreeMap<String, Vec<String>> = user["extra"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, values)| (key.clone(), texts(values)))
        .collect();
    let user = UserInfo {
        name: text("username"),
        uid: text("uid"),
        groups,
        extra,
    };
    Ok(Some((user, accepted)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERSION: &str = "authentication.k8s.io/v1";

    fn check(status: Value, wanted: &[&str], found: Result<Option<(&str, &[&str])>, &str>) {
        let list = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let answer = json!({"kind": "TokenReview", "apiVersion": VERSION, "status": status});
        let got = identified(&answer, VERSION, &list(wanted), &list(&["api"]));
        let found = found
            .map(|f| f.map(|(name, audiences)| (name.to_owned(), list(audiences))))
            .map_err(str::to_owned);
        assert_eq!(
            got.map(|g| g.map(|(user, audiences)| (user.name, audiences))),
            found,
            "{status}"
        );
    }

    #[test]
    fn answers() {
        let jane = json!({"authenticated": true, "user": {"username": "jane"}});
        check(jane.clone(), &[], Ok(Some(("jane", &[]))));
        check(jane.clone(), &["api"], Ok(Some(("jane", &["api"]))));
        check(jane.clone(), &["other"], Ok(None));
        let mut other = jane;
        other["audiences"] = json!(["other", "third"]);
        check(other.clone(), &["api"], Ok(None));
        check(other, &["api", "other"], Ok(Some(("jane", &["other"]))));
        check(json!({"authenticated": false}), &["api"], Ok(None));
        check(
            json!({"error": "no such session"}),
            &["api"],
            Err("no such session"),
        );
        let foreign = json!({"kind": "Status", "apiVersion": "v1"});
        assert!(identified(&foreign, VERSION, &[], &[]).is_err());
    }
}
