//! Whole documents and their index.

use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::{Map, Value, json};

use super::components::{Flavor, definitions};
use super::custom::CustomKind;
use super::paths::Writer;
use crate::gvk::GroupVersion;
use crate::resources::{self, ResourceInfo};
use crate::schema::registry;

/// Version that the documents name.
const VERSION: &str = "v1.36.0";

/// The v3 paths of the built-in group versions: `api/v1`, `apis/apps/v1`.
pub fn builtin_v3_paths() -> Vec<(String, GroupVersion)> {
    let mut paths: Vec<(String, GroupVersion)> = Vec::new();
    for row in resources::builtin() {
        let gv = row.group_version();
        if !paths.iter().any(|(_, other)| *other == gv) {
            paths.push((v3_path(&gv), gv));
        }
    }
    paths
}

/// The path of a group version's document below `/openapi/v3/`: `apis/apps/v1`.
pub fn v3_path(gv: &GroupVersion) -> String {
    if gv.group.is_empty() {
        format!("api/{}", gv.version)
    } else {
        format!("apis/{gv}")
    }
}

/// The hash of a built-in document: it changes when the tables that documents are made from change.
fn builtin_hash(path: &str) -> String {
    let mut hasher = DefaultHasher::new();
    (
        include_str!("../data/schema.tsv"),
        include_str!("../data/resources.tsv"),
        VERSION,
        path,
    )
        .hash(&mut hasher);
    format!("{:016X}", hasher.finish())
}

/// The URL of a document in the index.
pub fn v3_server_url(path: &str, hash: &str) -> String {
    format!("/openapi/v3/{path}?hash={hash}")
}

/// The index of v3 documents: the built-in ones and `others` (path and hash: custom resources, aggregated servers), which
/// come before a built-in one of the same path.
pub fn v3_index(others: impl IntoIterator<Item = (String, String)>) -> Value {
    let builtin = builtin_v3_paths().into_iter().map(|(path, _)| {
        let hash = builtin_hash(&path);
        (path, hash)
    });
    let entry = |(path, hash): (String, String)| {
        let url = v3_server_url(&path, &hash);
        (path, json!({"serverRelativeURL": url}))
    };
    let paths: Map<String, Value> = builtin.chain(others).map(entry).collect();
    json!({"paths": paths})
}

/// The v3 document of a built-in group version; `None` for any other.
pub fn v3_document(gv: &GroupVersion) -> Option<Value> {
    v3_document_with(gv, &[])
}

/// The v3 document of a group version with these custom resources in it; `None` if there is nothing.
pub fn v3_document_with(gv: &GroupVersion, custom: &[CustomKind<'_>]) -> Option<Value> {
    let rows: Vec<&ResourceInfo> = resources::builtin()
        .iter()
        .filter(|row| row.group_version() == *gv)
        .collect();
    if rows.is_empty() && custom.is_empty() {
        return None;
    }
    let mut writer = Writer::new(Flavor::V3);
    let mut own = Map::new();
    for row in rows {
        writer.resource(row);
    }
    for kind in custom {
        own.extend(writer.custom(kind));
    }
    let prefix = format!("/{}/", v3_path(gv));
    let list = format!("{}.APIResourceList", "io.k8s.apimachinery.pkg.apis.meta.v1");
    writer.needed.insert(list.clone());
    let content = json!({"application/json": {"schema": Flavor::V3.reference(&list)}});
    writer.paths.insert(
        prefix,
        json!({"get": {
            "tags": [gv.to_string().replace('/', "_")],
            "operationId": format!("get{}APIResources", gv.to_string().replace(['/', '.'], "_")),
            "responses": {"200": {"description": "OK", "content": content}, "401": {"description": "Unauthorized"}},
        }}),
    );
    let mut schemas = definitions(writer.needed, Flavor::V3);
    schemas.append(&mut own);
    Some(json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": VERSION},
        "paths": writer.paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"BearerToken": {
                "type": "apiKey", "name": "authorization", "in": "header", "description": "Bearer Token authentication"}},
        },
    }))
}

fn v2_builtin() -> (Map<String, Value>, Map<String, Value>) {
    let mut writer = Writer::new(Flavor::V2);
    for row in resources::builtin() {
        writer.resource(row);
    }
    writer.needed.extend(
        registry()
            .definitions()
            .iter()
            .map(|definition| definition.name.clone().into_owned()),
    );
    (writer.paths, definitions(writer.needed, Flavor::V2))
}

