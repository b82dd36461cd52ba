//! Horizontal pod autoscalers: current and target of each metric.

use jiff::Timestamp;
use serde_json::Value;

use super::format::{age, name};
use crate::access::{int, items, text};

fn row(object: &Value, now: Timestamp, metrics: String) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let target = &spec["scaleTargetRef"];
    let minimum = spec["minReplicas"]
        .as_i64()
        .map_or_else(|| "<unset>".to_owned(), |n| n.to_string());
    vec![
        name(object),
        Value::from(format!("{}/{}", text(target, "kind"), text(target, "name"))),
        Value::from(metrics),
        Value::from(minimum),
        Value::from(int(spec, "maxReplicas")),
        Value::from(int(status, "currentReplicas")),
        age(object, now),
    ]
}

/// autoscaling/v1.
pub(super) fn v1(object: &Value, now: Timestamp) -> Vec<Value> {
    let percent = |value: &Value, none: &str| {
        value
            .as_i64()
            .map_or_else(|| none.to_owned(), |n| format!("{n}%"))
    };
    let metrics = match &object["spec"]["targetCPUUtilizationPercentage"] {
        Value::Null => "<none>".to_owned(),
        target => {
            let current = &object["status"]["currentCPUUtilizationPercentage"];
            format!(
                "cpu: {}/{}",
                percent(current, "<unknown>"),
                percent(target, "<auto>")
            )
        }
    };
    row(object, now, metrics)
}

/// autoscaling/v2.
pub(super) fn v2(object: &Value, now: Timestamp) -> Vec<Value> {
    const SHOWN: usize = 2;
    let specs = items(&object["spec"]["metrics"]);
    let statuses = &object["status"]["currentMetrics"];
    let list: Vec<String> = specs
        .iter()
        .enumerate()
        .map(|(at, spec)| metric(spec, &statuses[at]))
        .collect();
    let shown = list[..list.len().min(SHOWN)].join(", ");
    let metrics = match list.len() {
        0 => "<none>".to_owned(),
        count if count > SHOWN => format!("{shown} + {} more...", count - SHOWN),
        _ => shown,
    };
    row(object, now, metrics)
}

fn metric(spec: &Value, status: &Value) -> String {
    let field = match text(spec, "type") {
        "External" => "external",
        "Pods" => "pods",
        "Object" => "object",
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        _ => return "<unknown type>".to_owned(),
    };
    let (source, target, current) = (&spec[field], &spec[field]["target"], &status[field]["current"]);
    let value = |from: &Value, key: &str| from[key].as_str().map(str::to_owned);
    let known = |value: Option<String>| value.unwrap_or_else(|| "<unknown>".to_owned());
    let average = value(target, "averageValue");
    match (field, average) {
        ("pods", average) => {
            format!(
                "{}/{}",
                known(value(current, "averageValue")),
                average.unwrap_or_else(|| "0".to_owned())
            )
        }
        ("external" | "object", Some(average)) => {
            format!("{}/{average} (avg)", known(value(current, "averageValue")))
        }
        ("external" | "object", None) => {
            format!(
                "{}/{}",
                known(value(current, "value")),
                value(target, "value").unwrap_or_else(|| "0".to_owned())
            )
        }
        (_, Some(average)) => {
            format!(
                "{}: {}/{average}",
                text(source, "name"),
                known(value(current, "averageValue"))
            )
        }
        (_, None) => {
            let percent = |from: &Value| from["averageUtilization"].as_i64().map(|n| format!("{n}%"));
            let target = percent(target).unwrap_or_else(|| "<auto>".to_owned());
            format!("{}: {}/{target}", text(source, "name"), known(percent(current)))
        }
    }
}
