//! Changing objects: read, transform, judge, compare and swap, and again when somebody else was faster.

use std::sync::Arc;

use keelson_api::field;
use keelson_api::status::Status;
use keelson_store::{Precondition, WriteOutcome};
use serde_json::Value;

use super::create::{check_size, is_definition, place_in_namespace, read_back, written};
use super::engine::{Registry, attributes, served, store_status};
use super::kind::Kind;
use super::{Context, hooks, managed_fields, metadata, model};
use crate::admission::Operation;
use crate::watch_cache::{CachedObject, StoredForm};

/// How often a write that does not insist on a version is tried against concurrent ones.
const ATTEMPTS: usize = 64;

/// What an update is.
pub struct Update<'a> {
    /// Namespace of the request.
    pub namespace: &'a str,
    /// Name of the request.
    pub name: &'a str,
    /// `status`, another subresource, or empty.
    pub subresource: &'a str,
    /// A missing object is created.
    pub may_create: bool,
    /// The request is server-side apply: managedFields are already as they shall be.
    pub apply: bool,
}

/// What became of an update.
pub struct Updated {
    /// The object now.
    pub object: Arc<CachedObject>,
    /// Whether it is new.
    pub created: bool,
}

impl Registry {
    /// Replaces an object by what `transform` makes of the current one, which is `None` when the object is to be created. The
    /// result must be normalized and defaulted. `transform` may run several times.
    pub async fn update(
        &self,
        cx: &Context<'_>,
        kind: &Kind,
        update: &Update<'_>,
        mut transform: impl FnMut(Option<&Value>) -> Result<Value, Status> + Send,
    ) -> Result<Updated, Status> {
        let (namespace, name) = (update.namespace, update.name);
        let mut current = self.current(kind, namespace, name).await?;
        let mut fresh = false;
        for _ in 0..ATTEMPTS {
            let Some(object) = current else {
                if !update.may_create {
                    return Err(Status::not_found(&kind.gr, name));
                }
                let new = transform(None)?;
                check_name(&new, name)?;
                if !metadata::text(&new, "uid").is_empty() {
                    let why = format!(
                        "Precondition failed: UID in precondition: {}, UID in object meta: ",
                        metadata::text(&new, "uid")
                    );
                    return Err(Status::conflict(&kind.gr, name, why));
                }
                match self
                    .create_as(cx, kind, namespace, without_version(new), update.apply)
                    .await
                {
                    Err(status) if status.reason == keelson_api::status::Reason::AlreadyExists => {
                        current = self.stored(kind, namespace, name).await?;
                        fresh = true;
                        continue;
                    }
                    created => {
                        return Ok(Updated {
                            object: created?,
                            created: true,
                        });
                    }
                }
            };
            match self.attempt(cx, kind, update, &object, &mut transform).await {
                Ok(Attempt::Done(object)) => {
                    return Ok(Updated {
                        object,
                        created: false,
                    });
                }
                Ok(Attempt::Changed(newer)) => {
                    current = newer;
                    fresh = true;
                }
                // The cache may lag behind what the client has seen.
                Err(status) if !fresh => {
                    let stored = self.stored(kind, namespace, name).await?;
                    if stored.as_ref().is_some_and(|s| s.revision() == object.revision()) {
                        return Err(status);
                    }
                    current = stored;
                    fresh = true;
                }
                Err(status) => return Err(status),
            }
        }
        Err(Status::server_timeout(&kind.gr, "update", 1))
    }

    async fn attempt(
        &self,
        cx: &Context<'_>,
        kind: &Kind,
        update: &Update<'_>,
        object: &Arc<CachedObject>,
        transform: &mut (impl FnMut(Option<&Value>) -> Result<Value, Status> + Send),
    ) -> Result<Attempt, Status> {
        let (namespace, name, subresource) = (update.namespace, update.name, update.subresource);
        let seen = self.form(kind, object.clone()).await?;
        let old = served(kind, &seen);
        let mut new = transform(Some(&old))?;
        check_name(&new, name)?;
        place_in_namespace(kind, namespace, &mut new)?;
        check_preconditions(kind, name, object, &old, &new)?;
        keep_system_metadata(&mut new, &old);
        if !update.apply {
            managed_fields::updated(cx, kind, subresource, &mut new, &old);
        }
        let dry_run = cx.options.dry_run;
        let attributes = attributes(
            cx,
            kind,
            Operation::Update,
            subresource,
            namespace,
            name,
            Some(&old),
            dry_run,
        );
        self.admit(cx, &attributes, Some(&mut new)).await?;
        model::prepare_for_update(kind, subresource, &mut new, &old);
        if is_definition(kind) && subresource.is_empty() {
            crate::custom::note_storage_version(&mut new);
        }
        let reservation = hooks::before_update(self, kind, subresource, &mut new, &old, dry_run).await?;
        let result = async {
            let mut errors = model::validate_update(kind, subresource, &new, &old);
            if is_definition(kind) && subresource.is_empty() {
                errors.extend(crate::custom::validate_definition(&new, Some(&old)));
                errors.extend(crate::custom::validate_stored_versions(&new));
            }
            errors.extend(crate::custom::validate(kind, &new, Some(&old), cx.notes));
            errors.extend(crate::admission::validate_registration(kind, &new, Some(&old)));
            if !errors.is_empty() {
                return Err(Status::invalid(&kind.gk, name, &errors));
            }
            self.validate_admission(cx, &attributes, Some(&new)).await?;
            managed_fields::drop_time_only_change(&mut new, &old);
            let stored = self.to_stored(kind, new).await?;
            match self.replace(kind, object, &stored, dry_run).await? {
                Attempt::Done(object) => Ok(Attempt::Done(self.form(kind, object).await?)),
                changed => Ok(changed),
            }
        }
        .await;
        let done = matches!(result, Ok(Attempt::Done(_))) && !dry_run;
        reservation.finish(self, done).await;
        result
    }

