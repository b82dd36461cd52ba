//! Table-driven checks of tables.

use serde_json::{Value, json};

use super::*;
use crate::gvk::GroupVersionKind;
use crate::resources;

const NOW: &str = "2026-01-02T00:00:00Z";
const CREATED: &str = "2026-01-01T23:55:00Z";

fn check(group: &'static str, kind: &'static str, mut object: Value, expected: Value) {
    object["metadata"]["name"] = json!("x");
    object["metadata"]["creationTimestamp"] = json!(CREATED);
    let gvk = GroupVersionKind::new(group, if group == "autoscaling" { "v2" } else { "v1" }, kind);
    let cells = row(&gvk, &object, NOW.parse().expect("time"));
    assert_eq!(Value::Array(cells), expected, "{kind}");
}

#[test]
fn as_many_cells_as_columns() {
    for info in resources::builtin() {
        let now = NOW.parse().expect("time");
        let cells = row(&info.gvk(), &json!({"metadata": {"name": "x"}}), now);
        assert_eq!(cells.len(), columns(&info.gvr()).len(), "{}", info.gvk());
    }
}

#[test]
fn durations() {
    let cases = [
        (-2, "<invalid>"),
        (-1, "0s"),
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (125, "2m5s"),
        (600, "10m"),
        (179 * 60, "179m"),
        (180 * 60, "3h"),
        (3 * 3600 + 120, "3h2m"),
        (8 * 3600, "8h"),
        (48 * 3600, "2d"),
        (53 * 3600, "2d5h"),
        (8 * 86_400, "8d"),
        (729 * 86_400, "729d"),
        (732 * 86_400, "2y2d"),
        (8 * 365 * 86_400, "8y"),
    ];
    for (seconds, text) in cases {
        assert_eq!(human_duration(seconds), text, "{seconds}");
    }
}

/// Checks ready, status and restarts of a pod.
fn pod(pod: Value, expected: [&str; 3]) {
    let now = NOW.parse().expect("time");
    let cells = row(&GroupVersionKind::new("", "v1", "Pod"), &pod, now);
    let found: Vec<&str> = cells[1..4].iter().filter_map(Value::as_str).collect();
    assert_eq!(found, expected, "{pod}");
}

#[test]
fn pods() {
    let spec = json!({"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}]});
    let status = |status: Value| json!({"spec": spec, "status": status});
    pod(status(json!({"phase": "Pending"})), ["0/2", "Pending", "0"]);
    pod(
        status(
            json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "reason": "SchedulingGated"}]}),
        ),
        ["0/2", "SchedulingGated", "0"],
    );
    pod(
        status(
            json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"running": {}}}]}),
        ),
        ["0/2", "Init:0/1", "0"],
    );
    pod(
        status(
            json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "restartCount": 2,
            "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}),
        ),
        ["0/2", "Init:CrashLoopBackOff", "2"],
    );
    pod(
        status(json!({"phase": "Pending", "initContainerStatuses": [{"name": "i",
            "state": {"terminated": {"exitCode": 3}}}]})),
        ["0/2", "Init:ExitCode:3", "0"],
    );
    let done = json!([{"name": "i", "state": {"terminated": {"exitCode": 0}}, "restartCount": 4}]);
    pod(
        status(
            json!({"phase": "Running", "initContainerStatuses": done, "containerStatuses": [
            {"name": "a", "ready": true, "state": {"running": {}}, "restartCount": 1,
             "lastState": {"terminated": {"finishedAt": "2026-01-01T23:58:20Z"}}},
            {"name": "b", "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "restartCount": 2,
             "lastState": {"terminated": {"finishedAt": "2026-01-01T23:55:00Z"}}}]}),
        ),
        ["1/2", "CrashLoopBackOff", "3 (100s ago)"],
    );
    pod(
        status(json!({"phase": "Succeeded", "containerStatuses": [
            {"name": "a", "state": {"terminated": {"reason": "Completed", "exitCode": 0}}}]})),
        ["0/2", "Completed", "0"],
    );
    pod(
        status(json!({"phase": "Running", "containerStatuses": [
            {"name": "a", "ready": true, "state": {"running": {}}},
            {"name": "b", "state": {"terminated": {"reason": "Completed", "exitCode": 0}}}]})),
        ["1/2", "NotReady", "0"],
    );
    pod(
        status(
            json!({"phase": "Failed", "containerStatuses": [{"name": "a", "state": {"terminated": {"signal": 9}}}]}),
        ),
        ["0/2", "Signal:9", "0"],
    );
    let mut deleting = status(json!({"phase": "Running"}));
    deleting["metadata"]["deletionTimestamp"] = json!(NOW);
    pod(deleting.clone(), ["0/2", "Terminating", "0"]);
    deleting["status"]["reason"] = json!("NodeLost");
    pod(deleting, ["0/2", "Unknown", "0"]);
    let sidecar = json!({"spec": {"containers": [{"name": "a"}], "initContainers": [{"name": "s", "restartPolicy": "Always"}]},
        "status": {"phase": "Running", "initContainerStatuses": [{"name": "s", "started": true, "ready": true}],
            "containerStatuses": [{"name": "a", "ready": true, "state": {"running": {}}}]}});
    pod(sidecar, ["2/2", "Running", "0"]);
}

