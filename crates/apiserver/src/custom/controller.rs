//! Keeps the kind table equal to the definitions, their status, and ends those that are being deleted.
//!
//! A pass looks at what has changed since the last one. Whoever is refused a name is asked again in each pass; whoever is
//! being deleted is looked at when its objects change. What fails is tried again after a while.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use futures::FutureExt;
use keelson_api::status::Status;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::conditions::{self, FINALIZER};
use super::names::AcceptedNames;
use super::rows::Definition;
use crate::admission::{Connections, Notes};
use crate::registry::options::DeleteOptions;
use crate::registry::{Context, Registry, Update, metadata, model, status_of};
use crate::user::UserInfo;
use crate::watch_cache::CachedObject;

const GROUP: &str = "apiextensions.k8s.io";
const RESOURCE: &str = "customresourcedefinitions";
/// After a failure.
const RETRY: Duration = Duration::from_secs(5);

/// All definitions, as far as they are in effect.
pub(crate) struct Definitions {
    registry: Registry,
    connections: Connections,
    accepted: AcceptedNames,
    /// By name of the definition.
    known: BTreeMap<String, Known>,
}

#[derive(Default)]
struct Known {
    /// Nothing is to be done before the definition has another revision.
    settled: Option<u64>,
    served: Option<Served>,
    /// Told of changes of its objects, while it waits for their end.
    ending: Option<watch::Receiver<u64>>,
    refused: bool,
}

#[derive(Clone, PartialEq)]
struct Served {
    group: String,
    plural: String,
    /// UID and a hash of the specification: with others, stored objects are read anew.
    version: (String, u64),
    /// What else the rows depend on.
    rows: u64,
}

impl Definitions {
    /// Knows nothing before the first [`Self::pass`].
    pub(crate) fn new(registry: &Registry, connections: &Connections) -> Self {
        Self {
            registry: registry.clone(),
            connections: connections.clone(),
            accepted: AcceptedNames::default(),
            known: BTreeMap::new(),
        }
    }

    /// Follows changes until `shutdown`.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let mut changes = self.registry.resources().resource(GROUP, RESOURCE).changes();
        loop {
            let failed = match self.pass().await {
                Ok(()) => false,
                Err(error) => {
                    tracing::error!(%error, "custom resource definitions could not be brought into effect");
                    true
                }
            };
            let retry = async {
                if failed {
                    tokio::time::sleep(RETRY).await;
                } else {
                    std::future::pending().await
                }
            };
            let ending = self.known.values_mut().filter_map(|k| k.ending.as_mut());
            let mut ending: Vec<_> = ending.map(|changes| changes.changed().boxed()).collect();
            let ended = async {
                if ending.is_empty() {
                    std::future::pending().await
                } else {
                    // Changed or no longer served: the next pass sees which.
                    let (_changed, ..) = futures::future::select_all(&mut ending).await;
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = retry => {}
                () = ended => {}
                changed = changes.changed() => if changed.is_err() {
                    return;
                },
            }
        }
    }

    /// Brings all definitions into effect. One that fails does not hold up the others; the last error is returned.
    pub(crate) async fn pass(&mut self) -> Result<(), Status> {
        let mut result = Ok(());
        loop {
            let objects = self.registry.resources().resource(GROUP, RESOURCE).list(None);
            let mut freed = self.drop_gone(&objects);
            for object in &objects {
                let known = self.known.entry(object.name().to_owned()).or_default();
                if known.settled == Some(object.revision()) && !known.refused && known.ending.is_none() {
                    continue;
                }
                match self.look_at(object).await {
                    Ok(released) => freed |= released,
                    Err(error) => result = Err(error),
                }
            }
            // Names that became free may be what another definition waits for.
            if !(freed && self.known.values().any(|k| k.refused)) {
                return result;
            }
        }
    }

    fn drop_gone(&mut self, objects: &[std::sync::Arc<CachedObject>]) -> bool {
        let there: BTreeSet<&str> = objects.iter().map(|o| o.name()).collect();
        let mut freed = false;
        for name in self.accepted.known() {
            if !there.contains(name.as_str()) {
                freed |= self.accepted.forget(&name);
            }
        }
        let gone: Vec<String> = self
            .known
            .keys()
            .filter(|name| !there.contains(name.as_str()))
            .cloned()
            .collect();
        for name in gone {
            self.stop_serving(&name);
            self.known.remove(&name);
        }
        freed
    }

