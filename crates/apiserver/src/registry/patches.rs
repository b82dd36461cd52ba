//! Patches: which kind a request brings, and what it makes of an object.

use keelson_api::codec::{json, yaml};
use keelson_api::gvk::GroupVersionKind;
use keelson_api::normalize::normalize_sparse;
use keelson_api::patch;
use keelson_api::patch::apply::{Request, apply};
use keelson_api::schema::Schema;
use keelson_api::status::Status;
use serde_json::{Value, json};

use super::kind::Kind;
use super::options::{FieldValidation, WriteOptions};
use super::{Context, model};
use crate::admission::Notes;

/// The forms of patches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchType {
    /// `application/json-patch+json`
    Json,
    /// `application/merge-patch+json`
    Merge,
    /// `application/strategic-merge-patch+json`
    Strategic,
    /// `application/apply-patch+yaml`
    Apply,
}

const TYPES: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/apply-patch+yaml",
    "application/strategic-merge-patch+json",
];

impl PatchType {
    /// The form that a `Content-Type` names.
    pub fn of(content_type: Option<&str>) -> Result<Self, Status> {
        match content_type.unwrap_or("").split(';').next().unwrap_or("").trim() {
            "application/json-patch+json" => Ok(Self::Json),
            "application/merge-patch+json" => Ok(Self::Merge),
            "application/strategic-merge-patch+json" => Ok(Self::Strategic),
            "application/apply-patch+yaml" => Ok(Self::Apply),
            _ => Err(Status::unsupported_media_type(&TYPES)),
        }
    }
}

/// Checks what options a form of patch needs and forbids.
pub fn check_options(patch_type: PatchType, options: &WriteOptions) -> Result<(), Status> {
    use keelson_api::field::{Error, Path};
    let refuse = |error| {
        Err(Status::invalid(
            &keelson_api::gvk::GroupKind::new("meta.k8s.io", "PatchOptions"),
            "",
            &[error],
        ))
    };
    if patch_type == PatchType::Apply {
        if options.field_manager.is_empty() {
            let path = Path::new("fieldManager");
            return refuse(Error::required(&path, "is required for apply patch"));
        }
    } else if options.force.is_some() {
        return refuse(Error::forbidden(
            &Path::new("force"),
            "may not be specified for non-apply patch",
        ));
    }
    Ok(())
}

/// Decodes a patch's body; the second are keys that an applied configuration has twice.
pub fn decode(patch_type: PatchType, bytes: &[u8]) -> Result<(Value, Vec<String>), Status> {
    match patch_type {
        PatchType::Apply => {
            yaml::to_json_strict(bytes).map_err(|e| Status::bad_request(format!("error decoding YAML: {e}")))
        }
        _ => json::decode(bytes)
            .map(|patch| (patch, Vec::new()))
            .map_err(|e| Status::bad_request(format!("error decoding patch: {e}"))),
    }
}

/// Refuses or warns of keys that an applied configuration has twice.
pub fn judge_duplicates(
    duplicates: &[String],
    validation: FieldValidation,
    notes: &Notes,
) -> Result<(), Status> {
    match validation {
        FieldValidation::Strict if !duplicates.is_empty() => Err(Status::bad_request(format!(
            "error strict decoding YAML: error converting YAML to JSON: {}",
            yaml::strict_error(duplicates)
        ))),
        FieldValidation::Warn => {
            duplicates.iter().for_each(|text| notes.warn(text));
            Ok(())
        }
        _ => Ok(()),
    }
}

/// The object with a patch applied that is not server-side apply.
pub fn patched(
    patch_type: PatchType,
    schema: &Schema,
    old: &Value,
    patch: &Value,
    custom: bool,
) -> Result<Value, Status> {
    let mut object = old.clone();
    match patch_type {
        PatchType::Json => patch::json_patch(&mut object, patch)?,
        PatchType::Merge => patch::merge_patch(&mut object, patch)?,
        PatchType::Strategic if custom => return Err(Status::unsupported_media_type(&TYPES[..3])),
        PatchType::Strategic => patch::strategic_merge_patch(schema, &mut object, patch)?,
        PatchType::Apply => return Err(Status::internal("apply is not a plain patch")),
    }
    Ok(object)
}

/// What a server-side apply works on.
pub struct Apply<'a> {
    /// The row.
    pub kind: &'a Kind,
    /// Group, version and kind of what is applied.
    pub gvk: &'a GroupVersionKind,
    /// Its schema.
    pub schema: &'a Schema,
    /// The subresource, or empty.
    pub subresource: &'a str,
    /// The namespace of the request, empty at cluster scope.
    pub namespace: &'a str,
    /// The name in the request's path.
    pub name: &'a str,
}

impl Apply<'_> {
    /// The object with the applied configuration merged in, normalized and defaulted; `old` is `None` when it is to be
    /// created.
    pub fn apply(&self, old: Option<&Value>, patch: &Value, cx: &Context<'_>) -> Result<Value, Status> {
        // Whatever `fieldValidation` says, a field that the schema does not declare is refused by `apply` itself.
        let mut patch = patch.clone();
        normalize_sparse(self.schema, &mut patch).map_err(|e| e.to_status(self.gvk))?;
        let mut fresh = json!({"metadata": {"name": self.name}});
        if !self.namespace.is_empty() {
            fresh["metadata"]["namespace"] = self.namespace.into();
        }
        fresh["apiVersion"] = self.gvk.api_version().into();
        fresh["kind"] = self.gvk.kind.to_string().into();
        let live = old.unwrap_or(&fresh);
        let api_version = self.gvk.api_version();
        let request = Request {
            schema: self.schema,
            manager: &cx.options.field_manager,
            api_version: &api_version,
            subresource: self.subresource,
            now: jiff::Timestamp::now(),
            ignored: self.kind.reset_fields(self.subresource),
        };
        let force = cx.options.force.unwrap_or(false);
        let applied = apply(&request, live, &patch, force)?;
        let mut object = applied.object;
        let managed = object["metadata"]["managedFields"].clone();
        model::finish_decode(
            self.gvk,
            self.schema,
            object.take(),
            &[],
            FieldValidation::Ignore,
            cx.notes,
        )
        .map(|mut object| {
            if !managed.is_null() {
                object["metadata"]["managedFields"] = managed;
            }
            object
        })
    }
}
