//! Processes of components, and what they share: certificates, kubeconfigs, a directory.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use keelson_pki::{ClusterNames, Identity, Pki};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);

/// A process that ends with the test, and its output line by line.
pub(crate) struct Process {
    name: String,
    child: Child,
    lines: mpsc::Receiver<String>,
    seen: Vec<String>,
}

impl Process {
    fn start(
        name: &str,
        mut command: Command,
        output: impl FnOnce(&mut Child) -> Box<dyn Read + Send>,
    ) -> Self {
        let mut child = command.stdin(Stdio::null()).spawn().unwrap();
        let output = output(&mut child);
        let (sender, lines) = mpsc::channel();
        // Ends with the output, which ends with the process.
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self {
            name: name.to_owned(),
            child,
            lines,
            seen: Vec::new(),
        }
    }

    /// `keelson COMPONENT ARGUMENTS`, which logs to standard error.
    fn component(directory: &Path, name: &str, arguments: &[String]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keelson"));
        command.arg(name).args(arguments);
        command
            .env("KEELSON_DATA_DIR", directory.join("data"))
            .env("KEELSON_RUN_DIR", directory.join("run"));
        command
            .env("HOME", directory)
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        Self::start(name, command, |child| Box::new(child.stderr.take().unwrap()))
    }

    /// Waits for a line of the output with `text` in it.
    pub(crate) fn wait_for(&mut self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                panic!(
                    "{} did not say {text:?}, but:\n{}",
                    self.name,
                    self.seen.join("\n")
                );
            };
            self.seen.push(line.clone());
            if line.contains(text) {
                return line;
            }
        }
    }

    /// Asks it to end; it must do so in good order.
    pub(crate) fn stop(mut self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
        // Its output ends when it does.
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => self.seen.push(line),
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    panic!("{} does not end:\n{}", self.name, self.seen.join("\n"))
                }
            }
        }
        let status = self.child.wait().unwrap();
        assert!(
            status.success(),
            "{} ended with {status}:\n{}",
            self.name,
            self.seen.join("\n")
        );
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.seen.extend(self.lines.try_iter());
            let from = self.seen.len().saturating_sub(40);
            eprintln!("--- {}\n{}", self.name, self.seen[from..].join("\n"));
        }
        // It may have ended in order.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Certificates and kubeconfigs of one cluster.
pub(crate) struct Cluster {
    directory: tempfile::TempDir,
}

impl Cluster {
    const SERVER: &'static str = "https://127.0.0.1:6443";

    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let names = ClusterNames {
            service_ip: [10, 96, 0, 1].into(),
            ..ClusterNames::default()
        };
        let pki = Pki::ensure(&directory.path().join("pki"), &names, jiff::Timestamp::now()).unwrap();
        for identity in [
            Identity::Admin,
            Identity::Scheduler,
            Identity::ControllerManager,
            Identity::KubeProxy,
        ] {
            let text = pki.kubeconfig(identity, "test", Self::SERVER);
            std::fs::write(directory.path().join(identity.file_stem()), text).unwrap();
        }
        let node = pki.issue_node_client("one", jiff::Timestamp::now()).unwrap();
        let text = pki.kubeconfig_for(&node, "test", Self::SERVER);
        std::fs::write(directory.path().join("node"), text).unwrap();
        Self { directory }
    }

    /// A file or directory of this cluster.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn file(&self, flag: &str, name: &str) -> String {
        format!(
            "--{flag}={}",
            self.directory.path().join("pki").join(name).display()
        )
    }

    pub(crate) fn kubeconfig(&self, identity: Identity) -> String {
        format!(
            "--kubeconfig={}",
            self.directory.path().join(identity.file_stem()).display()
        )
    }

    pub(crate) fn component(&self, name: &str, arguments: &[String]) -> Process {
        Process::component(self.directory.path(), name, arguments)
    }

    pub(crate) fn apiserver(&self) -> Process {
        self.apiserver_with(6443, &[])
    }

    /// An API server on `port` with further flags.
    pub(crate) fn apiserver_with(&self, port: u16, flags: &[String]) -> Process {
        let common = [
            "--bind-address=127.0.0.1".into(),
            format!("--secure-port={port}"),
            "--advertise-address=192.0.2.1".into(),
            "--authorization-mode=Node,RBAC".into(),
            "--service-cluster-ip-range=10.96.0.0/12".into(),
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local".into(),
            self.file("service-account-signing-key-file", "sa.key"),
            self.file("service-account-key-file", "sa.pub"),
            self.file("client-ca-file", "ca.crt"),
            self.file("tls-cert-file", "apiserver.crt"),
            self.file("tls-private-key-file", "apiserver.key"),
            self.file("requestheader-client-ca-file", "front-proxy-ca.crt"),
            "--requestheader-allowed-names=front-proxy-client".into(),
            self.file("kubelet-client-certificate", "apiserver-kubelet-client.crt"),
            self.file("kubelet-client-key", "apiserver-kubelet-client.key"),
        ];
        let mut server = self.component("kube-apiserver", &[&common[..], flags].concat());
        server.wait_for(&format!("Serving securely on 127.0.0.1:{port}"));
        server
    }

    pub(crate) fn controller_manager(&self) -> Process {
        self.component(
            "kube-controller-manager",
            &[
                self.kubeconfig(Identity::ControllerManager),
                "--use-service-account-credentials".into(),
                "--allocate-node-cidrs".into(),
                "--cluster-cidr=10.244.0.0/16".into(),
                self.file("cluster-signing-cert-file", "ca.crt"),
                self.file("cluster-signing-key-file", "ca.key"),
                self.file("root-ca-file", "ca.crt"),
            ],
        )
    }

    pub(crate) fn kubectl(&self, arguments: &[&str]) -> Command {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
        let kubectl: PathBuf = manifest.join("../../target/clients/kubectl-1.37");
        assert!(
            kubectl.exists(),
            "{} is missing: run `cargo xtask setup`",
            kubectl.display()
        );
        let mut command = Command::new(kubectl);
        command.arg(self.kubeconfig(Identity::Admin)).args(arguments);
        command.env("HOME", self.directory.path()).stdin(Stdio::null());
        command
    }

    /// Standard output of kubectl, which must succeed.
    #[track_caller]
    pub(crate) fn run(&self, arguments: &[&str]) -> String {
        let Output {
            status,
            stdout,
            stderr,
        } = self.kubectl(arguments).output().unwrap();
        let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        assert!(
            status.success(),
            "kubectl {arguments:?}: {status}\n{stdout}\n{stderr}"
        );
        stdout.into_owned()
    }

    #[track_caller]
    pub(crate) fn get(&self, arguments: &[&str]) -> Value {
        let arguments: Vec<&str> = ["get", "-o", "json"].iter().chain(arguments).copied().collect();
        serde_json::from_str(&self.run(&arguments)).unwrap()
    }

    /// The first line of `kubectl ARGUMENTS --watch` with `text` in it.
    pub(crate) fn watch(&self, arguments: &[&str], text: &str) -> String {
        let mut command = self.kubectl(arguments);
        command.arg("--watch").stdout(Stdio::piped());
        Process::start("kubectl", command, |child| Box::new(child.stdout.take().unwrap())).wait_for(text)
    }
}
