//! TokenRequest: issues bound, short-lived tokens (`serviceaccounts/token`).

use std::time::Duration;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use keelson_api::field::{Error, Path};
use keelson_api::gvk::{GroupKind, GroupResource};
use keelson_api::status::Status;
use keelson_pki::PrivateKey;
use serde_json::{Value, json};

use super::issuer::api_audiences;
use crate::config::ApiServerConfig;
use crate::endpoints::reviews::ReviewHandler;
use crate::request_info::RequestInfo;
use crate::resources::{Reader, Resources};
use crate::user::UserInfo;

/// Least lifetime, seconds.
const LEAST: i64 = 600;
/// Lifetime when none is asked for, seconds.
const DEFAULT: i64 = 3600;
/// What kubelets ask for on behalf of the automatically mounted token: an hour, and seven seconds to tell it apart.
const KUBELET_REQUEST: i64 = 3607;
/// Such a token lives a year for clients that do not read it again; after the hour its use is worth a warning.
const EXTENDED: i64 = 365 * 24 * 3600;

/// Answers `serviceaccounts/token`.
pub(super) struct TokenRequestHandler {
    key: PrivateKey,
    issuer: String,
    audiences: Vec<String>,
    longest: Option<Duration>,
    accounts: Reader,
    pods: Reader,
    secrets: Reader,
    nodes: Reader,
}

impl TokenRequestHandler {
    pub(super) fn new(config: &ApiServerConfig, resources: &Resources) -> Result<Self, keelson_pki::Error> {
        let tokens = &config.service_account;
        Ok(Self {
            key: PrivateKey::from_pem(&String::from_utf8_lossy(&tokens.signing_key_pem))?,
            issuer: tokens.issuer.clone(),
            audiences: api_audiences(tokens),
            longest: tokens.max_token_expiration,
            accounts: resources.resource("", "serviceaccounts"),
            pods: resources.resource("", "pods"),
            secrets: resources.resource("", "secrets"),
            nodes: resources.resource("", "nodes"),
        })
    }

    /// The object a token is to be bound to, as claim: `(kind, {name, uid}, further claims)`.
    async fn bound(&self, reference: &Value, namespace: &str, account: &str) -> Result<Value, Status> {
        let field = |f: &str| reference.get(f).and_then(Value::as_str).unwrap_or_default();
        let (kind, version, name, uid) = (field("kind"), field("apiVersion"), field("name"), field("uid"));
        let (reader, resource, within) = match (version, kind) {
            ("v1", "Pod") => (&self.pods, "pods", namespace),
            ("v1", "Secret") => (&self.secrets, "secrets", namespace),
            ("v1", "Node") => (&self.nodes, "nodes", ""),
            _ => {
                let (group, version) = version.split_once('/').unwrap_or(("", version));
                return Err(Status::bad_request(format!(
                    "cannot bind token for serviceaccount {account:?} to object of type {group}/{version}, Kind={kind}"
                )));
            }
        };
        let group_resource = GroupResource::new("", resource);
        let object = read(reader, within, name, &group_resource).await?;
        let own_uid = object
            .pointer("/metadata/uid")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        if kind == "Pod" {
            let runs_as = object
                .pointer("/spec/serviceAccountName")
                .and_then(Value::as_str)
                .unwrap_or_default();
            if runs_as != account {
                return Err(Status::bad_request(format!(
                    "cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount name."
                )));
            }
        }
        if !uid.is_empty() && uid != own_uid {
            return Err(Status::conflict(
                &group_resource,
                name,
                format!(
                    "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been \
                 deleted and then recreated"
                ),
            ));
        }
        let mut claims = json!({kind.to_lowercase(): {"name": name, "uid": own_uid}});
        let node = object
            .pointer("/spec/nodeName")
            .and_then(Value::as_str)
            .unwrap_or_default();
        if kind == "Pod" && !node.is_empty() {
            let uid = self.nodes.get("", node).and_then(|n| {
                n.parse()
                    .pointer("/metadata/uid")
                    .and_then(Value::as_str)
                    .map(str::to_owned)
            });
            claims["node"] = json!({"name": node});
            if let Some(uid) = uid {
                claims["node"]["uid"] = uid.into();
            }
        }
        Ok(claims)
    }

