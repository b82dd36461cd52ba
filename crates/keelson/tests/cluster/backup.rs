//! A cluster that is saved, deleted and got back; Secrets that nobody reads off the disk; objects in etcd.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::harness::{Cluster, PAIR, eventually, text};

/// A kind of its own, and one of it.
const CUSTOM: &str = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: boats.sea.example.com}
spec:
  group: sea.example.com
  scope: Namespaced
  names: {plural: boats, singular: boat, kind: Boat}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
";
const BOAT: &str =
    r#"{"apiVersion":"sea.example.com/v1","kind":"Boat","metadata":{"name":"first"},"spec":{"sails":2}}"#;

const MANIFEST: &str = "
apiVersion: v1
kind: Secret
metadata: {name: hidden}
stringData: {value: nobody-reads-this-off-the-disk}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: shown}
data: {value: everybody-reads-this-off-the-disk}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: sleep, image: '127.0.0.1:5000/busybox:1', command: [sleep, '3600']}]
";

/// What the API server answers at these paths: one process and one connection for all of them.
fn get_all(cluster: &Cluster, paths: &[String]) -> Result<Vec<Value>> {
    let data = cluster.machine.data_dir();
    let answers = tempfile::tempdir_in(cluster.machine.scratch())?;
    let pki = |file: &str| data.join("pki").join(file).display().to_string();
    let mut config = String::new();
    for (number, path) in paths.iter().enumerate() {
        let output = answers.path().join(number.to_string());
        config.push_str(&format!(
            "url = \"https://127.0.0.1:6443{path}\"\noutput = \"{}\"\n",
            output.display()
        ));
    }
    let file = answers.path().join("config");
    std::fs::write(&file, config)?;
    let mut curl = cluster.machine.command("curl");
    curl.args(["-fsS", "--cacert", &pki("ca.crt")])
        .args(["--cert", &pki("admin.crt"), "--key", &pki("admin.key")])
        .arg("--config")
        .arg(&file);
    cluster.machine.run(curl)?;
    let read = |number: usize| -> Result<Value> {
        Ok(serde_json::from_slice(&std::fs::read(
            answers.path().join(number.to_string()),
        )?)?)
    };
    (0..paths.len()).map(read).collect()
}

/// Every object of every kind as it was at a revision.
fn objects(cluster: &Cluster, revision: u64) -> Result<BTreeMap<String, Value>> {
    let groups = get_all(cluster, &["/apis".to_owned()])?.remove(0);
    let mut roots = vec!["/api/v1".to_owned()];
    for group in groups["groups"].as_array().context("no groups")? {
        let version = group["preferredVersion"]["groupVersion"].as_str();
        let version = version.context("no version")?;
        // Not stored but measured.
        if !version.starts_with("metrics.k8s.io") {
            roots.push(format!("/apis/{version}"));
        }
    }
    let mut paths = Vec::new();
    for (root, list) in roots.iter().zip(get_all(cluster, &roots)?) {
        for resource in list["resources"].as_array().context("no resources")? {
            let name = resource["name"].as_str().context("no name")?;
            let verbs = resource["verbs"].as_array();
            let listed = verbs.is_some_and(|verbs| verbs.iter().any(|verb| verb == "list"));
            if listed && name != "componentstatuses" {
                paths.push(format!("{root}/{name}"));
            }
        }
    }
    let exact = |path: &String| format!("{path}?resourceVersion={revision}&resourceVersionMatch=Exact");
    let lists = get_all(cluster, &paths.iter().map(exact).collect::<Vec<_>>())?;
    Ok(paths.into_iter().zip(lists).collect())
}

fn count(objects: &BTreeMap<String, Value>) -> usize {
    objects
        .values()
        .map(|list| list["items"].as_array().map_or(0, Vec::len))
        .sum()
}

