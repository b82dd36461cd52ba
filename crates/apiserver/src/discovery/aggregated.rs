//! apidiscovery.k8s.io/v2.

use std::sync::Arc;

use keelson_api::gvk::{GroupVersion, GroupVersionKind};
use serde_json::{Map, Value, json};

use crate::registry::{Kind, KindTable};

/// The group versions of a table in order, each with its rows sorted by name.
pub(super) fn group_versions(table: &KindTable) -> Vec<(GroupVersion, Vec<Arc<Kind>>)> {
    let mut all: Vec<(GroupVersion, Vec<Arc<Kind>>)> = Vec::new();
    for kind in table.rows() {
        let gv = kind.info.group_version();
        match all.iter_mut().find(|(known, _)| *known == gv) {
            Some((_, rows)) => rows.push(kind.clone()),
            None => all.push((gv, vec![kind.clone()])),
        }
    }
    for (_, rows) in &mut all {
        rows.sort_by(|a, b| a.info.plural.cmp(&b.info.plural));
    }
    all
}

fn response_kind(own: &GroupVersion, kind: &GroupVersionKind) -> Value {
    if kind.group_version() == *own {
        json!({"group": "", "version": "", "kind": kind.kind})
    } else {
        json!({"group": kind.group, "version": kind.version, "kind": kind.kind})
    }
}

fn resource(kind: &Kind) -> Value {
    let info = &kind.info;
    let own = info.group_version();
    let mut entry = json!({
        "resource": info.plural,
        "responseKind": response_kind(&own, &kind.gvk),
        "scope": if info.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": info.singular,
        "verbs": info.verbs,
    });
    if !info.short_names.is_empty() {
        entry["shortNames"] = json!(info.short_names);
    }
    if !info.categories.is_empty() {
        entry["categories"] = json!(info.categories);
    }
    if !info.subresources.is_empty() {
        entry["subresources"] = info
            .subresources
            .iter()
            .map(|s| {
                json!({"subresource": s.name, "responseKind": response_kind(&own, &s.kind), "verbs": s.verbs})
            })
            .collect();
    }
    entry
}

/// The APIGroupDiscoveryList of the core group or of all others.
pub(super) fn document(table: &KindTable, core: bool) -> Value {
    let mut items: Vec<(String, Vec<Value>)> = Vec::new();
    for (gv, rows) in group_versions(table) {
        if gv.group.is_empty() != core {
            continue;
        }
        let version = json!({
            "version": gv.version,
            "resources": rows.iter().map(|k| resource(k)).collect::<Vec<_>>(),
            "freshness": "Current",
        });
        match items.iter_mut().find(|(group, _)| *group == gv.group) {
            Some((_, versions)) => versions.push(version),
            None => items.push((gv.group.to_string(), vec![version])),
        }
    }
    let items: Vec<Value> = items
        .into_iter()
        .map(|(group, versions)| {
            let mut metadata = Map::new();
            if !group.is_empty() {
                metadata.insert("name".to_owned(), json!(group));
            }
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {},
        "items": items,
    })
}
