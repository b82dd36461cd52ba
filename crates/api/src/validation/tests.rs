//! Table-driven checks of validation.

use serde_json::{Value, json};

use super::*;
use crate::defaults;
use crate::field::ErrorList;
use crate::gvk::GroupVersionKind;

fn gvk(group: &'static str, kind: &'static str) -> GroupVersionKind {
    GroupVersionKind::new(group, if group == "autoscaling" { "v2" } else { "v1" }, kind)
}

fn texts(errors: &ErrorList) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

fn named(mut object: Value, kind: &GroupVersionKind) -> Value {
    object["kind"] = json!(kind.kind);
    if object["metadata"]["name"].is_null() {
        object["metadata"]["name"] = json!("x");
    }
    let info = crate::resources::by_gvk(&kind.group, &kind.version, &kind.kind).expect("kind");
    if info.namespaced && object["metadata"]["namespace"].is_null() {
        object["metadata"]["namespace"] = json!("default");
    }
    defaults::apply(kind, &mut object);
    object
}

/// Defaults a new object and compares what is wrong with it.
fn check(group: &'static str, kind: &'static str, object: Value, expected: &[&str]) {
    let kind = gvk(group, kind);
    let object = named(object, &kind);
    assert_eq!(texts(&validate_create(&kind, &object)), expected, "{object}");
}

/// Compares what is wrong with a change.
fn check_update(group: &'static str, kind: &'static str, old: Value, new: Value, expected: &[&str]) {
    let kind = gvk(group, kind);
    let (old, new) = (named(old, &kind), named(new, &kind));
    assert_eq!(texts(&validate_update(&kind, "", &new, &old)), expected, "{new}");
}

fn pod(container: Value) -> Value {
    let mut container = container;
    container["name"] = json!("c");
    container["image"] = json!("i");
    json!({"spec": {"containers": [container]}})
}

#[test]
fn metadata_of_objects() {
    check(
        "",
        "ConfigMap",
        json!({"metadata": {"name": "A_b"}}),
        &["metadata.name: Invalid value: \"A_b\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric \
           characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used \
           for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
            .replace("\\\\", "\\")
            .as_str()],
    );
    check(
        "",
        "ConfigMap",
        json!({"metadata": {"name": ""}}),
        &["metadata.name: Required value: name or generateName is required"],
    );
    check(
        "",
        "Node",
        json!({"metadata": {"namespace": "n"}}),
        &["metadata.namespace: Forbidden: not allowed on this type"],
    );
    check(
        "",
        "ConfigMap",
        json!({"metadata": {"finalizers": ["a"], "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p"}]}}),
        &[
            "metadata.ownerReferences.uid: Invalid value: \"\": uid must not be empty",
            "metadata.finalizers: Invalid value: \"a\": name is neither a standard finalizer name nor is it fully qualified",
        ],
    );
    check_update(
        "",
        "ConfigMap",
        json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}),
        json!({"metadata": {"finalizers": ["a.b/c"]}}),
        &[
            "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new \
           finalizers []string{\"a.b/c\"}",
        ],
    );
}

