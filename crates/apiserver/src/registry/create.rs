//! Creating objects.

use std::sync::Arc;

use keelson_api::status::Status;
use keelson_store::{Precondition, WriteOutcome};
use serde_json::Value;

use super::engine::{Registry, attributes, store_status};
use super::kind::Kind;
use super::{Context, hooks, managed_fields, metadata, model};
use crate::admission::Operation;
use crate::watch_cache::{CachedObject, StoredForm};

/// How often a generated name is tried, as upstream's `maxNameGenerationCreateAttempts`.
const GENERATE_ATTEMPTS: usize = 8;

impl Registry {
    /// Creates an object that has been decoded, normalized and defaulted.
    pub async fn create(
        &self,
        cx: &Context<'_>,
        kind: &Kind,
        namespace: &str,
        object: Value,
    ) -> Result<Arc<CachedObject>, Status> {
        self.create_as(cx, kind, namespace, object, false).await
    }

    /// As [`Self::create`]; with `applied`, managedFields are already as they shall be.
    pub(super) async fn create_as(
        &self,
        cx: &Context<'_>,
        kind: &Kind,
        namespace: &str,
        mut object: Value,
        applied: bool,
    ) -> Result<Arc<CachedObject>, Status> {
        kind.cache()?;
        if kind.custom.as_ref().is_some_and(|custom| custom.terminating) {
            let mut status = Status::method_not_supported(&kind.gr, "create");
            status.message = "create not allowed while custom resource definition is terminating".to_owned();
            return Err(status);
        }
        place_in_namespace(kind, namespace, &mut object)?;
        metadata::remove(
            &mut object,
            &[
                "deletionTimestamp",
                "deletionGracePeriodSeconds",
                "selfLink",
                "uid",
            ],
        );
        if !metadata::text(&object, "resourceVersion").is_empty() {
            return Err(Status::bad_request(
                "resourceVersion should not be set on objects to be created",
            ));
        }
        if !applied {
            managed_fields::created(cx, kind, &mut object);
        }
        let dry_run = cx.options.dry_run;
        let name = metadata::text(&object, "name").to_owned();
        let given = attributes(cx, kind, Operation::Create, "", namespace, &name, None, dry_run);
        self.admit(cx, &given, Some(&mut object)).await?;
        for warning in keelson_api::strategy::warnings_on_create(&kind.gvk, &object) {
            cx.notes.warn(&warning);
        }

        metadata::set_text(&mut object, "uid", &uuid::Uuid::new_v4().to_string());
        metadata::set_text(&mut object, "creationTimestamp", &model::now());
        let generate = metadata::text(&object, "generateName").to_owned();
        let generated = metadata::text(&object, "name").is_empty() && !generate.is_empty();
        for attempt in 1.. {
            let mut candidate = if generated && attempt < GENERATE_ATTEMPTS {
                object.clone()
            } else {
                std::mem::take(&mut object)
            };
            if generated {
                metadata::set_text(&mut candidate, "name", &metadata::generated_name(&generate));
            }
            let name = metadata::text(&candidate, "name").to_owned();
            match self.create_named(cx, kind, namespace, &name, candidate).await {
                Err(status) if generated && is_already_exists(&status) => {
                    if attempt == GENERATE_ATTEMPTS {
                        return Err(Status::generate_name_conflict(&kind.gr, &name, 1));
                    }
                }
                other => return other,
            }
        }
        unreachable!("invariant: the loop returns")
    }

    async fn create_named(
        &self,
        cx: &Context<'_>,
        kind: &Kind,
        namespace: &str,
        name: &str,
        mut object: Value,
    ) -> Result<Arc<CachedObject>, Status> {
        let dry_run = cx.options.dry_run;
        model::prepare_for_create(kind, &mut object);
        let reservation = hooks::before_create(self, kind, &mut object, dry_run).await?;
        let result = async {
            let mut errors = model::validate_create(kind, &object);
            if is_definition(kind) {
                errors.extend(crate::custom::validate_definition(&object, None));
                errors.extend(crate::custom::validate_stored_versions(&object));
            }
            errors.extend(crate::custom::validate(kind, &object, None, cx.notes));
            errors.extend(crate::admission::validate_registration(kind, &object, None));
            if !errors.is_empty() {
                return Err(Status::invalid(&kind.gk, name, &errors));
            }
            let named = attributes(cx, kind, Operation::Create, "", namespace, name, None, dry_run);
            self.validate_admission(cx, &named, Some(&object)).await?;
            let stored = self.to_stored(kind, object).await?;
            let created = self.insert(kind, namespace, name, &stored, dry_run).await?;
            self.form(kind, created).await
        }
        .await;
        reservation.finish(self, result.is_ok() && !dry_run).await;
        result
    }

