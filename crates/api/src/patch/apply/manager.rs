//! Applying and tracking: upstream's field manager.

use std::sync::LazyLock;

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::field_set::{FieldSet, PathElement, display};
use super::managed::{self, Managed, ManagedEntry, Operation};
use super::merge::merge;
use super::typed::{Comparison, Type, compare, remove, to_set, validate, with_named_fields};
use crate::schema::Schema;
use crate::status::{Reason, Status, StatusCause};

const BEFORE_FIRST_APPLY: &str = "before-first-apply";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Fields that nobody owns, because the server does.
pub(super) const STRIPPED: &[&[&str]] = &[
    &["apiVersion"],
    &["kind"],
    &["metadata"],
    &["metadata", "name"],
    &["metadata", "namespace"],
    &["metadata", "creationTimestamp"],
    &["metadata", "selfLink"],
    &["metadata", "uid"],
    &["metadata", "clusterName"],
    &["metadata", "generation"],
    &["metadata", "managedFields"],
    &["metadata", "resourceVersion"],
];

/// [`STRIPPED`] as a set.
pub(super) fn stripped() -> &'static FieldSet {
    static SET: LazyLock<FieldSet> = LazyLock::new(|| FieldSet::of_fields(STRIPPED));
    &SET
}

/// Who writes, and through what.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Schema of the kind.
    pub schema: &'a Schema,
    /// Name of the field manager.
    pub manager: &'a str,
    /// `apiVersion` of the request.
    pub api_version: &'a str,
    /// Subresource; empty for the object itself.
    pub subresource: &'a str,
    /// The time of the request.
    pub now: Timestamp,
    /// Fields that the request cannot change ([`reset_fields`]): they are never owned through it.
    pub ignored: &'a FieldSet,
}

/// What came of applying.
#[derive(Clone, Debug)]
pub struct Applied {
    /// The new object with its `managedFields`, not yet normalized nor defaulted. Nulls stand for emptied values.
    pub object: Value,
    /// Whether anything other than `managedFields` differs from the live object.
    pub changed: bool,
}

/// The fields that writes of an object, or of its subresource, do not change.
pub fn reset_fields(kind: &str, has_status: bool, subresource: &str) -> FieldSet {
    match subresource {
        "" if has_status => FieldSet::of_fields(&[&["status"]]),
        "status" if kind == "Pod" => FieldSet::of_fields(&[
            &["spec"],
            &["metadata", "deletionTimestamp"],
            &["metadata", "ownerReferences"],
        ]),
        "status" if kind == "Deployment" => FieldSet::of_fields(&[&["spec"], &["metadata", "labels"]]),
        "status" => FieldSet::of_fields(&[&["spec"]]),
        _ => FieldSet::new(),
    }
}

impl Request<'_> {
    pub(super) fn entry(&self, manager: &str, operation: Operation, fields: FieldSet) -> ManagedEntry {
        ManagedEntry {
            manager: manager.to_owned(),
            operation,
            api_version: self.api_version.to_owned(),
            subresource: self.subresource.to_owned(),
            time: Some(crate::time::format(self.now)),
            fields,
        }
    }
}

/// Applies a configuration to a live object (`{}` with name and namespace when it is to be created).
///
/// Errors: 409 with a cause per field that another manager owns (unless `force`), 400 for another version or present
/// `managedFields`, 500 (as upstream) for a configuration that does not fit the schema.
pub fn apply(request: &Request<'_>, live: &Value, config: &Value, force: bool) -> Result<Applied, Status> {
    check_config(request, config)?;
    let managed = Managed::of(live).map_err(|error| {
        Status::failure(
            500,
            Reason::Unknown,
            format!("failed to decode managed fields: {error}"),
        )
    })?;
    let mut bare = live.clone();
    managed::take(&mut bare);
    let attempt = apply_once(request, &bare, config, managed.clone(), force);
    let result = match attempt {
        Err(ApplyError::Conflicts(conflicts)) if request.manager == "kubectl" => {
            let allowed = allowed_by_last_applied(request, &bare);
            let left: Vec<Conflict> = conflicts
                .into_iter()
                .filter(|conflict| !allowed.contains(&conflict.path))
                .collect();
            if left.is_empty() {
                apply_once(request, &bare, config, managed, true)
            } else {
                Err(ApplyError::Conflicts(left))
            }
        }
        attempt => attempt,
    };
    let (mut object, managed) =
        result.map_err(|ApplyError::Conflicts(conflicts)| conflict_status(&conflicts))?;
    if request.manager == "kubectl" && last_applied(&bare).is_some() {
        write_last_applied(&mut object, config);
    }
    let changed = object != bare;
    managed.write(&mut object);
    Ok(Applied { object, changed })
}