/// The v2 document of the built-in resources.
pub fn v2() -> Value {
    let (paths, definitions) = v2_builtin();
    let mut document = v2_frame();
    document["paths"] = Value::Object(paths);
    document["definitions"] = Value::Object(definitions);
    document
}

fn v2_frame() -> Value {
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": VERSION},
        "securityDefinitions": {"BearerToken": {
            "type": "apiKey", "name": "authorization", "in": "header", "description": "Bearer Token authentication"}},
        "security": [{"BearerToken": []}],
    })
}

/// Writes v2 documents: what is built-in is encoded once, custom resources are added behind it.
pub struct V2Writer {
    paths: Vec<u8>,
    definitions: Vec<u8>,
}

impl V2Writer {
    /// Encodes what is built-in.
    pub fn new() -> Self {
        let (paths, definitions) = v2_builtin();
        let mut writer = Self {
            paths: Vec::new(),
            definitions: Vec::new(),
        };
        append(&mut writer.paths, paths);
        append(&mut writer.definitions, definitions);
        writer
    }

    /// The document, encoded.
    pub fn document<'a>(&self, custom: impl IntoIterator<Item = CustomKind<'a>>) -> Vec<u8> {
        let mut out = v2_frame().to_string().into_bytes();
        out.pop();
        out.reserve(self.paths.len() + self.definitions.len() + 64);
        out.extend_from_slice(b",\"paths\":{");
        out.extend_from_slice(&self.paths);
        let mut definitions = self.definitions.clone();
        for kind in custom {
            let mut writer = Writer::new(Flavor::V2);
            append(&mut definitions, writer.custom(&kind));
            append(&mut out, writer.paths);
        }
        out.extend_from_slice(b"},\"definitions\":{");
        out.extend_from_slice(&definitions);
        out.extend_from_slice(b"}}");
        out
    }
}

impl Default for V2Writer {
    fn default() -> Self {
        Self::new()
    }
}

