//! The post-start hook.

use std::sync::Arc;

use futures::{TryStreamExt, stream};
use keelson_api::gvk::GroupVersionKind;
use keelson_api::status::{Reason, Status};
use serde_json::{Value, json};

use super::policy::{Reconciled, reconcile};
use super::{defaults, policy};
use crate::admission::Notes;
use crate::config::ApiServerConfig;
use crate::registry::options::DeleteOptions;
use crate::registry::{Context, Kind, Registry, Update};
use crate::user::UserInfo;

/// So many objects are written at once: their fsyncs are shared by the store's group commit.
const AT_ONCE: usize = 64;

/// Runs before the server reports ready; creates and reconciles through `registry` (no authorization, no admission).
/// Idempotent and safe when several servers run it at once: who comes second finds the objects there.
pub async fn run(config: &ApiServerConfig, registry: &Registry) -> Result<(), Status> {
    let user = UserInfo::api_server();
    ensure_all(registry, &user, defaults::namespaces()).await?;
    let mut all = policy::objects();
    all.extend(defaults::priority_classes());
    all.extend(defaults::priority_levels());
    all.extend(defaults::flow_schemas());
    all.push(authentication_config(config));
    ensure_all(registry, &user, all).await
}

async fn ensure_all(registry: &Registry, user: &UserInfo, objects: Vec<Value>) -> Result<(), Status> {
    stream::iter(objects.into_iter().map(Ok))
        .try_for_each_concurrent(AT_ONCE, |object| ensure(registry, user, object))
        .await
}

/// Creates the object, or brings the existing one up to date.
async fn ensure(registry: &Registry, user: &UserInfo, wanted: Value) -> Result<(), Status> {
    let notes = Notes::default();
    let context = Context::internal(user, &notes);
    let kind = kind_of(registry, &wanted)?;
    let text = |field: &str| wanted["metadata"][field].as_str().unwrap_or_default();
    let (namespace, name) = (text("namespace"), text("name"));
    for _ in 0..2 {
        let existing = match registry.get(&kind, namespace, name, None).await {
            Ok(existing) => existing.parse(),
            Err(status) if status.reason == Reason::NotFound => {
                match registry.create(&context, &kind, namespace, wanted.clone()).await {
                    // Another server was faster: look at what it made.
                    Err(status) if status.reason == Reason::AlreadyExists => continue,
                    other => return other.map(|_| ()),
                }
            }
            Err(status) => return Err(status),
        };
        match decide(&existing, &wanted) {
            Reconciled::Nothing => return Ok(()),
            Reconciled::Update(_) => {
                let update = Update {
                    namespace,
                    name,
                    subresource: "",
                    may_create: false,
                    apply: false,
                };
                let transform = |current: Option<&Value>| match current.map(|c| (c, decide(c, &wanted))) {
                    Some((_, Reconciled::Update(new))) => Ok(new),
                    Some((current, _)) => Ok(current.clone()),
                    None => Ok(wanted.clone()),
                };
                return registry
                    .update(&context, &kind, &update, transform)
                    .await
                    .map(|_| ());
            }
            Reconciled::Replace => {
                registry
                    .delete(&context, &kind, namespace, name, &DeleteOptions::default())
                    .await?;
            }
        }
    }
    // Deleted for a new role a moment ago, or made and deleted by others: made once more.
    match registry.create(&context, &kind, namespace, wanted.clone()).await {
        Err(status) if status.reason == Reason::AlreadyExists => Ok(()),
        other => other.map(|_| ()),
    }
}

/// RBAC objects are merged; the configuration for extension servers follows the server's flags; all else is the
/// cluster's once it is there.
fn decide(existing: &Value, wanted: &Value) -> Reconciled {
    match wanted["kind"].as_str().unwrap_or_default() {
        "ClusterRole" | "Role" | "ClusterRoleBinding" | "RoleBinding" => reconcile(existing, wanted),
        "ConfigMap" if existing["data"] != wanted["data"] => {
            let mut new = existing.clone();
            new["data"] = wanted["data"].clone();
            Reconciled::Update(new)
        }
        _ => Reconciled::Nothing,
    }
}

fn kind_of(registry: &Registry, object: &Value) -> Result<Arc<Kind>, Status> {
    let gvk = GroupVersionKind::of(object)
        .ok_or_else(|| Status::internal("invariant: objects say what they are"))?;
    let info = keelson_api::resources::builtin()
        .iter()
        .find(|info| info.group == gvk.group && info.version == gvk.version && info.kind == gvk.kind)
        .ok_or_else(|| Status::internal(format!("no resource for {gvk:?}")))?;
    registry
        .kind(&info.group, &info.version, &info.plural)
        .ok_or_else(|| Status::internal(format!("{} is not served", info.plural)))
}

/// ConfigMap `extension-apiserver-authentication`: whom extension servers believe.
fn authentication_config(config: &ApiServerConfig) -> Value {
    let pem = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut data = json!({"client-ca-file": pem(&config.client_ca_pem)});
    if let Some(ca) = &config.request_header_ca_pem {
        data["requestheader-client-ca-file"] = pem(ca).into();
        data["requestheader-allowed-names"] = json!(config.request_header_allowed_names).to_string().into();
        data["requestheader-username-headers"] = json!(["X-Remote-User"]).to_string().into();
        data["requestheader-uid-headers"] = json!(["X-Remote-Uid"]).to_string().into();
        data["requestheader-group-headers"] = json!(["X-Remote-Group"]).to_string().into();
        data["requestheader-extra-headers-prefix"] = json!(["X-Remote-Extra-"]).to_string().into();
    }
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "extension-apiserver-authentication", "namespace": "kube-system"},
        "data": data,
    })
}
