//! Keeps APIServices for what is served here, and the condition `Available` of all.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use keelson_api::status::{Reason, Status};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::health::{Condition, check};
use super::priorities;
use super::view::{Destination, Document, Entry, LocalApi, View};
use crate::admission::Notes;
use crate::registry::options::{DeleteOptions, FieldValidation};
use crate::registry::{Context, Kind, Registry, Update, metadata, model};
use crate::server::Inner;
use crate::user::UserInfo;

const GROUP: &str = "apiregistration.k8s.io";
const RESOURCE: &str = "apiservices";
const AUTOMANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";
const ON_START: &str = "onstart";
const ALWAYS: &str = "true";
/// Remote servers are asked again after this time.
const RESYNC: Duration = Duration::from_secs(30);
/// First and longest pause after a failed check.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));

/// Follows APIServices, custom resource definitions, Services and endpoints until `shutdown`.
pub(crate) async fn run(server: Arc<Inner>, shutdown: CancellationToken) {
    let resources = server.registry.resources().clone();
    let mut services = resources.resource(GROUP, RESOURCE).changes();
    let mut definitions = resources
        .resource("apiextensions.k8s.io", "customresourcedefinitions")
        .changes();
    let mut targets = resources.resource("", "services").changes();
    let mut endpoints = resources.resource("discovery.k8s.io", "endpointslices").changes();
    let mut controller = Controller::new(server);
    if let Err(error) = controller.register_built_in().await {
        tracing::error!(%error, "APIServices of built-in groups could not be registered");
    }
    let mut checks: JoinSet<Checked> = JoinSet::new();
    loop {
        let due = controller.step(&mut checks).await;
        let remote = due.is_some();
        tokio::select! {
            () = shutdown.cancelled() => break,
            changed = services.changed() => if changed.is_err() { break },
            changed = definitions.changed() => if changed.is_err() { break },
            changed = targets.changed(), if remote => if changed.is_err() { break },
            changed = endpoints.changed(), if remote => if changed.is_err() { break },
            Some(checked) = checks.join_next(), if !checks.is_empty() => match checked {
                Ok(checked) => controller.checked(checked).await,
                Err(error) => tracing::error!(%error, "the check of an APIService failed"),
            },
            () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if remote => {}
        }
    }
    checks.shutdown().await;
}

/// What a check found.
struct Checked {
    name: String,
    condition: Condition,
    document: Option<Document>,
}

/// When a remote APIService is looked at.
struct Watched {
    /// What the last check depended on.
    fingerprint: String,
    due: Instant,
    failures: u32,
    running: bool,
}

struct Controller {
    server: Arc<Inner>,
    watched: HashMap<String, Watched>,
    /// A write failed: everything is looked at again then.
    retry: Option<Instant>,
}

impl Controller {
    fn new(server: Arc<Inner>) -> Self {
        Self {
            server,
            watched: HashMap::new(),
            retry: None,
        }
    }

    /// Brings everything that can be known at once up to date and starts checks that are due. Returns when the next one is;
    /// `None` when there is nothing to wait for.
    async fn step(&mut self, checks: &mut JoinSet<Checked>) -> Option<Instant> {
        let now = Instant::now();
        self.retry = None;
        if let Err(error) = self.register_custom().await {
            tracing::warn!(%error, "APIServices of custom resources could not be registered");
            self.retry = Some(now + BACKOFF.1);
        }
        let view = self.server.aggregator.view();
        self.server.aggregator.retain_documents(&view);
        let mut remote: HashSet<&str> = HashSet::new();
        for entry in &view.entries {
            match &entry.destination {
                Destination::Remote(_) => {
                    remote.insert(&entry.name);
                    self.start_check(entry, now, checks);
                }
                _ => self.write_condition(&entry.name, &Condition::local()).await,
            }
        }
        self.watched.retain(|name, _| remote.contains(name.as_str()));
        let next = self.watched.values().filter(|w| !w.running).map(|w| w.due).min();
        let next = match (next, self.retry) {
            (Some(next), Some(retry)) => Some(next.min(retry)),
            (next, retry) => next.or(retry),
        };
        // While checks run, changes of Services and endpoints still count.
        next.or_else(|| (!self.watched.is_empty()).then(|| now + RESYNC))
    }

    fn start_check(&mut self, entry: &Arc<Entry>, now: Instant, checks: &mut JoinSet<Checked>) {
        let Destination::Remote(remote) = &entry.destination else {
            return;
        };
        let resources = self.server.registry.resources().clone();
        let fingerprint = remote.fingerprint(&resources);
        let watched = self.watched.entry(entry.name.clone()).or_insert(Watched {
            fingerprint: String::new(),
            due: now,
            failures: 0,
            running: false,
        });
        let changed = watched.fingerprint != fingerprint;
        if watched.running || (!changed && watched.due > now) {
            return;
        }
        if changed {
            watched.failures = 0;
        }
        watched.running = true;
        watched.fingerprint = fingerprint;
        let (server, entry) = (self.server.clone(), entry.clone());
        checks.spawn(async move {
            let Destination::Remote(remote) = &entry.destination else {
                unreachable!("invariant: only remote entries are checked");
            };
            let (condition, document) = check(&server.aggregator, &resources, &entry, remote).await;
            Checked {
                name: entry.name.clone(),
                condition,
                document,
            }
        });
    }

