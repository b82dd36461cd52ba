//! Table-driven checks of defaulting.

use serde_json::{Value, json};

use super::apply;
use crate::gvk::GroupVersionKind;

/// Defaults `object` and compares the value at a JSON pointer.
fn check(kind: (&'static str, &'static str, &'static str), mut object: Value, expected: &[(&str, Value)]) {
    let gvk = GroupVersionKind::new(kind.0, kind.1, kind.2);
    apply(&gvk, &mut object);
    for (pointer, value) in expected {
        let found = object.pointer(pointer).unwrap_or(&Value::Null);
        assert_eq!(found, value, "{} {pointer} in {object}", gvk.kind);
    }
    let once = object.clone();
    apply(&gvk, &mut object);
    assert_eq!(object, once, "defaulting twice");
}

const POD: (&str, &str, &str) = ("", "v1", "Pod");

#[test]
fn pods() {
    let pod = json!({"spec": {"hostNetwork": true, "serviceAccountName": "sa",
    "volumes": [{"name": "e"}, {"name": "s", "secret": {}}, {"name": "h", "hostPath": {"path": "/"}},
        {"name": "p", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}},
        {"name": "i", "image": {"reference": "a/b:1"}}],
    "containers": [{"name": "a", "image": "busybox",
        "ports": [{"containerPort": 80}],
        "env": [{"name": "x", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        "livenessProbe": {"httpGet": {"port": 80}},
        "readinessProbe": {"grpc": {"port": 80}},
        "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}},
        {"name": "b", "image": "reg:5000/a/b:v1"}, {"name": "c", "image": "a@sha256:00"}]}});
    check(
        POD,
        pod,
        &[
            ("/spec/restartPolicy", json!("Always")),
            ("/spec/dnsPolicy", json!("ClusterFirst")),
            ("/spec/schedulerName", json!("default-scheduler")),
            ("/spec/terminationGracePeriodSeconds", json!(30)),
            ("/spec/securityContext", json!({})),
            ("/spec/enableServiceLinks", json!(true)),
            ("/spec/serviceAccount", json!("sa")),
            ("/spec/volumes/0", json!({"name": "e", "emptyDir": {}})),
            ("/spec/volumes/1/secret/defaultMode", json!(420)),
            ("/spec/volumes/2/hostPath/type", json!("")),
            ("/spec/volumes/3/projected/defaultMode", json!(420)),
            (
                "/spec/volumes/3/projected/sources/0/serviceAccountToken/expirationSeconds",
                json!(3600),
            ),
            ("/spec/volumes/4/image/pullPolicy", json!("IfNotPresent")),
            ("/spec/containers/0/imagePullPolicy", json!("Always")),
            ("/spec/containers/1/imagePullPolicy", json!("IfNotPresent")),
            ("/spec/containers/2/imagePullPolicy", json!("IfNotPresent")),
            (
                "/spec/containers/0/terminationMessagePath",
                json!("/dev/termination-log"),
            ),
            (
                "/spec/containers/0/ports/0",
                json!({"containerPort": 80, "hostPort": 80, "protocol": "TCP"}),
            ),
            (
                "/spec/containers/0/env/0/valueFrom/fieldRef/apiVersion",
                json!("v1"),
            ),
            (
                "/spec/containers/0/livenessProbe",
                json!({"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"}, "timeoutSeconds": 1,
                    "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3}),
            ),
            ("/spec/containers/0/readinessProbe/grpc/service", json!("")),
            (
                "/spec/containers/0/resources/requests",
                json!({"cpu": "500m", "memory": "1Gi"}),
            ),
        ],
    );
}

#[test]
fn pod_level_requests() {
    let spec = json!({"resources": {"limits": {"cpu": "2", "memory": "1Gi"}},
        "containers": [{"name": "a", "resources": {"requests": {"cpu": "250m"}}},
            {"name": "b", "resources": {"requests": {"cpu": "250m"}}}]});
    let requests = json!({"cpu": "500m", "memory": "1Gi"});
    check(
        POD,
        json!({"spec": spec}),
        &[("/spec/resources/requests", requests)],
    );
}

#[test]
fn workloads() {
    let template =
        json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "a", "image": "i:1"}]}});
    let pod = ("/spec/template/spec/restartPolicy", json!("Always"));
    let no_links = ("/spec/template/spec/enableServiceLinks", Value::Null);
    check(
        ("apps", "v1", "Deployment"),
        json!({"spec": {"template": template}}),
        &[
            pod.clone(),
            no_links,
            ("/spec/replicas", json!(1)),
            (
                "/spec/strategy",
                json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}}),
            ),
            ("/spec/revisionHistoryLimit", json!(10)),
            ("/spec/progressDeadlineSeconds", json!(600)),
        ],
    );
    check(
        ("apps", "v1", "Deployment"),
        json!({"spec": {"replicas": 0, "strategy": {"type": "Recreate"}}}),
        &[
            ("/spec/strategy", json!({"type": "Recreate"})),
            ("/spec/replicas", json!(0)),
        ],
    );
    check(
        ("apps", "v1", "DaemonSet"),
        json!({"spec": {"template": template}}),
        &[(
            "/spec/updateStrategy/rollingUpdate",
            json!({"maxUnavailable": 1, "maxSurge": 0}),
        )],
    );
    check(
        ("apps", "v1", "StatefulSet"),
        json!({"spec": {"template": template, "volumeClaimTemplates": [{"metadata": {"name": "x"}, "spec": {}}]}}),
        &[
            ("/spec/podManagementPolicy", json!("OrderedReady")),
            (
                "/spec/updateStrategy",
                json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}),
            ),
            (
                "/spec/persistentVolumeClaimRetentionPolicy",
                json!({"whenDeleted": "Retain", "whenScaled": "Retain"}),
            ),
            (
                "/spec/volumeClaimTemplates/0",
                json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "x"},
                    "spec": {"volumeMode": "Filesystem"}, "status": {"phase": "Pending"}}),
            ),
        ],
    );
    check(
        ("batch", "v1", "Job"),
        json!({"spec": {"template": template}}),
        &[
            ("/spec/completions", json!(1)),
            ("/spec/parallelism", json!(1)),
            ("/spec/backoffLimit", json!(6)),
            ("/spec/completionMode", json!("NonIndexed")),
            ("/spec/suspend", json!(false)),
            ("/spec/podReplacementPolicy", json!("TerminatingOrFailed")),
            ("/metadata/labels", json!({"a": "b"})),
        ],
    );
    check(
        ("batch", "v1", "Job"),
        json!({"spec": {"template": {}, "parallelism": 2, "backoffLimitPerIndex": 1}}),
        &[
            ("/spec/completions", Value::Null),
            ("/spec/backoffLimit", json!(i32::MAX)),
        ],
    );
    check(
        ("batch", "v1", "CronJob"),
        json!({"spec": {"jobTemplate": {"spec": {"template": template}}}}),
        &[
            ("/spec/concurrencyPolicy", json!("Allow")),
            ("/spec/successfulJobsHistoryLimit", json!(3)),
            (
                "/spec/jobTemplate/spec/template/spec/dnsPolicy",
                json!("ClusterFirst"),
            ),
            ("/spec/jobTemplate/spec/backoffLimit", Value::Null),
        ],
    );
    check(
        ("", "v1", "ReplicationController"),
        json!({"spec": {"template": template}}),
        &[
            pod,
            ("/spec/selector", json!({"a": "b"})),
            ("/metadata/labels", json!({"a": "b"})),
        ],
    );
}

