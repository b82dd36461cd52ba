//! A node that dies, and a node whose disk is full.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::harness::{Cluster, eventually, within};

/// How long until a silent node counts as lost, and then some.
const LOST: Duration = Duration::from_secs(120);

/// A Deployment and a StatefulSet, both with [`FLEEING_POD`].
const FLEEING: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: POD
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: store}
spec:
  serviceName: store
  selector: {matchLabels: {app: store}}
  template:
    metadata: {labels: {app: store}}
    spec: POD
"#;

/// Likes the second node and leaves it five seconds after it is lost.
const FLEEING_POD: &str = r#"
      terminationGracePeriodSeconds: 1
      affinity:
        nodeAffinity:
          preferredDuringSchedulingIgnoredDuringExecution:
          - weight: 100
            preference: {matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [lost-2]}]}
      tolerations:
      - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 5}
      - {key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 5}
      containers:
      - {name: sleep, image: "127.0.0.1:5000/busybox:1", command: [sleep, "3600"]}"#;

/// kill -9 of a whole node: Unknown, tainted, its pods evicted; a replica starts elsewhere, a stateful pod is never
/// doubled; `keelson up` brings the node back and everything is as before.
pub(crate) fn lost_node_comes_back(cluster: &Cluster) -> Result<()> {
    cluster.apply(&FLEEING.replace(" POD", FLEEING_POD))?;
    for workload in ["deployment/web", "statefulset/store"] {
        cluster.kubectl(&["rollout", "status", workload, "--timeout=60s"])?;
    }
    let web = |path: &str| cluster.field(&["pods", "-l", "app=web"], path);
    let store = |path: &str| cluster.field(&["pods", "-l", "app=store"], path);
    assert_eq!(web("{.items[*].spec.nodeName}")?, "lost-2");
    assert_eq!(store("{.items[*].spec.nodeName}")?, "lost-2");
    let first_store = store("{.items[*].metadata.uid}")?;

    let record = cluster.machine.data_dir().join("nodes/lost-2/running.json");
    let record: serde_json::Value = serde_json::from_slice(&std::fs::read(cluster.machine.seen(&record))?)?;
    let init = record["init"]["pid"]
        .as_i64()
        .context("the node's init has no pid")?;
    cluster.shell(&format!("kill -9 {init}"))?;

    within(LOST, "the node is Unknown", || {
        let ready = r#"{.status.conditions[?(@.type=="Ready")].status} {.status.conditions[?(@.type=="Ready")].reason}"#;
        let state = cluster.field(&["node", "lost-2"], ready)?;
        ensure!(state == "Unknown NodeStatusUnknown", "{state}");
        Ok(())
    })?;
    eventually("the node is tainted", || {
        let taints = cluster.field(
            &["node", "lost-2"],
            "{range .spec.taints[*]}{.key}:{.effect} {end}",
        )?;
        for effect in ["NoSchedule", "NoExecute"] {
            let taint = format!("node.kubernetes.io/unreachable:{effect}");
            ensure!(taints.contains(&taint), "{taints}");
        }
        Ok(())
    })?;
    eventually("a replica on the node that is left", || {
        let ready = r#"{.items[?(@.spec.nodeName=="lost")].status.containerStatuses[0].ready}"#;
        let ready = web(ready)?;
        ensure!(ready == "true", "{ready}");
        Ok(())
    })?;
    eventually("the stateful pod is to go", || {
        let deleted = store("{.items[*].metadata.deletionTimestamp}")?;
        ensure!(!deleted.is_empty(), "not deleted");
        Ok(())
    })?;
    assert_eq!(
        store("{.items[*].metadata.uid}")?,
        first_store,
        "one at most, while nobody knows whether it runs"
    );
    let events = cluster.kubectl(&["get", "events", "-A"])?;
    for reason in ["NodeNotReady", "TaintManagerEviction"] {
        ensure!(events.contains(reason), "no event {reason}:\n{events}");
    }

    cluster.keelson(&["up", "--timeout=60"])?;
    eventually("the taints are gone", || {
        let taints = cluster.field(&["node", "lost-2"], "{.spec.taints}")?;
        ensure!(taints.is_empty(), "{taints}");
        Ok(())
    })?;
    eventually("the stateful pod is another one", || {
        let state = store("{.items[*].metadata.uid} {.items[*].status.containerStatuses[0].ready}")?;
        ensure!(
            !state.contains(&first_store) && state.ends_with(" true"),
            "{state}"
        );
        Ok(())
    })?;
    eventually("one replica is left", || {
        let pods = web("{.items[*].metadata.name}")?;
        ensure!(pods.split_whitespace().count() == 1, "{pods}");
        Ok(())
    })
}