fn check_config(request: &Request<'_>, config: &Value) -> Result<(), Status> {
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
    let version = text(config.get("apiVersion"));
    if version != request.api_version {
        return Err(Status::bad_request(format!(
            "Incorrect version specified in apply patch. Specified patch version: {version}, expected: {}",
            request.api_version
        )));
    }
    let metadata = config.get("metadata");
    if metadata
        .and_then(|metadata| metadata.get("managedFields"))
        .is_some_and(|fields| !fields.is_null())
    {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    validate(Type::new(request.schema), config).map_err(|error| {
        let named = |name: &str| text(metadata.and_then(|metadata| metadata.get(name)));
        Status::failure(
            500,
            Reason::Unknown,
            format!(
                "failed to create typed patch object ({}/{}; {version}, Kind={}): {error}",
                named("namespace"),
                named("name"),
                text(config.get("kind"))
            ),
        )
    })
}

#[derive(Debug)]
struct Conflict {
    manager: String,
    path: Vec<PathElement>,
}

enum ApplyError {
    Conflicts(Vec<Conflict>),
}

fn apply_once(
    request: &Request<'_>,
    live: &Value,
    config: &Value,
    mut managed: Managed,
    force: bool,
) -> Result<(Value, Managed), ApplyError> {
    let ty = Type::new(request.schema);
    let stripped = stripped();
    if managed.entries.is_empty() {
        let fields = compare(ty, &Value::Object(Map::new()), live)
            .added
            .difference(stripped);
        if !fields.is_empty() {
            let entry = ManagedEntry {
                subresource: String::new(),
                ..request.entry(BEFORE_FIRST_APPLY, Operation::Update, fields)
            };
            managed.entries.push(entry);
        }
    }
    let former = managed.clone();
    let merged = merge(ty, Some(live), Some(config)).unwrap_or_default();
    let fields = to_set(ty, config).recursive_difference(request.ignored);
    let mut entry = request.entry(request.manager, Operation::Apply, fields);
    let last = managed.position(&entry).map(|at| managed.entries.swap_remove(at));
    let mut object = match &last {
        Some(last) if !last.fields.is_empty() => prune(ty, &merged, &last.fields, &managed, &entry),
        _ => merged,
    };
    let comparison = compare(ty, live, &object);
    let conflicts = if force {
        Vec::new()
    } else {
        find_conflicts(&comparison, &managed)
    };
    if !conflicts.is_empty() {
        return Err(ApplyError::Conflicts(conflicts));
    }
    release(&comparison, &mut managed);
    entry.fields = entry.fields.difference(stripped);
    let same_fields = |managed: &Managed, entry: &ManagedEntry| {
        managed.entries.len() + 1 == former.entries.len()
            && last
                .as_ref()
                .is_some_and(|last| last.fields == entry.fields && last.api_version == entry.api_version)
            && managed.entries.iter().all(|e| former.entries.contains(e))
    };
    if object == *live && same_fields(&managed, &entry) {
        entry.time = last.as_ref().and_then(|last| last.time.clone());
    }
    if !entry.fields.is_empty() {
        managed.entries.push(entry);
    }
    drop_nulls(&mut object);
    Ok((object, managed))
}

/// Takes away what the manager applied before, applies no more, and nobody else owns.
fn prune(ty: Type<'_>, merged: &Value, last: &FieldSet, others: &Managed, own: &ManagedEntry) -> Value {
    let named = |set: &FieldSet| with_named_fields(ty, set);
    let pruned = remove(ty, merged, &named(last));
    let owned = others
        .entries
        .iter()
        .fold(own.fields.clone(), |owned, entry| owned.union(&entry.fields));
    let merged_set = named(&to_set(ty, merged));
    let kept = named(&to_set(ty, &pruned)).union(&named(&owned));
    let pruned = remove(ty, merged, &merged_set.difference(&kept));
    // What nobody owns and the manager did not apply before stays as well.
    let pruned_set = named(&to_set(ty, &pruned));
    remove(
        ty,
        merged,
        &merged_set.difference(&pruned_set).intersection(&named(last)),
    )
}

/// The changed fields that other managers own.
fn find_conflicts(comparison: &Comparison, others: &Managed) -> Vec<Conflict> {
    let mut conflicts = Vec::new();
    for entry in &others.entries {
        let mut owned = entry.fields.intersection(&comparison.modified);
        owned.extend(entry.fields.intersection(&comparison.added));
        conflicts.extend(owned.paths().into_iter().map(|path| Conflict {
            manager: entry.display(),
            path,
        }));
    }
    conflicts
}

/// Takes changed and removed fields away from the other managers.
pub(super) fn release(comparison: &Comparison, others: &mut Managed) {
    for entry in &mut others.entries {
        entry.fields.subtract(&comparison.modified);
        entry.fields.subtract(&comparison.added);
        entry.fields.subtract(&comparison.removed);
    }
    others.entries.retain(|entry| !entry.fields.is_empty());
}

fn conflict_status(conflicts: &[Conflict]) -> Status {
    let causes = conflicts
        .iter()
        .map(|conflict| StatusCause {
            reason: "FieldManagerConflict".to_owned(),
            message: format!("conflict with {}", conflict.manager),
            field: display(&conflict.path),
        })
        .collect();
    let message = match conflicts {
        [one] => format!(
            "Apply failed with 1 conflict: conflict with {}: {}",
            one.manager,
            display(&one.path)
        ),
        _ => {
            let mut managers: Vec<&str> = conflicts
                .iter()
                .map(|conflict| conflict.manager.as_str())
                .collect();
            managers.sort_unstable();
            managers.dedup();
            let mut lines = Vec::new();
            for manager in managers {
                lines.push(format!("conflicts with {manager}:"));
                let paths = conflicts.iter().filter(|conflict| conflict.manager == manager);
                lines.extend(paths.map(|conflict| format!("- {}", display(&conflict.path))));
            }
            format!(
                "Apply failed with {} conflicts: {}",
                conflicts.len(),
                lines.join("\n")
            )
        }
    };
    Status::apply_conflict(causes, message)
}

fn drop_nulls(value: &mut Value) {
    if let Value::Object(fields) = value {
        fields.retain(|_, value| !value.is_null());
        fields.values_mut().for_each(drop_nulls);
    } else if let Value::Array(items) = value {
        items.iter_mut().for_each(drop_nulls);
    }
}

fn last_applied(object: &Value) -> Option<&str> {
    object
        .get("metadata")?
        .get("annotations")?
        .get(LAST_APPLIED)?
        .as_str()
}

/// What client-side apply set and nobody changed since: kubectl may take it over without conflict.
fn allowed_by_last_applied(request: &Request<'_>, live: &Value) -> FieldSet {
    let Some(config) = last_applied(live).and_then(|text| serde_json::from_str::<Value>(text).ok()) else {
        return FieldSet::new();
    };
    let ty = Type::new(request.schema);
    if config.get("apiVersion").and_then(Value::as_str) != Some(request.api_version)
        || validate(ty, &config).is_err()
    {
        return FieldSet::new();
    }
    let comparison = compare(ty, &config, live);
    to_set(ty, &config)
        .difference(&comparison.modified)
        .difference(&comparison.added)
        .difference(&comparison.removed)
}

fn write_last_applied(object: &mut Value, config: &Value) {
    let mut config = config.clone();
    if let Some(Value::Object(annotations)) =
        config.get_mut("metadata").and_then(|m| m.get_mut("annotations"))
    {
        annotations.remove(LAST_APPLIED);
    }
    if let Some(Value::Object(annotations)) =
        object.get_mut("metadata").and_then(|m| m.get_mut("annotations"))
    {
        annotations.insert(LAST_APPLIED.to_owned(), Value::String(format!("{config}\n")));
    }
}
