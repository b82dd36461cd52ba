//! The default RBAC objects, read from a table.

use serde_json::{Map, Value, json};

use crate::authorization::PolicyRule;

const TABLE: &str = include_str!("policy.txt");
const API: &str = "rbac.authorization.k8s.io";
const READ: &str = "get,list,watch";
const WRITE: &str = "create,delete,deletecollection,patch,update";
const ALL: &str = "create,delete,deletecollection,get,list,patch,update,watch";

/// All objects, in the order of the table.
pub(super) fn objects() -> Vec<Value> {
    let mut all: Vec<Value> = Vec::new();
    // The object that rules are added to; a controller's role stands before its binding.
    let mut role = 0;
    for line in TABLE
        .lines()
        .filter(|l| !l.trim().is_empty() && !l.starts_with('#'))
    {
        let words: Vec<&str> = line.split_whitespace().collect();
        if line.starts_with(' ') {
            if let Some(Value::Array(rules)) = all[role].get_mut("rules") {
                rules.push(rule(&words));
            }
            continue;
        }
        let next = all.len();
        match words.as_slice() {
            ["role", name, options @ ..] => {
                role = next;
                all.push(cluster_role(name, options));
            }
            ["nsrole", namespace, name] => {
                role = next;
                let mut object = object("Role", name);
                object["metadata"]["namespace"] = (*namespace).into();
                object["rules"] = json!([]);
                all.push(object);
            }
            ["controller", name] => {
                role = next;
                let full = format!("system:controller:{name}");
                all.push(cluster_role(&full, &[]));
                all.push(binding(None, &full, &full, &[&format!("s:kube-system/{name}")]));
            }
            ["bind", name, target, subjects @ ..] => all.push(binding(None, name, target, subjects)),
            ["nsbind", namespace, name, target, subjects @ ..] => {
                all.push(binding(Some(namespace), name, target, subjects));
            }
            _ => unreachable!("invariant: the table is part of the program and tested"),
        }
    }
    all
}

/// The rules of `system:node`, which the Node authorizer goes by.
pub(crate) fn node_rules() -> Vec<PolicyRule> {
    let roles = objects();
    let role = roles
        .iter()
        .find(|o| o["kind"] == "ClusterRole" && o["metadata"]["name"] == "system:node");
    PolicyRule::of_role(role.expect("invariant: the table has system:node"))
}

fn object(kind: &str, name: &str) -> Value {
    json!({
        "apiVersion": format!("{API}/v1"),
        "kind": kind,
        "metadata": {
            "name": name,
            "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"},
            "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
        },
    })
}

fn cluster_role(name: &str, options: &[&str]) -> Value {
    let mut role = object("ClusterRole", name);
    role["rules"] = json!([]);
    for option in options {
        match option.split_once('=') {
            Some(("aggregates", label)) => {
                let label = format!("{API}/aggregate-to-{label}");
                role["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": {label: "true"}}]});
                // Filled by the aggregation controller.
                role["rules"] = Value::Null;
            }
            Some(("to", label)) => {
                role["metadata"]["labels"][format!("{API}/aggregate-to-{label}")] = "true".into();
            }
            _ => unreachable!("invariant: the table is part of the program and tested"),
        }
    }
    role
}

fn rule(words: &[&str]) -> Value {
    let list = |text: &str| -> Vec<String> {
        text.split(',')
            .map(|w| if w == "core" { String::new() } else { w.to_owned() })
            .collect()
    };
    let plain = |text: &str| -> Vec<String> { text.split(',').map(str::to_owned).collect() };
    let verbs = |text: &str| match text {
        "@r" => plain(READ),
        "@w" => plain(WRITE),
        "@rw" => plain(ALL),
        other => plain(other),
    };
    match words {
        ["events"] => {
            json!({"apiGroups": ["", "events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch", "update"]})
        }
        [v, "url", urls] => json!({"nonResourceURLs": plain(urls), "verbs": verbs(v)}),
        [v, groups, resources] => {
            json!({"apiGroups": list(groups), "resources": plain(resources), "verbs": verbs(v)})
        }
        [v, groups, resources, names] => json!({
            "apiGroups": list(groups), "resourceNames": plain(names), "resources": plain(resources), "verbs": verbs(v),
        }),
        _ => unreachable!("invariant: the table is part of the program and tested"),
    }
}

fn binding(namespace: Option<&str>, name: &str, target: &str, subjects: &[&str]) -> Value {
    let mut binding = object(
        if namespace.is_some() {
            "RoleBinding"
        } else {
            "ClusterRoleBinding"
        },
        name,
    );
    let role_kind = if namespace.is_some() {
        "Role"
    } else {
        "ClusterRole"
    };
    if let Some(namespace) = namespace {
        binding["metadata"]["namespace"] = namespace.into();
    }
    binding["roleRef"] = json!({"apiGroup": API, "kind": role_kind, "name": target});
    let subjects: Vec<Value> = subjects.iter().map(|s| subject(s)).collect();
    if !subjects.is_empty() {
        binding["subjects"] = subjects.into();
    }
    binding
}

fn subject(text: &str) -> Value {
    let (kind, name) = text.split_once(':').unwrap_or(("u", text));
    match kind {
        "g" => json!({"apiGroup": API, "kind": "Group", "name": name}),
        "s" => {
            let (namespace, name) = name.split_once('/').unwrap_or(("kube-system", name));
            json!({"kind": "ServiceAccount", "name": name, "namespace": namespace})
        }
        _ => json!({"apiGroup": API, "kind": "User", "name": name}),
    }
}