    /// True: names that it had are free.
    async fn look_at(&mut self, object: &CachedObject) -> Result<bool, Status> {
        let (name, crd) = (object.name(), object.parse());
        if metadata::is_deleting(&crd) {
            self.end(name, &crd).await?;
            return Ok(false);
        }
        let (names, [status, reason, message]) = if crd["spec"]["names"] == crd["status"]["acceptedNames"] {
            let accepted = crd["spec"]["names"].clone();
            (
                accepted,
                ["True", "NoConflicts", "no conflicts found"].map(str::to_owned),
            )
        } else {
            self.accepted.judge(&crd)
        };
        let refused = status != "True";
        let now = model::now();
        let approval = super::approval::condition(&crd);
        let change = |mut crd: Value| {
            crd["status"]["acceptedNames"] = names.clone();
            let accepted = [status.as_str(), reason.as_str(), message.as_str()];
            conditions::set(&mut crd, "NamesAccepted", accepted, &now);
            if let Some([status, reason, message]) = &approval {
                let kind = "KubernetesAPIApprovalPolicyConformant";
                conditions::set(&mut crd, kind, [status, reason, message], &now);
            }
            if !conditions::is_true(&crd, "Established") {
                let established = if refused {
                    ["False", "NotAccepted", "not all names are accepted"]
                } else {
                    [
                        "True",
                        "InitialNamesAccepted",
                        "the initial names have been accepted",
                    ]
                };
                conditions::set(&mut crd, "Established", established, &now);
            }
            crd
        };
        let new = change(crd.clone());
        if conditions::is_true(&new, "Established") {
            self.serve(name, &new).await?;
        }
        if new["status"] != crd["status"] {
            self.write(name, "status", change).await?;
        }
        let group = crd["spec"]["group"].as_str().unwrap_or_default();
        let released = self.accepted.note(name, group, &names);
        let known = self.known.entry(name.to_owned()).or_default();
        known.settled = Some(object.revision());
        known.refused = refused;
        Ok(released)
    }

