//! The one place where the registry calls the API model: decoding, defaulting, strategies, validation.

use std::collections::HashMap;
use std::sync::LazyLock;

use jiff::Timestamp;
use keelson_api::codec::{json, protobuf, yaml};
use keelson_api::field::ErrorList;
use keelson_api::gvk::{GroupVersion, GroupVersionKind};
use keelson_api::normalize::normalize;
use keelson_api::schema::Schema;
use keelson_api::status::Status;
use keelson_api::{strategy, validation};
use serde_json::Value;

use super::kind::{Kind, KindSchema};
use super::options::FieldValidation;
use crate::admission::Notes;
use crate::custom;

/// Media types that bodies may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyType {
    /// `application/json`
    Json,
    /// `application/yaml`
    Yaml,
    /// `application/vnd.kubernetes.protobuf`
    Protobuf,
}

/// What bodies may be, for 415 answers.
pub const BODY_TYPES: [&str; 3] = [
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
];

impl BodyType {
    /// The type that a `Content-Type` header names; JSON when there is none.
    pub fn of(content_type: Option<&str>) -> Result<Self, Status> {
        let text = content_type.unwrap_or("").split(';').next().unwrap_or("").trim();
        match text {
            "" | "application/json" => Ok(Self::Json),
            "application/yaml" => Ok(Self::Yaml),
            "application/vnd.kubernetes.protobuf" => Ok(Self::Protobuf),
            _ => Err(Status::unsupported_media_type(&BODY_TYPES)),
        }
    }
}

/// Now, as `metav1.Time` has it.
pub fn now() -> String {
    format_time(Timestamp::now())
}

/// A time as `metav1.Time` has it.
pub fn format_time(time: Timestamp) -> String {
    keelson_api::time::format(time)
}

/// Decodes DeleteOptions.
pub fn decode_delete_options(body: BodyType, bytes: &[u8]) -> Result<Value, Status> {
    match body {
        BodyType::Protobuf => {
            let name = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
            let schema = keelson_api::schema::registry().by_name(name);
            protobuf::decode(bytes, |_, kind| schema.filter(|_| kind == "DeleteOptions"))
                .map_err(|e| Status::bad_request(e.to_string()))
        }
        BodyType::Json => json::decode(bytes).map_err(|e| Status::bad_request(e.to_string())),
        BodyType::Yaml => yaml::to_json(bytes).map_err(|e| Status::bad_request(e.to_string())),
    }
}

/// Decodes a body into a normalized and defaulted object of `gvk`.
pub fn decode(
    gvk: &GroupVersionKind,
    schema: &Schema,
    body: BodyType,
    bytes: &[u8],
    validation: FieldValidation,
    notes: &Notes,
) -> Result<Value, Status> {
    let bad = |e: &dyn std::fmt::Display| {
        Status::bad_request(format!(
            "{} in version {:?} cannot be handled as a {}: {e}",
            gvk.kind, gvk.version, gvk.kind
        ))
    };
    let (value, problems) = match (body, validation) {
        (BodyType::Protobuf, _) => {
            let value = protobuf::decode(bytes, |version, kind| {
                let given = GroupVersion::parse(version).ok()?.with_kind(kind.to_owned());
                if given == *gvk {
                    Some(schema)
                } else {
                    schema_of(&given)
                }
            });
            (value.map_err(|e| bad(&e))?, Vec::new())
        }
        (BodyType::Json, FieldValidation::Ignore) => (json::decode(bytes).map_err(|e| bad(&e))?, Vec::new()),
        (BodyType::Json, _) => json::decode_strict(bytes, schema).map_err(|e| bad(&e))?,
        (BodyType::Yaml, FieldValidation::Ignore) => (yaml::to_json(bytes).map_err(|e| bad(&e))?, Vec::new()),
        (BodyType::Yaml, _) => {
            let (value, twice) = yaml::to_json_strict(bytes).map_err(|e| bad(&e))?;
            let mut problems = match validation {
                FieldValidation::Strict if !twice.is_empty() => vec![yaml::strict_error(&twice)],
                _ => twice,
            };
            problems.extend(json::unknown_fields(&value, schema));
            (value, problems)
        }
    };
    finish_decode(gvk, schema, value, &problems, validation, notes)
}

/// Checks the kind of a decoded value, reports problems, normalizes and defaults it.
pub fn finish_decode(
    gvk: &GroupVersionKind,
    schema: &Schema,
    mut value: Value,
    problems: &[String],
    validation: FieldValidation,
    notes: &Notes,
) -> Result<Value, Status> {
    check_kind(gvk, &mut value)?;
    if !problems.is_empty() {
        match validation {
            FieldValidation::Strict => {
                return Err(Status::bad_request(format!(
                    "{} in version {:?} cannot be handled as a {}: {}",
                    gvk.kind,
                    gvk.version,
                    gvk.kind,
                    json::strict_error(problems)
                )));
            }
            FieldValidation::Warn => problems.iter().for_each(|p| notes.warn(p)),
            FieldValidation::Ignore => {}
        }
    }
    if custom::is_custom(schema) {
        custom::prune_request(schema, &mut value).map_err(|e| e.to_status(gvk))?;
    } else {
        normalize(schema, &mut value).map_err(|e| e.to_status(gvk))?;
    }
    apply_defaults(gvk, schema, &mut value);
    Ok(value)
}

