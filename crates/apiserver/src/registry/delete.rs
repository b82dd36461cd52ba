//! Deleting objects: preconditions, graceful deletion of pods, finalizers and what becomes of dependents.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use keelson_api::status::Status;
use keelson_store::{Precondition, Revision, WriteOutcome};
use serde_json::Value;

use super::create::{is_definition, read_back, written};
use super::engine::{Registry, attributes, served, store_status};
use super::kind::Kind;
use super::options::{DeleteOptions, Propagation};
use super::{Context, hooks, metadata, model};
use crate::admission::Operation;
use crate::watch_cache::{CachedObject, StoredForm};

const ATTEMPTS: usize = 64;
const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// What became of a deletion.
pub enum Deleted {
    /// The object is gone; this is its last state.
    Gone(Arc<CachedObject>),
    /// The object is being deleted: finalizers or a grace period hold it.
    Pending(Arc<CachedObject>),
}

enum Step {
    Remove,
    Mark(Value),
    Nothing,
}

/// Whether an object that is being deleted has nothing left that holds it.
pub(super) fn is_finished(kind: &Kind, object: &Value) -> bool {
    if !metadata::is_deleting(object) || !metadata::finalizers(object).is_empty() {
        return false;
    }
    if kind.info.group.is_empty() && kind.info.plural == "namespaces" {
        return object["spec"]["finalizers"].as_array().is_none_or(Vec::is_empty);
    }
    metadata::number(object, "deletionGracePeriodSeconds").unwrap_or(0) == 0
}