#[test]
fn core_kinds() {
    check(
        "",
        "Node",
        json!({"metadata": {"labels": {"node-role.kubernetes.io/control-plane": "", "a": "b"}},
            "spec": {"unschedulable": true},
            "status": {"conditions": [{"type": "Ready", "status": "Unknown"}],
                "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
                "nodeInfo": {"kubeletVersion": "v1.36.0", "osImage": "Linux"}}}),
        json!([
            "x",
            "NotReady,SchedulingDisabled",
            "control-plane",
            "5m",
            "v1.36.0",
            "10.0.0.1",
            "<none>",
            "Linux",
            "<unknown>",
            "<unknown>"
        ]),
    );
    check(
        "",
        "Service",
        json!({"spec": {"type": "LoadBalancer", "clusterIPs": ["10.96.0.9"], "selector": {"b": "2", "a": "1"},
            "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]}}),
        json!([
            "x",
            "LoadBalancer",
            "10.96.0.9",
            "<pending>",
            "80:30080/TCP,53/UDP",
            "5m",
            "a=1,b=2"
        ]),
    );
    check(
        "",
        "Endpoints",
        json!({"subsets": [{"addresses": [{"ip": "1.1.1.1"}, {"ip": "1.1.1.2"}], "ports": [{"port": 1}, {"port": 2}]}]}),
        json!(["x", "1.1.1.1:1,1.1.1.2:1,1.1.1.1:2 + 1 more...", "5m"]),
    );
    check(
        "",
        "Event",
        json!({"type": "Normal", "reason": "Pulled", "message": " m\n", "count": 3,
            "involvedObject": {"kind": "Pod", "name": "p"}, "source": {"component": "kubelet", "host": "n"},
            "firstTimestamp": CREATED, "lastTimestamp": "2026-01-01T23:59:00Z"}),
        json!([
            "60s",
            "Normal",
            "Pulled",
            "pod/p",
            "",
            "kubelet, n",
            "m",
            "5m",
            3,
            "x"
        ]),
    );
    check(
        "",
        "PersistentVolumeClaim",
        json!({"spec": {"volumeName": "v", "storageClassName": "s", "volumeMode": "Filesystem"},
            "status": {"phase": "Bound", "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteMany", "ReadWriteOnce"]}}),
        json!([
            "x",
            "Bound",
            "v",
            "1Gi",
            "RWO,RWX",
            "s",
            "<unset>",
            "5m",
            "Filesystem"
        ]),
    );
    check(
        "",
        "ResourceQuota",
        json!({"status": {"hard": {"pods": "5", "limits.cpu": "2", "cpu": "1"}, "used": {"pods": "1"}}}),
        json!(["x", "cpu: 0/1, pods: 1/5", "limits.cpu: 0/2", "5m"]),
    );
}

#[test]
fn workload_kinds() {
    let template =
        json!({"spec": {"containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "j"}]}});
    let selector = json!({"matchLabels": {"a": "1"}, "matchExpressions": [{"key": "k", "operator": "In", "values": ["y", "z"]}]});
    check(
        "apps",
        "Deployment",
        json!({"spec": {"replicas": 3, "template": template, "selector": selector},
            "status": {"readyReplicas": 1, "updatedReplicas": 2}}),
        json!(["x", "1/3", 2, 0, "5m", "a,b", "i,j", "a=1,k in (y,z)"]),
    );
    check(
        "apps",
        "DaemonSet",
        json!({"spec": {"template": template}, "status": {"desiredNumberScheduled": 2}}),
        json!(["x", 2, 0, 0, 0, 0, "<none>", "5m", "a,b", "i,j", "<none>"]),
    );
    check(
        "batch",
        "Job",
        json!({"spec": {"template": template, "completions": 3}, "status": {"succeeded": 3,
            "startTime": "2026-01-01T23:00:00Z", "completionTime": "2026-01-01T23:00:42Z",
            "conditions": [{"type": "Complete", "status": "True"}]}}),
        json!(["x", "Complete", "3/3", "42s", "5m", "a,b", "i,j", "<none>"]),
    );
    check(
        "batch",
        "CronJob",
        json!({"spec": {"schedule": "* * * * *", "suspend": false}, "status": {"active": [1]}}),
        json!([
            "x",
            "* * * * *",
            "<none>",
            "False",
            1,
            "<none>",
            "5m",
            "",
            "",
            "<none>"
        ]),
    );
    check(
        "apps",
        "ControllerRevision",
        json!({"revision": 2, "metadata": {"ownerReferences": [
            {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d", "controller": true}]}}),
        json!(["x", "daemonset.apps/d", 2, "5m"]),
    );
    check(
        "policy",
        "PodDisruptionBudget",
        json!({"spec": {"minAvailable": "50%"}, "status": {"disruptionsAllowed": 1}}),
        json!(["x", "50%", "N/A", 1, "5m"]),
    );
    check(
        "autoscaling",
        "HorizontalPodAutoscaler",
        json!({"spec": {"scaleTargetRef": {"kind": "Deployment", "name": "d"}, "minReplicas": 1, "maxReplicas": 5, "metrics": [
            {"type": "Resource", "resource": {"name": "cpu", "target": {"averageUtilization": 80}}},
            {"type": "Pods", "pods": {"target": {"averageValue": "10"}}}, {"type": "x"}]},
            "status": {"currentMetrics": [{"resource": {"current": {"averageUtilization": 12}}}], "currentReplicas": 2}}),
        json!([
            "x",
            "Deployment/d",
            "cpu: 12%/80%, <unknown>/10 + 1 more...",
            "1",
            5,
            2,
            "5m"
        ]),
    );
}

#[test]
fn other_kinds() {
    check(
        "networking.k8s.io",
        "Ingress",
        json!({"spec": {"ingressClassName": "c", "rules": [{"host": "a"}, {"host": "b"}, {"host": "c"}, {"host": "d"}],
            "tls": [{}]}, "status": {"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}]}}}),
        json!(["x", "c", "a,b,c + 1 more...", "1.2.3.4", "80, 443", "5m"]),
    );
    check(
        "discovery.k8s.io",
        "EndpointSlice",
        json!({"addressType": "IPv4", "ports": [{"port": 80}], "endpoints": []}),
        json!(["x", "IPv4", "80", "<unset>", "5m"]),
    );
    check(
        "certificates.k8s.io",
        "CertificateSigningRequest",
        json!({"spec": {"signerName": "s", "username": "u", "expirationSeconds": 3600},
            "status": {"certificate": "eA==", "conditions": [{"type": "Approved"}]}}),
        json!(["x", "5m", "s", "u", "60m", "Approved,Issued"]),
    );
    check(
        "rbac.authorization.k8s.io",
        "RoleBinding",
        json!({"roleRef": {"kind": "Role", "name": "r"}, "subjects": [{"kind": "User", "name": "u"},
            {"kind": "ServiceAccount", "namespace": "n", "name": "s"}]}),
        json!(["x", "Role/r", "5m", "u", "", "n/s"]),
    );
    check(
        "apiregistration.k8s.io",
        "APIService",
        json!({"spec": {"service": {"namespace": "n", "name": "s"}},
            "status": {"conditions": [{"type": "Available", "status": "False", "reason": "MissingEndpoints"}]}}),
        json!(["x", "n/s", "False (MissingEndpoints)", "5m"]),
    );
    check(
        "storage.k8s.io",
        "StorageClass",
        json!({"metadata": {"annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}, "provisioner": "p"}),
        json!(["x (default)", "p", "Delete", "Immediate", false, "5m"]),
    );
    check(
        "rbac.authorization.k8s.io",
        "Role",
        json!({}),
        json!(["x", CREATED]),
    );
}