    async fn checked(&mut self, checked: Checked) {
        let Some(watched) = self.watched.get_mut(&checked.name) else {
            return;
        };
        watched.running = false;
        if checked.condition.status == "True" {
            watched.failures = 0;
            watched.due = Instant::now() + RESYNC;
        } else {
            let pause = BACKOFF.0 * 2u32.saturating_pow(watched.failures.min(12));
            watched.failures += 1;
            watched.due = Instant::now() + pause.min(BACKOFF.1);
        }
        self.server
            .aggregator
            .set_document(&checked.name, checked.document);
        self.write_condition(&checked.name, &checked.condition).await;
    }

    async fn write_condition(&mut self, name: &str, condition: &Condition) {
        let registry = &self.server.registry;
        let Some(object) = registry.resources().resource(GROUP, RESOURCE).get("", name) else {
            return;
        };
        if has_condition(object.value(), condition) {
            return;
        }
        if let Err(error) = write_condition(registry, name, condition).await {
            tracing::warn!(name, %error, "the condition of an APIService could not be written");
            self.retry = Some(Instant::now() + BACKOFF.1);
        }
    }

    /// Upstream's "sync on start": made once for each start, not touched afterwards.
    async fn register_built_in(&self) -> Result<(), Status> {
        let registry = &self.server.registry;
        let table = registry.kinds();
        let mut wanted: BTreeMap<String, Value> = BTreeMap::new();
        for kind in table.rows() {
            let info = &kind.info;
            if info.group == GROUP || kind.traits.typed_items {
                continue;
            }
            if let Some(priority) = priorities::of(&info.group, &info.version) {
                let object = api_service(&info.group, &info.version, priority, Some(ON_START));
                wanted.insert(metadata::text(&object, "name").to_owned(), object);
            }
        }
        for object in registry.resources().resource(GROUP, RESOURCE).list(None) {
            let managed = label(object.value());
            if managed == ON_START && !wanted.contains_key(object.name()) {
                delete(registry, object.name()).await?;
            }
        }
        let writes = wanted.into_values().map(|object| ensure(registry, object));
        futures::future::try_join_all(writes).await?;
        // The conditions are written together, for one fsync.
        registry
            .resources()
            .caches()
            .wait_until_current()
            .await
            .map_err(|e| crate::registry::status_of(&e))?;
        let view: Arc<View> = self.server.aggregator.view();
        let conditions = view
            .entries
            .iter()
            .filter(|e| !matches!(e.destination, Destination::Remote(_)))
            .map(|e| async {
                let local = Condition::local();
                let object = registry.resources().resource(GROUP, RESOURCE).get("", &e.name);
                match object {
                    Some(object) if !has_condition(object.value(), &local) => {
                        write_condition(registry, &e.name, &local).await
                    }
                    _ => Ok(()),
                }
            });
        futures::future::try_join_all(conditions).await.map(drop)
    }

    /// Upstream's "sync always": one for each version that a definition serves.
    async fn register_custom(&self) -> Result<(), Status> {
        let registry = &self.server.registry;
        let mut wanted: BTreeMap<String, Value> = BTreeMap::new();
        let definitions = registry
            .resources()
            .resource("apiextensions.k8s.io", "customresourcedefinitions");
        for definition in definitions.list(None) {
            let spec = &definition.value()["spec"];
            let group = spec["group"].as_str().unwrap_or_default();
            for version in spec["versions"].as_array().into_iter().flatten() {
                if version["served"] == true {
                    let version = version["name"].as_str().unwrap_or_default();
                    let object = api_service(group, version, priorities::CUSTOM, Some(ALWAYS));
                    wanted.insert(metadata::text(&object, "name").to_owned(), object);
                }
            }
        }
        for object in registry.resources().resource(GROUP, RESOURCE).list(None) {
            if label(object.value()) == ALWAYS && !wanted.contains_key(object.name()) {
                delete(registry, object.name()).await?;
            }
        }
        for object in wanted.into_values() {
            ensure(registry, object).await?;
        }
        Ok(())
    }
}