/// What has to be written so that `existing` has everything of `wanted`; `None` when it has. Nothing is taken away, and
/// what is marked `autoupdate: "false"` is left alone. A binding of another role is answered with [`Reconciled::Replace`].
pub(super) fn reconcile(existing: &Value, wanted: &Value) -> Reconciled {
    let annotation = "/metadata/annotations/rbac.authorization.kubernetes.io~1autoupdate";
    if existing.pointer(annotation).and_then(Value::as_str) == Some("false") {
        return Reconciled::Nothing;
    }
    if wanted.get("roleRef").is_some() && wanted.get("roleRef") != existing.get("roleRef") {
        return Reconciled::Replace;
    }
    let mut new = existing.clone();
    for field in ["labels", "annotations"] {
        let target = &mut new["metadata"][field];
        if !target.is_object() {
            *target = Value::Object(Map::new());
        }
        for (key, value) in wanted["metadata"][field].as_object().into_iter().flatten() {
            if target.get(key).is_none() {
                target[key] = value.clone();
            }
        }
    }
    if let Some(rule) = wanted.get("aggregationRule") {
        add_missing(
            &mut new["aggregationRule"]["clusterRoleSelectors"],
            &rule["clusterRoleSelectors"],
        );
    } else if wanted.get("rules").is_some() {
        let missing =
            crate::authorization::uncovered(&PolicyRule::of_role(existing), &PolicyRule::of_role(wanted));
        let missing: Vec<Value> = missing.iter().map(|rule| json!(rule)).collect();
        add_missing(&mut new["rules"], &Value::Array(missing));
    }
    if let Some(subjects) = wanted.get("subjects") {
        add_missing(&mut new["subjects"], subjects);
    }
    if new == *existing {
        Reconciled::Nothing
    } else {
        Reconciled::Update(new)
    }
}

/// The outcome of [`reconcile`].
#[derive(Debug, PartialEq)]
pub(super) enum Reconciled {
    /// All is there.
    Nothing,
    /// Write this.
    Update(Value),
    /// Delete the object and create it anew: a binding's role cannot be changed.
    Replace,
}

fn add_missing(list: &mut Value, wanted: &Value) {
    let wanted = wanted.as_array().map(Vec::as_slice).unwrap_or_default();
    if wanted.is_empty() {
        return;
    }
    if !list.is_array() {
        *list = json!([]);
    }
    if let Value::Array(items) = list {
        for item in wanted {
            if !items.contains(item) {
                items.push(item.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn the_table_is_sound() {
        let all = objects();
        let key = |o: &Value| {
            format!(
                "{} {} {}",
                o["kind"], o["metadata"]["namespace"], o["metadata"]["name"]
            )
        };
        let keys: HashSet<String> = all.iter().map(key).collect();
        assert_eq!(keys.len(), all.len(), "each object once");
        for object in &all {
            if let Some(role) = object.get("roleRef") {
                let namespace = if role["kind"] == "Role" {
                    &object["metadata"]["namespace"]
                } else {
                    &Value::Null
                };
                let target = format!("{} {namespace} {}", role["kind"], role["name"]);
                assert!(keys.contains(&target), "{target} of {}", key(object));
            } else if object.get("aggregationRule").is_none() {
                let rules = PolicyRule::of_role(object);
                assert_eq!(rules.len(), object["rules"].as_array().unwrap().len());
                assert!(!rules.is_empty(), "{}", key(object));
            }
        }
        assert!(all.len() >= 150, "{}", all.len());
        let get = |kind: &str, name: &str| {
            all.iter()
                .find(|o| o["kind"] == kind && o["metadata"]["name"] == name)
                .unwrap()
                .clone()
        };
        let pods = get("ClusterRole", "system:aggregate-to-view")["rules"][0].clone();
        assert_eq!(pods["apiGroups"], json!([""]));
        assert_eq!(pods["verbs"], json!(["get", "list", "watch"]));
        assert_eq!(
            get("ClusterRole", "view")["metadata"]["labels"][format!("{API}/aggregate-to-edit")],
            "true"
        );
        assert_eq!(
            get("ClusterRoleBinding", "system:controller:job-controller")["subjects"],
            json!([{"kind": "ServiceAccount", "name": "job-controller", "namespace": "kube-system"}])
        );
        assert!(node_rules().len() > 20);
    }

    #[test]
    fn merged_and_never_taken_away() {
        let wanted = rule_of(json!([{"apiGroups": [""], "resources": ["pods", "nodes"], "verbs": ["get"]}]));
        assert_eq!(reconcile(&wanted, &wanted), Reconciled::Nothing);
        let more = json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "delete"]}]);
        assert_eq!(reconcile(&rule_of(more), &wanted), Reconciled::Nothing);
        let less = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]);
        let Reconciled::Update(new) = reconcile(&rule_of(less), &wanted) else {
            panic!("an update")
        };
        assert_eq!(new["rules"].as_array().unwrap().len(), 2);
        assert_eq!(reconcile(&new, &wanted), Reconciled::Nothing);
        let mut left = rule_of(json!([]));
        left["metadata"]["annotations"]["rbac.authorization.kubernetes.io/autoupdate"] = "false".into();
        assert_eq!(reconcile(&left, &wanted), Reconciled::Nothing);
        let bind = |role: &str, subjects: &[&str]| binding(None, "b", role, subjects);
        assert_eq!(reconcile(&bind("x", &[]), &bind("y", &[])), Reconciled::Replace);
        let Reconciled::Update(new) = reconcile(&bind("x", &["u:a"]), &bind("x", &["g:b"])) else {
            panic!("an update")
        };
        assert_eq!(new["subjects"].as_array().unwrap().len(), 2);
    }

    fn rule_of(rules: Value) -> Value {
        let mut role = object("ClusterRole", "r");
        role["rules"] = rules;
        role
    }
}
