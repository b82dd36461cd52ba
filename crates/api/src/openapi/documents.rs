//! Whole documents and their index.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::{Map, Value, json};

use super::components::{Flavor, definitions, schema_json};
use super::paths::{Kinds, Writer};
use crate::gvk::{GroupVersion, GroupVersionKind};
use crate::resources::{self, ResourceInfo};
use crate::schema::{Schema, registry};

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

fn v3_path(gv: &GroupVersion) -> String {
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

/// The index of v3 documents: the built-in ones and `others` (path and hash: custom resources, aggregated servers).
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

fn builtin_kind(kind: &GroupVersionKind) -> Option<&'static Schema> {
    registry().by_gvk(&kind.group, &kind.version, &kind.kind)
}

/// The v3 document of a built-in group version; `None` for any other.
pub fn v3_document(gv: &GroupVersion) -> Option<Value> {
    let rows: Vec<&ResourceInfo> = resources::builtin()
        .iter()
        .filter(|row| row.group_version() == *gv)
        .collect();
    if rows.is_empty() {
        return None;
    }
    Some(v3_document_for(gv, &rows, &builtin_kind))
}

/// The v3 document of any group version: its resources, and where the schemas of their kinds come from.
pub fn v3_document_for<'a>(gv: &GroupVersion, rows: &[&ResourceInfo], kinds: Kinds<'a>) -> Value {
    let mut writer = Writer {
        flavor: Flavor::V3,
        kinds,
        needed: BTreeSet::new(),
        paths: Map::new(),
    };
    let mut own = Map::new();
    for row in rows {
        writer.resource(row);
        for kind in [row.gvk(), row.list_gvk()] {
            if let Some(schema @ Schema::Object(object)) = kinds(&kind) {
                own.insert(
                    object.name.clone().into_owned(),
                    schema_json(schema, Flavor::V3, &mut writer.needed),
                );
            }
        }
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
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": VERSION},
        "paths": writer.paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"BearerToken": {
                "type": "apiKey", "name": "authorization", "in": "header", "description": "Bearer Token authentication"}},
        },
    })
}

/// The v2 document of the built-in resources, with the paths and definitions of others added.
pub fn v2(other_paths: Map<String, Value>, other_definitions: Map<String, Value>) -> Value {
    let mut writer = Writer {
        flavor: Flavor::V2,
        kinds: &builtin_kind,
        needed: BTreeSet::new(),
        paths: other_paths,
    };
    for row in resources::builtin() {
        writer.resource(row);
    }
    writer.needed.extend(
        registry()
            .definitions()
            .iter()
            .map(|definition| definition.name.clone().into_owned()),
    );
    let mut all = definitions(writer.needed, Flavor::V2);
    all.extend(other_definitions);
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": VERSION},
        "paths": writer.paths,
        "definitions": all,
        "securityDefinitions": {"BearerToken": {
            "type": "apiKey", "name": "authorization", "in": "header", "description": "Bearer Token authentication"}},
        "security": [{"BearerToken": []}],
    })
}

#[cfg(test)]
mod tests {
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
        let document = v2(Map::new(), Map::new());
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
}
