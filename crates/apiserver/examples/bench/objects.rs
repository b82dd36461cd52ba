//! The objects of the load.

use serde_json::{Value, json};

/// A ConfigMap of 1 KB.
pub(crate) fn config_map(name: &str) -> Value {
    json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": name},
        "data": {"a": "x".repeat(400), "b": "y".repeat(400)}})
}

/// A Pod as a Deployment's, 4 KB when it is stored.
pub(crate) fn pod(name: &str, namespace: &str) -> Value {
    json!({
        "kind": "Pod", "apiVersion": "v1",
        "metadata": {"name": name, "namespace": namespace,
            "labels": {"app": "web", "tier": "frontend", "pod-template-hash": "6d4cf56db6", "release": "stable"},
            "annotations": {"checksum/config": "3f1c7f1a6f7f4b9f3c5f4a1b2c3d4e5f60718293a4b5c6d7e8f9001122334455"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-6d4cf56db6",
                "uid": "5c1d9b7e-3c55-4f5e-8f2c-6f4f6c1f8a11", "controller": true, "blockOwnerDeletion": true}]},
        "spec": {
            "containers": [{
                "name": "web", "image": "registry.example/web:1.2.3",
                "ports": [{"name": "http", "containerPort": 8080}, {"name": "metrics", "containerPort": 9090}],
                "env": [{"name": "LOG_LEVEL", "value": "info"}, {"name": "REGION", "value": "eu-west-1"},
                    {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
                "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"cpu": "500m", "memory": "256Mi"}},
                "readinessProbe": {"httpGet": {"path": "/ready", "port": "http"}, "periodSeconds": 5},
                "livenessProbe": {"httpGet": {"path": "/live", "port": "http"}, "initialDelaySeconds": 10},
                "volumeMounts": [{"name": "config", "mountPath": "/etc/web"}, {"name": "cache", "mountPath": "/var/cache/web"}]}],
            "volumes": [{"name": "config", "configMap": {"name": "web"}}, {"name": "cache", "emptyDir": {}}],
            "nodeSelector": {"kubernetes.io/os": "linux"},
            "tolerations": [{"key": "dedicated", "operator": "Equal", "value": "web", "effect": "NoSchedule"}]}})
}

/// A CustomResourceDefinition as operators have it.
pub(crate) fn definition(at: usize) -> Value {
    let group = "bench.example.org";
    let plural = format!("things{at}s");
    let text = json!({"type": "string"});
    let condition = json!({"type": "object", "required": ["type", "status"], "properties": {
        "type": {"type": "string", "maxLength": 316}, "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
        "reason": text, "message": {"type": "string", "maxLength": 32768},
        "lastTransitionTime": {"type": "string", "format": "date-time"},
        "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0}}});
    let env = json!({"type": "array", "items": {"type": "object", "required": ["name"], "properties": {
        "name": text, "value": text}}});
    let spec = json!({"type": "object", "required": ["size"], "properties": {
        "size": {"type": "integer", "minimum": 0, "maximum": 100},
        "image": {"type": "string", "minLength": 1},
        "paused": {"type": "boolean", "default": false},
        "template": {"type": "object", "properties": {
            "labels": {"type": "object", "additionalProperties": text}, "env": env}}}});
    let status = json!({"type": "object", "properties": {
        "replicas": {"type": "integer"},
        "conditions": {"type": "array", "items": condition,
            "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}}});
    let version = json!({"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
        "additionalPrinterColumns": [{"name": "Ready", "type": "string",
            "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"}],
        "schema": {"openAPIV3Schema": {"type": "object", "properties": {
            "apiVersion": text, "kind": text, "metadata": {"type": "object"}, "spec": spec, "status": status}}}});
    let names = json!({"plural": plural, "singular": format!("thing{at}"), "kind": format!("Thing{at}"),
        "listKind": format!("Thing{at}List")});
    json!({"kind": "CustomResourceDefinition", "apiVersion": "apiextensions.k8s.io/v1",
        "metadata": {"name": format!("{plural}.{group}")},
        "spec": {"group": group, "scope": "Namespaced", "names": names, "versions": [version]}})
}

/// A node's Lease.
pub(crate) fn lease(name: &str, at: usize) -> Value {
    json!({"kind": "Lease", "apiVersion": "coordination.k8s.io/v1", "metadata": {"name": name},
        "spec": {"holderIdentity": name, "leaseDurationSeconds": 40,
            "renewTime": format!("2026-11-23T03:{:02}:{:02}.{:06}Z", at / 60 % 60, at % 60, at % 1_000_000)}})
}
