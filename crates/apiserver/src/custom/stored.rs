//! `status.storedVersions`: every version that objects may be stored in.

use keelson_api::field::{Error, ErrorList, Path};
use serde_json::{Value, json};

fn names(values: &Value) -> impl Iterator<Item = &str> {
    values.as_array().into_iter().flatten().filter_map(Value::as_str)
}

/// Adds the storage version to what has ever been stored.
pub(crate) fn note_storage_version(crd: &mut Value) {
    let versions = crd["spec"]["versions"].as_array().into_iter().flatten();
    let storage = versions
        .filter(|v| v["storage"] == true)
        .find_map(|v| v["name"].as_str());
    let Some(storage) = storage.map(str::to_owned) else {
        return;
    };
    let stored = &crd["status"]["storedVersions"];
    if !names(stored).any(|name| name == storage) {
        let all: Vec<String> = names(stored).map(str::to_owned).chain([storage]).collect();
        if !crd["status"].is_object() {
            crd["status"] = json!({});
        }
        crd["status"]["storedVersions"] = json!(all);
    }
}

/// What is stored somewhere must remain readable.
pub(crate) fn validate_stored_versions(crd: &Value) -> ErrorList {
    let path = Path::new("status").child("storedVersions");
    let stored = &crd["status"]["storedVersions"];
    let mut errors = Vec::new();
    if names(stored).next().is_none() {
        errors.push(Error::invalid(
            &path,
            stored.clone(),
            "must have at least one stored version",
        ));
        return errors;
    }
    let versions = || crd["spec"]["versions"].as_array().into_iter().flatten();
    for version in versions().filter(|v| v["storage"] == true) {
        let name = version["name"].as_str().unwrap_or_default();
        if names(stored).all(|stored| stored != name) {
            let why = format!("must have the storage version {name}");
            errors.push(Error::invalid(&path, stored.clone(), why));
        }
    }
    for (at, name) in names(stored).enumerate() {
        if versions().all(|v| v["name"] != name) {
            errors.push(Error::invalid(
                &path.index(at),
                name,
                "must appear in spec.versions",
            ));
        }
    }
    errors
}