    /// Writes the new state of an object, or deletes it when nothing holds it any more.
    async fn replace(
        &self,
        kind: &Kind,
        object: &Arc<CachedObject>,
        new: &Value,
        dry_run: bool,
    ) -> Result<Attempt, Status> {
        let spec = kind.cache()?.spec();
        let key = spec.key(object.namespace(), object.name());
        let bytes = StoredForm::encode(spec, new);
        check_size(bytes.len())?;
        let precondition = Precondition::ModRevision(keelson_store::Revision(object.revision()));
        if super::delete::is_finished(kind, new) {
            if dry_run {
                return Ok(Attempt::Done(written(spec, &key, bytes, object.revision())));
            }
            let outcome = self.inner.store.delete(key.clone(), precondition).await;
            return match outcome.map_err(|e| store_status(&e))? {
                WriteOutcome::Committed { revision, .. } => {
                    self.settle(kind, revision).await;
                    hooks::after_delete(self, kind, new).await;
                    Ok(Attempt::Done(written(spec, &key, bytes, revision.0)))
                }
                WriteOutcome::Conflict { current, .. } => changed(spec, current),
            };
        }
        if dry_run {
            return Ok(Attempt::Done(written(spec, &key, bytes, object.revision())));
        }
        if object.is_exact() && bytes == *object.stored() {
            // Nothing changes, so nothing is written, unless it is not the newest state that it was compared with.
            let newest = self.stored(kind, object.namespace(), object.name()).await?;
            return Ok(match newest {
                Some(newest) if newest.revision() == object.revision() => Attempt::Done(newest),
                newest => Attempt::Changed(newest),
            });
        }
        let lease = if kind.traits.expires {
            let lease = self.inner.leases.lease(self.inner.store.as_ref()).await;
            Some(lease.map_err(|e| store_status(&e))?)
        } else {
            None
        };
        let outcome = self
            .inner
            .store
            .put(key.clone(), bytes.clone(), precondition, lease)
            .await;
        match outcome.map_err(|e| store_status(&e))? {
            WriteOutcome::Committed { revision, .. } => {
                self.settle(kind, revision).await;
                Ok(Attempt::Done(written(spec, &key, bytes, revision.0)))
            }
            WriteOutcome::Conflict { current, .. } => changed(spec, current),
        }
    }
}

enum Attempt {
    Done(Arc<CachedObject>),
    Changed(Option<Arc<CachedObject>>),
}

fn changed(
    spec: &Arc<crate::watch_cache::KindSpec>,
    current: Option<keelson_store::KeyValue>,
) -> Result<Attempt, Status> {
    let current = current.map(|kv| read_back(spec, kv)).transpose()?;
    Ok(Attempt::Changed(current))
}

fn without_version(mut object: Value) -> Value {
    metadata::remove(&mut object, &["resourceVersion"]);
    object
}

fn check_name(new: &Value, name: &str) -> Result<(), Status> {
    let given = metadata::text(new, "name");
    if given.is_empty() {
        return Err(Status::bad_request(format!(
            "the name of the object ({given} based on URL) was undeterminable: name must be provided"
        )));
    }
    if given != name {
        return Err(Status::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({name})"
        )));
    }
    Ok(())
}

fn check_preconditions(
    kind: &Kind,
    name: &str,
    object: &CachedObject,
    old: &Value,
    new: &Value,
) -> Result<(), Status> {
    let (wanted, actual) = (metadata::text(new, "uid"), metadata::text(old, "uid"));
    if !wanted.is_empty() && wanted != actual {
        let why = format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {actual}");
        return Err(Status::conflict(&kind.gr, name, why));
    }
    let version = metadata::text(new, "resourceVersion");
    if version.is_empty() || version == "0" {
        if kind.traits.unconditional_update {
            return Ok(());
        }
        let path = field::Path::new("metadata").child("resourceVersion");
        let error = field::Error::invalid(&path, version, "must be specified for an update");
        return Err(Status::invalid(&kind.gk, name, &[error]));
    }
    match version.parse::<u64>() {
        Ok(version) if version == object.revision() => Ok(()),
        Ok(_) => Err(Status::stale(&kind.gr, name)),
        Err(_) => {
            let path = field::Path::new("metadata").child("resourceVersion");
            let why = format!("strconv.ParseUint: parsing {version:?}: invalid syntax");
            Err(Status::invalid(
                &kind.gk,
                name,
                &[field::Error::invalid(&path, version, why)],
            ))
        }
    }
}

/// What clients cannot change is as it was.
fn keep_system_metadata(new: &mut Value, old: &Value) {
    for field in [
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
    ] {
        metadata::copy(new, old, field);
    }
    metadata::copy(new, old, "resourceVersion");
    metadata::remove(new, &["selfLink"]);
}
