//! What is wrong is said: what, where, and what to do about it; and nothing half done is left.

use anyhow::{Context, Result, ensure};
use keelson_testkit::images;

use crate::harness::{Cluster, PAIR, eventually, text};

pub(crate) fn are_clear(cluster: &Cluster) -> Result<()> {
    cluster.apply(PAIR)?;
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/pair", "--timeout=60s"])?;
    joining(cluster)?;
    archives(cluster)?;
    pulls(cluster)?;
    in_use(cluster)?;
    Ok(())
}

/// An agent that must not join; nothing of a node is left.
fn cannot_join(cluster: &Cluster, name: &str, token: &str, texts: &[&str]) -> Result<()> {
    let dir = cluster.machine.scratch().join("joining");
    let mut agent = cluster.machine.command(env!("CARGO_BIN_EXE_keelson"));
    agent.args([
        "agent",
        "--server=https://127.0.0.1:6443",
        "--node-ip=172.31.240.1",
    ]);
    agent.arg(format!("--data-dir={}", dir.join("data").display()));
    agent.arg(format!("--run-dir={}", dir.join("run").display()));
    agent.arg(format!("--node-name={name}"));
    agent.env("KEELSON_TOKEN", token);
    let (said, code) = cluster.fails(agent)?;
    ensure!(code == Some(1), "{said}");
    for text in texts {
        ensure!(said.contains(text), "no {text:?} in {said}");
    }
    ensure!(!dir.join("data/pki/kubelet.kubeconfig").exists(), "half joined");
    Ok(())
}

fn joining(cluster: &Cluster) -> Result<()> {
    let good = cluster.keelson(&["token", "create"])?;
    let good = good.trim();
    let (id_and_secret, hash) = good.split_once('@').context("a token without hash")?;
    let (id, _) = id_and_secret.split_once('.').context("a token without secret")?;
    let wrong = format!("{id}.0123456789abcdef@{hash}");
    cannot_join(
        cluster,
        "new",
        &wrong,
        &[
            "refused the token: it is wrong or has expired",
            "`keelson token create`",
        ],
    )?;
    let elsewhere = format!("{id_and_secret}@sha256:{}", "0".repeat(64));
    cannot_join(
        cluster,
        "new",
        &elsewhere,
        &["does not belong to the cluster of this token"],
    )?;
    cannot_join(
        cluster,
        "refusals-2",
        good,
        &["has a node refusals-2 already", "choose another --node-name"],
    )?;
    let short = cluster.keelson(&["token", "create", "--ttl=1s"])?;
    eventually("the token has expired", || {
        cannot_join(cluster, "refusals-2", short.trim(), &["is wrong or has expired"])
    })?;
    ensure!(
        !cluster
            .kubectl(&["get", "nodes", "-o", "name"])?
            .contains("node/new")
    );
    Ok(())
}

fn listed(cluster: &Cluster) -> Result<String> {
    cluster.keelson(&["image", "list", "-o", "json"])
}

fn archives(cluster: &Cluster) -> Result<()> {
    let directory = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("images");
    let whole = std::fs::read(images::archive(&directory, "redis:1"))?;
    let file = cluster.machine.scratch().join("archive.tar");
    let before = listed(cluster)?;
    // One byte of a layer, far from any header.
    let mut damaged = whole.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0xff;
    for (what, content, texts) in [
        (
            "truncated",
            &whole[..whole.len() / 2],
            &["invalid image archive"][..],
        ),
        ("damaged", &damaged[..], &[]),
        (
            "no archive",
            b"#!/bin/sh\necho this is no image\n",
            &["invalid image archive"],
        ),
        ("empty", b"", &["invalid image archive"]),
    ] {
        std::fs::write(&file, content)?;
        let (said, code) = cluster.fails(cluster.machine.keelson(&["image", "import", &text(&file)]))?;
        ensure!(
            code == Some(1) && said.starts_with("error: node this machine"),
            "{what}: {said}"
        );
        for text in texts {
            ensure!(said.contains(text), "{what}: no {text:?} in {said}");
        }
        assert_eq!(listed(cluster)?, before, "{what}: something of it is left");
    }
    let (said, _) = cluster.fails(cluster.machine.keelson(&["image", "import", "/nonexistent.tar"]))?;
    ensure!(said.contains("cannot read /nonexistent.tar"), "{said}");
    Ok(())
}