/// Fills its volume on the second node, whose disk has 96 MiB.
const GREEDY: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: greedy}
spec:
  nodeName: full-2
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  containers:
  - name: fill
    image: 127.0.0.1:5000/busybox:1
    command: [sh, -c, "dd if=/dev/zero of=/data/all bs=1M; sleep 3600"]
    volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, emptyDir: {}}]
"#;

/// A pod that fills its node's disk is evicted and the node says why; a server whose disk is full says why it refuses
/// writes, goes on answering reads, and takes writes again as soon as there is room.
pub(crate) fn full_disk(cluster: &Cluster) -> Result<()> {
    let data = cluster.machine.data_dir();
    let node = data.join("nodes/full-2");
    cluster.shell(&format!(
        "mkdir -p {data} && mount -t tmpfs -o size=256m tmpfs {data} && mkdir -p {node} && mount -t tmpfs -o size=96m tmpfs {node}",
        data = data.display(),
        node = node.display()
    ))?;
    cluster.up(&["--nodes=2"])?;

    cluster.apply(GREEDY)?;
    within(Duration::from_secs(90), "the pod is evicted", || {
        let state = cluster.field(
            &["pod", "greedy"],
            "{.status.phase} {.status.reason} {.status.message}",
        )?;
        ensure!(
            state.starts_with("Failed Evicted The node was low on resource: ephemeral-storage"),
            "{state}"
        );
        Ok(())
    })?;
    cluster.kubectl(&[
        "wait",
        "--for=condition=DiskPressure",
        "node/full-2",
        "--timeout=60s",
    ])?;
    eventually("the node is tainted", || {
        let taints = cluster.field(&["node", "full-2"], "{.spec.taints[*].key}")?;
        ensure!(taints.contains("node.kubernetes.io/disk-pressure"), "{taints}");
        Ok(())
    })?;
    let events = cluster.kubectl(&["get", "events", "-A"])?;
    for reason in ["Evicted", "NodeHasDiskPressure"] {
        ensure!(events.contains(reason), "no event {reason}:\n{events}");
    }

    server_says_why(cluster)?;

    cluster.kubectl(&["delete", "pod", "greedy", "--timeout=30s"])?;

    // The data directory is a mount point: it is emptied and stays what it is.
    cluster.keelson(&["down", "--purge"])?;
    let left = cluster.shell(&format!(
        "ls -A {data} && mountpoint {data}",
        data = data.display()
    ))?;
    ensure!(
        left.ends_with("is a mountpoint\n") && left.lines().count() == 1,
        "{left}"
    );
    Ok(())
}

fn server_says_why(cluster: &Cluster) -> Result<()> {
    let data = cluster.machine.data_dir();
    let ballast = data.join("ballast");
    // dd ends with an error, as it must.
    cluster.shell(&format!(
        "dd if=/dev/zero of={} bs=64k 2>/dev/null || true",
        ballast.display()
    ))?;
    let file = cluster.machine.scratch().join("filler");
    std::fs::write(&file, "x".repeat(900_000))?;
    let create = |name: &str| {
        let mut kubectl = cluster
            .machine
            .command(keelson_testkit::clients::client("kubectl-1.37"));
        kubectl.args([
            "create",
            "configmap",
            name,
            &format!("--from-file=filler={}", file.display()),
        ]);
        kubectl.output()
    };
    // What the store has set aside is used up first.
    let mut refused = None;
    for number in 0..40 {
        let output = create(&format!("filler-{number}"))?;
        if !output.status.success() {
            refused = Some(String::from_utf8(output.stderr)?);
            break;
        }
    }
    let refused = refused.context("a full disk refused nothing")?;
    ensure!(
        refused.contains("no space left") || refused.contains("No space left"),
        "{refused}"
    );
    ensure!(
        cluster.kubectl(&["get", "nodes"])?.contains("full-2"),
        "reads go on"
    );

    cluster.shell(&format!("rm {}", ballast.display()))?;
    eventually("writes are taken again", || {
        let output = create("last")?;
        ensure!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    })
}
