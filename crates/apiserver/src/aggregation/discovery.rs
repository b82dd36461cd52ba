//! What is served by whom, in the order of discovery.

use std::sync::Arc;

use keelson_api::gvk::GroupVersion;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::priorities;
use super::view::{Document, View};
use crate::registry::{Kind, KindTable};

/// Who serves a version.
pub(crate) enum Rows {
    /// The registry: these rows, sorted by name.
    Here(Vec<Arc<Kind>>),
    /// Somebody else; `None` while they have not said what they serve.
    Elsewhere(Option<Arc<Document>>),
}

/// A group with its versions, the preferred one first.
pub(crate) struct Group {
    pub(crate) name: String,
    pub(crate) versions: Vec<(GroupVersion, Rows)>,
}

struct Version {
    gv: GroupVersion,
    rows: Rows,
    priority: (i64, i64),
}

/// All groups in order; the core group is the first.
pub(crate) fn groups(table: &KindTable, view: &View) -> Vec<Group> {
    let mut versions: Vec<Version> = Vec::new();
    let of_service = |gv: &GroupVersion| {
        let entry = view
            .entries
            .iter()
            .find(|e| gv.group == e.group && gv.version == e.version)?;
        Some((entry.group_priority, entry.version_priority))
    };
    for kind in table.rows() {
        let gv = kind.info.group_version();
        if let Some(known) = versions.iter_mut().find(|v| v.gv == gv) {
            if let Rows::Here(rows) = &mut known.rows {
                rows.push(kind.clone());
            }
            continue;
        }
        let priority = priorities::of(&gv.group, &gv.version).or_else(|| of_service(&gv));
        versions.push(Version {
            rows: Rows::Here(vec![kind.clone()]),
            priority: priority.unwrap_or(priorities::CUSTOM),
            gv,
        });
    }
    for version in &mut versions {
        if let Rows::Here(rows) = &mut version.rows {
            rows.sort_by(|a, b| a.info.plural.cmp(&b.info.plural));
        }
    }
    for entry in view.elsewhere() {
        let gv = GroupVersion::new(entry.group.clone(), entry.version.clone());
        let rows = Rows::Elsewhere(view.documents.get(&entry.name).cloned());
        let priority = (entry.group_priority, entry.version_priority);
        match versions.iter_mut().find(|v| v.gv == gv) {
            Some(known) => known.rows = rows,
            None => versions.push(Version { gv, rows, priority }),
        }
    }
    let mut groups: Vec<(i64, Vec<Version>)> = Vec::new();
    for version in versions {
        match groups
            .iter_mut()
            .find(|(_, known)| known[0].gv.group == version.gv.group)
        {
            Some((priority, known)) => {
                *priority = (*priority).max(version.priority.0);
                known.push(version);
            }
            None => groups.push((version.priority.0, vec![version])),
        }
    }
    // Built-in groups come in their order; the others among them by priority, then by name.
    groups.sort_by(|(left, a), (right, b)| {
        let built_in = |v: &[Version]| priorities::of(&v[0].gv.group, &v[0].gv.version).is_some();
        right.cmp(left).then_with(|| match (built_in(a), built_in(b)) {
            (true, true) => std::cmp::Ordering::Equal,
            (true, false) => std::cmp::Ordering::Less,
            (false, true) => std::cmp::Ordering::Greater,
            (false, false) => a[0].gv.group.cmp(&b[0].gv.group),
        })
    });
    groups
        .into_iter()
        .map(|(_, mut versions)| {
            versions.sort_by(|a, b| {
                b.priority
                    .1
                    .cmp(&a.priority.1)
                    .then_with(|| priorities::compare_versions(&a.gv.version, &b.gv.version))
            });
            Group {
                name: versions[0].gv.group.to_string(),
                versions: versions.into_iter().map(|v| (v.gv, v.rows)).collect(),
            }
        })
        .collect()
}

/// An APIResourceList as `resources` of apidiscovery.k8s.io/v2.
pub(crate) fn remote_resources(gv: &GroupVersion, list: &Value) -> Vec<Value> {
    let all = || list["resources"].as_array().into_iter().flatten();
    let kind = |r: &Value| {
        let or = |field: &str, other: &str| match r[field].as_str() {
            Some(given) if !given.is_empty() => given.to_owned(),
            _ => other.to_owned(),
        };
        json!({"group": or("group", &gv.group), "version": or("version", &gv.version), "kind": r["kind"]})
    };
    let name = |r: &Value| r["name"].as_str().unwrap_or_default().to_owned();
    all()
        .filter(|r| !name(r).contains('/'))
        .map(|r| {
            let mut entry = json!({
                "resource": name(r),
                "responseKind": kind(r),
                "scope": if r["namespaced"] == true { "Namespaced" } else { "Cluster" },
                "singularResource": r["singularName"].as_str().unwrap_or_default(),
                "verbs": r["verbs"],
            });
            for field in ["shortNames", "categories"] {
                if r[field].as_array().is_some_and(|v| !v.is_empty()) {
                    entry[field] = r[field].clone();
                }
            }
            let prefix = format!("{}/", name(r));
            let subresources: Vec<Value> = all()
                .filter_map(|sub| {
                    let own = name(sub);
                    let own = own.strip_prefix(&prefix)?;
                    Some(json!({"subresource": own, "responseKind": kind(sub), "verbs": sub["verbs"]}))
                })
                .collect();
            if !subresources.is_empty() {
                entry["subresources"] = subresources.into();
            }
            entry
        })
        .collect()
}

/// A hash of an OpenAPI document, for the index.
pub(crate) fn openapi_hash(document: &Value) -> String {
    hex::encode_upper(Sha256::digest(document.to_string()))
}
