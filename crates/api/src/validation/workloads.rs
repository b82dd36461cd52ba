//! The apps group, replication controllers and pod templates.

use serde_json::Value;

use super::pod;
use super::rules::{
    self, at_most_hundred_percent, int_or_percent, is_zero_amount, label_selector, not_negative,
};
use crate::access::{entries, int, is_empty, items, text};
use crate::field::{Error, ErrorList, Path};
use crate::selector::LabelSelector;

/// `PodTemplate`
pub(super) fn pod_template(errors: &mut ErrorList, _spec: &Path, object: &Value) {
    pod::template(errors, &Path::new("template"), &object["template"]);
}

/// The selector of a workload: given, not empty, and matching its template's labels.
fn selector(errors: &mut ErrorList, path: &Path, spec: &Value, what: &str) {
    let given = &spec["selector"];
    let selector_path = path.child("selector");
    if !given.is_object() {
        errors.push(Error::required(&selector_path, ""));
        return;
    }
    label_selector(errors, &selector_path, given);
    if is_empty(&given["matchLabels"]) && is_empty(&given["matchExpressions"]) {
        errors.push(Error::invalid(
            &selector_path,
            given.clone(),
            format!("empty selector is invalid for {what}"),
        ));
        return;
    }
    let labels = &spec["template"]["metadata"]["labels"];
    let matches = LabelSelector::from_label_selector_value(given)
        .map(|selector| selector.matches_by(|key| labels[key].as_str()));
    match matches {
        Ok(true) => {}
        Ok(false) => labels_do_not_match(errors, path, labels),
        Err(_) => errors.push(Error::invalid(
            &selector_path,
            given.clone(),
            "invalid label selector",
        )),
    }
}

fn labels_do_not_match(errors: &mut ErrorList, path: &Path, labels: &Value) {
    let given = if labels.is_null() {
        serde_json::json!({})
    } else {
        labels.clone()
    };
    let why = "`selector` does not match template `labels`";
    errors.push(Error::invalid(
        &path.children(&["template", "metadata", "labels"]),
        given,
        why,
    ));
}

/// The template of a workload whose pods always run.
fn running_template(errors: &mut ErrorList, path: &Path, spec: &Value, what: &str) {
    let template = &spec["template"];
    pod::template(errors, &path.child("template"), template);
    let path = path.children(&["template", "spec"]);
    let policy = text(&template["spec"], "restartPolicy");
    if policy != "Always" && !policy.is_empty() {
        errors.push(Error::not_supported(
            &path.child("restartPolicy"),
            policy,
            &["Always"],
        ));
    }
    if !template["spec"]["activeDeadlineSeconds"].is_null() {
        let why = format!("activeDeadlineSeconds in {what} is not Supported");
        errors.push(Error::forbidden(&path.child("activeDeadlineSeconds"), why));
    }
}

/// `ReplicationController`
pub(super) fn replication_controller(errors: &mut ErrorList, path: &Path, object: &Value) {
    let spec = &object["spec"];
    for field in ["minReadySeconds", "replicas"] {
        not_negative(errors, path, spec, field);
    }
    if is_empty(&spec["selector"]) {
        errors.push(Error::required(&path.child("selector"), ""));
    }
    if !spec["template"].is_object() {
        errors.push(Error::required(&path.child("template"), ""));
        return;
    }
    let labels = &spec["template"]["metadata"]["labels"];
    if !entries(&spec["selector"]).all(|(key, value)| labels[&**key] == *value) {
        labels_do_not_match(errors, path, labels);
    }
    running_template(errors, path, spec, "ReplicationController");
}

/// `Deployment`
pub(super) fn deployment(errors: &mut ErrorList, path: &Path, object: &Value) {
    let spec = &object["spec"];
    not_negative(errors, path, spec, "replicas");
    selector(errors, path, spec, "deployment");
    running_template(errors, path, spec, "ReplicaSet");
    strategy(errors, &path.child("strategy"), &spec["strategy"]);
    for field in [
        "minReadySeconds",
        "revisionHistoryLimit",
        "progressDeadlineSeconds",
    ] {
        not_negative(errors, path, spec, field);
    }
    if let Some(deadline) = spec["progressDeadlineSeconds"].as_i64()
        && deadline <= int(spec, "minReadySeconds")
    {
        let why = "must be greater than minReadySeconds";
        errors.push(Error::invalid(
            &path.child("progressDeadlineSeconds"),
            deadline,
            why,
        ));
    }
}

fn strategy(errors: &mut ErrorList, path: &Path, strategy: &Value) {
    let rolling = &strategy["rollingUpdate"];
    let rolling_path = path.child("rollingUpdate");
    match text(strategy, "type") {
        "Recreate" if !rolling.is_null() => {
            let why = "may not be specified when strategy `type` is 'Recreate'";
            errors.push(Error::forbidden(&rolling_path, why));
        }
        "RollingUpdate" if rolling.is_null() => {
            let why = "this should be defaulted and never be nil";
            errors.push(Error::required(&rolling_path, why));
        }
        "RollingUpdate" => {
            let (unavailable, surge) = (&rolling["maxUnavailable"], &rolling["maxSurge"]);
            int_or_percent(errors, &rolling_path.child("maxUnavailable"), unavailable);
            int_or_percent(errors, &rolling_path.child("maxSurge"), surge);
            if is_zero_amount(unavailable) && is_zero_amount(surge) {
                let why = "may not be 0 when `maxSurge` is 0";
                errors.push(Error::invalid(
                    &rolling_path.child("maxUnavailable"),
                    unavailable.clone(),
                    why,
                ));
            }
            at_most_hundred_percent(errors, &rolling_path.child("maxUnavailable"), unavailable);
        }
        _ => {}
    }
}