#[test]
fn core_group() {
    check(
        ("", "v1", "Service"),
        json!({"spec": {"type": "LoadBalancer", "ports": [{"port": 80}, {"port": 81, "targetPort": "x"}],
            "sessionAffinity": "ClientIP"}}),
        &[
            (
                "/spec/ports/0",
                json!({"port": 80, "protocol": "TCP", "targetPort": 80}),
            ),
            ("/spec/ports/1/targetPort", json!("x")),
            ("/spec/externalTrafficPolicy", json!("Cluster")),
            ("/spec/internalTrafficPolicy", json!("Cluster")),
            ("/spec/allocateLoadBalancerNodePorts", json!(true)),
            (
                "/spec/sessionAffinityConfig/clientIP/timeoutSeconds",
                json!(10_800),
            ),
        ],
    );
    check(
        ("", "v1", "Service"),
        json!({"spec": {}}),
        &[
            ("/spec/type", json!("ClusterIP")),
            ("/spec/externalTrafficPolicy", Value::Null),
        ],
    );
    check(
        ("", "v1", "Service"),
        json!({"spec": {"type": "ExternalName", "externalName": "a.b"}}),
        &[("/spec/internalTrafficPolicy", Value::Null)],
    );
    check(
        ("", "v1", "Secret"),
        json!({"data": {"a": "YQ=="}, "stringData": {"a": "x", "b": "hi"}}),
        &[
            ("/type", json!("Opaque")),
            ("/data", json!({"a": "eA==", "b": "aGk="})),
            ("/stringData", Value::Null),
        ],
    );
    check(
        ("", "v1", "Namespace"),
        json!({"metadata": {"name": "n"}}),
        &[
            ("/metadata/labels", json!({"kubernetes.io/metadata.name": "n"})),
            ("/status/phase", json!("Active")),
        ],
    );
    check(
        ("", "v1", "Node"),
        json!({"spec": {"podCIDR": "10.0.0.0/24"}, "status": {"capacity": {"cpu": "1500u"}}}),
        &[
            ("/status/allocatable", json!({"cpu": "2m"})),
            ("/spec/podCIDRs", json!(["10.0.0.0/24"])),
        ],
    );
    check(
        ("", "v1", "PersistentVolume"),
        json!({"spec": {"hostPath": {"path": "/x"}}}),
        &[
            ("/spec/persistentVolumeReclaimPolicy", json!("Retain")),
            ("/spec/hostPath/type", json!("")),
            ("/status/phase", json!("Pending")),
        ],
    );
    check(
        ("", "v1", "LimitRange"),
        json!({"spec": {"limits": [{"type": "Container", "max": {"cpu": "2"}, "min": {"memory": "1Mi"}}]}}),
        &[
            ("/spec/limits/0/default", json!({"cpu": "2"})),
            (
                "/spec/limits/0/defaultRequest",
                json!({"cpu": "2", "memory": "1Mi"}),
            ),
        ],
    );
}

