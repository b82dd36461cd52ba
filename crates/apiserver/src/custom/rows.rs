//! The rows that a definition makes.

use std::collections::BTreeMap;
use std::sync::Arc;

use keelson_api::gvk::{GroupVersionKind, Str};
use keelson_api::resources::{ResourceInfo, Subresource};
use keelson_api::schema::Schema;
use serde_json::Value;

use super::crossing::Crossing;
use super::row::{CustomRow, ScalePaths};
use super::webhook::Webhook;
use super::{columns, rules, schema, shape};
use crate::admission::Connections;
use crate::registry::Kind;
use crate::resources::Resources;
use crate::watch_cache::{CacheSet, KindSpec, Reading, SelectableField, Shape};

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

fn items<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    value[name].as_array().into_iter().flatten()
}

fn strings(value: &Value) -> Vec<Str> {
    value
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|v| Some(v.as_str()?.to_owned().into()))
        .collect()
}

fn parts(path: &str) -> Vec<String> {
    let path = path.trim_start_matches('.');
    if path.is_empty() {
        return Vec::new();
    }
    path.split('.').map(str::to_owned).collect()
}

/// A definition, taken apart once for all its rows.
pub(super) struct Definition<'a> {
    crd: &'a Value,
    group: &'a str,
    /// The names that were accepted.
    names: &'a Value,
    storage: &'a str,
    schemas: BTreeMap<&'a str, Arc<Schema>>,
    webhook: Option<Arc<Webhook>>,
}

