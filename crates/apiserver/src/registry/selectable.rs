//! Fields that field selectors may name, per kind. `metadata.name` and `metadata.namespace` hold for every kind.

use crate::watch_cache::SelectableField;

/// (group, plural, fields): `label=path?fallback|default`; all but the label may be left out.
const TABLE: &[(&str, &str, &[&str])] = &[
    (
        "",
        "pods",
        &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork|false",
            "status.phase",
            "status.podIP",
            "status.podIPs=status.podIP",
            "status.nominatedNodeName",
        ],
    ),
    (
        "",
        "events",
        &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source=source.component?reportingComponent",
            "type",
        ],
    ),
    ("", "nodes", &["spec.unschedulable|false"]),
    ("", "namespaces", &["status.phase", "name=metadata.name"]),
    ("", "secrets", &["type"]),
    ("", "services", &["spec.clusterIP", "spec.type"]),
    ("", "persistentvolumes", &["name=metadata.name"]),
    ("", "persistentvolumeclaims", &["name=metadata.name"]),
    ("", "replicationcontrollers", &["status.replicas|0"]),
    ("apps", "replicasets", &["status.replicas|0"]),
    ("batch", "jobs", &["status.successful=status.succeeded|0"]),
    (
        "certificates.k8s.io",
        "certificatesigningrequests",
        &["spec.signerName"],
    ),
    (
        "resource.k8s.io",
        "resourceslices",
        &["spec.nodeName", "spec.driver"],
    ),
];

/// The selectable fields of a built-in kind besides `metadata.name` and `metadata.namespace`.
pub(super) fn selectable_fields(group: &str, resource: &str) -> Vec<SelectableField> {
    let rows = TABLE
        .iter()
        .find(|(g, r, _)| *g == group && *r == resource)
        .map_or(&[][..], |row| row.2);
    rows.iter()
        .map(|text| {
            let (text, default) = text.split_once('|').unwrap_or((text, ""));
            let (text, fallback) = text.split_once('?').unwrap_or((text, ""));
            let (label, path) = text.split_once('=').unwrap_or((text, text));
            let parts = |path: &str| path.split('.').map(str::to_owned).collect();
            SelectableField {
                label: label.to_owned(),
                path: parts(path),
                fallback: if fallback.is_empty() {
                    Vec::new()
                } else {
                    parts(fallback)
                },
                default: default.to_owned(),
            }
        })
        .collect()
}
