//! The binary as a user meets it: help, completion, output formats, and what it says when something is wrong. No cluster
//! is started. `standalone.rs` runs the components one by one.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::in_own_network;

/// Directories of a machine on which nothing was done yet.
struct Machine(TempDir);

impl Machine {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    /// `keelson` with directories, home and network of this machine.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keelson"));
        command.args(arguments);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", self.path("home"));
        command
            .env("KEELSON_DATA_DIR", self.path("data"))
            .env("KEELSON_RUN_DIR", self.path("run"));
        command.stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Said {
        Said::of(self.command(arguments).output().unwrap())
    }

    /// Writes `cluster.json` beside a store: a cluster that has run.
    fn record(&self, text: &str) {
        std::fs::create_dir_all(self.path("data/store")).unwrap();
        std::fs::write(self.path("data/cluster.json"), text).unwrap();
    }
}

/// What a command said and how it ended.
#[derive(Debug)]
struct Said {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Said {
    fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self {
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }

    /// Failed with `code`, with every one of `texts` in the message, and nothing on standard output.
    #[track_caller]
    fn failed(&self, code: i32, texts: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert_eq!(self.stdout, "", "{self:?}");
        for text in texts {
            assert!(self.stderr.contains(text), "{text:?} is missing in {self:?}");
        }
        assert!(!self.stderr.contains("panicked"), "{self:?}");
    }

