//! The rows that a definition makes.

use std::sync::Arc;

use keelson_api::gvk::{GroupVersionKind, Str};
use keelson_api::resources::{ResourceInfo, Subresource};
use serde_json::Value;

use super::{rules, schema};
use crate::registry::Kind;
use crate::watch_cache::{CacheSet, KindSpec, SelectableField};

const VERBS: [&str; 8] = [
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "create",
    "update",
    "watch",
];

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

fn strings(value: &Value) -> Vec<Str> {
    value
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|v| Some(v.as_str()?.to_owned().into()))
        .collect()
}

fn versions(crd: &Value) -> impl Iterator<Item = &Value> {
    crd["spec"]["versions"].as_array().into_iter().flatten()
}

/// The version that objects are stored in.
pub(super) fn storage_version(crd: &Value) -> Option<&str> {
    versions(crd)
        .find(|v| v["storage"] == true)
        .map(|v| text(v, "name"))
}

/// How the definition's objects are stored.
pub(super) fn spec(crd: &Value) -> Option<KindSpec> {
    let (group, names) = (text(&crd["spec"], "group"), &crd["spec"]["names"]);
    let version = storage_version(crd)?;
    let stored = versions(crd).find(|v| v["storage"] == true)?;
    let fields = stored["selectableFields"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|f| {
            let path = text(f, "jsonPath").trim_start_matches('.');
            SelectableField {
                label: path.to_owned(),
                path: path.split('.').map(str::to_owned).collect(),
                fallback: Vec::new(),
                default: String::new(),
            }
        });
    let api_version = format!("{group}/{version}");
    Some(KindSpec::new(
        group,
        text(names, "plural"),
        &api_version,
        text(names, "kind"),
        fields.collect(),
    ))
}

/// The rows of the definition's served versions.
pub(super) fn rows(crd: &Value, caches: &CacheSet) -> Vec<Kind> {
    let storage = storage_version(crd).unwrap_or_default();
    let webhook = crd["spec"]["conversion"]["strategy"] == "Webhook";
    versions(crd)
        .filter(|v| v["served"] == true && (!webhook || text(v, "name") == storage))
        .map(|v| row(crd, v, caches))
        .collect()
}

fn row(crd: &Value, version: &Value, caches: &CacheSet) -> Kind {
    let (group, names) = (text(&crd["spec"], "group").to_owned(), &crd["spec"]["names"]);
    let kind = text(names, "kind").to_owned();
    let name = text(version, "name").to_owned();
    let or = |field: &str, other: String| match text(names, field) {
        "" => other,
        given => given.to_owned(),
    };
    let mut subresources = Vec::new();
    if version["subresources"].get("status").is_some() {
        subresources.push(Subresource {
            name: "status".into(),
            verbs: vec!["get".into(), "patch".into(), "update".into()],
            kind: GroupVersionKind::new(group.clone(), name.clone(), kind.clone()),
        });
    }
    let info = ResourceInfo {
        list_kind: or("listKind", format!("{kind}List")).into(),
        singular: or("singular", kind.to_lowercase()).into(),
        plural: text(names, "plural").to_owned().into(),
        namespaced: crd["spec"]["scope"] == "Namespaced",
        short_names: strings(&names["shortNames"]),
        categories: strings(&names["categories"]),
        verbs: VERBS.iter().map(|v| Str::from(*v)).collect(),
        group: group.into(),
        version: name.into(),
        kind: kind.into(),
        subresources,
    };
    let props = &version["schema"]["openAPIV3Schema"];
    let mut kind = Kind::custom(info, caches, schema::root(props), Arc::new(props.clone()));
    kind.rules = rules::compile(props, true).map(Arc::new);
    kind
}

/// What the definition uses that is not evaluated here.
pub(crate) fn unsupported(crd: &Value) -> Vec<&'static str> {
    let text = crd["spec"]["versions"].to_string();
    let mut found = Vec::new();
    for (needle, name) in [("\"scale\":{", "subresources.scale")] {
        if text.contains(needle) {
            found.push(name);
        }
    }
    if crd["spec"]["conversion"]["strategy"] == "Webhook" {
        found.push("conversion.webhook");
    }
    found
}
