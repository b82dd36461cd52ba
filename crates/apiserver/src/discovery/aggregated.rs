//! apidiscovery.k8s.io/v2.

use keelson_api::gvk::{GroupVersion, GroupVersionKind};
use serde_json::{Map, Value, json};

use crate::aggregation::{Group, Rows, remote_resources};
use crate::registry::Kind;

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

fn version(gv: &GroupVersion, rows: &Rows) -> Value {
    let (resources, fresh): (Vec<Value>, bool) = match rows {
        Rows::Here(rows) => (rows.iter().map(|k| resource(k)).collect(), true),
        Rows::Elsewhere(Some(document)) => (remote_resources(gv, &document.resources), document.fresh),
        Rows::Elsewhere(None) => (Vec::new(), false),
    };
    let mut version = json!({
        "version": gv.version,
        "freshness": if fresh { "Current" } else { "Stale" },
    });
    if !resources.is_empty() {
        version["resources"] = resources.into();
    }
    version
}

/// The APIGroupDiscoveryList of the core group or of all others.
pub(super) fn document(groups: &[Group], core: bool) -> Value {
    let items: Vec<Value> = groups
        .iter()
        .filter(|group| group.name.is_empty() == core)
        .map(|group| {
            let mut metadata = Map::new();
            if !group.name.is_empty() {
                metadata.insert("name".to_owned(), json!(group.name));
            }
            let versions: Vec<Value> = group
                .versions
                .iter()
                .map(|(gv, rows)| version(gv, rows))
                .collect();
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