/// Serves a group version inside this process, and makes its APIService unless there is one.
pub(crate) async fn register(server: &Arc<Inner>, api: LocalApi) -> Result<(), Status> {
    let path = format!("/apis/{}/{}", api.group, api.version);
    let ask = async |path: &str| -> Option<Value> {
        let mut request = Request::new(Bytes::new());
        *request.uri_mut() = path.parse().ok()?;
        let response = match api.service.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
        if !response.status().is_success() {
            return None;
        }
        serde_json::from_slice(response.body()).ok()
    };
    let resources = ask(&path)
        .await
        .ok_or_else(|| Status::internal(format!("{path} does not say what it serves")))?;
    let openapi = ask(&format!("/openapi/v3{path}")).await;
    let object = api_service(
        &api.group,
        &api.version,
        (api.group_priority_minimum, api.version_priority),
        None,
    );
    let document = Document {
        resources,
        openapi_hash: openapi.map(|d| super::openapi_hash(&d)),
        fresh: true,
    };
    let name = metadata::text(&object, "name").to_owned();
    server.aggregator.add_local(name, api, document);
    ensure(&server.registry, object).await
}

fn api_service(group: &str, version: &str, priority: (i64, i64), managed: Option<&str>) -> Value {
    let mut object = json!({
        "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
        "metadata": {"name": format!("{version}.{group}")},
        "spec": {"version": version, "groupPriorityMinimum": priority.0, "versionPriority": priority.1},
    });
    if !group.is_empty() {
        object["spec"]["group"] = json!(group);
    }
    if let Some(managed) = managed {
        object["metadata"]["labels"] = json!({AUTOMANAGED: managed});
    }
    object
}

fn label(object: &Value) -> &str {
    object["metadata"]["labels"][AUTOMANAGED]
        .as_str()
        .unwrap_or_default()
}

fn kind(registry: &Registry) -> Result<Arc<Kind>, Status> {
    registry
        .kind(GROUP, "v1", RESOURCE)
        .ok_or_else(|| Status::internal("apiservices are not served"))
}

/// Creates the object; one that is there and managed by us gets its spec.
async fn ensure(registry: &Registry, wanted: Value) -> Result<(), Status> {
    let kind = kind(registry)?;
    let (user, notes) = (UserInfo::api_server(), Notes::default());
    let cx = Context::internal(&user, &notes);
    let wanted = model::finish_decode(
        &kind.gvk,
        kind.schema()?,
        wanted,
        &[],
        FieldValidation::Ignore,
        &notes,
    )?;
    let name = metadata::text(&wanted, "name").to_owned();
    let managed = |object: &Value| !label(object).is_empty() && !label(&wanted).is_empty();
    match registry.resources().resource(GROUP, RESOURCE).get("", &name) {
        None => match registry.create(&cx, &kind, "", wanted).await {
            Err(status) if status.reason == Reason::AlreadyExists => Ok(()),
            other => other.map(drop),
        },
        Some(object) if managed(object.value()) && object.value()["spec"] != wanted["spec"] => {
            let update = Update {
                namespace: "",
                name: &name,
                subresource: "",
                may_create: false,
                apply: false,
            };
            let result = registry.update(&cx, &kind, &update, |old| {
                let mut new = old.cloned().unwrap_or_default();
                if managed(&new) {
                    new["spec"] = wanted["spec"].clone();
                }
                Ok(new)
            });
            result.await.map(drop)
        }
        Some(_) => Ok(()),
    }
}

async fn delete(registry: &Registry, name: &str) -> Result<(), Status> {
    let kind = kind(registry)?;
    let (user, notes) = (UserInfo::api_server(), Notes::default());
    let cx = Context::internal(&user, &notes);
    match registry
        .delete(&cx, &kind, "", name, &DeleteOptions::default())
        .await
    {
        Err(status) if status.reason != Reason::NotFound => Err(status),
        _ => Ok(()),
    }
}

fn has_condition(object: &Value, wanted: &Condition) -> bool {
    object["status"]["conditions"].as_array().is_some_and(|all| {
        all.iter().any(|c| {
            c["type"] == "Available"
                && c["status"] == wanted.status
                && c["reason"] == wanted.reason
                && c["message"] == wanted.message
        })
    })
}

async fn write_condition(registry: &Registry, name: &str, condition: &Condition) -> Result<(), Status> {
    let kind = kind(registry)?;
    let (user, notes) = (UserInfo::api_server(), Notes::default());
    let cx = Context::internal(&user, &notes);
    let update = Update {
        namespace: "",
        name,
        subresource: "status",
        may_create: false,
        apply: false,
    };
    let result = registry.update(&cx, &kind, &update, |old| {
        let mut new = old.cloned().unwrap_or_default();
        let mut all = new["status"]["conditions"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let known = all.iter().position(|c| c["type"] == "Available");
        let since = known
            .filter(|at| all[*at]["status"] == condition.status)
            .map_or_else(|| json!(model::now()), |at| all[at]["lastTransitionTime"].clone());
        let value = json!({
            "type": "Available", "status": condition.status, "lastTransitionTime": since,
            "reason": condition.reason, "message": condition.message,
        });
        match known {
            Some(at) => all[at] = value,
            None => all.push(value),
        }
        new["status"] = json!({"conditions": all});
        Ok(new)
    });
    match result.await {
        Err(status) if status.reason != Reason::NotFound => Err(status),
        _ => Ok(()),
    }
}