/// Appends entries of an object, which has others already if there is anything.
fn append(out: &mut Vec<u8>, entries: impl IntoIterator<Item = (String, Value)>) {
    for (name, value) in entries {
        if !out.is_empty() && !out.ends_with(b"{") {
            out.push(b',');
        }
        out.extend_from_slice(Value::String(name).to_string().as_bytes());
        out.push(b':');
        serde_json::to_writer(&mut *out, &value).expect("invariant: writing to memory does not fail");
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn references(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(map) => {
                if let Some(Value::String(reference)) = map.get("$ref") {
                    found.insert(reference.clone());
                }
                map.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }

    #[test]
    fn v3_documents_are_closed() {
        let index = v3_index([("apis/example.com/v1".to_owned(), "AB".to_owned())]);
        assert_eq!(
            index["paths"]["apis/example.com/v1"]["serverRelativeURL"],
            "/openapi/v3/apis/example.com/v1?hash=AB"
        );
        for (path, gv) in builtin_v3_paths() {
            assert!(index["paths"].get(&path).is_some());
            let document = v3_document(&gv).expect("document");
            let mut found = BTreeSet::new();
            references(&document, &mut found);
            for reference in found {
                let name = reference.strip_prefix("#/components/schemas/").expect("prefix");
                assert!(
                    document["components"]["schemas"].get(name).is_some(),
                    "{path}: {name}"
                );
            }
        }
        assert!(v3_document(&GroupVersion::new("nope", "v1")).is_none());
    }

    #[test]
    fn what_kubectl_looks_for() {
        let document = v3_document(&GroupVersion::new("apps", "v1")).expect("document");
        let item = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"];
        let patch = &item["patch"];
        assert_eq!(patch["operationId"], "patchAppsV1NamespacedDeployment");
        assert_eq!(patch["x-kubernetes-action"], "patch");
        assert_eq!(patch["x-kubernetes-group-version-kind"]["kind"], "Deployment");
        assert!(
            patch["requestBody"]["content"]
                .get("application/strategic-merge-patch+json")
                .is_some()
        );
        let names: Vec<&str> = patch["parameters"]
            .as_array()
            .expect("list")
            .iter()
            .filter_map(|p| p["name"].as_str())
            .collect();
        assert!(names.contains(&"fieldValidation") && names.contains(&"dryRun"));
        let schemas = &document["components"]["schemas"];
        let spec = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"];
        assert_eq!(spec["containers"]["x-kubernetes-patch-merge-key"], "name");
        assert_eq!(spec["containers"]["x-kubernetes-list-type"], "map");
        assert_eq!(
            schemas["io.k8s.api.core.v1.ContainerPort"]["properties"]["protocol"]["default"],
            "TCP"
        );
        let kind = &schemas["io.k8s.api.apps.v1.Deployment"]["x-kubernetes-group-version-kind"][0];
        assert_eq!(
            kind,
            &json!({"group": "apps", "version": "v1", "kind": "Deployment"})
        );
        let core = v3_document(&GroupVersion::new("", "v1")).expect("document");
        assert_eq!(
            core["paths"]["/api/v1/nodes/{name}/proxy"]["get"]["operationId"],
            "connectCoreV1GetNodeProxy"
        );
    }

    #[test]
    fn v2_is_closed() {
        let document = v2();
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        for reference in found {
            let name = reference.strip_prefix("#/definitions/").expect("prefix");
            assert!(document["definitions"].get(name).is_some(), "{name}");
        }
        assert!(
            document["paths"]
                .get("/api/v1/namespaces/{namespace}/pods/{name}/log")
                .is_some()
        );
    }

    #[test]
    fn custom_resources_are_published() {
        let row = ResourceInfo {
            group: "stable.example.com".into(),
            version: "v1".into(),
            kind: "CronTab".into(),
            list_kind: "CronTabList".into(),
            plural: "crontabs".into(),
            singular: "crontab".into(),
            namespaced: true,
            short_names: Vec::new(),
            categories: Vec::new(),
            verbs: resources::ALL_VERBS.iter().map(|v| (*v).into()).collect(),
            subresources: Vec::new(),
        };
        let schema = json!({"type": "object", "description": "A cron tab.",
            "properties": {"spec": {"type": "object", "properties": {"image": {"type": "string", "nullable": true}}}}});
        let kind = CustomKind {
            row: &row,
            schema: &schema,
        };
        let gv = row.group_version();
        let v3 = v3_document_with(&gv, &[kind]).expect("document");
        let object = &v3["components"]["schemas"]["com.example.stable.v1.CronTab"];
        assert_eq!(object["description"], "A cron tab.");
        assert_eq!(
            object["properties"]["spec"]["properties"]["image"]["nullable"],
            true
        );
        assert_eq!(
            object["x-kubernetes-group-version-kind"],
            json!([{"group": "stable.example.com", "version": "v1", "kind": "CronTab"}])
        );
        let item = &v3["paths"]["/apis/stable.example.com/v1/namespaces/{namespace}/crontabs/{name}"];
        let patches = item["patch"]["requestBody"]["content"]
            .as_object()
            .expect("object");
        assert!(!patches.contains_key("application/strategic-merge-patch+json"));
        let bytes = V2Writer::new().document([kind]);
        let v2: Value = serde_json::from_slice(&bytes).expect("JSON");
        let object = &v2["definitions"]["com.example.stable.v1.CronTab"];
        assert_eq!(object["properties"]["spec"]["properties"]["image"], json!({}));
        assert_eq!(
            v2["definitions"]["com.example.stable.v1.CronTabList"]["properties"]["items"]["items"]["$ref"],
            "#/definitions/com.example.stable.v1.CronTab"
        );
        for (document, prefix, names) in [
            (&v3, "#/components/schemas/", &v3["components"]["schemas"]),
            (&v2, "#/definitions/", &v2["definitions"]),
        ] {
            let mut found = BTreeSet::new();
            references(document, &mut found);
            for reference in found {
                let name = reference.strip_prefix(prefix).expect("prefix");
                assert!(names.get(name).is_some(), "{name}");
            }
        }
        let builtin: Value = serde_json::from_slice(&V2Writer::new().document([])).expect("JSON");
        assert_eq!(builtin, super::v2());
        // With preserved unknown fields at the root, v2 says nothing.
        let open = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"a": {"type": "string"}}});
        let [(_, object), _] = CustomKind {
            row: &row,
            schema: &open,
        }
        .definitions(Flavor::V2);
        assert!(
            object.get("properties").is_none()
                && object.get("x-kubernetes-preserve-unknown-fields").is_none()
        );
    }
}
