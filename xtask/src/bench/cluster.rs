//! A cluster for a measurement.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::TryStreamExt;
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};

use crate::context::Context;

/// A running cluster; taken down and purged when it is dropped.
pub(crate) struct Cluster {
    keelson: PathBuf,
    data: PathBuf,
    /// When each step of `keelson up` was done, since the program was started.
    pub(crate) steps: Vec<(String, Duration)>,
    /// The administrator.
    pub(crate) client: Client,
}

impl Cluster {
    /// Starts a new cluster with a data directory below the scratch directory.
    pub(crate) async fn start(context: &Context, nodes: usize) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let data = context.scratch.join(format!("cluster-{number}"));
        let mut up = command(&context.keelson, &data);
        up.args(["up", "--no-kubeconfig", &format!("--nodes={nodes}")]);
        let steps = tokio::task::spawn_blocking(move || run_up(up)).await??;
        let client = keelson_client::client_from_kubeconfig(&data.join("admin.kubeconfig"), "bench").await?;
        Ok(Self {
            keelson: context.keelson.clone(),
            data,
            steps,
            client,
        })
    }

    /// When a step whose name starts with `step` was done.
    pub(crate) fn step(&self, step: &str) -> Result<Duration> {
        let found = self.steps.iter().find(|(name, _)| name.starts_with(step));
        let (_, after) =
            found.with_context(|| format!("`keelson up` has no step `{step}`: {:?}", self.steps))?;
        Ok(*after)
    }

    /// `keelson` with this cluster's directories.
    pub(crate) fn keelson(&self, arguments: &[&str]) -> Command {
        let mut command = command(&self.keelson, &self.data);
        command.args(arguments);
        command
    }

    /// Imports one of the testkit's images, e.g. `busybox:1`; its full name.
    pub(crate) fn import(&self, context: &Context, image: &str) -> Result<String> {
        let archive = keelson_testkit::images::archive(&context.images, image);
        run(self.keelson(&["image", "import"]).arg(archive))?;
        Ok(keelson_testkit::images::reference(image))
    }

    /// Waits until pods can be created: the default namespace has its service account.
    pub(crate) async fn takes_pods(&self) -> Result<()> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), "default");
        let config = watcher::Config::default().fields("metadata.name=default");
        let mut events = std::pin::pin!(watcher(accounts, config).default_backoff().applied_objects());
        events.try_next().await?.context("the watch ended")?;
        Ok(())
    }

    /// Takes the cluster down, which is what dropping does, but with an error when it fails.
    pub(crate) fn stop(self) -> Result<()> {
        run(&mut self.keelson(&["down", "--purge"]))?;
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if !self.data.exists() {
            return;
        }
        if let Err(error) = run(&mut self.keelson(&["down", "--purge"])) {
            eprintln!("{error:#}");
        }
    }
}

fn command(keelson: &Path, data: &Path) -> Command {
    let mut command = Command::new(keelson);
    command.arg(format!("--data-dir={}", data.display()));
    command.stdin(Stdio::null());
    command
}

/// Runs `keelson up` and notes when it tells of which step. The lines begin with a mark and end with the program's own clock.
fn run_up(mut up: Command) -> Result<Vec<(String, Duration)>> {
    let started = Instant::now();
    let mut child = up
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run keelson")?;
    let stderr = child.stderr.take().context("keelson has no standard error")?;
    let (mut steps, mut text) = (Vec::new(), String::new());
    for line in BufReader::new(stderr).lines() {
        let line = line?;
        if let Some(step) = line.strip_prefix("✓ ") {
            let name = step.split("  ").next().unwrap_or(step).trim();
            steps.push((name.to_owned(), started.elapsed()));
        }
        text.push_str(&line);
        text.push('\n');
    }
    let status = child.wait()?;
    ensure!(status.success(), "keelson up ended with {status}:\n{text}");
    Ok(steps)
}

/// Runs a command to its end; its standard output.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?} ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// Follows one kind until every name has met `done` once; when each did, in the order of their coming.
pub(crate) async fn wait_each<K>(
    stream: &mut (impl futures::Stream<Item = watcher::Result<K>> + Unpin),
    mut names: BTreeSet<String>,
    done: impl Fn(&K) -> bool,
) -> Result<Vec<Instant>>
where
    K: kube::Resource,
{
    let mut times = Vec::with_capacity(names.len());
    while !names.is_empty() {
        let object = stream.try_next().await?.context("the watch ended")?;
        let name = object.meta().name.clone().unwrap_or_default();
        if done(&object) && names.remove(&name) {
            times.push(Instant::now());
        }
    }
    Ok(times)
}