#[test]
fn finalizers_without_a_domain() {
    let definition = GroupVersionKind::new("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
    let object =
        json!({"metadata": {"name": "x", "finalizers": ["customresourcecleanup.apiextensions.k8s.io"]}});
    assert_eq!(texts(&validate_metadata(&definition, false, &object)), [""; 0]);
    let custom = GroupVersionKind::new("example.com", "v1", "Widget");
    assert_eq!(
        texts(&validate_metadata_update(&custom, &object, &object)),
        [""; 0]
    );
    assert_eq!(
        validate_metadata_update(&gvk("", "Pod"), &object, &object).len(),
        1
    );
}

#[test]
fn pods() {
    check("", "Pod", pod(json!({})), &[]);
    check(
        "",
        "Pod",
        json!({"spec": {}}),
        &["spec.containers: Required value"],
    );
    check(
        "",
        "Pod",
        json!({"spec": {"containers": [{"name": "c"}]}}),
        &["spec.containers[0].image: Required value"],
    );
    check(
        "",
        "Pod",
        json!({"spec": {"containers": [{"name": "c", "image": "i"}, {"name": "c", "image": "i"}]}}),
        &["spec.containers[1].name: Duplicate value: \"c\""],
    );
    check(
        "",
        "Pod",
        pod(json!({"ports": [{"containerPort": 0}, {"containerPort": 70_000, "protocol": "X"}]})),
        &[
            "spec.containers[0].ports[0].containerPort: Required value",
            "spec.containers[0].ports[1].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
            "spec.containers[0].ports[1].protocol: Unsupported value: \"X\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
        ],
    );
    check(
        "",
        "Pod",
        pod(json!({"volumeMounts": [{"name": "v", "mountPath": "/a"}]})),
        &["spec.containers[0].volumeMounts[0].name: Not found: \"v\""],
    );
    check(
        "",
        "Pod",
        pod(json!({"resources": {"requests": {"cpu": "2", "foo": "1"}, "limits": {"cpu": "1"}}})),
        &[
            "spec.containers[0].resources.requests[foo]: Invalid value: \"foo\": must be a standard resource for containers",
            "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
        ],
    );
    check(
        "",
        "Pod",
        pod(json!({"livenessProbe": {"successThreshold": 2}})),
        &[
            "spec.containers[0].livenessProbe: Required value: must specify a handler type",
            "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
        ],
    );
    check(
        "",
        "Pod",
        json!({"spec": {"restartPolicy": "Sometimes", "containers": [{"name": "c", "image": "i"}],
            "volumes": [{"name": "v", "configMap": {}, "secret": {"secretName": "s"}}],
            "tolerations": [{"operator": "Equal"}]}}),
        &[
            "spec.volumes[0].secret: Forbidden: may not specify more than 1 volume type",
            "spec.tolerations[0].operator: Invalid value: \"Equal\": operator must be Exists when `key` is empty, which \
             means \"match all values and all keys\"",
            "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"Never\", \"OnFailure\"",
        ],
    );
    check(
        "",
        "Pod",
        pod(
            json!({"env": [{"name": ""}, {"name": "A", "value": "x", "valueFrom": {"fieldRef": {"fieldPath": "spec.x"}}}]}),
        ),
        &[
            "spec.containers[0].env[0].name: Required value",
            "spec.containers[0].env[1].valueFrom.fieldRef.fieldPath: Unsupported value: \"spec.x\": supported values: \
             \"metadata.name\", \"metadata.namespace\", \"metadata.uid\", \"spec.nodeName\", \"spec.serviceAccountName\", \
             \"status.hostIP\", \"status.hostIPs\", \"status.podIP\", \"status.podIPs\"",
            "spec.containers[0].env[1].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty",
        ],
    );
}

#[test]
fn pod_updates() {
    let old = pod(json!({}));
    let mut image = old.clone();
    image["spec"]["containers"][0]["image"] = json!("j");
    // The pull policy was defaulted when the pod was made.
    check_update("", "Pod", old.clone(), image, &[]);
    check_update(
        "",
        "Pod",
        old.clone(),
        pod(json!({"env": [{"name": "a"}]})),
        &["spec: Forbidden: pod updates may not change fields other than \
           `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only \
           additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was \
           previously negative)"],
    );
    let more = json!({"spec": {"containers": [{"name": "c", "image": "i"}, {"name": "d", "image": "i"}]}});
    let why = "spec.containers: Forbidden: pod updates may not add or remove containers";
    check_update("", "Pod", old.clone(), more, &[why]);
    let mut tolerating = old.clone();
    tolerating["spec"]["tolerations"] = json!([{"key": "a", "operator": "Exists"}]);
    check_update("", "Pod", old, tolerating, &[]);
}

#[test]
fn workloads() {
    let template = |policy: &str| json!({"metadata": {"labels": {"a": "b"}}, "spec": {"restartPolicy": policy, "containers": [{"name": "c", "image": "i"}]}});
    let deployment =
        |selector: Value, policy: &str| json!({"spec": {"selector": selector, "template": template(policy)}});
    let good = json!({"matchLabels": {"a": "b"}});
    check("apps", "Deployment", deployment(good.clone(), "Always"), &[]);
    check("apps", "StatefulSet", deployment(good.clone(), "Always"), &[]);
    check("apps", "DaemonSet", deployment(good.clone(), "Always"), &[]);
    check(
        "apps",
        "Deployment",
        deployment(json!({"matchLabels": {"x": "y"}}), "Never"),
        &[
            "spec.template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not match template `labels`",
            "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
        ],
    );
    check(
        "apps",
        "ReplicaSet",
        deployment(Value::Null, "Always"),
        &["spec.selector: Required value"],
    );
    check_update(
        "apps",
        "Deployment",
        deployment(json!({"matchLabels": {"c": "d"}}), "Always"),
        deployment(good.clone(), "Always"),
        &["spec.selector: Invalid value: {\"matchLabels\":{\"a\":\"b\"}}: field is immutable"],
    );
    check(
        "batch",
        "Job",
        deployment(good.clone(), "Always"),
        &["spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\""],
    );
    check(
        "batch",
        "CronJob",
        json!({"spec": {"schedule": "* * * *", "jobTemplate": {"spec": {"template": template("Never")}}}}),
        &["spec.schedule: Invalid value: \"* * * *\": expected exactly 5 fields, found 4: [* * * *]"],
    );
    for good in [
        "*/5 * * * *",
        "0 0 1-5 jan-mar mon",
        "@hourly",
        "@every 1h",
        "1,2,3 */2 ? * 0",
    ] {
        let template = template("Never");
        check(
            "batch",
            "CronJob",
            json!({"spec": {"schedule": good, "jobTemplate": {"spec": {"template": template}}}}),
            &[],
        );
    }
    check_update(
        "apps",
        "StatefulSet",
        json!({"spec": {"selector": good, "template": template("Always"), "serviceName": "a"}}),
        json!({"spec": {"selector": good, "template": template("Always"), "serviceName": "b"}}),
        &[
            "spec: Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', \
           'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are \
           forbidden",
        ],
    );
}

#[test]
fn core_kinds() {
    check("", "Service", json!({"spec": {"ports": [{"port": 80}]}}), &[]);
    check(
        "",
        "Service",
        json!({"spec": {}}),
        &["spec.ports: Required value"],
    );
    check(
        "",
        "Service",
        json!({"spec": {"ports": [{"port": 80}, {"port": 80, "name": "b", "nodePort": 30_000}]}}),
        &[
            "spec.ports[0].name: Required value",
            "spec.ports[1]: Duplicate value: {\"port\":80,\"protocol\":\"TCP\"}",
            "spec.ports[1].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
        ],
    );
    check_update(
        "",
        "Service",
        json!({"spec": {"ports": [{"port": 80}], "clusterIPs": ["10.0.0.1"]}}),
        json!({"spec": {"ports": [{"port": 80}], "clusterIPs": ["10.0.0.2"]}}),
        &["spec.clusterIPs[0]: Invalid value: \"10.0.0.2\": may not change once set"],
    );
    check(
        "",
        "Secret",
        json!({"type": "kubernetes.io/tls", "data": {"tls.crt": ""}}),
        &["data[tls.key]: Required value"],
    );
    check_update(
        "",
        "ConfigMap",
        json!({"immutable": true, "data": {"a": "b"}}),
        json!({"data": {"a": "c"}}),
        &[
            "immutable: Forbidden: field is immutable when `immutable` is set",
            "data: Forbidden: field is immutable when `immutable` is set",
        ],
    );
    check("", "Namespace", json!({"metadata": {"name": "n"}}), &[]);
    check(
        "",
        "PersistentVolumeClaim",
        json!({"spec": {"accessModes": ["X"], "resources": {"requests": {"storage": "1Gi"}}}}),
        &[
            "spec.accessModes[0]: Unsupported value: \"X\": supported values: \"ReadOnlyMany\", \"ReadWriteMany\", \
           \"ReadWriteOnce\", \"ReadWriteOncePod\"",
        ],
    );
    check(
        "",
        "PersistentVolume",
        json!({"spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/x"}}}),
        &[],
    );
    check(
        "",
        "LimitRange",
        json!({"spec": {"limits": [{"type": "Pod", "min": {"cpu": "2"}, "max": {"cpu": "1"}}]}}),
        &["spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1"],
    );
}