    #[track_caller]
    fn succeeded(&self) -> &str {
        assert_eq!(self.code, Some(0), "{self:?}");
        &self.stdout
    }

    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(self.succeeded()).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

fn settings() -> Value {
    json!({
        "layout_version": 1, "node_name": "one", "node_ip": "10.0.0.1", "api_port": 16443,
        "cluster_cidr": "10.244.0.0/16", "service_cidr": "10.96.0.0/12", "load_balancer_cidr": "10.112.0.0/16",
        "underlay_cidr": "172.31.240.0/24", "tls_sans": [], "registries": null, "merged_into": null,
    })
}

const COMMANDS: [&str; 18] = [
    "up",
    "down",
    "status",
    "logs",
    "kubeconfig",
    "token",
    "server",
    "agent",
    "backup",
    "restore",
    "store",
    "image",
    "kube-apiserver",
    "kube-scheduler",
    "kube-controller-manager",
    "kubelet",
    "kube-proxy",
    "completion",
];

#[test]
fn version() {
    let machine = Machine::new();
    assert_eq!(
        machine.run(&["--version"]).succeeded(),
        format!("keelson {}\n", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn help_lists_every_command_and_every_command_has_help() {
    let machine = Machine::new();
    let help = machine.run(&["--help"]);
    let listed = |name: &&str| {
        help.succeeded()
            .lines()
            .any(|line| line.trim_start().starts_with(&format!("{name} ")))
    };
    let missing: Vec<_> = COMMANDS.iter().filter(|name| !listed(name)).collect();
    assert!(missing.is_empty(), "{missing:?}: {help:?}");
    assert!(!help.stdout.contains("internal"), "{help:?}");
    for name in COMMANDS {
        let help = machine.run(&[name, "--help"]);
        assert!(help.succeeded().contains("Usage: keelson"), "{name}: {help:?}");
    }
}

#[test]
fn completion_scripts() {
    let machine = Machine::new();
    for (shell, syntax) in [("bash", Some("bash")), ("zsh", None), ("fish", None)] {
        let said = machine.run(&["completion", shell]);
        let script = said.succeeded();
        assert!(COMMANDS.iter().all(|name| script.contains(name)), "{shell}");
        if let Some(interpreter) = syntax {
            let file = machine.path("script");
            std::fs::write(&file, script).unwrap();
            assert!(
                Command::new(interpreter)
                    .arg("-n")
                    .arg(&file)
                    .status()
                    .unwrap()
                    .success(),
                "{shell}"
            );
        }
    }
    machine
        .run(&["completion", "tcsh9"])
        .failed(2, &["invalid value 'tcsh9'"]);
}

#[test]
fn without_a_cluster_there_is_a_way_forward() {
    for (arguments, texts) in [
        (&["status"][..], &["there is no cluster", "`keelson up`"][..]),
        (&["status", "-o", "json"], &["there is no cluster"]),
        (&["token", "list"], &["there is no cluster", "`keelson up`"]),
        (&["token", "create"], &["there is no cluster", "`keelson up`"]),
        (
            &["token", "delete", "abcdef"],
            &["there is no cluster", "`keelson up`"],
        ),
        (&["kubeconfig"], &["is there a cluster? `keelson up` starts one"]),
        (
            &["kubeconfig", "--merge"],
            &["is there a cluster? `keelson up` starts one"],
        ),
        (&["logs"], &["is there a cluster?"]),
        (&["logs", "kubelet"], &["is there a cluster?"]),
        (&["image", "list"], &["no keelson runs here", "`keelson up`"]),
        (
            &["image", "pull", "registry.example/app:v1"],
            &["no keelson runs here"],
        ),
    ] {
        let machine = Machine::new();
        machine.run(arguments).failed(1, texts);
        assert!(!machine.path("data").exists(), "{arguments:?} wrote something");
    }
}

#[test]
fn a_wrong_command_line_is_exit_code_2() {
    let machine = Machine::new();
    for (arguments, text) in [
        (&[][..], "Usage: keelson"),
        (&["upp"], "unrecognized subcommand 'upp'"),
        (&["up", "--nodez", "3"], "unexpected argument '--nodez'"),
        (&["up", "--nodes", "0"], "0 is not in 1..=100"),
        (&["up", "--cluster-cidr", "10.0.0.0"], "invalid value '10.0.0.0'"),
        (&["status", "-o", "yaml"], "invalid value 'yaml'"),
        (&["agent"], "--server <URL>"),
        (&["image", "rm"], "<IMAGES>..."),
        (&["token", "delete"], "<ID>"),
        (&["kube-scheduler"], "--kubeconfig <FILE>"),
        (
            &["kube-scheduler", "--kubeconfig=x", "--profiling"],
            "unexpected argument '--profiling'",
        ),
        (
            &["kube-proxy", "--kubeconfig=x", "--proxy-mode=ipvs"],
            "[possible values: nftables]",
        ),
        (
            &["kubelet", "--kubeconfig=x", "--register-with-taints=a:Never"],
            "invalid taint effect: Never",
        ),
        (
            &["kubelet", "--kubeconfig=x", "--tls-cert-file=x"],
            "--tls-private-key-file",
        ),
        (
            &[
                "kube-controller-manager",
                "--kubeconfig=x",
                "--allocate-node-cidrs",
            ],
            "--cluster-cidr",
        ),
        (
            &["kube-apiserver", "--client-ca-file=x"],
            "--service-account-issuer",
        ),
        (&["internal", "nothing"], "processes that keelson starts itself"),
    ] {
        machine.run(arguments).failed(2, &[text]);
    }
}

#[test]
fn components_say_what_is_wrong_with_their_flags() {
    let machine = Machine::new();
    let bad = machine.path("bad");
    std::fs::write(&bad, "nothing of use").unwrap();
    let bad = bad.to_str().unwrap();
    let apiserver = |extra: &[&str]| {
        let keys = [
            "--client-ca-file=/nonexistent",
            "--service-account-issuer=i",
            "--service-account-signing-key-file=k",
        ];
        let mut arguments = vec!["kube-apiserver", "--advertise-address=10.0.0.1"];
        arguments.extend(extra.iter().chain(&keys));
        machine.run(&arguments)
    };
    let arguments = [
        "--etcd-servers=https://127.0.0.1:2379",
        "--etcd-cafile=/nonexistent",
    ];
    apiserver(&arguments).failed(1, &["cannot open etcd at https://127.0.0.1:2379", "/nonexistent"]);
    assert!(!machine.path("data").exists());
    let cert_dir = format!("--cert-dir={}", machine.path("certificates").display());
    apiserver(&[&cert_dir]).failed(1, &["cannot read --client-ca-file /nonexistent"]);
    for (arguments, text) in [
        (
            vec!["kube-scheduler", "--kubeconfig=/nonexistent"],
            "cannot read kubeconfig /nonexistent",
        ),
        (
            vec!["kube-scheduler", "--kubeconfig", bad],
            "cannot read kubeconfig",
        ),
        (
            vec!["kube-proxy", "--kubeconfig=/nonexistent"],
            "cannot read kubeconfig /nonexistent",
        ),
        (
            vec!["kubelet", "--kubeconfig=/nonexistent"],
            "cannot read kubeconfig /nonexistent",
        ),
        (
            vec![
                "kube-controller-manager",
                "--kubeconfig=/nonexistent",
                "--controllers=*,-job",
            ],
            "\"job\" is not in the list of known controllers: deployment-controller",
        ),
        (
            vec![
                "kubelet",
                "--kubeconfig=/nonexistent",
                "--node-labels=node-role.kubernetes.io/master=",
            ],
            "unknown 'kubernetes.io' or 'k8s.io' labels",
        ),
    ] {
        let said = machine.run(&arguments);
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(said.stderr.contains(text), "{text:?} is missing in {said:?}");
    }
}

#[test]
fn whoever_is_not_root_is_told_to_use_sudo() {
    let machine = Machine::new();
    // The binary may lie where others cannot go: the user is nobody, but keeps root's right to read.
    for command in [
        &["up"][..],
        &["server"],
        &["down"],
        &["agent", "--server=https://127.0.0.1:6443"],
    ] {
        let keelson = machine.command(command);
        let mut setpriv = Command::new("setpriv");
        setpriv.args([
            "--reuid",
            "65534",
            "--inh-caps=+dac_read_search",
            "--ambient-caps=+dac_read_search",
            "--",
        ]);
        setpriv.arg(keelson.get_program()).args(keelson.get_args());
        setpriv.envs(
            keelson
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
        Said::of(setpriv.output().unwrap()).failed(1, &["must run as root", "use sudo"]);
    }
}

#[test]
fn a_port_that_is_taken_is_named() {
    for (port, texts) in [
        (16443, &["port 16443 (API server) is in use", "--api-port"][..]),
        (10250, &["port 10250 (kubelet) is in use"]),
        (10256, &["port 10256 (kube-proxy health) is in use"]),
    ] {
        let machine = Machine::new();
        let said = in_own_network(|| {
            let _listener = TcpListener::bind(("0.0.0.0", port)).unwrap();
            machine.run(&["up", "--api-port=16443", "--no-kubeconfig", "--node-name=one"])
        });
        said.failed(1, texts);
        assert!(!machine.path("data/cluster.json").exists());
    }
}

#[test]
fn a_port_that_is_taken_is_named_by_components_too() {
    let machine = Machine::new();
    let pki = keelson_pki::Pki::ensure(
        &machine.path("pki"),
        &keelson_pki::ClusterNames::default(),
        jiff::Timestamp::now(),
    );
    pki.unwrap();
    let file = |flag: &str, name: &str| format!("--{flag}={}", machine.path("pki").join(name).display());
    let said = in_own_network(|| {
        let _listener = TcpListener::bind(("127.0.0.1", 16443)).unwrap();
        let files = [
            file("client-ca-file", "ca.crt"),
            file("tls-cert-file", "apiserver.crt"),
            file("tls-private-key-file", "apiserver.key"),
            file("service-account-signing-key-file", "sa.key"),
        ];
        let mut arguments = vec![
            "kube-apiserver",
            "--bind-address=127.0.0.1",
            "--secure-port=16443",
        ];
        arguments.push("--service-account-issuer=https://issuer.example");
        arguments.extend(files.iter().map(String::as_str));
        machine.run(&arguments)
    });
    said.failed(1, &["cannot listen on 127.0.0.1:16443"]);
}

#[test]
fn a_data_directory_of_a_newer_version_is_refused() {
    let mut newer = settings();
    newer["layout_version"] = 99.into();
    newer["something_new"] = true.into();
    for arguments in [
        &["up", "--no-kubeconfig"][..],
        &["status"],
        &["down"],
        &["server"],
    ] {
        let machine = Machine::new();
        machine.record(&newer.to_string());
        let said = in_own_network(|| machine.run(arguments));
        assert_eq!(said.code, Some(1), "{arguments:?}: {said:?}");
        let text =
            "cluster.json was written by a newer keelson (layout 99, this one knows 1); use that version";
        assert!(said.stderr.contains(text), "{arguments:?}: {said:?}");
        assert_eq!(
            std::fs::read_to_string(machine.path("data/cluster.json")).unwrap(),
            newer.to_string()
        );
    }
}

#[test]
fn a_damaged_data_directory_is_refused() {
    for damaged in [
        "",
        "{",
        "[]",
        "{\"layout_version\": 1}",
        "{\"layout_version\": \"one\"}",
    ] {
        for arguments in [&["up", "--no-kubeconfig"][..], &["status"], &["down"]] {
            let machine = Machine::new();
            machine.record(damaged);
            let said = in_own_network(|| machine.run(arguments));
            assert_eq!(said.code, Some(1), "{arguments:?}: {said:?}");
            let text = "cluster.json is damaged; restore it from a backup, or start over with `keelson down --purge`";
            assert!(said.stderr.contains(text), "{arguments:?} {damaged}: {said:?}");
        }
    }
}

#[test]
fn what_a_cluster_is_cannot_be_changed_by_up() {
    for (flag, existing) in [
        ("--node-name=two", "one"),
        ("--service-cidr=10.1.0.0/16", "10.96.0.0/12"),
        ("--cluster-cidr=10.1.0.0/16", "10.244.0.0/16"),
        ("--load-balancer-cidr=10.1.0.0/16", "10.112.0.0/16"),
        ("--underlay-cidr=10.1.0.0/16", "172.31.240.0/24"),
        ("--cluster-domain=shop.internal", "cluster.local"),
        ("--api-port=1", "16443"),
    ] {
        let machine = Machine::new();
        machine.record(&settings().to_string());
        let name = flag.split('=').next().unwrap_or_default();
        let said = in_own_network(|| machine.run(&["up", "--no-kubeconfig", flag]));
        said.failed(
            1,
            &[&format!("has {name} {existing}, not"), "`keelson down --purge`"],
        );
    }
}

#[test]
fn settings_that_cannot_work_are_refused_before_anything_is_made() {
    let bad = "endpoint: [this is no registries file";
    for (flags, texts) in [
        (
            &["--cluster-cidr=10.96.0.0/16"][..],
            &["--cluster-cidr 10.96.0.0/16 and --service-cidr 10.96.0.0/12 overlap"][..],
        ),
        (
            &["--cluster-domain=Shop"],
            &["--cluster-domain \"Shop\" is not a DNS name"],
        ),
        (
            &["--registries=/nonexistent"],
            &["--registries /nonexistent cannot be used"],
        ),
        (&["--registries=BAD"], &["registries.yaml cannot be used"]),
    ] {
        let machine = Machine::new();
        let file = machine.path("registries.yaml");
        std::fs::write(&file, bad).unwrap();
        let flags: Vec<String> = flags
            .iter()
            .map(|flag| flag.replace("BAD", file.to_str().unwrap()))
            .collect();
        let mut arguments = vec!["up", "--no-kubeconfig", "--node-name=one"];
        arguments.extend(flags.iter().map(String::as_str));
        in_own_network(|| machine.run(&arguments)).failed(1, texts);
        assert!(!machine.path("data").exists());
    }
}

#[test]
fn a_kernel_without_overlayfs_is_told() {
    let machine = Machine::new();
    let without = machine.path("filesystems");
    let all = std::fs::read_to_string("/proc/filesystems").unwrap();
    let rest: Vec<&str> = all.lines().filter(|line| !line.ends_with("overlay")).collect();
    std::fs::write(&without, rest.join("\n")).unwrap();
    for command in ["up --no-kubeconfig", "agent --server=https://127.0.0.1:16443"] {
        let keelson = machine.command(&[]);
        let script = format!(
            "mount --bind {} /proc/filesystems && exec {} {command} --node-name=one",
            without.display(),
            keelson.get_program().display()
        );
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "--net", "sh", "-c", &script]);
        unshare.envs(
            keelson
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
        Said::of(unshare.output().unwrap()).failed(1, &["this kernel lacks overlayfs", "`modprobe overlay`"]);
    }
    assert!(!machine.path("data").exists());
}

#[test]
fn a_damaged_or_newer_store_is_refused_and_left_alone() {
    for (file, content, texts) in [
        (
            "checkpoint.redb",
            "no checkpoint",
            &["its file VERSION is missing", "from a backup"][..],
        ),
        (
            "VERSION",
            "keelson-store 99 00000000000000ff\n",
            &["has format 99, written by a newer keelson", "use the newer"],
        ),
        (
            "VERSION",
            "no version at all",
            &["its file VERSION is damaged", "from a backup"],
        ),
    ] {
        let machine = Machine::new();
        machine.record(&settings().to_string());
        std::fs::write(machine.path("data/store").join(file), content).unwrap();
        let said = in_own_network(|| machine.run(&["up", "--no-kubeconfig", "--timeout=60"]));
        said.failed(
            1,
            &[
                "the server process ended before it was ready",
                "the store cannot be opened",
            ],
        );
        let store = machine.path("data/store").display().to_string();
        said.failed(1, &[&store]);
        said.failed(1, texts);
        let after = std::fs::read_to_string(machine.path("data/store").join(file)).unwrap();
        assert_eq!(after, content, "{said:?}");
    }
}

#[test]
fn joining_says_what_is_wrong() {
    let hash = "0".repeat(64);
    let good = format!("abcdef.0123456789abcdef@sha256:{hash}");
    let without_hash = "abcdef.0123456789abcdef";
    for (server, token, text) in [
        (
            "https://127.0.0.1:16443",
            Some("nonsense"),
            "the token must have the form ID.SECRET@sha256:HASH",
        ),
        (
            "https://127.0.0.1:16443",
            Some(without_hash),
            "the token must have the form ID.SECRET@sha256:HASH",
        ),
        (
            "https://127.0.0.1:16443",
            Some(&good),
            "cannot reach https://127.0.0.1:16443",
        ),
        ("not a url", Some(&good), "not a url is not the URL of a server"),
        (
            "https://127.0.0.1:16443",
            None,
            "this machine has not joined yet: --token is needed",
        ),
    ] {
        let machine = Machine::new();
        let mut arguments = vec![
            "agent",
            "--node-name=two",
            "--node-ip=10.0.0.2",
            "--server",
            server,
        ];
        arguments.extend(token.iter().flat_map(|token| ["--token", token]));
        let said = in_own_network(|| machine.run(&arguments));
        said.failed(1, &[text]);
        if let Some(secret) = token.filter(|token| token.contains("0123456789abcdef")) {
            assert!(!said.stderr.contains(secret), "the token is in the log");
        }
        assert!(!Path::new(&machine.path("data/pki/kubelet.kubeconfig")).exists());
    }
}

#[test]
fn json_output_is_json() {
    let machine = Machine::new();
    machine.record(&settings().to_string());
    in_own_network(|| {
        let said = machine.run(&["status", "-o", "json"]);
        assert_eq!(said.code, Some(3), "stopped: {said:?}");
        let status: Value = serde_json::from_str(&said.stdout).unwrap();
        assert_eq!(status["running"], json!(false));
        assert_eq!(status["server"], json!("https://10.0.0.1:16443"));
        assert_eq!(status["dataDir"], json!(machine.path("data")));
        std::fs::write(
            machine.path("data/admin.kubeconfig"),
            "apiVersion: v1\nkind: Config\nusers: []\n",
        )
        .unwrap();
        let kubeconfig = machine.run(&["kubeconfig", "-o", "json"]).json();
        assert_eq!(
            kubeconfig,
            json!({"apiVersion": "v1", "kind": "Config", "users": []})
        );
        let down = machine.run(&["down", "--purge", "-o", "json"]).json();
        assert_eq!(
            down,
            json!({"stopped": true, "purged": true, "dataDir": machine.path("data")})
        );
    });
    assert!(!machine.path("data/cluster.json").exists());
}

#[test]
fn kubeconfig_is_printed_and_merged() {
    let machine = Machine::new();
    machine.record(&settings().to_string());
    let pki = machine.path("pki");
    let pki = keelson_pki::Pki::ensure(
        &pki,
        &keelson_pki::ClusterNames::default(),
        jiff::Timestamp::now(),
    )
    .unwrap();
    let text = pki.kubeconfig(keelson_pki::Identity::Admin, "keelson", "https://127.0.0.1:16443");
    std::fs::write(machine.path("data/admin.kubeconfig"), &text).unwrap();
    assert_eq!(machine.run(&["kubeconfig"]).succeeded(), text);
    let theirs = "apiVersion: v1\nkind: Config\ncurrent-context: work\ncontexts:\n- name: work\n  context: {cluster: work, user: me}\n";
    std::fs::create_dir_all(machine.path("home/.kube")).unwrap();
    std::fs::write(machine.path("home/.kube/config"), theirs).unwrap();
    let said = machine.run(&["kubeconfig", "--merge"]);
    assert!(said.succeeded().contains("context `keelson`"), "{said:?}");
    let merged = std::fs::read_to_string(machine.path("home/.kube/config")).unwrap();
    let merged: Value = serde_yaml_ng::from_str(&merged).unwrap();
    assert_eq!(merged["current-context"], json!("keelson"));
    let names: Vec<&str> = merged["contexts"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|c| c["name"].as_str())
        .collect();
    assert!(names.contains(&"work") && names.contains(&"keelson"), "{names:?}");
}