    /// Seconds to live, and seconds after which using it is worth a warning.
    fn lifetime(&self, asked: i64, audiences: &[String]) -> (i64, Option<i64>) {
        let mut asked = asked;
        if let Some(longest) = self.longest {
            asked = asked.min(i64::try_from(longest.as_secs()).unwrap_or(i64::MAX));
        }
        let for_us = !audiences.is_empty() && audiences.iter().all(|a| self.audiences.contains(a));
        if asked == KUBELET_REQUEST && for_us {
            return (EXTENDED, Some(asked));
        }
        (asked, None)
    }
}

async fn read(
    reader: &Reader,
    namespace: &str,
    name: &str,
    resource: &GroupResource,
) -> Result<Value, Status> {
    let object = reader
        .get_latest(namespace, name)
        .await
        .map_err(Status::internal)?;
    object
        .map(|o| o.parse())
        .ok_or_else(|| Status::not_found(resource, name))
}

/// Upstream's validation of the spec.
fn validate(spec: &Value) -> Vec<Error> {
    let seconds = spec
        .get("expirationSeconds")
        .and_then(Value::as_i64)
        .unwrap_or(DEFAULT);
    let path = Path::new("spec").child("expirationSeconds");
    if seconds < LEAST {
        return vec![Error::invalid(
            &path,
            seconds,
            "may not specify a duration less than 10 minutes",
        )];
    }
    if seconds > 1 << 32 {
        return vec![Error::invalid(
            &path,
            seconds,
            "may not specify a duration larger than 2^32 seconds",
        )];
    }
    Vec::new()
}

#[async_trait]
impl ReviewHandler for TokenRequestHandler {
    async fn create(&self, _: &UserInfo, request: &RequestInfo, mut object: Value) -> Result<Value, Status> {
        let (namespace, name) = (&request.namespace, &request.name);
        let account = read(
            &self.accounts,
            namespace,
            name,
            &GroupResource::new("", "serviceaccounts"),
        )
        .await?;
        let errors = validate(&object["spec"]);
        if !errors.is_empty() {
            return Err(Status::invalid(
                &GroupKind::new("authentication.k8s.io", "TokenRequest"),
                "",
                &errors,
            ));
        }
        let spec = &object["spec"];
        let mut audiences: Vec<String> = spec
            .get("audiences")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(|a| a.as_str().map(str::to_owned))
            .collect();
        if audiences.is_empty() {
            audiences.clone_from(&self.audiences);
        }
        let asked = spec
            .get("expirationSeconds")
            .and_then(Value::as_i64)
            .unwrap_or(DEFAULT);
        let (lifetime, warn_after) = self.lifetime(asked, &audiences);
        let mut bound = match spec.get("boundObjectRef").filter(|r| !r.is_null()) {
            Some(reference) => self.bound(reference, namespace, name).await?,
            None => json!({}),
        };
        let now = Timestamp::now();
        bound["namespace"] = namespace.as_str().into();
        bound["serviceaccount"] = json!({"name": name, "uid": account["metadata"]["uid"]});
        if let Some(after) = warn_after {
            bound["warnafter"] = (now.as_second() + after).into();
        }
        let claims = json!({
            "aud": audiences,
            "exp": now.as_second() + lifetime,
            "iat": now.as_second(),
            "iss": self.issuer,
            "jti": uuid::Uuid::new_v4().to_string(),
            "kubernetes.io": bound,
            "nbf": now.as_second(),
            "sub": format!("system:serviceaccount:{namespace}:{name}"),
        });
        let token = self.key.sign_jwt(&claims).map_err(Status::internal)?;
        // Told is the time after which it should be renewed, as upstream tells it.
        let told = now + SignedDuration::from_secs(warn_after.unwrap_or(lifetime));
        let told = Timestamp::from_second(told.as_second()).unwrap_or(told);
        object["spec"]["audiences"] = json!(audiences);
        object["spec"]["expirationSeconds"] = warn_after.unwrap_or(lifetime).into();
        object["metadata"]["name"] = name.as_str().into();
        object["metadata"]["namespace"] = namespace.as_str().into();
        object["status"] = json!({"token": token, "expirationTimestamp": told.to_string()});
        Ok(object)
    }
}