impl Registry {
    /// Deletes an object, or begins to.
    pub async fn delete(
        &self,
        cx: &Context<'_>,
        kind: &Kind,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Deleted, Status> {
        Ok(
            match self.delete_stored(cx, kind, namespace, name, options).await? {
                Deleted::Gone(object) => Deleted::Gone(self.form(kind, object).await?),
                Deleted::Pending(object) => Deleted::Pending(self.form(kind, object).await?),
            },
        )
    }

    async fn delete_stored(
        &self,
        cx: &Context<'_>,
        kind: &Kind,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Deleted, Status> {
        let dry_run = options.is_dry_run();
        let mut current = self.current(kind, namespace, name).await?;
        let mut fresh = false;
        for _ in 0..ATTEMPTS {
            let Some(object) = current else {
                return Err(Status::not_found(&kind.gr, name));
            };
            let seen = self.form(kind, object.clone()).await?;
            let old = served(kind, &seen);
            if let Err(status) = check_preconditions(kind, &object, &old, options) {
                if fresh {
                    return Err(status);
                }
                current = self.stored(kind, namespace, name).await?;
                fresh = true;
                continue;
            }
            let attributes = attributes(
                cx,
                kind,
                Operation::Delete,
                "",
                namespace,
                name,
                Some(&old),
                dry_run,
            );
            self.admit(cx, &attributes, None).await?;
            self.validate_admission(cx, &attributes, None).await?;
            let spec = kind.cache()?.spec();
            let key = spec.key(object.namespace(), object.name());
            let precondition = Precondition::ModRevision(Revision(object.revision()));
            let conflict = match planned(kind, &old, options)? {
                Step::Nothing => return Ok(Deleted::Pending(object)),
                Step::Remove => {
                    if dry_run {
                        return Ok(Deleted::Gone(object));
                    }
                    match self
                        .inner
                        .store
                        .delete(key, precondition)
                        .await
                        .map_err(|e| store_status(&e))?
                    {
                        WriteOutcome::Committed { revision, .. } => {
                            self.settle(kind, revision).await;
                            hooks::after_delete(self, kind, &old).await;
                            return Ok(Deleted::Gone(Arc::new(object.at_revision(revision.0))));
                        }
                        WriteOutcome::Conflict { current, .. } => current,
                    }
                }
                Step::Mark(marked) => {
                    let marked = self.to_stored(kind, marked).await?;
                    let bytes = StoredForm::encode(spec, &marked);
                    if dry_run {
                        return Ok(Deleted::Pending(written(spec, &key, bytes, object.revision())));
                    }
                    let outcome = self
                        .inner
                        .store
                        .put(key.clone(), bytes.clone(), precondition, None)
                        .await;
                    match outcome.map_err(|e| store_status(&e))? {
                        WriteOutcome::Committed { revision, .. } => {
                            self.settle(kind, revision).await;
                            return Ok(Deleted::Pending(written(spec, &key, bytes, revision.0)));
                        }
                        WriteOutcome::Conflict { current, .. } => current,
                    }
                }
            };
            current = conflict.map(|kv| read_back(spec, kv)).transpose()?;
            fresh = true;
        }
        Err(Status::server_timeout(&kind.gr, "delete", 1))
    }
}

fn check_preconditions(
    kind: &Kind,
    object: &CachedObject,
    old: &Value,
    options: &DeleteOptions,
) -> Result<(), Status> {
    let Some(preconditions) = &options.preconditions else {
        return Ok(());
    };
    let uid = metadata::text(old, "uid");
    if let Some(wanted) = preconditions.uid.as_deref().filter(|w| *w != uid) {
        let why = format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {uid}");
        return Err(Status::conflict(&kind.gr, object.name(), why));
    }
    let version = object.revision().to_string();
    if let Some(wanted) = preconditions
        .resource_version
        .as_deref()
        .filter(|w| *w != version)
    {
        let why = format!(
            "Precondition failed: ResourceVersion in precondition: {wanted}, ResourceVersion in object meta: {version}"
        );
        return Err(Status::conflict(&kind.gr, object.name(), why));
    }
    Ok(())
}

fn planned(kind: &Kind, old: &Value, options: &DeleteOptions) -> Result<Step, Status> {
    let now = Timestamp::now();
    if is_definition(kind) && !metadata::is_deleting(old) {
        let marked = crate::custom::marked_for_deletion(old, &model::format_time(now));
        return plan(kind, &marked, options, now);
    }
    plan(kind, old, options, now)
}

/// What the deletion does to the object next.
fn plan(kind: &Kind, old: &Value, options: &DeleteOptions, now: Timestamp) -> Result<Step, Status> {
    if kind.info.group.is_empty() && kind.info.plural == "namespaces" {
        return Ok(plan_namespace(old, now));
    }
    let mut new = old.clone();
    let finalizers = garbage_collection_finalizers(kind, old, options);
    let finalizers_changed = metadata::finalizers(old) != finalizers;
    metadata::set_finalizers(&mut new, &finalizers);
    let is_pod = kind.info.group.is_empty() && kind.info.plural == "pods";
    if is_pod {
        match plan_pod(&mut new, options, now)? {
            PodGrace::Pending if finalizers_changed => return Ok(Step::Mark(new)),
            PodGrace::Pending => return Ok(Step::Nothing),
            PodGrace::Marked(seconds) => {
                return Ok(if seconds > 0 || !finalizers.is_empty() {
                    Step::Mark(new)
                } else {
                    Step::Remove
                });
            }
            PodGrace::Immediate => {}
        }
    }
    if finalizers.is_empty() {
        return Ok(Step::Remove);
    }
    mark_as_deleting(&mut new, now);
    Ok(if new == *old {
        Step::Nothing
    } else {
        Step::Mark(new)
    })
}

fn mark_as_deleting(object: &mut Value, now: Timestamp) {
    if metadata::number(object, "deletionGracePeriodSeconds").is_none() {
        metadata::bump_generation(object);
    }
    if !metadata::is_deleting(object) {
        metadata::set_text(object, "deletionTimestamp", &model::format_time(now));
    }
    metadata::of_mut(object).insert("deletionGracePeriodSeconds".to_owned(), Value::from(0));
}

fn plan_namespace(old: &Value, now: Timestamp) -> Step {
    let mut new = old.clone();
    if !metadata::is_deleting(old) {
        metadata::set_text(&mut new, "deletionTimestamp", &model::format_time(now));
        metadata::bump_generation(&mut new);
    }
    new["status"]["phase"] = Value::from("Terminating");
    let held = new["spec"]["finalizers"]
        .as_array()
        .is_some_and(|f| !f.is_empty())
        || !metadata::finalizers(&new).is_empty();
    match held {
        false => Step::Remove,
        true if new == *old => Step::Nothing,
        true => Step::Mark(new),
    }
}

enum PodGrace {
    Pending,
    Marked(i64),
    Immediate,
}

fn plan_pod(pod: &mut Value, options: &DeleteOptions, now: Timestamp) -> Result<PodGrace, Status> {
    let asked = options.grace_period_seconds;
    if metadata::is_deleting(pod) {
        let Some(granted) = metadata::number(pod, "deletionGracePeriodSeconds") else {
            return Ok(PodGrace::Immediate);
        };
        let Some(shorter) = asked.map(at_least_zero).filter(|a| *a < granted) else {
            return Ok(PodGrace::Pending);
        };
        let ends: Timestamp = metadata::text(pod, "deletionTimestamp")
            .parse()
            .map_err(Status::internal)?;
        set_grace(pod, ends - SignedDuration::from_secs(granted - shorter), shorter);
        return Ok(PodGrace::Marked(shorter));
    }
    let mut period = asked
        .or_else(|| pod["spec"]["terminationGracePeriodSeconds"].as_i64())
        .map_or(30, at_least_zero);
    let unscheduled = pod["spec"]["nodeName"].as_str().unwrap_or_default().is_empty();
    let ended = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    if unscheduled || ended {
        period = 0;
    }
    set_grace(pod, now + SignedDuration::from_secs(period), period);
    metadata::bump_generation(pod);
    Ok(PodGrace::Marked(period))
}

/// A negative period counts as one second, as upstream has it.
fn at_least_zero(seconds: i64) -> i64 {
    if seconds < 0 { 1 } else { seconds }
}

fn set_grace(pod: &mut Value, ends: Timestamp, seconds: i64) {
    metadata::set_text(pod, "deletionTimestamp", &model::format_time(ends));
    metadata::of_mut(pod).insert("deletionGracePeriodSeconds".to_owned(), Value::from(seconds));
}

fn garbage_collection_finalizers(kind: &Kind, old: &Value, options: &DeleteOptions) -> Vec<String> {
    let existing = metadata::finalizers(old);
    let explicit = match (options.orphan_dependents, options.propagation_policy) {
        (Some(true), _) => Some(Propagation::Orphan),
        (Some(false), _) => Some(Propagation::Background),
        (None, policy) => policy,
    };
    let policy = explicit.unwrap_or_else(|| {
        if existing.contains(&ORPHAN) {
            Propagation::Orphan
        } else if existing.contains(&FOREGROUND) {
            Propagation::Foreground
        } else if kind.traits.orphan_by_default {
            Propagation::Orphan
        } else {
            Propagation::Background
        }
    });
    let wanted = match policy {
        Propagation::Orphan => Some(ORPHAN),
        Propagation::Foreground => Some(FOREGROUND),
        Propagation::Background => None,
    };
    let mut finalizers: Vec<String> = existing
        .iter()
        .filter(|f| **f != ORPHAN && **f != FOREGROUND)
        .map(|f| (*f).to_owned())
        .collect();
    if let Some(wanted) = wanted {
        // An object that has it keeps its place in the list.
        if existing.contains(&wanted)
            && !existing.contains(&if wanted == ORPHAN { FOREGROUND } else { ORPHAN })
        {
            return existing.iter().map(|f| (*f).to_owned()).collect();
        }
        finalizers.push(wanted.to_owned());
    }
    finalizers
}
