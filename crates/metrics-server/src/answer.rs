//! The documents of the API.

use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use keelson_api::gvk::GroupResource;
use keelson_api::quantity::{Format, Quantity};
use keelson_api::status::Status;
use serde_json::{Map, Value, json};

use crate::storage::{PodUsage, Usage};

pub(crate) const GROUP: &str = "metrics.k8s.io";
pub(crate) const API_VERSION: &str = "metrics.k8s.io/v1beta1";

/// A resource of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resource {
    Nodes,
    Pods,
}

impl Resource {
    pub(crate) fn kind(self) -> &'static str {
        match self {
            Self::Nodes => "NodeMetrics",
            Self::Pods => "PodMetrics",
        }
    }

    /// 404 in upstream's words.
    pub(crate) fn not_found(self, name: &str) -> Status {
        let resource = match self {
            Self::Nodes => "nodemetrics",
            Self::Pods => "podmetrics",
        };
        Status::not_found(&GroupResource::new(GROUP, resource), name)
    }
}

/// APIResourceList of the group version.
pub(crate) fn resources() -> Value {
    let entry = |name: &str, kind: &str, namespaced: bool| json!({"name": name, "singularName": "", "namespaced": namespaced, "kind": kind, "verbs": ["get", "list"]});
    json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": API_VERSION,
        "resources": [entry("nodes", "NodeMetrics", false), entry("pods", "PodMetrics", true)],
    })
}

fn cpu(nanocores: u64) -> Value {
    let text = format!("{nanocores}n");
    quantity(&text)
}

fn memory(bytes: u64) -> Value {
    let value = i64::try_from(bytes).unwrap_or(i64::MAX);
    json!(Quantity::from_value(value, Format::BinarySI).to_string())
}

fn quantity(text: &str) -> Value {
    match Quantity::parse(text) {
        Ok(quantity) => json!(quantity.to_string()),
        Err(_) => json!(text),
    }
}

fn usage(cpu_nanocores: u64, memory_bytes: u64) -> Value {
    json!({"cpu": cpu(cpu_nanocores), "memory": memory(memory_bytes)})
}

fn metadata(of: &ObjectMeta, now: Timestamp) -> Value {
    let mut metadata = Map::new();
    let mut put = |name: &str, value: Option<&String>| {
        if let Some(value) = value.filter(|v| !v.is_empty()) {
            metadata.insert(name.to_owned(), json!(value));
        }
    };
    put("name", of.name.as_ref());
    put("namespace", of.namespace.as_ref());
    metadata.insert(
        "creationTimestamp".to_owned(),
        json!(keelson_api::time::format(now)),
    );
    if let Some(labels) = of.labels.as_ref().filter(|l| !l.is_empty()) {
        metadata.insert("labels".to_owned(), json!(labels));
    }
    Value::Object(metadata)
}

fn window(length: SignedDuration) -> String {
    // Upstream's points have millisecond precision.
    let milliseconds = u64::try_from(length.as_millis()).unwrap_or(0);
    keelson_api::duration::format(std::time::Duration::from_millis(milliseconds))
}

/// NodeMetrics.
pub(crate) fn node(of: &ObjectMeta, used: &Usage, now: Timestamp) -> Value {
    json!({
        "kind": "NodeMetrics", "apiVersion": API_VERSION, "metadata": metadata(of, now),
        "timestamp": keelson_api::time::format(used.at), "window": window(used.window),
        "usage": usage(used.cpu, used.memory),
    })
}

/// PodMetrics.
pub(crate) fn pod(of: &ObjectMeta, used: &PodUsage, now: Timestamp) -> Value {
    let containers: Vec<Value> = used
        .containers
        .iter()
        .map(|(name, used)| json!({"name": name, "usage": usage(used.cpu, used.memory)}))
        .collect();
    json!({
        "kind": "PodMetrics", "apiVersion": API_VERSION, "metadata": metadata(of, now),
        "timestamp": keelson_api::time::format(used.at), "window": window(used.window), "containers": containers,
    })
}

/// NodeMetricsList or PodMetricsList.
pub(crate) fn list(resource: Resource, items: Vec<Value>) -> Value {
    let items: Vec<Value> = items
        .into_iter()
        .map(|mut item| {
            if let Some(item) = item.as_object_mut() {
                item.remove("kind");
                item.remove("apiVersion");
            }
            item
        })
        .collect();
    json!({
        "kind": format!("{}List", resource.kind()), "apiVersion": API_VERSION, "metadata": {}, "items": items,
    })
}

/// The items as a `meta.k8s.io/v1` Table.
pub(crate) fn table(items: &[Value]) -> Value {
    let column = |name: &str, kind: &str, format: &str, description: &str| json!({"name": name, "type": kind, "format": format, "description": description, "priority": 0});
    let rows: Vec<Value> = items
        .iter()
        .map(|item| {
            let total = |name: &str| {
                let single = item["usage"][name].as_str();
                let of_containers = item["containers"].as_array().into_iter().flatten();
                let all = of_containers.filter_map(|c| c["usage"][name].as_str());
                let sum = single
                    .into_iter()
                    .chain(all)
                    .filter_map(|text| Quantity::parse(text).ok())
                    .reduce(Quantity::add);
                sum.map_or_else(String::new, |q| q.to_string())
            };
            json!({
                "cells": [item["metadata"]["name"], total("cpu"), total("memory"), item["window"]],
                "object": {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": item["metadata"]},
            })
        })
        .collect();
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {},
        "columnDefinitions": [
            column("Name", "string", "name", "Name of the resource"),
            column("cpu", "string", "quantity", ""),
            column("memory", "string", "quantity", ""),
            column("Window", "string", "duration", ""),
        ],
        "rows": rows,
    })
}

/// The document of a failure.
pub(crate) fn failure(status: &Status) -> (StatusCode, Value) {
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (code, json!(status))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(cpu: u64, memory: u64) -> Usage {
        Usage {
            cpu,
            memory,
            at: Timestamp::from_second(1_700_000_000).unwrap(),
            window: SignedDuration::from_millis(15_030),
        }
    }

    #[test]
    fn documents_in_upstreams_form() {
        let meta = ObjectMeta {
            name: Some("n1".to_owned()),
            ..ObjectMeta::default()
        };
        let now = Timestamp::from_second(1_700_000_001).unwrap();
        let node = node(&meta, &used(123_456_789, 2048), now);
        assert_eq!(
            node,
            json!({"kind": "NodeMetrics", "apiVersion": "metrics.k8s.io/v1beta1",
                "metadata": {"name": "n1", "creationTimestamp": "2023-11-14T22:13:21Z"},
                "timestamp": "2023-11-14T22:13:20Z", "window": "15.03s",
                "usage": {"cpu": "123456789n", "memory": "2Ki"}})
        );
        let pod = PodUsage {
            containers: vec![
                ("a".to_owned(), used(100_000_000, 1024)),
                ("b".to_owned(), used(50_000_000, 1000)),
            ],
            at: used(0, 0).at,
            window: used(0, 0).window,
        };
        let pod = super::pod(&meta, &pod, now);
        assert_eq!(pod["containers"][0]["usage"]["cpu"], "100m");
        let table = table(&[pod]);
        assert_eq!(table["rows"][0]["cells"], json!(["n1", "150m", "2024", "15.03s"]));
    }

    #[test]
    fn missing_objects() {
        assert_eq!(
            Resource::Pods.not_found("default/p").message,
            "podmetrics.metrics.k8s.io \"default/p\" not found"
        );
    }
}
