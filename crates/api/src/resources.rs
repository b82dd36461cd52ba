//! The table of resources: what discovery lists and the registry serves.
//!
//! Built-in rows come from `data/resources.tsv` and are parsed once; a custom resource is the same row built at run
//! time. The order of the table is the order of upstream's discovery.

use std::collections::HashMap;
use std::sync::LazyLock;

use crate::gvk::{GroupKind, GroupResource, GroupVersion, GroupVersionKind, GroupVersionResource, Str};

static TABLE: &str = include_str!("data/resources.tsv");

/// The eight verbs of a fully served resource, in discovery's order.
pub const ALL_VERBS: [&str; 8] = [
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];

/// One served resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceInfo {
    /// API group; empty for the core group.
    pub group: Str,
    /// Version within the group.
    pub version: Str,
    /// Kind of one object.
    pub kind: Str,
    /// Kind of a list of them.
    pub list_kind: Str,
    /// Lower-case plural: the path segment.
    pub plural: Str,
    /// Lower-case singular.
    pub singular: Str,
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    /// Short names (`po`).
    pub short_names: Vec<Str>,
    /// Categories (`all`).
    pub categories: Vec<Str>,
    /// Verbs in discovery's (alphabetical) order.
    pub verbs: Vec<Str>,
    /// Subresources in alphabetical order.
    pub subresources: Vec<Subresource>,
}

/// A subresource of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subresource {
    /// Path segment after the object's name.
    pub name: Str,
    /// Verbs in discovery's order.
    pub verbs: Vec<Str>,
    /// Kind that its requests and answers carry.
    pub kind: GroupVersionKind,
}

impl ResourceInfo {
    /// Group and version.
    pub fn group_version(&self) -> GroupVersion {
        GroupVersion {
            group: self.group.clone(),
            version: self.version.clone(),
        }
    }

    /// Group, version and kind of one object.
    pub fn gvk(&self) -> GroupVersionKind {
        self.group_version().with_kind(self.kind.clone())
    }

    /// Group, version and kind of a list.
    pub fn list_gvk(&self) -> GroupVersionKind {
        self.group_version().with_kind(self.list_kind.clone())
    }

    /// Group, version and resource.
    pub fn gvr(&self) -> GroupVersionResource {
        self.group_version().with_resource(self.plural.clone())
    }

    /// Group and resource, as error messages name it.
    pub fn group_resource(&self) -> GroupResource {
        GroupResource {
            group: self.group.clone(),
            resource: self.plural.clone(),
        }
    }

    /// Group and kind, as validation messages name it.
    pub fn group_kind(&self) -> GroupKind {
        GroupKind {
            group: self.group.clone(),
            kind: self.kind.clone(),
        }
    }

    /// Whether the resource itself serves a verb.
    pub fn has_verb(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == verb)
    }

    /// The subresource of this name.
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }

    /// Whether objects have a status subresource.
    pub fn has_status(&self) -> bool {
        self.subresource("status").is_some()
    }
}

impl Subresource {
    /// Whether the subresource serves a verb.
    pub fn has_verb(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == verb)
    }
}