impl<'a> Definition<'a> {
    /// Reads a definition; `None` when it has no storage version.
    pub(super) fn of(crd: &'a Value, resources: &Resources, connections: &Connections) -> Option<Self> {
        let versions = || items(&crd["spec"], "versions");
        let storage = versions().find(|v| v["storage"] == true)?;
        let schema = |version: &'a Value| {
            let root = schema::root(&version["schema"]["openAPIV3Schema"]);
            (text(version, "name"), Arc::new(root))
        };
        let webhook = crd["spec"]["conversion"]["strategy"] == "Webhook";
        Some(Self {
            crd,
            group: text(&crd["spec"], "group"),
            names: &crd["status"]["acceptedNames"],
            storage: text(storage, "name"),
            schemas: versions().map(schema).collect(),
            webhook: webhook.then(|| Arc::new(Webhook::of(crd, resources, connections))),
        })
    }

    fn versions(&self) -> impl Iterator<Item = &'a Value> {
        items(&self.crd["spec"], "versions")
    }

    fn props(&self, version: &str) -> &'a Value {
        let found = self.versions().find(|v| text(v, "name") == version);
        found.map_or(&Value::Null, |v| &v["schema"]["openAPIV3Schema"])
    }

    /// The selectable fields of all versions: one slot in the cache for each.
    fn fields(&self) -> Vec<SelectableField> {
        let mut fields: Vec<SelectableField> = Vec::new();
        for field in self.versions().flat_map(|v| items(v, "selectableFields")) {
            let path = parts(text(field, "jsonPath"));
            let label = path.join(".");
            if fields.iter().all(|f| f.label != label) {
                fields.push(SelectableField {
                    label,
                    path,
                    fallback: Vec::new(),
                    default: String::new(),
                });
            }
        }
        fields
    }

    fn spec_of(&self, version: &str) -> KindSpec {
        let api_version = format!("{}/{version}", self.group);
        let (plural, kind) = (text(self.names, "plural"), text(self.names, "kind"));
        let schema = self.schemas.get(version).cloned();
        let shape = schema.map(|schema| Shape(Arc::new(move |object| shape::reshape(&schema, object))));
        KindSpec::new(self.group, plural, &api_version, kind, self.fields()).with_reading(Reading {
            shape,
            others: Vec::new(),
        })
    }

    /// How the definition's objects are stored.
    pub(super) fn spec(&self) -> KindSpec {
        let mut spec = self.spec_of(self.storage);
        if self.webhook.is_some() {
            let others = self
                .versions()
                .map(|v| text(v, "name"))
                .filter(|v| *v != self.storage);
            spec.reading.others = others.map(|v| Arc::new(self.spec_of(v))).collect();
        }
        spec
    }

    /// The rows of the definition's served versions.
    pub(super) fn rows(&self, caches: &CacheSet) -> Vec<Kind> {
        self.versions()
            .filter(|v| v["served"] == true)
            .map(|v| self.row(v, caches))
            .collect()
    }

    fn row(&self, version: &Value, caches: &CacheSet) -> Kind {
        let (names, name) = (self.names, text(version, "name"));
        let kind = text(names, "kind").to_owned();
        let or = |field: &str, other: String| match text(names, field) {
            "" => other,
            given => given.to_owned(),
        };
        let list_kind = or("listKind", format!("{kind}List"));
        let info = ResourceInfo {
            list_kind: list_kind.clone().into(),
            singular: or("singular", kind.to_lowercase()).into(),
            plural: text(names, "plural").to_owned().into(),
            namespaced: self.crd["spec"]["scope"] == "Namespaced",
            short_names: strings(&names["shortNames"]),
            categories: strings(&names["categories"]),
            verbs: VERBS.iter().map(|v| Str::from(*v)).collect(),
            group: self.group.to_owned().into(),
            version: name.to_owned().into(),
            subresources: subresources(self.group, version, &kind),
            kind: kind.into(),
        };
        let props = &version["schema"]["openAPIV3Schema"];
        let schema = self
            .schemas
            .get(name)
            .cloned()
            .unwrap_or_else(|| Arc::new(Schema::Any));
        let mut row = Kind::custom(info, caches, schema, Arc::new(props.clone()));
        row.rules = rules::compile(props, true).map(Arc::new);
        row.custom = Some(Arc::new(CustomRow {
            crossing: self.crossing(name, list_kind),
            columns: columns::columns(version),
            scale: scale_paths(version),
            selectable: items(version, "selectableFields")
                .map(|f| parts(text(f, "jsonPath")).join("."))
                .collect(),
            terminating: crate::registry::metadata::is_deleting(self.crd),
            deprecation: self.deprecation(version),
        }));
        row
    }

    fn crossing(&self, version: &str, list_kind: String) -> Option<Crossing> {
        let same = version == self.storage || self.props(version) == self.props(self.storage);
        if self.webhook.is_none() && same {
            // Another `apiVersion` in front of the same bytes.
            return None;
        }
        let schema = |version: &str| self.schemas.get(version).cloned();
        Some(Crossing {
            spec: Arc::new(self.spec_of(version)),
            schema: schema(version)?,
            storage: Arc::new(self.spec_of(self.storage)),
            storage_schema: schema(self.storage)?,
            webhook: self.webhook.clone(),
            list_kind,
        })
    }

    fn deprecation(&self, version: &Value) -> Option<String> {
        if version["deprecated"] != true {
            return None;
        }
        if let Some(given) = version["deprecationWarning"].as_str() {
            return Some(given.to_owned());
        }
        let (name, kind) = (text(version, "name"), text(self.names, "kind"));
        let newer = self
            .versions()
            .filter(|v| v["served"] == true && v["deprecated"] != true)
            .map(|v| text(v, "name"))
            .filter(|other| crate::aggregation::compare_versions(other, name).is_lt())
            .min_by(|a, b| crate::aggregation::compare_versions(a, b));
        let group = self.group;
        let mut warning = format!("{group}/{name} {kind} is deprecated");
        if let Some(newer) = newer {
            warning.push_str(&format!("; use {group}/{newer} {kind}"));
        }
        Some(warning)
    }
}

fn subresources(group: &str, version: &Value, kind: &str) -> Vec<Subresource> {
    let verbs = || vec!["get".into(), "patch".into(), "update".into()];
    let mut subresources = Vec::new();
    if version["subresources"]["scale"].is_object() {
        subresources.push(Subresource {
            name: "scale".into(),
            verbs: verbs(),
            kind: GroupVersionKind::new("autoscaling", "v1", "Scale"),
        });
    }
    if version["subresources"].get("status").is_some() {
        subresources.push(Subresource {
            name: "status".into(),
            verbs: verbs(),
            kind: GroupVersionKind::new(
                group.to_owned(),
                text(version, "name").to_owned(),
                kind.to_owned(),
            ),
        });
    }
    subresources
}

fn scale_paths(version: &Value) -> Option<ScalePaths> {
    let scale = &version["subresources"]["scale"];
    scale.is_object().then(|| ScalePaths {
        spec: parts(text(scale, "specReplicasPath")),
        status: parts(text(scale, "statusReplicasPath")),
        selector: parts(text(scale, "labelSelectorPath")),
    })
}
