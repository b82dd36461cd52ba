//! `keelson backup`, `restore` and `store migrate` on data directories that no server runs on: what comes back, what is
//! refused, and what kill -9 leaves. `cluster/backup.rs` does it with whole clusters.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use keelson_store::embedded::{EmbeddedStore, Options};
use keelson_store::snapshot::Snapshot;
use keelson_store::{Precondition, Store};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::in_own_network;

/// Data directories beside each other, and backups of them.
struct Shelf(TempDir);

impl Shelf {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// `keelson` on the data directory `data`.
    fn command(&self, data: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keelson"));
        command
            .arg(format!("--data-dir={}", self.path(data).display()))
            .arg(format!("--run-dir={}", self.path("run").display()))
            .args(arguments)
            .current_dir(self.0.path())
            .stdin(Stdio::null());
        command
    }

    /// Standard output of a command that succeeds.
    #[track_caller]
    fn run(&self, data: &str, arguments: &[&str]) -> String {
        let output = self.command(data, arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", error(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Standard error of a command that fails.
    #[track_caller]
    fn fails(&self, data: &str, arguments: &[&str], texts: &[&str]) {
        let output = self.command(data, arguments).output().unwrap();
        let said = error(&output);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        for text in texts {
            assert!(said.contains(text), "{arguments:?}: no {text:?} in: {said}");
        }
    }

    /// A cluster that has run: `count` keys, of which each has changed, keys and settings. `name` is in all of it.
    fn cluster(&self, data: &str, name: &str, count: usize) {
        let path = self.path(data);
        std::fs::create_dir_all(path.join("pki")).unwrap();
        for (file, text) in [("ca.key", "a key"), ("ca.crt", "a certificate")] {
            std::fs::write(path.join("pki").join(file), format!("{text} of {name}")).unwrap();
        }
        let settings = json!({
            "layout_version": 1, "node_name": name, "node_ip": "10.0.0.1", "api_port": 16443,
            "cluster_cidr": "10.244.0.0/16", "service_cidr": "10.96.0.0/12", "load_balancer_cidr": "10.112.0.0/16",
            "underlay_cidr": "172.31.240.0/24", "tls_sans": [], "registries": null, "merged_into": null,
        });
        std::fs::write(path.join("cluster.json"), settings.to_string()).unwrap();
        with_store(&path.join("store"), async |store| {
            let lease = store.lease_grant(3600).await.unwrap();
            // What has revision 1, which an empty etcd has already, gets revision 2 there.
            let first = "/registry/first";
            store
                .put(first.into(), "x".into(), Precondition::None, None)
                .await
                .unwrap();
            store.delete(first.into(), Precondition::None).await.unwrap();
            for number in 0..count {
                let key = format!("/registry/{name}/{number:05}");
                for value in ["first", name] {
                    let value = value.repeat(number % 50 + 1);
                    let attached = (number % 7 == 0).then_some(lease);
                    let none = Precondition::None;
                    store
                        .put(key.clone().into(), value.into(), none, attached)
                        .await
                        .unwrap();
                }
            }
        });
    }

    /// All that is stored.
    fn stored(&self, data: &str) -> Snapshot {
        let mut taken = None;
        with_store(&self.path(data).join("store"), async |store| {
            taken = Some(Snapshot::take(store).await.unwrap());
        });
        taken.unwrap()
    }

    /// The name that settings, keys and store of a data directory have; they must be of one cluster.
    fn name(&self, data: &str) -> String {
        let read = |file: &str| std::fs::read_to_string(self.path(data).join(file)).unwrap();
        let settings: Value = serde_json::from_str(&read("cluster.json")).unwrap();
        let name = settings["node_name"].as_str().unwrap().to_owned();
        assert_eq!(read("pki/ca.key"), format!("a key of {name}"));
        let stored = self.stored(data);
        let prefix = format!("/registry/{name}/");
        assert!(stored.kvs.iter().all(|kv| kv.key.starts_with(prefix.as_bytes())));
        name
    }
}

/// Standard error and how it ended.
fn error(output: &Output) -> String {
    format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr))
}

fn with_store(path: &Path, work: impl AsyncFnOnce(&EmbeddedStore)) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let store = EmbeddedStore::open(path, Options::default()).unwrap();
        work(&store).await;
        store.close().await;
    });
}

