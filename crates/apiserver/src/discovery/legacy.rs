//! APIVersions, APIGroupList, APIGroup and APIResourceList.

use keelson_api::gvk::GroupVersion;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::aggregated::group_versions;
use crate::registry::KindTable;

/// `/api`
pub(super) fn versions(address: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    })
}

fn groups(table: &KindTable) -> Vec<(String, Vec<GroupVersion>)> {
    let mut groups: Vec<(String, Vec<GroupVersion>)> = Vec::new();
    for (gv, _) in group_versions(table) {
        if gv.group.is_empty() {
            continue;
        }
        match groups.iter_mut().find(|(group, _)| *group == gv.group) {
            Some((_, versions)) => versions.push(gv),
            None => groups.push((gv.group.to_string(), vec![gv])),
        }
    }
    groups
}

fn group_value(group: &str, versions: &[GroupVersion]) -> Value {
    let entry = |gv: &GroupVersion| json!({"groupVersion": gv.to_string(), "version": gv.version});
    json!({
        "name": group,
        "versions": versions.iter().map(entry).collect::<Vec<_>>(),
        "preferredVersion": entry(&versions[0]),
    })
}

/// `/apis`
pub(super) fn group_list(table: &KindTable) -> Value {
    let groups: Vec<Value> = groups(table).iter().map(|(g, v)| group_value(g, v)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/<group>`
pub(super) fn group(table: &KindTable, name: &str) -> Option<Value> {
    let groups = groups(table);
    let (group, versions) = groups.iter().find(|(g, _)| g == name)?;
    let mut value = group_value(group, versions);
    value["kind"] = json!("APIGroup");
    value["apiVersion"] = json!("v1");
    Some(value)
}

/// `/api/v1` and `/apis/<group>/<version>`
pub(super) fn resource_list(table: &KindTable, group: &str, version: &str) -> Option<Value> {
    let all = group_versions(table);
    let (gv, rows) = all
        .iter()
        .find(|(gv, _)| gv.group == group && gv.version == version)?;
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
