//! Autoscalers and disruption budgets.

use serde_json::Value;

use super::rules::{self, at_most_hundred_percent, int_or_percent, label_selector, positive, required_text};
use crate::access::{int, items, text};
use crate::field::{Error, ErrorList, Path};
use crate::names;

/// `HorizontalPodAutoscaler`
pub(super) fn autoscaler(errors: &mut ErrorList, path: &Path, object: &Value) {
    let spec = &object["spec"];
    let (most, least) = (int(spec, "maxReplicas"), spec["minReplicas"].as_i64());
    if let Some(least) = least.filter(|least| *least < 1) {
        errors.push(Error::invalid(
            &path.child("minReplicas"),
            least,
            "must be greater than or equal to 1",
        ));
    }
    if most < 1 {
        errors.push(Error::invalid(
            &path.child("maxReplicas"),
            most,
            "must be greater than 0",
        ));
    }
    if least.is_some_and(|least| most < least) {
        let why = "must be greater than or equal to `minReplicas`";
        errors.push(Error::invalid(&path.child("maxReplicas"), most, why));
    }
    let target = path.child("scaleTargetRef");
    for field in ["kind", "name"] {
        let given = required_text(errors, &target, &spec["scaleTargetRef"], field);
        if !given.is_empty() {
            rules::invalid_all(
                errors,
                &target.child(field),
                given,
                names::path_segment_name(given),
            );
        }
    }
    positive(errors, path, spec, "targetCPUUtilizationPercentage");
    for (at, metric) in items(&spec["metrics"]).iter().enumerate() {
        let path = path.child("metrics").index(at);
        let (kind, field) = match text(metric, "type") {
            "Object" => ("Object", "object"),
            "Pods" => ("Pods", "pods"),
            "Resource" => ("Resource", "resource"),
            "ContainerResource" => ("ContainerResource", "containerResource"),
            "External" => ("External", "external"),
            "" => {
                errors.push(Error::required(
                    &path.child("type"),
                    "must specify a metric source type",
                ));
                continue;
            }
            _ => continue,
        };
        let source = &metric[field];
        let path = path.child(field);
        if !source.is_object() {
            let why = format!("must populate information for the given metric source, {kind}");
            errors.push(Error::required(&path, why));
            continue;
        }
        let target = &source["target"];
        let target_path = path.child("target");
        if field.ends_with("esource") {
            required_text(errors, &path, source, "name");
            positive(errors, &target_path, target, "averageUtilization");
            if target["averageUtilization"].is_null() && target["averageValue"].is_null() {
                let why = "must set either a target raw value or a target utilization";
                errors.push(Error::required(&target_path.child("averageUtilization"), why));
            }
            if !target["averageUtilization"].is_null() && !target["averageValue"].is_null() {
                let why = "may not set both a target raw value and a target utilization";
                errors.push(Error::forbidden(&target_path.child("averageValue"), why));
            }
        }
        if text(target, "type").is_empty() {
            errors.push(Error::required(
                &target_path.child("type"),
                "must specify a metric target type",
            ));
        }
    }
    behavior(errors, &path.child("behavior"), &spec["behavior"]);
}

fn behavior(errors: &mut ErrorList, path: &Path, behavior: &Value) {
    for direction in ["scaleUp", "scaleDown"] {
        let rules = &behavior[direction];
        if !rules.is_object() {
            continue;
        }
        let path = path.child(direction);
        if let Some(window) = rules["stabilizationWindowSeconds"].as_i64() {
            let path = path.child("stabilizationWindowSeconds");
            if window < 0 {
                errors.push(Error::invalid(
                    &path,
                    window,
                    "must be greater than or equal to zero",
                ));
            } else if window > 3600 {
                errors.push(Error::invalid(
                    &path,
                    window,
                    "must be less than or equal to 3600",
                ));
            }
        }
        if items(&rules["policies"]).is_empty() {
            errors.push(Error::required(
                &path.child("policies"),
                "must specify at least one Policy",
            ));
        }
        for (at, policy) in items(&rules["policies"]).iter().enumerate() {
            let path = path.child("policies").index(at);
            for field in ["value", "periodSeconds"] {
                if int(policy, field) <= 0 {
                    errors.push(Error::invalid(
                        &path.child(field),
                        int(policy, field),
                        "must be greater than zero",
                    ));
                }
            }
            if int(policy, "periodSeconds") > 1800 {
                let given = int(policy, "periodSeconds");
                errors.push(Error::invalid(
                    &path.child("periodSeconds"),
                    given,
                    "must be less than or equal to 1800",
                ));
            }
        }
    }
}

/// `PodDisruptionBudget`
pub(super) fn disruption_budget(errors: &mut ErrorList, path: &Path, object: &Value) {
    let spec = &object["spec"];
    if !spec["minAvailable"].is_null() && !spec["maxUnavailable"].is_null() {
        let why = "minAvailable and maxUnavailable cannot be both set";
        errors.push(Error::invalid(path, spec.clone(), why));
    }
    for field in ["minAvailable", "maxUnavailable"] {
        int_or_percent(errors, &path.child(field), &spec[field]);
        at_most_hundred_percent(errors, &path.child(field), &spec[field]);
    }
    if spec["selector"].is_object() {
        label_selector(errors, &path.child("selector"), &spec["selector"]);
    }
}
