//! Workloads, and the budgets that protect them.

use jiff::Timestamp;
use serde_json::Value;

use super::format::{
    age, containers, human_duration, is_deleting, labels, name, seconds_between, selector, selector_or_none,
    since, timestamp, truth,
};
use crate::access::{flag, int, items, text};
use crate::gvk::{GroupKind, GroupVersion};

fn counts(part: &Value, fields: &[&str]) -> Vec<Value> {
    fields.iter().map(|field| Value::from(int(part, field))).collect()
}

/// `PodTemplate`.
pub(super) fn pod_template(template: &Value, _now: Timestamp) -> Vec<Value> {
    let mut row = vec![name(template)];
    row.extend(containers(&template["template"]));
    row.push(Value::from(labels(&template["template"]["metadata"]["labels"])));
    row
}

fn replicated(object: &Value, now: Timestamp, selector: String) -> Vec<Value> {
    let mut row = vec![name(object), Value::from(int(&object["spec"], "replicas"))];
    row.extend(counts(&object["status"], &["replicas", "readyReplicas"]));
    row.push(age(object, now));
    row.extend(containers(&object["spec"]["template"]));
    row.push(Value::from(selector));
    row
}

/// `ReplicationController`.
pub(super) fn replication_controller(object: &Value, now: Timestamp) -> Vec<Value> {
    replicated(object, now, labels(&object["spec"]["selector"]))
}

/// `ReplicaSet`.
pub(super) fn replica_set(object: &Value, now: Timestamp) -> Vec<Value> {
    replicated(object, now, selector_or_none(&object["spec"]["selector"]))
}

fn ready(object: &Value) -> Value {
    Value::from(format!(
        "{}/{}",
        int(&object["status"], "readyReplicas"),
        int(&object["spec"], "replicas")
    ))
}

/// `Deployment`.
pub(super) fn deployment(object: &Value, now: Timestamp) -> Vec<Value> {
    let mut row = vec![name(object), ready(object)];
    // These columns are strings, but upstream fills them with numbers.
    row.extend(counts(
        &object["status"],
        &["updatedReplicas", "availableReplicas"],
    ));
    row.push(age(object, now));
    row.extend(containers(&object["spec"]["template"]));
    row.push(Value::from(selector(&object["spec"]["selector"])));
    row
}

/// `StatefulSet`.
pub(super) fn stateful_set(object: &Value, now: Timestamp) -> Vec<Value> {
    let mut row = vec![name(object), ready(object), age(object, now)];
    row.extend(containers(&object["spec"]["template"]));
    row
}

/// `DaemonSet`.
pub(super) fn daemon_set(object: &Value, now: Timestamp) -> Vec<Value> {
    const COUNTS: [&str; 5] = [
        "desiredNumberScheduled",
        "currentNumberScheduled",
        "numberReady",
        "updatedNumberScheduled",
        "numberAvailable",
    ];
    let mut row = vec![name(object)];
    row.extend(counts(&object["status"], &COUNTS));
    row.push(Value::from(labels(
        &object["spec"]["template"]["spec"]["nodeSelector"],
    )));
    row.push(age(object, now));
    row.extend(containers(&object["spec"]["template"]));
    row.push(Value::from(selector_or_none(&object["spec"]["selector"])));
    row
}

/// `ControllerRevision`.
pub(super) fn controller_revision(object: &Value, now: Timestamp) -> Vec<Value> {
    let owner = items(&object["metadata"]["ownerReferences"])
        .iter()
        .find(|owner| flag(owner, "controller"));
    let controller = owner.map_or_else(
        || "<none>".to_owned(),
        |owner| {
            let group = GroupVersion::parse(text(owner, "apiVersion"))
                .map(|gv| gv.group)
                .unwrap_or_default();
            let kind = GroupKind::new(group, text(owner, "kind").to_owned())
                .to_string()
                .to_lowercase();
            format!("{kind}/{}", text(owner, "name"))
        },
    );
    vec![
        name(object),
        Value::from(controller),
        Value::from(int(object, "revision")),
        age(object, now),
    ]
}

/// `Job`.
pub(super) fn job(job: &Value, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (&job["spec"], &job["status"]);
    let succeeded = int(status, "succeeded");
    let completions = match (spec["completions"].as_i64(), int(spec, "parallelism")) {
        (Some(completions), _) => format!("{succeeded}/{completions}"),
        (None, parallelism) if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        (None, _) => format!("{succeeded}/1"),
    };
    let duration = match (
        timestamp(&status["startTime"]),
        timestamp(&status["completionTime"]),
    ) {
        (None, _) => String::new(),
        (Some(start), end) => human_duration(seconds_between(start, end.unwrap_or(now))),
    };
    let has = |kind: &str| {
        items(&status["conditions"])
            .iter()
            .find(|c| c["type"] == kind)
            .is_some_and(|c| c["status"] == "True")
    };
    let state = match () {
        () if has("Complete") => "Complete",
        () if has("Failed") => "Failed",
        () if is_deleting(job) => "Terminating",
        () if has("Suspended") => "Suspended",
        () if has("FailureTarget") => "FailureTarget",
        () if has("SuccessCriteriaMet") => "SuccessCriteriaMet",
        () => "Running",
    };
    let mut row = vec![
        name(job),
        Value::from(state),
        Value::from(completions),
        Value::from(duration),
        age(job, now),
    ];
    row.extend(containers(&spec["template"]));
    row.push(Value::from(selector_or_none(&spec["selector"])));
    row
}

/// `CronJob`.
pub(super) fn cron_job(object: &Value, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let last = match &status["lastScheduleTime"] {
        Value::Null => "<none>".to_owned(),
        time => since(time, now),
    };
    let mut row = vec![
        name(object),
        Value::from(text(spec, "schedule")),
        Value::from(spec["timeZone"].as_str().unwrap_or("<none>")),
        truth(&spec["suspend"]),
        Value::from(items(&status["active"]).len()),
        Value::from(last),
        age(object, now),
    ];
    row.extend(containers(&spec["jobTemplate"]["spec"]["template"]));
    row.push(Value::from(selector_or_none(
        &spec["jobTemplate"]["spec"]["selector"],
    )));
    row
}

/// `PodDisruptionBudget`.
pub(super) fn disruption_budget(object: &Value, now: Timestamp) -> Vec<Value> {
    let amount = |field: &str| match &object["spec"][field] {
        Value::Number(number) => Value::from(number.to_string()),
        Value::String(text) => Value::from(text.as_str()),
        _ => Value::from("N/A"),
    };
    vec![
        name(object),
        amount("minAvailable"),
        amount("maxUnavailable"),
        Value::from(int(&object["status"], "disruptionsAllowed")),
        age(object, now),
    ]
}
