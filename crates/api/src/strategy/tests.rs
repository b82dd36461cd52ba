//! Table-driven checks of strategies.

use serde_json::{Value, json};

use super::*;
use crate::gvk::GroupVersionKind;

const NOW: &str = "2026-01-02T03:04:05Z";

fn create(group: &'static str, kind: &'static str, mut object: Value, expected: &[(&str, Value)]) {
    prepare_for_create(&GroupVersionKind::new(group, "v1", kind), &mut object, NOW);
    compare(&object, expected);
}

fn update(
    group: &'static str,
    kind: &'static str,
    sub: &str,
    old: Value,
    mut new: Value,
    expected: &[(&str, Value)],
) {
    prepare_for_update(
        &GroupVersionKind::new(group, "v1", kind),
        sub,
        &mut new,
        &old,
        NOW,
    );
    compare(&new, expected);
}

fn compare(object: &Value, expected: &[(&str, Value)]) {
    for (pointer, value) in expected {
        assert_eq!(
            object.pointer(pointer).unwrap_or(&Value::Null),
            value,
            "{pointer} in {object}"
        );
    }
}

#[test]
fn creates() {
    create(
        "",
        "Pod",
        json!({"metadata": {}, "status": {"phase": "Running"}, "spec": {"schedulingGates": [{"name": "g"}], "containers": [
            {"resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1", "memory": "1Gi"}}}]}}),
        &[
            ("/metadata/generation", json!(1)),
            ("/status/phase", json!("Pending")),
            ("/status/qosClass", json!("Guaranteed")),
            ("/status/conditions/0/reason", json!("SchedulingGated")),
        ],
    );
    create(
        "",
        "Pod",
        json!({"spec": {"containers": [{"resources": {"requests": {"cpu": "1"}}}]}}),
        &[("/status/qosClass", json!("Burstable"))],
    );
    create(
        "",
        "Pod",
        json!({"spec": {"containers": [{}]}}),
        &[("/status/qosClass", json!("BestEffort"))],
    );
    create(
        "",
        "Pod",
        json!({"metadata": {"labels": {"a": "1"}}, "spec": {"containers": [{}], "topologySpreadConstraints": [
            {"matchLabelKeys": ["a", "b"], "labelSelector": {}}]}}),
        &[(
            "/spec/topologySpreadConstraints/0/labelSelector/matchExpressions",
            json!([{"key": "a", "operator": "In", "values": ["1"]}]),
        )],
    );
    create(
        "",
        "Namespace",
        json!({"metadata": {"name": "n"}, "spec": {}}),
        &[
            ("/spec/finalizers", json!(["kubernetes"])),
            ("/status/phase", json!("Active")),
            ("/metadata/generation", Value::Null),
        ],
    );
    create(
        "batch",
        "Job",
        json!({"metadata": {"name": "j", "uid": "u"}, "spec": {"template": {"metadata": {"labels": {"x": "y"}}}}}),
        &[
            (
                "/spec/template/metadata/labels",
                json!({"x": "y", "controller-uid": "u", "batch.kubernetes.io/controller-uid": "u",
                "job-name": "j", "batch.kubernetes.io/job-name": "j"}),
            ),
            (
                "/spec/selector/matchLabels",
                json!({"batch.kubernetes.io/controller-uid": "u"}),
            ),
        ],
    );
    create(
        "apps",
        "DaemonSet",
        json!({"metadata": {}}),
        &[(
            "/metadata/annotations/deprecated.daemonset.template.generation",
            json!("1"),
        )],
    );
    create(
        "",
        "Node",
        json!({"metadata": {}, "status": {"a": 1}}),
        &[("/status/a", json!(1))],
    );
    create(
        "apps",
        "Deployment",
        json!({"metadata": {}, "status": {"replicas": 3}}),
        &[("/status", json!({})), ("/metadata/generation", json!(1))],
    );
}