    async fn insert(
        &self,
        kind: &Kind,
        namespace: &str,
        name: &str,
        object: &Value,
        dry_run: bool,
    ) -> Result<Arc<CachedObject>, Status> {
        let spec = kind.cache()?.spec();
        let key = spec.key(kind.key_namespace(namespace), name);
        let bytes = StoredForm::encode(spec, object);
        check_size(bytes.len())?;
        let store = &self.inner.store;
        if dry_run {
            if store
                .get(&key, None)
                .await
                .map_err(|e| store_status(&e))?
                .is_some()
            {
                return Err(Status::already_exists(&kind.gr, name));
            }
            return Ok(written(spec, &key, bytes, 0));
        }
        let lease = if kind.traits.expires {
            Some(
                self.inner
                    .leases
                    .lease(store.as_ref())
                    .await
                    .map_err(|e| store_status(&e))?,
            )
        } else {
            None
        };
        let outcome = store
            .put(key.clone(), bytes.clone(), Precondition::Absent, lease)
            .await;
        match outcome.map_err(|e| store_status(&e))? {
            WriteOutcome::Committed { revision, .. } => {
                self.settle(kind, revision).await;
                Ok(written(spec, &key, bytes, revision.0))
            }
            WriteOutcome::Conflict { .. } => Err(Status::already_exists(&kind.gr, name)),
        }
    }
}

/// Largest object, as etcd's default request limit.
const MAX_OBJECT_BYTES: usize = 1_572_864;

pub(super) fn check_size(bytes: usize) -> Result<(), Status> {
    if bytes > MAX_OBJECT_BYTES {
        return Err(Status::request_entity_too_large(format!(
            "the object has {bytes} bytes, the limit is {MAX_OBJECT_BYTES}"
        )));
    }
    Ok(())
}

/// The object as the store has it.
pub(super) fn read_back(
    spec: &Arc<crate::watch_cache::KindSpec>,
    kv: keelson_store::KeyValue,
) -> Result<Arc<CachedObject>, Status> {
    CachedObject::new(spec, &kv.key, kv.value, kv.mod_revision.0)
        .map(Arc::new)
        .map_err(|e| super::engine::status_of(&e))
}

/// The object as it was just encoded and written.
pub(super) fn written(
    spec: &Arc<crate::watch_cache::KindSpec>,
    key: &bytes::Bytes,
    bytes: bytes::Bytes,
    revision: u64,
) -> Arc<CachedObject> {
    Arc::new(CachedObject::written(spec, key, bytes, revision))
}

/// Whether this is the kind of CustomResourceDefinitions.
pub(super) fn is_definition(kind: &Kind) -> bool {
    kind.info.plural == "customresourcedefinitions" && kind.info.group == "apiextensions.k8s.io"
}

fn is_already_exists(status: &Status) -> bool {
    status.reason == keelson_api::status::Reason::AlreadyExists
}

/// Makes the object's namespace the request's, or refuses it.
pub(super) fn place_in_namespace(kind: &Kind, namespace: &str, object: &mut Value) -> Result<(), Status> {
    let given = metadata::text(object, "namespace");
    if kind.info.namespaced {
        if !given.is_empty() && given != namespace {
            return Err(Status::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        metadata::set_text(object, "namespace", namespace);
    } else if !given.is_empty() {
        return Err(Status::bad_request(
            "namespace may not be specified for cluster-scoped objects",
        ))
        .or_else(|e: Status| {
            // A Namespace may name itself.
            if kind.info.plural == "namespaces" && given == metadata::text(object, "name") {
                Ok(())
            } else {
                Err(e)
            }
        });
    }
    Ok(())
}