/// `ReplicaSet`
pub(super) fn replica_set(errors: &mut ErrorList, path: &Path, object: &Value) {
    let spec = &object["spec"];
    for field in ["replicas", "minReadySeconds"] {
        not_negative(errors, path, spec, field);
    }
    selector(errors, path, spec, "replicaset");
    running_template(errors, path, spec, "ReplicaSet");
}

/// `DaemonSet`
pub(super) fn daemon_set(errors: &mut ErrorList, path: &Path, object: &Value) {
    let spec = &object["spec"];
    selector(errors, path, spec, "daemonset");
    running_template(errors, path, spec, "DaemonSet");
    for field in ["minReadySeconds", "revisionHistoryLimit"] {
        not_negative(errors, path, spec, field);
    }
    let path = path.child("updateStrategy");
    let strategy = &spec["updateStrategy"];
    let rolling = &strategy["rollingUpdate"];
    if text(strategy, "type") == "RollingUpdate" {
        let path = path.child("rollingUpdate");
        if !rolling.is_object() {
            errors.push(Error::required(&path, ""));
            return;
        }
        let (unavailable, surge) = (&rolling["maxUnavailable"], &rolling["maxSurge"]);
        int_or_percent(errors, &path.child("maxUnavailable"), unavailable);
        at_most_hundred_percent(errors, &path.child("maxUnavailable"), unavailable);
        int_or_percent(errors, &path.child("maxSurge"), surge);
        at_most_hundred_percent(errors, &path.child("maxSurge"), surge);
        if !is_zero_amount(unavailable) && !is_zero_amount(surge) {
            let why = "may not be set when maxUnavailable is non-zero";
            errors.push(Error::invalid(&path.child("maxSurge"), surge.clone(), why));
        } else if is_zero_amount(unavailable) && is_zero_amount(surge) {
            errors.push(Error::required(
                &path.child("maxUnavailable"),
                "cannot be 0 when maxSurge is 0",
            ));
        }
    }
}

/// `StatefulSet`
pub(super) fn stateful_set(errors: &mut ErrorList, path: &Path, object: &Value) {
    let spec = &object["spec"];
    let strategy = &spec["updateStrategy"];
    if text(strategy, "type") == "OnDelete" && strategy["rollingUpdate"].is_object() {
        let why = "only allowed for updateStrategy 'RollingUpdate'";
        let given = strategy["rollingUpdate"].clone();
        errors.push(Error::invalid(
            &path.children(&["updateStrategy", "rollingUpdate"]),
            given,
            why,
        ));
    }
    not_negative(
        errors,
        &path.children(&["updateStrategy", "rollingUpdate"]),
        &strategy["rollingUpdate"],
        "partition",
    );
    for field in ["replicas", "minReadySeconds", "revisionHistoryLimit"] {
        not_negative(errors, path, spec, field);
    }
    not_negative(errors, &path.child("ordinals"), &spec["ordinals"], "start");
    selector(errors, path, spec, "statefulset");
    // Claims made from templates are volumes of the pods.
    let mut with_claims = spec.clone();
    let claims: Vec<Value> = items(&spec["volumeClaimTemplates"])
        .iter()
        .map(|claim| {
            let name = &claim["metadata"]["name"];
            serde_json::json!({"name": name, "persistentVolumeClaim": {"claimName": name}})
        })
        .collect();
    if !claims.is_empty() && with_claims["template"]["spec"].is_object() {
        let given = items(&spec["template"]["spec"]["volumes"]);
        let kept = given
            .iter()
            .filter(|v| !claims.iter().any(|c| c["name"] == v["name"]))
            .cloned();
        let volumes: Vec<Value> = kept.chain(claims.iter().cloned()).collect();
        with_claims["template"]["spec"]["volumes"] = Value::Array(volumes);
    }
    running_template(errors, path, &with_claims, "StatefulSet");
    for (at, claim) in items(&spec["volumeClaimTemplates"]).iter().enumerate() {
        let path = path.child("volumeClaimTemplates").index(at).child("spec");
        super::storage::claim_spec(errors, &path, &claim["spec"]);
    }
}

/// The selector of a workload stays.
pub(super) fn selector_update(errors: &mut ErrorList, path: &Path, new: &Value, old: &Value) {
    rules::immutable(
        errors,
        &path.child("selector"),
        &new["spec"]["selector"],
        &old["spec"]["selector"],
    );
}

/// What of a StatefulSet stays.
pub(super) fn stateful_set_update(errors: &mut ErrorList, path: &Path, new: &Value, old: &Value) {
    const MAY_CHANGE: [&str; 7] = [
        "replicas",
        "ordinals",
        "template",
        "updateStrategy",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
        "minReadySeconds",
    ];
    let fixed = |object: &Value| {
        let mut spec = object["spec"].clone();
        if let Some(fields) = spec.as_object_mut() {
            fields.retain(|name, _| !MAY_CHANGE.contains(&&**name));
        }
        spec
    };
    if fixed(new) != fixed(old) {
        let why = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', \
                   'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and \
                   'minReadySeconds' are forbidden";
        errors.push(Error::forbidden(path, why));
    }
}

/// The data of a revision stays.
pub(super) fn controller_revision_update(errors: &mut ErrorList, _spec: &Path, new: &Value, old: &Value) {
    rules::immutable(errors, &Path::new("data"), &new["data"], &old["data"]);
}