/// The body's apiVersion and kind are the expected ones, or absent and then set.
fn check_kind(gvk: &GroupVersionKind, value: &mut Value) -> Result<(), Status> {
    let Some(map) = value.as_object_mut() else {
        return Err(Status::bad_request(format!(
            "{} in version {:?} cannot be handled as a {}: json: cannot unmarshal into Go value of type struct",
            gvk.kind, gvk.version, gvk.kind
        )));
    };
    let expected = gvk.api_version();
    let given_version = map
        .get("apiVersion")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    let given_kind = map
        .get("kind")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    if given_version.is_empty() && given_kind.is_empty() {
        map.insert("apiVersion".to_owned(), Value::String(expected));
        map.insert("kind".to_owned(), Value::String(gvk.kind.to_string()));
        return Ok(());
    }
    if given_kind.is_empty() {
        return Err(Status::bad_request(format!(
            "Object 'Kind' is missing in '{}'",
            shorten(value)
        )));
    }
    if given_version.is_empty() {
        return Err(Status::bad_request(format!(
            "Object 'apiVersion' is missing in '{}'",
            shorten(value)
        )));
    }
    if given_version != expected {
        return Err(Status::bad_request(format!(
            "the API version in the data ({given_version}) does not match the expected API version ({expected})"
        )));
    }
    if given_kind != gvk.kind {
        let (group, version) = match GroupVersion::parse(&given_version) {
            Ok(gv) => (gv.group.to_string(), gv.version.to_string()),
            Err(_) => (String::new(), given_version),
        };
        let given = GroupVersionKind::new(group, version, given_kind.clone());
        return Err(Status::bad_request(format!(
            "{given_kind} in version {:?} cannot be handled as a {}: converting ({given}) to ({gvk}): unknown conversion",
            given.version, gvk.kind
        )));
    }
    Ok(())
}

fn shorten(value: &Value) -> String {
    let text = value.to_string();
    text.chars().take(256).collect()
}

/// Schema defaults, then the kind's own.
pub fn apply_defaults(gvk: &GroupVersionKind, schema: &Schema, value: &mut Value) {
    if custom::is_custom(schema) {
        return custom::apply_defaults(schema, value);
    }
    keelson_api::schema::apply_defaults(schema, value);
    keelson_api::defaults::apply_kind(gvk, value);
}

/// Resets what clients do not set when they create, and sets what their kind begins with.
pub fn prepare_for_create(kind: &Kind, object: &mut Value) {
    match kind.schema {
        KindSchema::Custom(_) => strategy::prepare_custom_for_create(kind.info.has_status(), object),
        _ => strategy::prepare_for_create(&kind.gvk, object, &now()),
    }
}

/// Resets what clients do not set when they update, and raises the generation where the kind says so.
pub fn prepare_for_update(kind: &Kind, subresource: &str, new: &mut Value, old: &Value) {
    match kind.schema {
        KindSchema::Custom(_) => {
            strategy::prepare_custom_for_update(kind.info.has_status(), subresource, new, old);
        }
        _ => strategy::prepare_for_update(&kind.gvk, subresource, new, old, &now()),
    }
}

/// Judges a new object; what a custom resource's schema says is judged elsewhere.
pub fn validate_create(kind: &Kind, object: &Value) -> ErrorList {
    match kind.schema {
        KindSchema::Custom(_) => validation::validate_metadata(&kind.gvk, kind.info.namespaced, object),
        _ => validation::validate_create(&kind.gvk, object),
    }
}

/// Judges a changed object; what a custom resource's schema says is judged elsewhere.
pub fn validate_update(kind: &Kind, subresource: &str, new: &Value, old: &Value) -> ErrorList {
    match kind.schema {
        KindSchema::Custom(_) => validation::validate_metadata_update(&kind.gvk, new, old),
        _ => validation::validate_update(&kind.gvk, subresource, new, old),
    }
}

static SCHEMAS: LazyLock<HashMap<GroupVersionKind, &'static Schema>> = LazyLock::new(|| {
    let registry = keelson_api::schema::registry();
    let kinds = registry.definitions().iter().flat_map(|definition| {
        let schema = registry.by_name(&definition.name);
        definition
            .kinds
            .iter()
            .filter_map(move |kind| Some((kind.clone(), schema?)))
    });
    kinds.collect()
});

/// The schema of a built-in kind.
pub fn schema_of(gvk: &GroupVersionKind) -> Option<&'static Schema> {
    SCHEMAS.get(gvk).copied()
}