    /// Makes the rows and the cache of a definition, as far as they are others than before.
    async fn serve(&mut self, name: &str, crd: &Value) -> Result<(), Status> {
        let Some(definition) = Definition::of(crd, self.registry.resources(), &self.connections) else {
            return Ok(());
        };
        let hash = |text: String| {
            let mut hasher = DefaultHasher::new();
            text.hash(&mut hasher);
            hasher.finish()
        };
        let names = &crd["status"]["acceptedNames"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let wanted = Served {
            group: text(&crd["spec"]["group"]),
            plural: text(&names["plural"]),
            version: (
                metadata::text(crd, "uid").to_owned(),
                hash(crd["spec"].to_string()),
            ),
            rows: hash(format!("{names} {}", metadata::is_deleting(crd))),
        };
        let known = self.known.entry(name.to_owned()).or_default();
        if known.served.as_ref() == Some(&wanted) {
            return Ok(());
        }
        let caches = self.registry.resources().caches();
        if known.served.as_ref().map(|s| &s.version) != Some(&wanted.version) {
            // Another schema or storage version is another form of all objects: the cache is read anew.
            caches.add(definition.spec()).await.map_err(|e| status_of(&e))?;
        }
        let generation = metadata::number(crd, "generation").unwrap_or(0);
        let uid = metadata::text(crd, "uid");
        self.registry.update_kinds(|table| {
            table.remove(|k| k.info.group == wanted.group && k.info.plural == wanted.plural && k.is_custom());
            for mut row in definition.rows(caches) {
                row.definition = (generation, uid.to_owned());
                table.insert(row);
            }
        });
        tracing::info!(
            group = wanted.group,
            plural = wanted.plural,
            "custom resource served"
        );
        known.served = Some(wanted);
        Ok(())
    }

    fn stop_serving(&mut self, name: &str) {
        let served = self.known.get_mut(name).and_then(|known| known.served.take());
        if let Some(Served { group, plural, .. }) = served {
            self.registry.update_kinds(|table| {
                table.remove(|k| k.info.group == group && k.info.plural == plural && k.is_custom());
            });
            self.registry.resources().caches().remove(&group, &plural);
        }
    }

    /// Deletes all objects of a definition, then lets the definition go.
    async fn end(&mut self, name: &str, crd: &Value) -> Result<(), Status> {
        let established = conditions::is_true(crd, "Established");
        if established {
            // Still served, but nothing new is taken.
            self.serve(name, crd).await?;
        }
        if !metadata::finalizers(crd).contains(&FINALIZER) {
            return Ok(());
        }
        let terminating = |condition: [String; 3]| {
            move |mut crd: Value| {
                let [status, reason, message] = condition.each_ref().map(String::as_str);
                conditions::set(&mut crd, "Terminating", [status, reason, message], &model::now());
                crd
            }
        };
        let reason = conditions::find(crd, "Terminating").map(|c| c["reason"].clone());
        if established {
            if reason != Some(json!("InstanceDeletionInProgress")) {
                let why = [
                    "True",
                    "InstanceDeletionInProgress",
                    "CustomResource deletion is in progress",
                ];
                self.write(name, "status", terminating(why.map(str::to_owned)))
                    .await?;
            }
            match self.delete_objects(name, crd).await {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(error) => {
                    let message = format!("could not issue all deletes: {}", error.message);
                    let why = ["True".to_owned(), "InstanceDeletionFailed".to_owned(), message];
                    self.write(name, "status", terminating(why)).await?;
                    return Err(error);
                }
            }
        }
        let done = if established {
            ["False", "InstanceDeletionCompleted", "removed all instances"]
        } else {
            ["False", "NeverEstablished", "resource was never established"]
        };
        self.write(name, "status", terminating(done.map(str::to_owned)))
            .await?;
        if metadata::finalizers(crd).len() == 1 {
            // Not served any more once the definition is gone.
            self.stop_serving(name);
        }
        self.write(name, "", |mut crd| {
            let left = metadata::finalizers(&crd).into_iter().filter(|f| *f != FINALIZER);
            let left: Vec<String> = left.map(str::to_owned).collect();
            metadata::set_finalizers(&mut crd, &left);
            crd
        })
        .await?;
        if let Some(known) = self.known.get_mut(name) {
            known.ending = None;
        }
        Ok(())
    }

    /// Whether all objects are gone; if not, their next change is waited for.
    async fn delete_objects(&mut self, name: &str, crd: &Value) -> Result<bool, Status> {
        let (user, notes) = (UserInfo::api_server(), Notes::default());
        let cx = Context::internal(&user, &notes);
        let Some(served) = self.known.get(name).and_then(|known| known.served.clone()) else {
            return Ok(true);
        };
        let versions = crd["spec"]["versions"].as_array().into_iter().flatten();
        let stored = versions
            .filter(|v| v["storage"] == true)
            .filter_map(|v| v["name"].as_str());
        let table = self.registry.kinds();
        let mut rows = stored.filter_map(|v| table.get(&served.group, v, &served.plural));
        let Some(kind) = rows
            .next()
            .or_else(|| table.any_version(&served.group, &served.plural))
        else {
            return Ok(true);
        };
        let resources = self.registry.resources();
        let reader = resources.resource(&served.group, &served.plural);
        let changes = reader.changes();
        for object in reader.list(None) {
            let value = object.parse();
            if metadata::is_deleting(&value) {
                continue;
            }
            let (namespace, name) = (object.namespace(), object.name());
            match self
                .registry
                .delete(&cx, kind, namespace, name, &DeleteOptions::default())
                .await
            {
                Err(status) if status.code != 404 => return Err(status),
                _ => {}
            }
        }
        let current = resources.caches().wait_until_current().await;
        current.map_err(|e| status_of(&e))?;
        let empty = reader.list(None).is_empty();
        if let Some(known) = self.known.get_mut(name) {
            known.ending = (!empty).then_some(changes);
        }
        Ok(empty)
    }

    async fn write(
        &self,
        name: &str,
        subresource: &str,
        change: impl Fn(Value) -> Value + Send + Sync,
    ) -> Result<(), Status> {
        let Some(definitions) = self.registry.kind(GROUP, "v1", RESOURCE) else {
            return Ok(());
        };
        let (user, notes) = (UserInfo::api_server(), Notes::default());
        let cx = Context::internal(&user, &notes);
        let update = Update {
            namespace: "",
            name,
            subresource,
            may_create: false,
            apply: false,
        };
        let result = self
            .registry
            .update(&cx, &definitions, &update, |old| {
                Ok(change(old.cloned().unwrap_or_default()))
            })
            .await;
        match result {
            Err(status) if status.code != 404 => Err(status),
            _ => Ok(()),
        }
    }
}