#[test]
fn updates() {
    let old = json!({"metadata": {"generation": 3}, "spec": {"replicas": 1}, "status": {"replicas": 1}});
    let changed = json!({"metadata": {"generation": 9}, "spec": {"replicas": 2}, "status": {"replicas": 7}});
    update(
        "apps",
        "Deployment",
        "",
        old.clone(),
        changed.clone(),
        &[
            ("/metadata/generation", json!(4)),
            ("/status/replicas", json!(1)),
            ("/spec/replicas", json!(2)),
        ],
    );
    update(
        "apps",
        "Deployment",
        "status",
        old.clone(),
        changed.clone(),
        &[
            ("/metadata/generation", json!(3)),
            ("/status/replicas", json!(7)),
            ("/spec/replicas", json!(1)),
        ],
    );
    let annotated = json!({"metadata": {"annotations": {"a": "b"}}, "spec": {"replicas": 1}});
    update(
        "apps",
        "Deployment",
        "",
        old.clone(),
        annotated.clone(),
        &[("/metadata/generation", json!(4))],
    );
    update(
        "apps",
        "ReplicaSet",
        "",
        old.clone(),
        annotated,
        &[("/metadata/generation", json!(3))],
    );
    update(
        "",
        "Node",
        "",
        old,
        changed,
        &[("/status/replicas", json!(1)), ("/metadata/generation", json!(9))],
    );
    update(
        "",
        "Pod",
        "binding",
        json!({"metadata": {"generation": 1}, "spec": {}}),
        json!({"metadata": {"generation": 1}, "spec": {"nodeName": "n"}, "status": {"conditions": [1]}}),
        &[
            ("/status/conditions", json!([1])),
            ("/metadata/generation", json!(2)),
        ],
    );
    update(
        "",
        "Namespace",
        "",
        json!({"spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}}),
        json!({"spec": {}}),
        &[
            ("/spec/finalizers", json!(["kubernetes"])),
            ("/status/phase", json!("Active")),
        ],
    );
    update(
        "",
        "Namespace",
        "finalize",
        json!({"spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Terminating"}}),
        json!({"spec": {}}),
        &[
            ("/spec/finalizers", Value::Null),
            ("/status/phase", json!("Terminating")),
        ],
    );
    update(
        "",
        "Pod",
        "ephemeralcontainers",
        json!({"metadata": {"generation": 1}, "spec": {"containers": [{"name": "a"}]}}),
        json!({"spec": {"containers": [], "ephemeralContainers": [{"name": "d"}]}}),
        &[
            ("/spec/containers/0/name", json!("a")),
            ("/spec/ephemeralContainers/0/name", json!("d")),
            ("/metadata/generation", json!(2)),
        ],
    );
    update(
        "",
        "Pod",
        "resize",
        json!({"metadata": {"generation": 1}, "spec": {"containers": [{"name": "a", "image": "x"}]}}),
        json!({"spec": {"containers": [{"name": "a", "image": "y", "resources": {"limits": {"cpu": "1"}}}]}}),
        &[(
            "/spec/containers/0",
            json!({"name": "a", "image": "x", "resources": {"limits": {"cpu": "1"}}}),
        )],
    );
    update(
        "certificates.k8s.io",
        "CertificateSigningRequest",
        "approval",
        json!({"spec": {"a": 1}, "status": {"certificate": "x"}}),
        json!({"spec": {"a": 2}, "status": {"conditions": [{"type": "Approved", "status": "True"}]}}),
        &[
            ("/spec/a", json!(1)),
            ("/status/certificate", json!("x")),
            ("/status/conditions/0/lastUpdateTime", json!(NOW)),
        ],
    );
}

#[test]
fn services_keep_and_lose() {
    let old = json!({"spec": {"type": "NodePort", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"],
        "externalTrafficPolicy": "Cluster", "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30_001}]}});
    let mut new = old.clone();
    new["spec"]["type"] = json!("ClusterIP");
    update(
        "",
        "Service",
        "",
        old.clone(),
        new,
        &[
            ("/spec/ports/0/nodePort", Value::Null),
            ("/spec/externalTrafficPolicy", Value::Null),
            ("/spec/clusterIP", json!("10.0.0.1")),
        ],
    );
    let mut new = old.clone();
    new["spec"] = json!({"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP"}]});
    update(
        "",
        "Service",
        "",
        old.clone(),
        new,
        &[
            ("/spec/ports/0/nodePort", json!(30_001)),
            ("/spec/clusterIPs", json!(["10.0.0.1"])),
        ],
    );
    let mut new = old.clone();
    new["spec"]["type"] = json!("ExternalName");
    update(
        "",
        "Service",
        "",
        old,
        new,
        &[
            ("/spec/clusterIP", Value::Null),
            ("/spec/clusterIPs", Value::Null),
        ],
    );
}

#[test]
fn custom_resources() {
    let old = json!({"metadata": {"generation": 1}, "spec": 1, "status": 1});
    let mut new = json!({"metadata": {"generation": 1}, "spec": 2, "status": 2});
    prepare_custom_for_update(true, "", &mut new, &old);
    assert_eq!(
        new,
        json!({"metadata": {"generation": 2}, "spec": 2, "status": 1})
    );
    let mut new = json!({"metadata": {"labels": {"a": "b"}}, "spec": 2, "status": 2});
    prepare_custom_for_update(true, "status", &mut new, &old);
    assert_eq!(
        new,
        json!({"metadata": {"generation": 1}, "spec": 1, "status": 2})
    );
    let mut new = json!({"metadata": {"generation": 1}, "spec": 1, "status": 2});
    prepare_custom_for_update(false, "", &mut new, &old);
    assert_eq!(new["metadata"]["generation"], 2);
}

#[test]
fn warns() {
    let gvk = GroupVersionKind::new("", "v1", "Pod");
    let pod = json!({"metadata": {"name": "a"}, "spec": {"terminationGracePeriodSeconds": -1, "containers": [
        {"env": [{"name": "X"}, {"name": "X"}], "ports": [{"containerPort": 1}, {"containerPort": 1}]}]}});
    assert_eq!(
        warnings_on_create(&gvk, &pod),
        [
            "spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1",
            "spec.containers[0].env[1]: hides previous definition of \"X\", which may be dropped when using apply",
            "spec.containers[0].ports[1]: duplicate port definition with spec.containers[0].ports[0]",
        ]
    );
}
