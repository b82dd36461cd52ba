//! A cluster on a machine of its own, and how tests speak to it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use keelson_testkit::clients::client;
use keelson_testkit::images;
use keelson_testkit::machine::Machine;
use keelson_testkit::registry::Registry;

/// A machine with a cluster on it.
pub(crate) struct Cluster {
    // Ends before the machine.
    _registry: Option<Registry>,
    pub(crate) machine: Machine,
}

impl Cluster {
    /// A cluster of `nodes` nodes that pulls from a registry with the sample images.
    pub(crate) fn start(name: &str, nodes: u16) -> Result<Self> {
        let cluster = Self::prepare(name)?;
        cluster.up(&[&format!("--nodes={nodes}")])?;
        Ok(cluster)
    }

    /// A machine with a registry and no cluster yet.
    pub(crate) fn prepare(name: &str) -> Result<Self> {
        let machine = Machine::start(name, Path::new(env!("CARGO_BIN_EXE_keelson")))?;
        let archives = images::build_all(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("images"))?;
        let registry = Registry::start(&machine, &archives)?;
        Ok(Self {
            _registry: Some(registry),
            machine,
        })
    }

    /// The first `keelson up`, with the registry and what `arguments` say.
    pub(crate) fn up(&self, arguments: &[&str]) -> Result<()> {
        // In a sandboxed node, 127.0.0.1 is the node itself.
        let registries = self.machine.scratch().join("registries.yaml");
        let mirror = format!(
            "mirrors:\n  \"{}\":\n    endpoint: [\"http://172.31.240.1:5000\"]\n",
            images::REGISTRY
        );
        std::fs::write(&registries, mirror)?;
        let file = format!("--registries={}", registries.display());
        let said = self.keelson(&[&["up", &file, "--timeout=90"], arguments].concat());
        if said.is_err() {
            self.machine.show_logs();
        }
        let said = said?;
        ensure!(said.contains("The cluster is ready"), "{said}");
        eventually("the default service account", || {
            self.kubectl(&["get", "serviceaccount", "default"])
        })?;
        Ok(())
    }

    pub(crate) fn keelson(&self, arguments: &[&str]) -> Result<String> {
        self.machine.run(self.machine.keelson(arguments))
    }

    /// The newest kubectl.
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.client("kubectl-1.37", arguments)
    }

    pub(crate) fn client(&self, name: &str, arguments: &[&str]) -> Result<String> {
        let mut command = self.machine.command(client(name));
        command.args(arguments);
        self.machine.run(command)
    }

    /// A command that has to fail: what it said on standard error, and its exit code.
    pub(crate) fn fails(&self, mut command: Command) -> Result<(String, Option<i32>)> {
        let output = command.stdin(Stdio::null()).output()?;
        ensure!(!output.status.success(), "{command:?} has succeeded");
        Ok((String::from_utf8(output.stderr)?, output.status.code()))
    }

    /// Applies a manifest in YAML or JSON.
    pub(crate) fn apply(&self, manifest: &str) -> Result<()> {
        let file = tempfile::NamedTempFile::new_in(self.machine.scratch())?;
        std::fs::write(file.path(), manifest)?;
        self.kubectl(&["apply", "-f", &text(file.path())])?;
        Ok(())
    }

    /// A field of an object: `jsonpath` in `{}`.
    pub(crate) fn field(&self, object: &[&str], jsonpath: &str) -> Result<String> {
        let path = format!("-o=jsonpath={jsonpath}");
        self.kubectl(&[&["get"], object, &[&path]].concat())
    }

    /// Runs a script on the machine.
    pub(crate) fn shell(&self, script: &str) -> Result<String> {
        let mut command = self.machine.command("sh");
        command.args(["-c", script]);
        self.machine.run(command)
    }

    pub(crate) fn get(&self, url: &str) -> Result<String> {
        let mut curl = self.machine.command("curl");
        curl.args(["-fsS", "--max-time", "5", url]);
        self.machine.run(curl)
    }

    /// Runs a command in a pod.
    pub(crate) fn exec(&self, namespace: &str, pod: &str, command: &[&str]) -> Result<String> {
        let mut arguments = vec!["exec", "-n", namespace, pod, "--"];
        arguments.extend(command);
        self.kubectl(&arguments)
    }

    pub(crate) fn background(&self, name: &str, arguments: &[&str]) -> Result<Child> {
        let mut command = self.machine.command(client(name));
        Ok(command
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?)
    }
}

/// Runs a test on a cluster; shows the logs of one that failed.
pub(crate) fn on(cluster: Result<Cluster>, test: impl FnOnce(&Cluster) -> Result<()>) -> Result<()> {
    let cluster = cluster?;
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(&cluster)));
    if !matches!(result, Ok(Ok(()))) {
        cluster.machine.show_logs();
    }
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Tries until it succeeds: what it waits for is outside of our processes.
pub(crate) fn eventually<T>(what: &str, attempt: impl Fn() -> Result<T>) -> Result<T> {
    within(Duration::from_secs(60), what, attempt)
}

/// The same with another deadline.
pub(crate) fn within<T>(patience: Duration, what: &str, attempt: impl Fn() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + patience;
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() > deadline => return Err(error.context(format!("never: {what}"))),
            Err(_) => std::thread::sleep(Duration::from_millis(300)),
        }
    }
}

pub(crate) fn example(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../examples/shop")
        .join(path)
}

pub(crate) fn text(path: &Path) -> String {
    path.display().to_string()
}

/// Two containers that sleep.
pub(crate) const PAIR: &str = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"pair"},"spec":{"terminationGracePeriodSeconds":1,
"containers":[{"name":"a","image":"127.0.0.1:5000/busybox:1","command":["sleep","3600"]},
{"name":"b","image":"127.0.0.1:5000/busybox:1","command":["sleep","3600"]}]}}"#;
