//! The apps, batch and autoscaling groups, and replication controllers.

use serde_json::{Value, json};

use super::{core, pod};
use crate::access::{Fields, child, default_text, default_to, each, ensure, is_nil, is_unset, str_of};

/// `ReplicationController`: selector and labels are its template's labels.
pub(super) fn replication_controller(fields: &mut Fields) {
    let spec = ensure(fields, "spec");
    default_to(spec, "replicas", 1);
    pod::template(spec);
    if let Some(labels) = template_labels(spec) {
        if is_unset(spec, "selector") {
            spec.insert("selector".to_owned(), labels.clone());
        }
        default_labels(fields, labels);
    }
}

fn template_labels(spec: &Fields) -> Option<Value> {
    let labels = spec.get("template")?.get("metadata")?.get("labels")?;
    labels
        .as_object()
        .filter(|map| !map.is_empty())
        .map(|_| labels.clone())
}

fn default_labels(fields: &mut Fields, labels: Value) {
    let metadata = ensure(fields, "metadata");
    if is_unset(metadata, "labels") {
        metadata.insert("labels".to_owned(), labels);
    }
}

/// `Deployment`.
pub(super) fn deployment(fields: &mut Fields) {
    let spec = ensure(fields, "spec");
    pod::template(spec);
    default_to(spec, "replicas", 1);
    let strategy = ensure(spec, "strategy");
    default_text(strategy, "type", "RollingUpdate");
    if str_of(strategy, "type") == "RollingUpdate" {
        let rolling = ensure(strategy, "rollingUpdate");
        default_to(rolling, "maxUnavailable", "25%");
        default_to(rolling, "maxSurge", "25%");
    }
    default_to(spec, "revisionHistoryLimit", 10);
    default_to(spec, "progressDeadlineSeconds", 600);
}

/// `ReplicaSet`.
pub(super) fn replica_set(fields: &mut Fields) {
    let spec = ensure(fields, "spec");
    pod::template(spec);
    default_to(spec, "replicas", 1);
}

/// `DaemonSet`.
pub(super) fn daemon_set(fields: &mut Fields) {
    let spec = ensure(fields, "spec");
    pod::template(spec);
    let strategy = ensure(spec, "updateStrategy");
    default_text(strategy, "type", "RollingUpdate");
    if str_of(strategy, "type") == "RollingUpdate" {
        let rolling = ensure(strategy, "rollingUpdate");
        default_to(rolling, "maxUnavailable", 1);
        default_to(rolling, "maxSurge", 0);
    }
    default_to(spec, "revisionHistoryLimit", 10);
}

/// `StatefulSet`.
pub(super) fn stateful_set(fields: &mut Fields) {
    let spec = ensure(fields, "spec");
    pod::template(spec);
    default_text(spec, "podManagementPolicy", "OrderedReady");
    let strategy = ensure(spec, "updateStrategy");
    if is_unset(strategy, "type") {
        default_text(strategy, "type", "RollingUpdate");
        ensure(strategy, "rollingUpdate");
    }
    if str_of(strategy, "type") == "RollingUpdate"
        && let Some(rolling) = child(strategy, "rollingUpdate")
    {
        default_to(rolling, "partition", 0);
    }
    let retention = ensure(spec, "persistentVolumeClaimRetentionPolicy");
    default_text(retention, "whenDeleted", "Retain");
    default_text(retention, "whenScaled", "Retain");
    default_to(spec, "replicas", 1);
    default_to(spec, "revisionHistoryLimit", 10);
    each(spec, "volumeClaimTemplates", |claim| {
        default_text(claim, "apiVersion", "v1");
        default_text(claim, "kind", "PersistentVolumeClaim");
        core::persistent_volume_claim(claim);
    });
}

/// `Job`.
pub(super) fn job(fields: &mut Fields) {
    let spec = ensure(fields, "spec");
    job_spec_template(spec);
    if is_nil(spec, "completions") && is_nil(spec, "parallelism") {
        default_to(spec, "completions", 1);
    }
    default_to(spec, "parallelism", 1);
    if is_nil(spec, "backoffLimit") {
        let per_index = !is_nil(spec, "backoffLimitPerIndex");
        spec.insert(
            "backoffLimit".to_owned(),
            Value::from(if per_index { i32::MAX } else { 6 }),
        );
    }
    default_to(spec, "completionMode", "NonIndexed");
    default_to(spec, "suspend", false);
    if is_nil(spec, "podReplacementPolicy") {
        let policy = if is_nil(spec, "podFailurePolicy") {
            "TerminatingOrFailed"
        } else {
            "Failed"
        };
        spec.insert("podReplacementPolicy".to_owned(), Value::from(policy));
    }
    if let Some(labels) = template_labels(spec) {
        default_labels(fields, labels);
    }
}

/// What jobs and the templates of cron jobs share.
fn job_spec_template(spec: &mut Fields) {
    pod::template(spec);
    if let Some(policy) = child(spec, "podFailurePolicy") {
        each(policy, "rules", |rule| {
            each(rule, "onPodConditions", |pattern| {
                default_text(pattern, "status", "True")
            });
        });
    }
}

/// `CronJob`.
pub(super) fn cron_job(fields: &mut Fields) {
    let spec = ensure(fields, "spec");
    if let Some(job) = child(spec, "jobTemplate").and_then(|template| child(template, "spec")) {
        job_spec_template(job);
    }
    default_text(spec, "concurrencyPolicy", "Allow");
    default_to(spec, "suspend", false);
    default_to(spec, "successfulJobsHistoryLimit", 3);
    default_to(spec, "failedJobsHistoryLimit", 1);
}

/// `HorizontalPodAutoscaler` of autoscaling/v1.
pub(super) fn autoscaler_v1(fields: &mut Fields) {
    let other_metrics = fields
        .get("metadata")
        .and_then(|m| m["annotations"].get("autoscaling.alpha.kubernetes.io/metrics"))
        .is_some();
    let spec = ensure(fields, "spec");
    default_to(spec, "minReplicas", 1);
    if !other_metrics {
        default_to(spec, "targetCPUUtilizationPercentage", 80);
    }
}

/// `HorizontalPodAutoscaler` of autoscaling/v2.
pub(super) fn autoscaler_v2(fields: &mut Fields) {
    let spec = ensure(fields, "spec");
    default_to(spec, "minReplicas", 1);
    if is_unset(spec, "metrics") {
        let target = json!({"type": "Utilization", "averageUtilization": 80});
        let metrics = json!([{"type": "Resource", "resource": {"name": "cpu", "target": target}}]);
        spec.insert("metrics".to_owned(), metrics);
    }
    if let Some(behavior) = child(spec, "behavior") {
        let up = ensure(behavior, "scaleUp");
        default_to(up, "stabilizationWindowSeconds", 0);
        default_to(up, "selectPolicy", "Max");
        if is_nil(up, "policies") {
            let policies = json!([
                {"type": "Pods", "value": 4, "periodSeconds": 15},
                {"type": "Percent", "value": 100, "periodSeconds": 15}]);
            up.insert("policies".to_owned(), policies);
        }
        let down = ensure(behavior, "scaleDown");
        default_to(down, "selectPolicy", "Max");
        if is_nil(down, "policies") {
            let policies = json!([{"type": "Percent", "value": 100, "periodSeconds": 15}]);
            down.insert("policies".to_owned(), policies);
        }
    }
}