/// Backup of the running cluster, purge, restore, up: every object is what it was, by uid and resourceVersion too, and what
/// ran runs again on both nodes.
pub(crate) fn comes_back(cluster: &Cluster) -> Result<()> {
    cluster.apply(MANIFEST)?;
    cluster.apply(CUSTOM)?;
    cluster.kubectl(&[
        "wait",
        "--for=condition=Established",
        "crd/boats.sea.example.com",
        "--timeout=30s",
    ])?;
    cluster.apply(BOAT)?;
    cluster.apply(&PAIR.replace(r#""spec":{"#, r#""spec":{"nodeName":"backup-2","#))?;
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"])?;
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/pair", "--timeout=60s"])?;
    managers(cluster)?;
    cluster_info(cluster)?;
    secrets_are_encrypted(cluster, "nobody-reads-this-off-the-disk")?;

    let file = text(&cluster.machine.scratch().join("saved"));
    let said: Value = serde_json::from_str(&cluster.keelson(&["backup", &file, "-o", "json"])?)?;
    let mode = std::fs::metadata(&file)?.permissions().mode();
    ensure!(mode & 0o777 == 0o600, "{mode:o}");
    let revision = said["revision"].as_u64().context("no revision")?;
    let before = objects(cluster, revision)?;
    ensure!(count(&before) > 200, "only {} objects", count(&before));
    let (error, _) = cluster.fails(cluster.machine.keelson(&["restore", &file, "--force"]))?;
    ensure!(
        error.contains("is running: stop it with `keelson down`"),
        "{error}"
    );

    cluster.keelson(&["down", "--purge"])?;
    cluster.keelson(&["restore", &file])?;
    cluster.keelson(&["up", "--timeout=90"])?;
    let after = objects(cluster, revision)?;
    assert_eq!(
        before.keys().collect::<Vec<_>>(),
        after.keys().collect::<Vec<_>>()
    );
    for (path, list) in &before {
        assert_eq!(list, &after[path], "{path}");
    }
    // A write gets a revision of its own, as if nothing had happened.
    cluster.kubectl(&["annotate", "configmap", "shown", "again=yes"])?;
    let newer = cluster.field(&["configmap", "shown"], "{.metadata.resourceVersion}")?;
    ensure!(newer.parse::<u64>()? > revision, "{newer}");
    let value = cluster.field(&["secret", "hidden"], "{.data.value}")?;
    ensure!(value == "bm9ib2R5LXJlYWRzLXRoaXMtb2ZmLXRoZS1kaXNr", "{value}");
    eventually("both containers on the second node run again", || {
        cluster.exec("default", "pair", &["true"])
    })?;
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"])?;
    without_encryption(cluster)
}

/// Who wrote which field.
fn managers(cluster: &Cluster) -> Result<()> {
    for (object, managers) in [
        (
            &["node", "backup-2"][..],
            &["kubelet", "kube-controller-manager"][..],
        ),
        (
            &["deployment", "web"],
            &["kubectl-client-side-apply", "kube-controller-manager"],
        ),
        (
            &["pods", "-l", "app=web"],
            &["kube-controller-manager", "kubelet"],
        ),
        (&["lease", "-n", "kube-node-lease", "backup"], &["kubelet"]),
    ] {
        let path = "{..managedFields[*].manager}";
        let found = cluster.field(&[object, &["--show-managed-fields"]].concat(), path)?;
        let found: Vec<&str> = found.split_whitespace().collect();
        for manager in managers {
            ensure!(found.contains(manager), "{object:?}: no {manager} in {found:?}");
        }
        ensure!(!found.contains(&"unknown"), "{object:?}: {found:?}");
    }
    Ok(())
}

/// Everybody may read where the cluster is, signed for the holder of a token.
fn cluster_info(cluster: &Cluster) -> Result<()> {
    let token = cluster.keelson(&["token", "create"])?;
    let id = token.split_once('.').context("no id")?.0.to_owned();
    let url = "https://127.0.0.1:6443/api/v1/namespaces/kube-public/configmaps/cluster-info";
    eventually("cluster-info is signed", || {
        let mut curl = cluster.machine.command("curl");
        curl.args(["-fsSk", "--max-time", "5", url]);
        let map: Value = serde_json::from_str(&cluster.machine.run(curl)?)?;
        let kubeconfig = map["data"]["kubeconfig"].as_str().unwrap_or_default();
        ensure!(
            kubeconfig.contains("server: https://172.31.240.1:6443"),
            "{kubeconfig}"
        );
        ensure!(
            kubeconfig.contains("certificate-authority-data: "),
            "{kubeconfig}"
        );
        let signature = &map["data"][format!("jws-kubeconfig-{id}")];
        ensure!(signature.is_string(), "{map}");
        Ok(())
    })
}

/// What a ConfigMap says is in the store's files, what a Secret says is not.
fn secrets_are_encrypted(cluster: &Cluster, secret: &str) -> Result<()> {
    let store = cluster.machine.data_dir().join("store");
    let search = |what: &str| cluster.shell(&format!("grep -rlaF {what} {} || true", store.display()));
    ensure!(
        !search("everybody-reads-this-off-the-disk")?.is_empty(),
        "the search finds nothing"
    );
    let found = search(secret)?;
    ensure!(found.is_empty(), "the Secret is in {found}");
    // Nor as it is in JSON.
    let encoded = cluster.shell(&format!("printf %s {secret} | base64 -w0"))?;
    let found = search(&encoded)?;
    ensure!(found.is_empty(), "the Secret is in {found}");
    Ok(())
}

/// A cluster that was made before Secrets were encrypted goes on, and its Secrets are encrypted from then on.
fn without_encryption(cluster: &Cluster) -> Result<()> {
    let config = cluster.machine.data_dir().join("pki/encryption-config.yaml");
    let config = cluster.machine.seen(&config);
    cluster.keelson(&["down"])?;
    // Identity first: the next start writes them in the clear.
    let given = std::fs::read_to_string(&config)?;
    let plain = given
        .replace("      - identity: {}\n", "")
        .replace("    providers:\n", "    providers:\n      - identity: {}\n");
    ensure!(plain != given, "{given}");
    std::fs::write(&config, plain)?;
    cluster.keelson(&["up", "--timeout=90"])?;
    cluster.keelson(&["down"])?;
    std::fs::remove_file(&config)?;

    cluster.keelson(&["up", "--timeout=90"])?;
    let value = cluster.field(&["secret", "hidden"], "{.data.value}")?;
    ensure!(value == "bm9ib2R5LXJlYWRzLXRoaXMtb2ZmLXRoZS1kaXNr", "{value}");
    ensure!(
        std::fs::read_to_string(&config)?.contains("aesgcm"),
        "no key was made"
    );
    cluster.kubectl(&[
        "create",
        "secret",
        "generic",
        "late",
        "--from-literal=value=written-with-a-new-key",
    ])?;
    secrets_are_encrypted(cluster, "written-with-a-new-key")
}

/// An etcd in the machine.
struct Etcd(Child);

impl Drop for Etcd {
    fn drop(&mut self) {
        // It ends with the machine at the latest.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `up` on an etcd that is there; then the objects move into the embedded store.
pub(crate) fn on_etcd(cluster: &Cluster) -> Result<()> {
    let mut command = cluster.machine.command("etcd");
    command
        .arg(format!(
            "--data-dir={}",
            cluster.machine.scratch().join("etcd").display()
        ))
        .args(["--logger=zap", "--unsafe-no-fsync"])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let _etcd = Etcd(command.spawn()?);
    let servers = "--etcd-servers=http://127.0.0.1:2379";
    cluster.up(&[servers])?;
    let store = cluster.machine.seen(&cluster.machine.data_dir().join("store"));
    ensure!(!store.exists(), "there is an embedded store");
    let status = cluster.keelson(&["status"])?;
    ensure!(
        status.contains("store etcd at http://127.0.0.1:2379,"),
        "{status}"
    );
    cluster.kubectl(&["create", "configmap", "kept", "--from-literal=a=1"])?;
    cluster.kubectl(&["create", "secret", "generic", "hidden", "--from-literal=a=1"])?;
    let version = "{.metadata.uid} {.metadata.resourceVersion}";
    let before = cluster.field(&["configmap", "kept"], version)?;
    let file = text(&cluster.machine.scratch().join("saved"));
    let said = cluster.keelson(&["backup", &file])?;
    ensure!(said.contains("keelson restore"), "{said}");

    // Kept like every other setting.
    cluster.keelson(&["down"])?;
    cluster.keelson(&["up", "--timeout=90"])?;
    ensure!(
        cluster.field(&["configmap", "kept"], version)? == before,
        "other objects"
    );
    let (error, _) = cluster.fails(cluster.machine.keelson(&["store", "migrate", "--to=embedded"]))?;
    ensure!(
        error.contains("is running: stop it with `keelson down`"),
        "{error}"
    );
    cluster.keelson(&["down"])?;

    let said = cluster.keelson(&["store", "migrate", "--to=embedded"])?;
    ensure!(
        said.contains("the embedded store in") && said.contains("keelson up"),
        "{said}"
    );
    cluster.keelson(&["up", "--timeout=90"])?;
    ensure!(store.exists(), "no embedded store");
    ensure!(
        cluster.field(&["configmap", "kept"], version)? == before,
        "other objects"
    );
    ensure!(
        cluster.field(&["secret", "hidden"], "{.data.a}")? == "MQ==",
        "another Secret"
    );
    let (error, _) = cluster.fails(cluster.machine.keelson(&["up", servers]))?;
    ensure!(error.contains("`keelson store migrate --to etcd"), "{error}");
    Ok(())
}