#[test]
fn other_groups() {
    check(
        "networking.k8s.io",
        "Ingress",
        json!({"spec": {"rules": [{"host": "1.2.3.4", "http": {"paths": [{"path": "x", "pathType": "Prefix",
            "backend": {"service": {"name": "s", "port": {}}}}]}}]}}),
        &[
            "spec.rules[0].host: Invalid value: \"1.2.3.4\": must be a DNS name, not an IP address",
            "spec.rules[0].http.paths[0].path: Invalid value: \"x\": must be an absolute path",
            "spec.rules[0].http.paths[0].backend.service.port: Required value: port name or number is required",
        ],
    );
    check(
        "networking.k8s.io",
        "NetworkPolicy",
        json!({"spec": {"podSelector": {}, "ingress": [{"from": [{}, {"ipBlock": {"cidr": "10.0.0.0/40"}}]}]}}),
        &[
            "spec.ingress[0].from[0]: Required value: must specify a peer",
            "spec.ingress[0].from[1].ipBlock.cidr: Invalid value: \"10.0.0.0/40\": must be a valid CIDR value, (e.g. \
             10.9.8.0/24 or 2001:db8::/64)",
        ],
    );
    check(
        "rbac.authorization.k8s.io",
        "Role",
        json!({"rules": [{"resources": ["pods"], "apiGroups": [""]}]}),
        &["rules[0].verbs: Required value: verbs must contain at least one value"],
    );
    let binding = |name: &str| json!({"roleRef": {"kind": "Role", "name": name}});
    check_update(
        "rbac.authorization.k8s.io",
        "RoleBinding",
        binding("a"),
        binding("b"),
        &[
            "roleRef: Invalid value: {\"apiGroup\":\"rbac.authorization.k8s.io\",\"kind\":\"Role\",\"name\":\"b\"}: cannot \
           change roleRef",
        ],
    );
    check(
        "policy",
        "PodDisruptionBudget",
        json!({"spec": {"minAvailable": "120%"}}),
        &["spec.minAvailable: Invalid value: \"120%\": must not be greater than 100%"],
    );
    check(
        "autoscaling",
        "HorizontalPodAutoscaler",
        json!({"spec": {"minReplicas": 3, "maxReplicas": 2, "scaleTargetRef": {"kind": "D", "name": "d"}}}),
        &["spec.maxReplicas: Invalid value: 2: must be greater than or equal to `minReplicas`"],
    );
    check(
        "apiextensions.k8s.io",
        "CustomResourceDefinition",
        json!({"metadata": {"name": "foos.a.b"}, "spec": {"group": "a.b", "scope": "Namespaced",
            "names": {"plural": "foos", "kind": "Foo"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}]}}),
        &[],
    );
    check(
        "scheduling.k8s.io",
        "PriorityClass",
        json!({"metadata": {"name": "system-x"}, "value": 1}),
        &[
            "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only",
        ],
    );
}