#[test]
fn a_backup_comes_back_as_it_was() {
    let shelf = Shelf::new();
    shelf.cluster("old", "one", 500);
    let before = shelf.stored("old");
    let said: Value = serde_json::from_str(&shelf.run("old", &["backup", "b", "-o", "json"])).unwrap();
    assert_eq!(said["revision"], before.revision.0);
    assert_eq!(said["keys"], 500);
    assert_eq!(said["backend"], "embedded");
    let mode = std::fs::metadata(shelf.path("b")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "it has all keys");
    // What tar and sha256sum say of it is what restore says.
    let unpack = "mkdir x && tar xf b -C x && cd x && sha256sum --quiet -c SHA256SUMS";
    let checked = Command::new("sh")
        .args(["-c", unpack])
        .current_dir(shelf.0.path())
        .output();
    assert!(checked.as_ref().unwrap().status.success(), "{checked:?}");

    shelf.fails("old", &["backup", "b"], &["exists already", "--force"]);
    shelf.run("old", &["backup", "b", "--force"]);
    shelf.run("new", &["restore", "b"]);
    assert!(shelf.stored("new") == before, "other objects");
    assert_eq!(shelf.name("new"), "one");
    let mode = |file: &str| std::fs::metadata(shelf.path(file)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("new/pki/ca.key"), mode("new/pki/ca.crt")), (0o600, 0o644));
    let left: Vec<_> = std::fs::read_dir(shelf.0.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".new"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn what_cannot_be_restored_touches_nothing() {
    let shelf = Shelf::new();
    shelf.cluster("old", "one", 50);
    shelf.cluster("other", "two", 20);
    shelf.run("old", &["backup", "b"]);
    let bytes = std::fs::read(shelf.path("b")).unwrap();

    shelf.fails("other", &["restore", "b"], &["there is a cluster in", "--force"]);
    std::fs::write(shelf.path("short"), &bytes[..bytes.len() * 2 / 3]).unwrap();
    shelf.fails("new", &["restore", "short"], &["is truncated", "another backup"]);
    let position = bytes
        .windows(9)
        .position(|window| window == b"a key of ")
        .unwrap();
    let mut damaged = bytes.clone();
    damaged[position] ^= 1;
    std::fs::write(shelf.path("damaged"), &damaged).unwrap();
    shelf.fails(
        "new",
        &["restore", "damaged"],
        &["is damaged", "the checksum of pki/ca.key"],
    );
    let position = bytes.windows(6).rposition(|window| window == b"oneone").unwrap();
    damaged.clone_from(&bytes);
    damaged[position] ^= 1;
    std::fs::write(shelf.path("damaged"), &damaged).unwrap();
    shelf.fails("new", &["restore", "damaged"], &["is damaged", "store.snapshot"]);
    std::fs::write(shelf.path("text"), "something else").unwrap();
    shelf.fails("new", &["restore", "text"], &["is not a backup"]);
    shelf.fails("new", &["restore", "absent"], &["cannot read", "absent"]);
    shelf.fails("new", &["backup", "c"], &["there is no cluster in", "keelson up"]);
    shelf.fails(
        "new",
        &["store", "migrate", "--to=embedded"],
        &["there is no cluster in"],
    );
    shelf.fails(
        "old",
        &["store", "migrate", "--to=embedded"],
        &["has its objects in the embedded store"],
    );
    shelf.fails(
        "old",
        &["store", "migrate", "--to=etcd"],
        &["--etcd-servers is needed"],
    );
    assert!(!shelf.path("new").exists());
    for argument in ["short", "damaged", "text"] {
        shelf.fails("other", &["restore", argument, "--force"], &[]);
    }
    assert_eq!(shelf.name("other"), "two");

    shelf.run("other", &["restore", "b", "--force"]);
    assert_eq!(shelf.name("other"), "one");
    assert!(shelf.stored("other") == shelf.stored("old"), "other objects");
}

/// Runs until it has said `lines` lines, then kills it.
fn killed_after(mut command: Command, lines: usize) {
    let mut child: Child = command
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let stderr = BufReader::new(child.stderr.take().unwrap());
    for line in stderr.lines().take(lines) {
        line.unwrap();
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Whenever it is killed, there is the old cluster or the new one, and the same command makes it the new one.
#[test]
fn a_restore_that_is_killed_leaves_one_cluster() {
    let shelf = Shelf::new();
    shelf.cluster("old", "one", 500);
    shelf.run("old", &["backup", "b"]);
    let wanted = shelf.stored("old");
    let mut seen = Vec::new();
    for lines in [0, 1, 1, 2, 2, 3] {
        let data = format!("data-{}", seen.len());
        shelf.cluster(&data, "two", 20);
        killed_after(shelf.command(&data, &["restore", "b", "--force"]), lines);
        // Any command that uses the directory completes what was decided.
        shelf.run(&data, &["backup", "--force", "c"]);
        seen.push(shelf.name(&data));
        shelf.run(&data, &["restore", "b", "--force"]);
        assert_eq!(shelf.name(&data), "one");
        assert!(shelf.stored(&data) == wanted, "other objects");
        for rest in ["replace", "replace.new"] {
            assert!(!shelf.path(&data).join(rest).exists(), "{rest} is left");
        }
    }
    assert_eq!(seen.first().map(String::as_str), Some("two"), "killed at once");
    assert_eq!(
        seen.last().map(String::as_str),
        Some("one"),
        "killed when it was done"
    );
}

struct Etcd(Child);

impl Etcd {
    /// An etcd on loopback, with its client port at `port`.
    fn start(data: &Path, port: u16) -> Self {
        let urls = format!("http://127.0.0.1:{port}");
        let peers = format!("http://127.0.0.1:{}", port + 1);
        let child = Command::new("etcd")
            .arg(format!("--data-dir={}", data.display()))
            .arg(format!("--listen-client-urls={urls}"))
            .arg(format!("--advertise-client-urls={urls}"))
            .arg(format!("--listen-peer-urls={peers}"))
            .arg(format!("--initial-advertise-peer-urls={peers}"))
            .arg(format!("--initial-cluster=default={peers}"))
            .args(["--logger=zap", "--unsafe-no-fsync"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd is installed: cargo xtask setup");
        Self(child)
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        // It runs until here; what it has is the test's.
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn objects_move_to_etcd_and_back() {
    let shelf = Shelf::new();
    shelf.cluster("data", "one", 300);
    shelf.cluster("other", "two", 30);
    let before = shelf.stored("data");
    in_own_network(|| {
        let _etcd = Etcd::start(&shelf.path("etcd"), 2379);
        let servers = "--etcd-servers=http://127.0.0.1:2379";
        shelf.run("other", &["backup", "other.backup"]);
        let migrate = ["store", "migrate", "--to=etcd", servers];
        // Killed on its way, the same command goes on, and the cluster has what it had meanwhile.
        killed_after(shelf.command("data", &migrate), 2);
        shelf.run("data", &["backup", "meanwhile"]);
        let settings = || std::fs::read_to_string(shelf.path("data/cluster.json")).unwrap();
        if !settings().contains("2379") {
            let said: Value =
                serde_json::from_str(&shelf.run("data", &[&migrate[..], &["-o", "json"]].concat())).unwrap();
            assert_eq!(
                (&said["revision"], &said["keys"]),
                (&json!(before.revision.0), &json!(300))
            );
        }
        assert!(settings().contains("2379"), "{}", settings());
        shelf.fails(
            "data",
            &migrate,
            &["has its objects in etcd at http://127.0.0.1:2379 already"],
        );
        // Nothing is put over what somebody else has.
        shelf.fails(
            "other",
            &migrate,
            &["etcd at http://127.0.0.1:2379", "it is not empty"],
        );
        shelf.fails(
            "new",
            &["restore", "other.backup", servers],
            &["etcd at http://127.0.0.1:2379", "it is not empty"],
        );

        let said: Value = serde_json::from_str(&shelf.run("data", &["backup", "b", "-o", "json"])).unwrap();
        assert_eq!(said["backend"], "etcd");
        std::fs::remove_dir_all(shelf.path("data/store")).unwrap();
        shelf.run("data", &["store", "migrate", "--to=embedded"]);
        assert!(shelf.stored("data").kvs == before.kvs, "other objects");
        assert_eq!(shelf.stored("data").revision, before.revision);
        assert!(!settings().contains("2379"), "{}", settings());

        // A backup of the one is restored into the other.
        shelf.run("second", &["restore", "b", "--to=embedded"]);
        assert!(shelf.stored("second").kvs == before.kvs, "other objects");
        let _empty = Etcd::start(&shelf.path("etcd2"), 3379);
        let servers = "--etcd-servers=http://127.0.0.1:3379";
        shelf.run("third", &["restore", "other.backup", servers]);
        shelf.run("third", &["store", "migrate", "--to=embedded"]);
        assert!(
            shelf.stored("third").kvs == shelf.stored("other").kvs,
            "other objects"
        );
    });
}