struct Index {
    rows: Vec<ResourceInfo>,
    by_gvr: HashMap<(&'static str, &'static str, &'static str), usize>,
    by_gvk: HashMap<(&'static str, &'static str, &'static str), usize>,
}

static INDEX: LazyLock<Index> = LazyLock::new(|| {
    let mut index = Index {
        rows: Vec::new(),
        by_gvr: HashMap::new(),
        by_gvk: HashMap::new(),
    };
    for line in TABLE.lines().filter(|line| !line.starts_with('#')) {
        let fields: Vec<&'static str> = line.split('\t').collect();
        let [
            group,
            version,
            kind,
            plural,
            scope,
            short_names,
            categories,
            verbs,
            subresources,
        ] = fields[..]
        else {
            panic!("invariant: nine columns in resources.tsv: {line}");
        };
        let group = empty_if_dash(group);
        let at = index.rows.len();
        index.by_gvr.insert((group, version, plural), at);
        index.by_gvk.insert((group, version, kind), at);
        index.rows.push(ResourceInfo {
            group: group.into(),
            version: version.into(),
            kind: kind.into(),
            list_kind: format!("{kind}List").into(),
            plural: plural.into(),
            singular: kind.to_lowercase().into(),
            namespaced: scope == "N",
            short_names: split(short_names, ','),
            categories: split(categories, ','),
            verbs: parse_verbs(verbs),
            subresources: empty_if_dash(subresources)
                .split_whitespace()
                .map(|s| parse_subresource(s, group, version, kind))
                .collect(),
        });
    }
    index
});

fn empty_if_dash(field: &'static str) -> &'static str {
    if field == "-" { "" } else { field }
}

fn split(field: &'static str, by: char) -> Vec<Str> {
    empty_if_dash(field)
        .split(by)
        .filter(|s| !s.is_empty())
        .map(Str::from)
        .collect()
}

fn parse_verbs(field: &'static str) -> Vec<Str> {
    match field {
        "*" => ALL_VERBS.iter().map(|v| Str::from(*v)).collect(),
        _ => field
            .split(',')
            .flat_map(|v| {
                if v == "rw" {
                    vec!["get", "patch", "update"]
                } else {
                    vec![v]
                }
            })
            .map(Str::from)
            .collect(),
    }
}

fn parse_subresource(
    text: &'static str,
    group: &'static str,
    version: &'static str,
    parent: &'static str,
) -> Subresource {
    let (name, rest) = text.split_once(':').unwrap_or((text, ""));
    let (verbs, kind) = rest.split_once('>').unwrap_or((rest, parent));
    let parts: Vec<&'static str> = kind.split('/').collect();
    let kind = match parts[..] {
        [group, version, kind] => GroupVersionKind::new(group, version, kind),
        _ => GroupVersionKind::new(group, version, kind),
    };
    Subresource {
        name: name.into(),
        verbs: parse_verbs(verbs),
        kind,
    }
}

/// Every built-in resource, in discovery's order.
pub fn builtin() -> &'static [ResourceInfo] {
    &INDEX.rows
}

/// The built-in resource of this group, version and plural name.
pub fn by_gvr(group: &str, version: &str, plural: &str) -> Option<&'static ResourceInfo> {
    let index: &'static Index = &INDEX;
    lookup(&index.by_gvr, group, version, plural).map(|at| &index.rows[at])
}

/// The built-in resource of this group, version and kind.
pub fn by_gvk(group: &str, version: &str, kind: &str) -> Option<&'static ResourceInfo> {
    let index: &'static Index = &INDEX;
    lookup(&index.by_gvk, group, version, kind).map(|at| &index.rows[at])
}

fn lookup<'a>(
    map: &HashMap<(&'a str, &'a str, &'a str), usize>,
    group: &'a str,
    version: &'a str,
    name: &'a str,
) -> Option<usize> {
    map.get(&(group, version, name)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_complete() {
        assert_eq!(builtin().len(), 68);
        let mut count = 0;
        for row in builtin() {
            assert_eq!(by_gvr(&row.group, &row.version, &row.plural), Some(row));
            assert_eq!(by_gvk(&row.group, &row.version, &row.kind), Some(row));
            count += row.subresources.len();
            assert!(
                row.subresources.is_sorted_by(|a, b| a.name < b.name),
                "{}",
                row.plural
            );
        }
        assert!(count > 40);
    }

    #[test]
    fn subresource_kinds() {
        let check = |gvr: (&str, &str, &str), sub: &str, kind: &str, verbs: usize| {
            let row = by_gvr(gvr.0, gvr.1, gvr.2).expect("row");
            let sub = row.subresource(sub).expect("subresource");
            assert_eq!(sub.kind.to_string(), kind);
            assert_eq!(sub.verbs.len(), verbs);
        };
        check(
            ("apps", "v1", "deployments"),
            "scale",
            "autoscaling/v1, Kind=Scale",
            3,
        );
        check(
            ("apps", "v1", "deployments"),
            "status",
            "apps/v1, Kind=Deployment",
            3,
        );
        check(("", "v1", "pods"), "eviction", "policy/v1, Kind=Eviction", 1);
        check(("", "v1", "pods"), "status", "/v1, Kind=Pod", 3);
        check(("", "v1", "nodes"), "proxy", "/v1, Kind=NodeProxyOptions", 5);
        assert!(
            by_gvr("", "v1", "namespaces").is_some_and(|n| !n.has_verb("deletecollection") && !n.namespaced)
        );
    }
}