#[test]
fn other_groups() {
    check(
        ("networking.k8s.io", "v1", "NetworkPolicy"),
        json!({"spec": {"egress": [{"ports": [{"port": 80}]}]}}),
        &[
            ("/spec/policyTypes", json!(["Ingress", "Egress"])),
            ("/spec/egress/0/ports/0/protocol", json!("TCP")),
        ],
    );
    check(
        ("rbac.authorization.k8s.io", "v1", "RoleBinding"),
        json!({"roleRef": {"kind": "Role", "name": "r"},
            "subjects": [{"kind": "User", "name": "u"}, {"kind": "ServiceAccount", "name": "s"}]}),
        &[
            ("/roleRef/apiGroup", json!("rbac.authorization.k8s.io")),
            ("/subjects/0/apiGroup", json!("rbac.authorization.k8s.io")),
            ("/subjects/1/apiGroup", Value::Null),
        ],
    );
    check(
        ("apiextensions.k8s.io", "v1", "CustomResourceDefinition"),
        json!({"spec": {"names": {"kind": "Foo", "plural": "foos"},
            "versions": [{"name": "v1", "storage": false}, {"name": "v2", "storage": true}]}}),
        &[
            ("/spec/names/singular", json!("foo")),
            ("/spec/names/listKind", json!("FooList")),
            ("/spec/conversion/strategy", json!("None")),
            ("/status/storedVersions", json!(["v2"])),
        ],
    );
    check(
        (
            "admissionregistration.k8s.io",
            "v1",
            "MutatingWebhookConfiguration",
        ),
        json!({"webhooks": [{"name": "x", "rules": [{}], "clientConfig": {"service": {"name": "s"}}}]}),
        &[(
            "/webhooks/0",
            json!({"name": "x", "rules": [{"scope": "*"}], "clientConfig": {"service": {"name": "s", "port": 443}},
                "failurePolicy": "Fail", "matchPolicy": "Equivalent", "namespaceSelector": {}, "objectSelector": {},
                "timeoutSeconds": 10, "reinvocationPolicy": "Never"}),
        )],
    );
    check(
        ("autoscaling", "v2", "HorizontalPodAutoscaler"),
        json!({"spec": {"behavior": {"scaleDown": {"stabilizationWindowSeconds": 5}}}}),
        &[
            ("/spec/minReplicas", json!(1)),
            ("/spec/metrics/0/resource/target/averageUtilization", json!(80)),
            ("/spec/behavior/scaleUp/policies/0/type", json!("Pods")),
            ("/spec/behavior/scaleDown/stabilizationWindowSeconds", json!(5)),
        ],
    );
    check(
        ("discovery.k8s.io", "v1", "EndpointSlice"),
        json!({"ports": [{"port": 80}]}),
        &[("/ports/0", json!({"name": "", "port": 80, "protocol": "TCP"}))],
    );
    check(
        ("storage.k8s.io", "v1", "StorageClass"),
        json!({}),
        &[
            ("/reclaimPolicy", json!("Delete")),
            ("/volumeBindingMode", json!("Immediate")),
        ],
    );
    check(
        ("flowcontrol.apiserver.k8s.io", "v1", "PriorityLevelConfiguration"),
        json!({"spec": {"type": "Limited", "limited": {"limitResponse": {"queuing": {}}}}}),
        &[("/spec/limited/limitResponse/queuing/queues", json!(64))],
    );
}
