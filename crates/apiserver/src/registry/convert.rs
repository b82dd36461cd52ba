//! Kinds that are served in more than one form: core and events.k8s.io Events.

use keelson_api::status::Status;
use serde_json::{Map, Value};

/// How a served object differs from the stored one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conversion {
    /// Not at all.
    Same,
    /// events.k8s.io/v1 Event, stored as core/v1 Event.
    EventsV1,
    /// autoscaling/v1 HorizontalPodAutoscaler, stored as autoscaling/v2.
    AutoscalingV1,
}

/// (stored, served) names of an Event's fields.
const EVENT_FIELDS: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

impl Conversion {
    /// The conversion of a built-in kind.
    pub fn of(group: &str, version: &str, resource: &str) -> Self {
        match (group, version, resource) {
            ("events.k8s.io", "v1", "events") => Self::EventsV1,
            ("autoscaling", "v1", "horizontalpodautoscalers") => Self::AutoscalingV1,
            _ => Self::Same,
        }
    }

    /// Whether stored bytes can be served as they are (but for the head).
    pub fn is_same(self) -> bool {
        self == Self::Same
    }

    /// The label of the stored kind that a field selector's label stands for.
    pub fn selector_label(self, label: &str) -> String {
        if self == Self::EventsV1 {
            if let Some(rest) = label.strip_prefix("regarding.") {
                return format!("involvedObject.{rest}");
            }
            if label == "reportingController" {
                return "reportingComponent".to_owned();
            }
        }
        label.to_owned()
    }

    /// Turns a stored object into a served one; `apiVersion` and `kind` are the caller's.
    pub fn serve(self, object: &mut Value) {
        let Some(map) = object.as_object_mut() else { return };
        match self {
            Self::Same => {}
            Self::EventsV1 => EVENT_FIELDS
                .iter()
                .for_each(|(stored, served)| rename(map, stored, served)),
            Self::AutoscalingV1 => hpa_to_v1(map),
        }
    }

    /// Turns a served object into a stored one.
    pub fn store(self, object: &mut Value) -> Result<(), Status> {
        let Some(map) = object.as_object_mut() else {
            return Ok(());
        };
        match self {
            Self::Same => {}
            Self::EventsV1 => EVENT_FIELDS
                .iter()
                .for_each(|(stored, served)| rename(map, served, stored)),
            Self::AutoscalingV1 => hpa_to_v2(map)?,
        }
        Ok(())
    }
}

fn rename(map: &mut Map<String, Value>, from: &str, to: &str) {
    if let Some(value) = map.remove(from) {
        map.insert(to.to_owned(), value);
    }
}

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const CURRENT: &str = "autoscaling.alpha.kubernetes.io/current-metrics";

fn annotate(map: &mut Map<String, Value>, key: &str, value: &Value) {
    let metadata = map.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
    metadata["annotations"][key] = Value::String(value.to_string());
}

fn take_annotation(map: &mut Map<String, Value>, key: &str) -> Result<Option<Value>, Status> {
    let annotations = map.get_mut("metadata").and_then(|m| m.get_mut("annotations"));
    let Some(annotations) = annotations.and_then(Value::as_object_mut) else {
        return Ok(None);
    };
    match annotations.remove(key) {
        Some(Value::String(text)) => serde_json::from_str(&text)
            .map(Some)
            .map_err(|e| Status::bad_request(format!("annotation {key} cannot be read: {e}"))),
        _ => Ok(None),
    }
}

fn is_cpu_utilization(metric: &Value) -> bool {
    metric["resource"]["name"] == "cpu" && metric["resource"]["target"]["averageUtilization"].is_number()
}

fn hpa_to_v1(map: &mut Map<String, Value>) {
    if let Some(metrics) = map
        .get_mut("spec")
        .and_then(Value::as_object_mut)
        .and_then(|s| s.remove("metrics"))
    {
        let mut metrics = metrics.as_array().cloned().unwrap_or_default();
        if let Some(at) = metrics.iter().position(is_cpu_utilization) {
            let cpu = metrics.remove(at);
            map["spec"]["targetCPUUtilizationPercentage"] =
                cpu["resource"]["target"]["averageUtilization"].clone();
        }
        if !metrics.is_empty() {
            annotate(map, METRICS, &Value::Array(metrics));
        }
    }
    if let Some(behavior) = map
        .get_mut("spec")
        .and_then(Value::as_object_mut)
        .and_then(|s| s.remove("behavior"))
    {
        annotate(map, BEHAVIOR, &behavior);
    }
    for (field, key) in [("conditions", CONDITIONS), ("currentMetrics", CURRENT)] {
        let taken = map
            .get_mut("status")
            .and_then(Value::as_object_mut)
            .and_then(|s| s.remove(field));
        if let Some(value) = taken {
            let cpu = value
                .as_array()
                .and_then(|m| m.iter().find(|m| m["resource"]["name"] == "cpu"))
                .cloned();
            if let Some(current) = cpu.map(|c| c["resource"]["current"]["averageUtilization"].clone())
                && current.is_number()
            {
                map["status"]["currentCPUUtilizationPercentage"] = current;
            }
            annotate(map, key, &value);
        }
    }
}

fn hpa_to_v2(map: &mut Map<String, Value>) -> Result<(), Status> {
    let mut metrics = match take_annotation(map, METRICS)? {
        Some(Value::Array(metrics)) => metrics,
        _ => Vec::new(),
    };
    let behavior = take_annotation(map, BEHAVIOR)?;
    let conditions = take_annotation(map, CONDITIONS)?;
    let current = take_annotation(map, CURRENT)?;
    if let Some(spec) = map.get_mut("spec").and_then(Value::as_object_mut) {
        if let Some(percentage) = spec.remove("targetCPUUtilizationPercentage") {
            metrics.push(serde_json::json!({"type": "Resource", "resource": {"name": "cpu",
                "target": {"type": "Utilization", "averageUtilization": percentage}}}));
        }
        if !metrics.is_empty() {
            spec.insert("metrics".to_owned(), Value::Array(metrics));
        }
        if let Some(behavior) = behavior {
            spec.insert("behavior".to_owned(), behavior);
        }
    }
    if let Some(status) = map.get_mut("status").and_then(Value::as_object_mut) {
        status.remove("currentCPUUtilizationPercentage");
        if let Some(conditions) = conditions {
            status.insert("conditions".to_owned(), conditions);
        }
        if let Some(current) = current {
            status.insert("currentMetrics".to_owned(), current);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn round_trips() {
        let hpa = json!({"metadata": {"name": "a"}, "spec": {"maxReplicas": 3, "metrics": [
            {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}},
            {"type": "Pods", "pods": {"metric": {"name": "x"}}}]}});
        let mut v1 = hpa.clone();
        Conversion::AutoscalingV1.serve(&mut v1);
        assert_eq!(v1["spec"]["targetCPUUtilizationPercentage"], 50);
        Conversion::AutoscalingV1.store(&mut v1).unwrap();
        assert_eq!(v1["spec"]["metrics"].as_array().unwrap().len(), 2);
        let mut event = json!({"involvedObject": {"kind": "Pod"}, "message": "m", "count": 2});
        Conversion::EventsV1.serve(&mut event);
        assert_eq!(event["regarding"]["kind"], "Pod");
        Conversion::EventsV1.store(&mut event).unwrap();
        assert_eq!(event["message"], "m");
    }
}
