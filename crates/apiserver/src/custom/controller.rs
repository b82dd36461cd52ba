//! Keeps the kind table equal to the definitions, their status, and ends those that are being deleted.

use std::collections::BTreeSet;

use keelson_api::status::Status;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::rows;
use crate::admission::Notes;
use crate::registry::options::DeleteOptions;
use crate::registry::{Context, Kind, Registry, Update, metadata, model, status_of};
use crate::user::UserInfo;

const GROUP: &str = "apiextensions.k8s.io";
const RESOURCE: &str = "customresourcedefinitions";
const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

/// Follows changes of definitions until `shutdown`.
pub(crate) async fn run(registry: Registry, shutdown: CancellationToken) {
    let mut changes = registry.resources().resource(GROUP, RESOURCE).changes();
    loop {
        if let Err(error) = reconcile(&registry).await {
            tracing::error!(%error, "custom resource definitions could not be brought into effect");
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            changed = changes.changed() => if changed.is_err() {
                return;
            },
        }
    }
}

/// Brings all definitions into effect.
pub(crate) async fn reconcile(registry: &Registry) -> Result<(), Status> {
    let Some(definitions) = registry.kind(GROUP, "v1", RESOURCE) else {
        return Ok(());
    };
    let mut wanted: BTreeSet<(String, String)> = BTreeSet::new();
    for object in registry.resources().resource(GROUP, RESOURCE).list(None) {
        let crd = object.value().clone();
        let group = crd["spec"]["group"].as_str().unwrap_or_default().to_owned();
        let plural = crd["spec"]["names"]["plural"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        if metadata::is_deleting(&crd) {
            end(registry, &definitions, &crd, &group, &plural).await?;
            continue;
        }
        wanted.insert((group, plural));
        begin(registry, &definitions, &crd, object.revision()).await?;
    }
    let table = registry.kinds();
    let custom = table.rows().iter().filter(|k| k.traits.typed_items);
    let stale: BTreeSet<(String, String)> = custom
        .map(|k| (k.info.group.to_string(), k.info.plural.to_string()))
        .filter(|id| !wanted.contains(id))
        .collect();
    for (group, plural) in stale {
        registry.update_kinds(|t| t.remove(|k| k.info.group == group && k.info.plural == plural));
        registry.resources().caches().remove(&group, &plural);
    }
    Ok(())
}

async fn begin(registry: &Registry, definitions: &Kind, crd: &Value, revision: u64) -> Result<(), Status> {
    let caches = registry.resources().caches();
    let Some(spec) = rows::spec(crd) else {
        return Ok(());
    };
    let (group, plural) = (spec.group.clone(), spec.resource.clone());
    let generation = metadata::number(crd, "generation").unwrap_or(0);
    let known = registry.kinds().rows().iter().any(|k| {
        k.info.group == group
            && k.info.plural == plural
            && k.definition == (generation, metadata::text(crd, "uid").to_owned())
    });
    if !known {
        // Another storage version is another stored form: the cache is read anew.
        caches.remove(&group, &plural);
        caches.add(spec).await.map_err(|e| status_of(&e))?;
        let definition = (generation, metadata::text(crd, "uid").to_owned());
        registry.update_kinds(|table| {
            table.remove(|k| k.info.group == group && k.info.plural == plural);
            for mut row in rows::rows(crd, caches) {
                row.definition = definition.clone();
                table.insert(row);
            }
        });
        tracing::info!(group, plural, revision, "custom resource served");
    }
    establish(registry, definitions, crd).await
}

/// Adds the finalizer, and the status that clients wait for.
async fn establish(registry: &Registry, definitions: &Kind, crd: &Value) -> Result<(), Status> {
    let name = metadata::text(crd, "name");
    let established = crd["status"]["conditions"].as_array().is_some_and(|c| {
        c.iter()
            .any(|c| c["type"] == "Established" && c["status"] == "True")
    });
    let storage = rows::storage_version(crd).unwrap_or_default().to_owned();
    let stored = crd["status"]["storedVersions"]
        .as_array()
        .is_some_and(|v| v.contains(&json!(storage)));
    let same_names = crd["status"]["acceptedNames"] == crd["spec"]["names"];
    if !metadata::finalizers(crd).contains(&FINALIZER) {
        write(registry, definitions, name, "", |mut crd| {
            let mut finalizers: Vec<String> = metadata::finalizers(&crd)
                .into_iter()
                .map(str::to_owned)
                .collect();
            if !finalizers.iter().any(|f| f == FINALIZER) {
                finalizers.push(FINALIZER.to_owned());
            }
            metadata::set_finalizers(&mut crd, &finalizers);
            crd
        })
        .await?;
    }
    if established && stored && same_names {
        return Ok(());
    }
    write(registry, definitions, name, "status", |mut crd| {
        let now = model::now();
        let condition = |kind: &str, reason: &str, message: &str| {
            json!({"type": kind, "status": "True", "lastTransitionTime": now, "reason": reason, "message": message})
        };
        crd["status"]["acceptedNames"] = crd["spec"]["names"].clone();
        if !established {
            crd["status"]["conditions"] = json!([
                condition("NamesAccepted", "NoConflicts", "no conflicts found"),
                condition("Established", "InitialNamesAccepted", "the initial names have been accepted"),
            ]);
        }
        let mut versions = crd["status"]["storedVersions"].as_array().cloned().unwrap_or_default();
        if !versions.contains(&json!(storage)) {
            versions.push(json!(storage));
        }
        crd["status"]["storedVersions"] = Value::Array(versions);
        crd
    })
    .await
}

/// Deletes all objects of a definition, then lets the definition go.
async fn end(
    registry: &Registry,
    definitions: &Kind,
    crd: &Value,
    group: &str,
    plural: &str,
) -> Result<(), Status> {
    if !metadata::finalizers(crd).contains(&FINALIZER) {
        return Ok(());
    }
    let (user, notes) = (UserInfo::api_server(), Notes::default());
    let cx = Context::internal(&user, &notes);
    if let Some(kind) = registry.kinds().any_version(group, plural) {
        for object in registry.resources().resource(group, plural).list(None) {
            let (namespace, name) = (object.namespace(), object.name());
            match registry
                .delete(&cx, kind, namespace, name, &DeleteOptions::default())
                .await
            {
                Err(status) if status.code != 404 => return Err(status),
                _ => {}
            }
        }
        registry
            .resources()
            .caches()
            .wait_until_current()
            .await
            .map_err(|e| status_of(&e))?;
        if !registry.resources().resource(group, plural).list(None).is_empty() {
            // Finalizers of the objects hold it; the definition is looked at again when anything about it changes.
            tracing::info!(
                group,
                plural,
                "a custom resource definition waits for its objects' finalizers"
            );
            return Ok(());
        }
    }
    // Not served any more once the definition is gone.
    registry.update_kinds(|t| t.remove(|k| k.info.group == group && k.info.plural == plural));
    registry.resources().caches().remove(group, plural);
    write(
        registry,
        definitions,
        metadata::text(crd, "name"),
        "",
        |mut crd| {
            let left = metadata::finalizers(&crd).into_iter().filter(|f| *f != FINALIZER);
            let left: Vec<String> = left.map(str::to_owned).collect();
            metadata::set_finalizers(&mut crd, &left);
            crd
        },
    )
    .await
}

async fn write(
    registry: &Registry,
    definitions: &Kind,
    name: &str,
    subresource: &str,
    change: impl Fn(Value) -> Value + Send + Sync,
) -> Result<(), Status> {
    let (user, notes) = (UserInfo::api_server(), Notes::default());
    let cx = Context::internal(&user, &notes);
    let update = Update {
        namespace: "",
        name,
        subresource,
        may_create: false,
        apply: false,
    };
    let result = registry
        .update(&cx, definitions, &update, |old| {
            Ok(change(old.cloned().unwrap_or_default()))
        })
        .await;
    match result {
        Err(status) if status.code != 404 => Err(status),
        _ => Ok(()),
    }
}
