//! APIVersions, APIGroupList, APIGroup and APIResourceList.

use keelson_api::gvk::GroupVersion;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::aggregation::{Group, Rows};

/// `/api`
pub(super) fn versions(address: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    })
}

fn group_value(group: &Group) -> Value {
    let entry = |gv: &GroupVersion| json!({"groupVersion": gv.to_string(), "version": gv.version});
    let versions: Vec<Value> = group.versions.iter().map(|(gv, _)| entry(gv)).collect();
    json!({"name": group.name, "preferredVersion": versions.first(), "versions": versions})
}

/// `/apis`
pub(super) fn group_list(groups: &[Group]) -> Value {
    let named = groups.iter().filter(|g| !g.name.is_empty());
    let groups: Vec<Value> = named.map(group_value).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/<group>`
pub(super) fn group(groups: &[Group], name: &str) -> Option<Value> {
    let mut value = group_value(groups.iter().find(|g| g.name == name && !name.is_empty())?);
    value["kind"] = json!("APIGroup");
    value["apiVersion"] = json!("v1");
    Some(value)
}

/// `/api/v1` and `/apis/<group>/<version>`
pub(super) fn resource_list(groups: &[Group], group: &str, version: &str) -> Option<Value> {
    let group = groups.iter().find(|g| g.name == group)?;
    let (gv, rows) = group.versions.iter().find(|(gv, _)| gv.version == version)?;
    let Rows::Here(rows) = rows else { return None };
    let mut resources = Vec::new();
    for kind in rows {
        let info = &kind.info;
        let mut entry = json!({
            "name": info.plural,
            "singularName": info.singular,
            "namespaced": info.namespaced,
            "kind": info.kind,
            "verbs": info.verbs,
        });
        if !info.short_names.is_empty() {
            entry["shortNames"] = json!(info.short_names);
        }
        if !info.categories.is_empty() {
            entry["categories"] = json!(info.categories);
        }
        if info.has_verb("watch") {
            let hash = Sha256::digest(format!("{}/{}", info.group, info.plural));
            entry["storageVersionHash"] = json!(base64_of(&hash[..8]));
        }
        resources.push(entry);
        for sub in &info.subresources {
            let mut entry = json!({
                "name": format!("{}/{}", info.plural, sub.name),
                "singularName": "",
                "namespaced": info.namespaced,
                "kind": sub.kind.kind,
                "verbs": sub.verbs,
            });
            if sub.kind.group_version() != *gv {
                entry["group"] = json!(sub.kind.group);
                entry["version"] = json!(sub.kind.version);
            }
            resources.push(entry);
        }
    }
    Some(json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": gv.to_string(),
        "resources": resources,
    }))
}

fn base64_of(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