fn pulls(cluster: &Cluster) -> Result<()> {
    for (image, text) in [
        ("127.0.0.1:5000/nothing:1", "not found"),
        ("127.0.0.1:5000/busybox:nothing", "not found"),
        ("nowhere.invalid/app:1", "nowhere.invalid"),
        ("Not An Image", "is not the name of an image"),
        ("127.0.0.1:5000/UPPER:1", "couldn't parse image name"),
    ] {
        let (said, code) = cluster.fails(cluster.machine.keelson(&["image", "pull", image]))?;
        ensure!(code == Some(1) && said.contains(text), "{image}: {said}");
    }
    let pod = PAIR
        .replace("\"pair\"", "\"lost\"")
        .replace("busybox:1", "nothing:1");
    cluster.apply(&pod)?;
    eventually("the pod says why it does not start", || {
        let path =
            "{range .status.containerStatuses[*]}{.state.waiting.reason}: {.state.waiting.message}{end}";
        let state = cluster.field(&["pod", "lost"], path)?;
        ensure!(
            state.contains("ErrImagePull: ") || state.contains("ImagePullBackOff: "),
            "{state}"
        );
        ensure!(state.contains("127.0.0.1:5000/nothing:1"), "{state}");
        Ok(())
    })?;
    eventually("an event says so too", || {
        let events = cluster.kubectl(&["describe", "pod", "lost"])?;
        ensure!(
            events.contains("Failed to pull image \"127.0.0.1:5000/nothing:1\""),
            "{events}"
        );
        Ok(())
    })?;
    cluster.kubectl(&["delete", "pod", "lost", "--timeout=30s"])?;
    Ok(())
}

const CLAIM: &str = r#"
apiVersion: v1
kind: PersistentVolume
metadata: {name: disk}
spec: {capacity: {storage: 1Mi}, accessModes: [ReadWriteOnce], hostPath: {path: /tmp}, storageClassName: ""}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: disk}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}, storageClassName: "", volumeName: disk}
---
apiVersion: v1
kind: Pod
metadata: {name: user}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: sleep, image: "127.0.0.1:5000/busybox:1", command: [sleep, "3600"], volumeMounts: [{name: disk, mountPath: /disk}]}
  volumes: [{name: disk, persistentVolumeClaim: {claimName: disk}}]
"#;

fn in_use(cluster: &Cluster) -> Result<()> {
    let (said, _) = cluster.fails(
        cluster
            .machine
            .keelson(&["image", "rm", "127.0.0.1:5000/busybox:1"]),
    )?;
    ensure!(
        said.contains("is used by container ") && said.contains(" of pod default/pair: delete the pod first"),
        "{said}"
    );
    let (said, _) = cluster.fails(
        cluster
            .machine
            .keelson(&["image", "rm", "127.0.0.1:5000/nothing:1"]),
    )?;
    ensure!(
        said.contains("127.0.0.1:5000/nothing:1: not found on this machine"),
        "{said}"
    );

    cluster.apply(CLAIM)?;
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/user", "--timeout=60s"])?;
    cluster.kubectl(&["delete", "pvc", "disk", "--wait=false"])?;
    let claim = cluster.field(
        &["pvc", "disk"],
        "{.metadata.deletionTimestamp} {.metadata.finalizers}",
    )?;
    ensure!(
        claim.starts_with("20") && claim.contains("kubernetes.io/pvc-protection"),
        "{claim}"
    );
    ensure!(cluster.kubectl(&["get", "pvc", "disk"])?.contains("Terminating"));
    assert_eq!(
        cluster.exec("default", "user", &["echo", "still here"])?,
        "still here\n"
    );
    cluster.kubectl(&["delete", "pod", "user", "--timeout=30s"])?;
    cluster.kubectl(&["wait", "--for=delete", "pvc/disk", "--timeout=30s"])?;
    Ok(())
}
