//! Paths and operations of a resource.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::components::{Flavor, schema_json};
use super::custom::{CustomKind, definition_name};
use crate::gvk::{GroupVersion, GroupVersionKind};
use crate::resources::{ResourceInfo, Subresource};
use crate::schema::{Schema, registry};

const MEDIA: [&str; 4] = [
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
    "application/cbor",
];
const STREAMS: [&str; 3] = [
    "application/json;stream=watch",
    "application/vnd.kubernetes.protobuf;stream=watch",
    "application/cbor-seq",
];
const PATCHES: [&str; 5] = [
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+cbor",
];
/// What custom resources are served and patched with.
const CUSTOM_MEDIA: [&str; 2] = ["application/json", "application/yaml"];
const CUSTOM_STREAMS: [&str; 1] = ["application/json;stream=watch"];
const CUSTOM_PATCHES: [&str; 3] = [
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
];
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

const LIST: &[(&str, &str)] = &[
    ("allowWatchBookmarks", "boolean"),
    ("continue", "string"),
    ("fieldSelector", "string"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("sendInitialEvents", "boolean"),
    ("timeoutSeconds", "integer"),
    ("watch", "boolean"),
];
const WRITE: &[(&str, &str)] = &[
    ("dryRun", "string"),
    ("fieldManager", "string"),
    ("fieldValidation", "string"),
];
const PATCH: &[(&str, &str)] = &[
    ("dryRun", "string"),
    ("fieldManager", "string"),
    ("fieldValidation", "string"),
    ("force", "boolean"),
];
const DELETE: &[(&str, &str)] = &[
    ("dryRun", "string"),
    ("gracePeriodSeconds", "integer"),
    ("ignoreStoreReadErrorWithClusterBreakingPotential", "boolean"),
    ("orphanDependents", "boolean"),
    ("propagationPolicy", "string"),
];
const DELETE_COLLECTION: &[(&str, &str)] = &[
    ("continue", "string"),
    ("dryRun", "string"),
    ("fieldSelector", "string"),
    ("gracePeriodSeconds", "integer"),
    ("ignoreStoreReadErrorWithClusterBreakingPotential", "boolean"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("orphanDependents", "boolean"),
    ("propagationPolicy", "string"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("sendInitialEvents", "boolean"),
    ("timeoutSeconds", "integer"),
];

/// Writes paths, and collects the names of the definitions that they need.
pub(super) struct Writer {
    pub(super) flavor: Flavor,
    pub(super) needed: BTreeSet<String>,
    pub(super) paths: Map<String, Value>,
    /// The group and version of the custom resource that is being written.
    custom: Option<GroupVersion>,
}

struct Operation<'b> {
    method: &'static str,
    action: &'b str,
    id: String,
    tag: &'b str,
    kind: &'b GroupVersionKind,
    query: &'b [(&'b str, &'b str)],
    body: Body,
    answer: Value,
    codes: &'static [u16],
    streams: bool,
}

enum Body {
    None,
    Object(Value),
    Patch,
    DeleteOptions,
}

/// `rbac.authorization.k8s.io` is `RbacAuthorization`, the core group `Core`.
fn camel_group(group: &str) -> String {
    let group = if group.is_empty() {
        "core"
    } else {
        group.strip_suffix(".k8s.io").unwrap_or(group)
    };
    group.split(['.', '-']).map(capital).collect()
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars
        .next()
        .map(|c| c.to_uppercase().collect::<String>() + chars.as_str())
        .unwrap_or_default()
}

fn tag(row: &ResourceInfo) -> String {
    let camel = camel_group(&row.group);
    let mut chars = camel.chars();
    let lower = chars
        .next()
        .map(|c| c.to_lowercase().collect::<String>() + chars.as_str())
        .unwrap_or_default();
    format!("{lower}_{}", row.version)
}

fn named_parameter(name: &str, place: &str, kind: &str, required: bool, flavor: Flavor) -> Value {
    let mut value = match flavor {
        Flavor::V2 => json!({"name": name, "in": place, "type": kind, "uniqueItems": true}),
        Flavor::V3 => json!({"name": name, "in": place, "schema": {"type": kind, "uniqueItems": true}}),
    };
    if required {
        value["required"] = json!(true);
    }
    value
}

impl Writer {
    pub(super) fn new(flavor: Flavor) -> Self {
        Self {
            flavor,
            needed: BTreeSet::new(),
            paths: Map::new(),
            custom: None,
        }
    }

    /// Writes every path of a custom resource and gives its definitions.
    pub(super) fn custom(&mut self, kind: &CustomKind<'_>) -> [(String, Value); 2] {
        self.custom = Some(kind.row.group_version());
        self.resource(kind.row);
        self.custom = None;
        for name in ["ObjectMeta", "ListMeta"] {
            self.needed.insert(format!("{META}.{name}"));
        }
        kind.definitions(self.flavor)
    }

    fn reference(&mut self, kind: &GroupVersionKind) -> Value {
        if self
            .custom
            .as_ref()
            .is_some_and(|gv| gv.group == kind.group && gv.version == kind.version)
        {
            return self
                .flavor
                .reference(&definition_name(&kind.group, &kind.version, &kind.kind));
        }
        match registry().by_gvk(&kind.group, &kind.version, &kind.kind) {
            Some(schema @ Schema::Def(_)) => schema_json(schema, self.flavor, &mut self.needed),
            Some(Schema::Object(object)) => self.flavor.reference(&object.name),
            _ => json!({"type": "string"}),
        }
    }

    fn meta(&mut self, name: &str) -> Value {
        let name = format!("{META}.{name}");
        let reference = self.flavor.reference(&name);
        self.needed.insert(name);
        reference
    }

    fn content(schema: &Value, media: &[&str]) -> Value {
        Value::Object(
            media
                .iter()
                .map(|media| ((*media).to_owned(), json!({"schema": schema})))
                .collect(),
        )
    }

    fn write(&mut self, path: &str, operation: Operation<'_>) {
        let parameters: Vec<Value> = operation
            .query
            .iter()
            .map(|(name, kind)| named_parameter(name, "query", kind, false, self.flavor))
            .collect();
        let mut value = json!({
            "tags": [operation.tag],
            "operationId": operation.id,
            "x-kubernetes-action": operation.action,
            "x-kubernetes-group-version-kind": {
                "group": operation.kind.group, "version": operation.kind.version, "kind": operation.kind.kind},
        });
        if !parameters.is_empty() {
            value["parameters"] = Value::Array(parameters);
        }
        let connect = operation.action == "connect";
        let (body, media): (Option<Value>, &[&str]) = match operation.body {
            Body::None => (None, &[]),
            Body::Object(schema) => (Some(schema), &["*/*"]),
            Body::Patch if self.custom.is_some() => (Some(self.meta("Patch")), &CUSTOM_PATCHES),
            Body::Patch => (Some(self.meta("Patch")), &PATCHES),
            Body::DeleteOptions => (Some(self.meta("DeleteOptions")), &["*/*"]),
        };
        let produced: Vec<&str> = if connect {
            vec!["*/*"]
        } else {
            let (media, streams): (&[&str], &[&str]) = match self.custom {
                Some(_) => (&CUSTOM_MEDIA, &CUSTOM_STREAMS),
                None => (&MEDIA, &STREAMS),
            };
            let streams = streams.iter().filter(|_| operation.streams);
            media.iter().chain(streams).copied().collect()
        };
        let required = !matches!(media, ["*/*"]) || operation.method != "delete";
        match self.flavor {
            Flavor::V2 => {
                value["consumes"] = if media.is_empty() {
                    json!(["*/*"])
                } else {
                    json!(media)
                };
                value["produces"] = json!(produced);
                value["schemes"] = json!(["https"]);
                if let Some(schema) = body {
                    let mut body = json!({"name": "body", "in": "body", "schema": schema});
                    if required {
                        body["required"] = json!(true);
                    }
                    match &mut value["parameters"] {
                        Value::Array(list) => list.insert(0, body),
                        none => *none = json!([body]),
                    }
                }
            }
            Flavor::V3 => {
                if let Some(schema) = body {
                    value["requestBody"] = json!({"content": Self::content(&schema, media)});
                    if required {
                        value["requestBody"]["required"] = json!(true);
                    }
                }
            }
        }
        let mut responses = Map::new();
        for code in operation.codes {
            let text = match code {
                201 => "Created",
                202 => "Accepted",
                _ => "OK",
            };
            let response = match self.flavor {
                Flavor::V2 => json!({"description": text, "schema": operation.answer}),
                Flavor::V3 => {
                    json!({"description": text, "content": Self::content(&operation.answer, &produced)})
                }
            };
            responses.insert(code.to_string(), response);
        }
        responses.insert("401".to_owned(), json!({"description": "Unauthorized"}));
        value["responses"] = Value::Object(responses);
        let item = self.paths.entry(path.to_owned()).or_insert_with(|| json!({}));
        item[operation.method] = value;
    }

    fn path_parameters(&mut self, path: &str, row: &ResourceInfo, list_all: bool, connect: bool) {
        let Some(item) = self.paths.get_mut(path) else {
            return;
        };
        let flavor = self.flavor;
        let mut parameters = Vec::new();
        if path.contains("{name}") {
            parameters.push(named_parameter("name", "path", "string", true, flavor));
        }
        if row.namespaced && path.contains("{namespace}") {
            parameters.push(named_parameter("namespace", "path", "string", true, flavor));
        }
        if path.ends_with("/{path}") {
            parameters.push(named_parameter("path", "path", "string", true, flavor));
        }
        if connect {
            parameters.push(named_parameter("path", "query", "string", false, flavor));
        } else {
            parameters.push(named_parameter("pretty", "query", "string", false, flavor));
        }
        if list_all {
            parameters.extend(
                LIST.iter()
                    .map(|(name, kind)| named_parameter(name, "query", kind, false, flavor)),
            );
        }
        item["parameters"] = Value::Array(parameters);
    }

    /// Writes every path of a resource.
    pub(super) fn resource(&mut self, row: &ResourceInfo) {
        let prefix = match &*row.group {
            "" => format!("/api/{}", row.version),
            group => format!("/apis/{group}/{}", row.version),
        };
        let stem = format!("{}{}", camel_group(&row.group), capital(&row.version));
        let scope = if row.namespaced { "Namespaced" } else { "" };
        let tag = tag(row);
        let (kind, list_kind) = (row.gvk(), row.list_gvk());
        let collection = if row.namespaced {
            format!("{prefix}/namespaces/{{namespace}}/{}", row.plural)
        } else {
            format!("{prefix}/{}", row.plural)
        };
        let item = format!("{collection}/{{name}}");
        let id = |verb: &str, middle: &str| format!("{verb}{stem}{middle}{scope}{}", row.kind);
        for verb in &row.verbs {
            let object = self.reference(&kind);
            let (path, operation) = match &**verb {
                "list" => (
                    &collection,
                    Operation {
                        method: "get",
                        action: "list",
                        id: id("list", ""),
                        tag: &tag,
                        kind: &kind,
                        query: LIST,
                        body: Body::None,
                        answer: self.reference(&list_kind),
                        codes: &[200],
                        streams: true,
                    },
                ),
                "deletecollection" => (
                    &collection,
                    Operation {
                        method: "delete",
                        action: "deletecollection",
                        id: id("delete", "Collection"),
                        tag: &tag,
                        kind: &kind,
                        query: DELETE_COLLECTION,
                        body: Body::DeleteOptions,
                        answer: self.meta("Status"),
                        codes: &[200],
                        streams: false,
                    },
                ),
                "create" => (
                    &collection,
                    self.simple("create", id("create", ""), &tag, &kind, object),
                ),
                "watch" => continue,
                verb => {
                    let name = operation_name(verb);
                    (&item, self.simple(verb, id(name, ""), &tag, &kind, object))
                }
            };
            self.write(path, operation);
        }
        if row.namespaced && row.has_verb("list") {
            let path = format!("{prefix}/{}", row.plural);
            let operation = Operation {
                method: "get",
                action: "list",
                id: format!("list{stem}{}ForAllNamespaces", row.kind),
                tag: &tag,
                kind: &kind,
                query: &[],
                body: Body::None,
                answer: self.reference(&list_kind),
                codes: &[200],
                streams: true,
            };
            self.write(&path, operation);
            self.path_parameters(&path, row, true, false);
        }
        self.path_parameters(&collection, row, false, false);
        self.path_parameters(&item, row, false, false);
        for sub in &row.subresources {
            self.subresource(
                row,
                sub,
                &item,
                &format!("{stem}@{scope}{}{}", row.kind, capital(&sub.name)),
                &tag,
            );
        }
    }

    fn subresource(&mut self, row: &ResourceInfo, sub: &Subresource, item: &str, stem: &str, tag: &str) {
        let path = format!("{item}/{}", sub.name);
        let connects = sub.kind.kind.ends_with("Options");
        let mut paths = vec![path.clone()];
        if sub.name == "proxy" {
            paths.push(format!("{path}/{{path}}"));
        }
        for path in paths {
            for verb in &sub.verbs {
                let operation = if connects {
                    let method = method(verb);
                    let with_path = if path.ends_with("{path}") { "WithPath" } else { "" };
                    Operation {
                        method,
                        action: "connect",
                        id: format!("connect{}{with_path}", stem.replace('@', &capital(method))),
                        tag,
                        kind: &sub.kind,
                        query: &[],
                        body: Body::None,
                        answer: json!({"type": "string"}),
                        codes: &[200],
                        streams: false,
                    }
                } else {
                    let object = self.reference(&sub.kind);
                    let id = format!("{}{}", operation_name(verb), stem.replace('@', ""));
                    self.simple(verb, id, tag, &sub.kind, object)
                };
                self.write(&path, operation);
            }
            self.path_parameters(&path, row, false, connects);
        }
    }

    fn simple<'b>(
        &mut self,
        verb: &'b str,
        id: String,
        tag: &'b str,
        kind: &'b GroupVersionKind,
        object: Value,
    ) -> Operation<'b> {
        let (query, body, codes): (&'static [(&str, &str)], Body, &'static [u16]) = match verb {
            "create" => (WRITE, Body::Object(object.clone()), &[200, 201, 202]),
            "update" => (WRITE, Body::Object(object.clone()), &[200, 201]),
            "patch" => (PATCH, Body::Patch, &[200, 201]),
            "delete" => (DELETE, Body::DeleteOptions, &[200, 202]),
            _ => (&[], Body::None, &[200]),
        };
        let answer = if verb == "delete" {
            self.meta("Status")
        } else {
            object
        };
        let method = method(verb);
        let action = if verb == "update" || verb == "create" {
            method
        } else {
            verb
        };
        Operation {
            method,
            action,
            id,
            tag,
            kind,
            query,
            body,
            answer,
            codes,
            streams: false,
        }
    }
}

fn method(verb: &str) -> &'static str {
    match verb {
        "create" => "post",
        "update" => "put",
        "patch" => "patch",
        "delete" | "deletecollection" => "delete",
        _ => "get",
    }
}

fn operation_name(verb: &str) -> &str {
    match verb {
        "get" => "read",
        "update" => "replace",
        verb => verb,
    }
}
