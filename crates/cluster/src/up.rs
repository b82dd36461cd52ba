//! `keelson up`: the server process in the background, then the sandboxed nodes, then Ready.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use futures::TryStreamExt;
use k8s_openapi::api::core::v1::Node;
use keelson_runtime::images::RegistriesConfig;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::paths::Paths;
use crate::preflight;
use crate::process::ProcessRecord;
use crate::progress::{Progress, Step};
use crate::sandbox::{self, NodeSpec};
use crate::settings::{self, ClusterSettings, Requested, sandboxed_nodes};
use crate::{backup, join, kubeconfig, token};

/// How long a server that does not answer may take to end before it counts as one that is starting.
const DYING: Duration = Duration::from_secs(3);

/// The cluster did not come up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// This machine is not fit.
    #[error(transparent)]
    Preflight(#[from] preflight::Error),
    /// The data directory does not fit.
    #[error(transparent)]
    Settings(#[from] settings::Error),
    /// What an interrupted restore left.
    #[error(transparent)]
    Backup(#[from] backup::Error),
    /// The server process could not be started.
    #[error("cannot start the server process")]
    Spawn(#[source] io::Error),
    /// The server process ended.
    #[error("the server process ended before it was ready; the end of {log}:\n{tail}", log = log.display())]
    ServerDied {
        /// Its log.
        log: PathBuf,
        /// The last lines.
        tail: String,
    },
    /// It took too long.
    #[error(
        "{what} was not ready within {seconds} s; see `keelson logs` and `keelson status`; the cluster goes on starting"
    )]
    TimedOut {
        /// What was waited for.
        what: String,
        /// How long.
        seconds: u64,
    },
    /// The API refused something.
    #[error("{operation} failed")]
    Api {
        /// What was tried.
        operation: &'static str,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The network of sandboxed nodes.
    #[error(transparent)]
    Underlay(#[from] crate::underlay::Error),
    /// A sandboxed node.
    #[error(transparent)]
    Sandbox(#[from] sandbox::Error),
    /// The user's kubeconfig.
    #[error(transparent)]
    Kubeconfig(#[from] kubeconfig::Error),
    /// Keys.
    #[error(transparent)]
    Pki(#[from] keelson_pki::Error),
    /// The registries configuration.
    #[error("--registries {path} cannot be used", path = path.display())]
    Registries {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The underlay has no room for so many nodes.
    #[error("{network} has no room for {nodes} nodes: use a larger --underlay-cidr")]
    TooManyNodes {
        /// The underlay.
        network: ipnet::Ipv4Net,
        /// How many were asked for.
        nodes: u16,
    },
}

fn api(operation: &'static str) -> impl FnOnce(kube::Error) -> Error {
    move |source| Error::Api {
        operation,
        source: Box::new(source),
    }
}

/// What to start.
#[derive(Clone, Debug)]
pub struct UpOptions {
    /// The directories.
    pub paths: Paths,
    /// What the cluster shall be; the rest is as it was.
    pub requested: Requested,
    /// Arguments for the server process, after the program's name.
    pub server_arguments: Vec<String>,
    /// Longest wait for everything.
    pub timeout: Duration,
    /// Merge the kubeconfig of a new cluster into this file. One that exists goes on as it began: merged into the file of
    /// then, or not at all.
    pub merge_into: Option<PathBuf>,
    /// Leave the user's kubeconfig alone this time.
    pub no_merge: bool,
}

/// What is there now.
#[derive(Clone, Debug)]
pub struct Summary {
    /// The administrator's kubeconfig.
    pub kubeconfig: PathBuf,
    /// Whether it was merged, and where.
    pub merged_into: Option<PathBuf>,
    /// The nodes, all Ready.
    pub nodes: Vec<String>,
}

/// Starts what is not running yet and waits until all nodes are Ready. Doing it again is harmless.
pub async fn up(options: &UpOptions, report: crate::progress::Report<'_>) -> Result<Summary, Error> {
    let progress = Progress::new(report);
    preflight::require_root()?;
    preflight::require_kernel()?;
    if backup::resume(&options.paths)?.is_some() {
        progress.done("the interrupted restore or migration is complete");
    }
    let existing = ClusterSettings::read(&options.paths)?;
    let mut settings = options.requested.resolve(existing.as_ref(), &options.paths)?;
    if let Some(file) = &settings.registries {
        let there = std::fs::metadata(file).map_err(|source| Error::Registries {
            path: file.clone(),
            source: source.into(),
        });
        there?;
        RegistriesConfig::load(file).map_err(|error| Error::Registries {
            path: file.clone(),
            source: error.into(),
        })?;
    }
    let merge_into = match &existing {
        Some(existing) => existing.merged_into.clone(),
        None => options.merge_into.clone(),
    };
    let merge_now = merge_into.clone().filter(|_| !options.no_merge);
    settings.merged_into = if existing.is_some() {
        merge_into
    } else {
        merge_now.clone()
    };
    let deadline = tokio::time::Instant::now() + options.timeout;
    let within = |what: &str| {
        let (what, seconds) = (what.to_owned(), options.timeout.as_secs());
        move |_| Error::TimedOut { what, seconds }
    };
    if server_runs(&options.paths).await? {
        progress.done("server process already running");
        if existing.is_some_and(|existing| {
            ClusterSettings {
                nodes: settings.nodes,
                ..existing
            } != settings
        }) {
            progress.done("changed settings are used from the next start on: `keelson down`, `keelson up`");
        }
    } else {
        preflight::require_ports(settings.api_port)?;
        settings.write(&options.paths)?;
        tokio::time::timeout_at(deadline, start_server(options, &progress))
            .await
            .map_err(within("the API server"))??;
    }
    settings.write(&options.paths)?;
    let client = keelson_client::client_from_kubeconfig(&options.paths.admin_kubeconfig(), "keelson")
        .await
        .map_err(|error| Error::Api {
            operation: "reading the administrator's kubeconfig",
            source: Box::new(error),
        })?;
    let mut names = BTreeSet::from([settings.node_name.clone()]);
    if settings.nodes > 1 {
        names.extend(start_nodes(&options.paths, &settings, &client).await?);
        progress.done(format!("{} sandboxed nodes started", settings.nodes - 1));
    }
    tokio::time::timeout_at(deadline, nodes_ready(&client, &names, &progress))
        .await
        .map_err(within("every node"))?
        .map_err(|source| Error::Api {
            operation: "watching the nodes",
            source: Box::new(source),
        })?;
    if let Some(target) = &merge_now {
        kubeconfig::merge(&options.paths.admin_kubeconfig(), target)?;
    }
    Ok(Summary {
        kubeconfig: options.paths.admin_kubeconfig(),
        merged_into: merge_now,
        nodes: names.into_iter().collect(),
    })
}

/// Whether the API server answers a request: the socket of one that was killed takes connections until the process is gone.
async fn answers(paths: &Paths) -> bool {
    let Ok(client) = keelson_client::client_from_kubeconfig(&paths.admin_kubeconfig(), "keelson").await
    else {
        return false;
    };
    let asked = tokio::time::timeout(DYING, client.apiserver_version()).await;
    asked.is_ok_and(|answer| answer.is_ok())
}

/// Whether the server process is there to stay: one that does not answer may just be dying, which is waited for.
async fn server_runs(paths: &Paths) -> Result<bool, Error> {
    let Some(server) = ProcessRecord::read(&paths.server_record()) else {
        return Ok(false);
    };
    if server.is_running() && answers(paths).await {
        return Ok(true);
    }
    let ended = tokio::task::spawn_blocking(move || server.wait(DYING)).await;
    let ended = ended.map_err(io::Error::other).and_then(|result| result);
    Ok(!ended.map_err(Error::Spawn)?)
}

/// Starts the server process and returns when it says that its API server and node are up.
async fn start_server(options: &UpOptions, progress: &Progress<'_>) -> Result<(), Error> {
    let log_path = options.paths.server_log();
    std::fs::create_dir_all(options.paths.logs()).map_err(Error::Spawn)?;
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&log_path)
        .map_err(Error::Spawn)?;
    let mut server = tokio::process::Command::new("/proc/self/exe")
        .args(&options.server_arguments)
        .env("KEELSON_BACKGROUND", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .map_err(Error::Spawn)?;
    let stdout = server
        .stdout
        .take()
        .ok_or_else(|| Error::Spawn(io::ErrorKind::BrokenPipe.into()))?;
    let mut lines = BufReader::new(stdout).lines();
    while let Some(line) = lines.next_line().await.map_err(Error::Spawn)? {
        let Ok(step) = serde_json::from_str::<Step>(&line) else {
            continue;
        };
        progress.done(step.done);
        if step.last {
            return Ok(());
        }
    }
    Err(Error::ServerDied {
        tail: tail(&log_path, 8),
        log: log_path,
    })
}

fn tail(path: &std::path::Path, lines: usize) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let all: Vec<_> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Starts the sandboxed nodes that do not run and makes those that are missing; the names of all of them.
async fn start_nodes(
    paths: &Paths,
    settings: &ClusterSettings,
    client: &Client,
) -> Result<Vec<String>, Error> {
    let underlay = settings.underlay(paths);
    underlay.ensure().await?;
    let mut specs = sandboxed_nodes(paths);
    let id = paths.id();
    let mut number = 0;
    while specs.len() + 1 < usize::from(settings.nodes) {
        number += 1;
        let name = format!("{}-{}", settings.node_name, number + 1);
        if specs.iter().any(|spec| spec.name == name) {
            continue;
        }
        let address = underlay.address(number).ok_or(Error::TooManyNodes {
            network: settings.underlay_cidr,
            nodes: settings.nodes,
        })?;
        specs.push(NodeSpec {
            dir: paths.sandbox(&name),
            cgroup: format!("/keelson-{id}-{}", number + 1),
            link: format!("kl-{id}-{}", number + 1),
            address,
            prefix: settings.underlay_cidr.prefix_len(),
            gateway: underlay.gateway(),
            agent: Vec::new(),
            token: None,
            name,
        });
    }
    let mut names = Vec::new();
    for mut spec in specs {
        if spec.running().is_none() {
            spec.agent = agent_arguments(&spec, settings);
            spec.token = join_token(&spec, paths, client).await?;
            sandbox::start(&spec, &underlay).await?;
        }
        names.push(spec.name);
    }
    Ok(names)
}

fn agent_arguments(spec: &NodeSpec, settings: &ClusterSettings) -> Vec<String> {
    let mut arguments = vec![
        format!("--server=https://{}:{}", spec.gateway, settings.api_port),
        format!("--node-name={}", spec.name),
        format!("--node-ip={}", spec.address),
    ];
    if let Some(registries) = &settings.registries {
        arguments.push(format!("--registries={}", registries.display()));
    }
    arguments
}

/// A token for a node that has not joined yet, or was away until its certificate ended.
async fn join_token(spec: &NodeSpec, paths: &Paths, client: &Client) -> Result<Option<String>, Error> {
    // The node sees its own directory as /var/lib.
    let pki = spec.dir.join("var/lib/keelson/pki");
    let kubeconfig = join::NodeCredentials::in_directory(&pki).kubeconfig;
    if join::client_certificate(&kubeconfig).is_ok_and(|c| c.not_after() > jiff::Timestamp::now()) {
        return Ok(None);
    }
    let ca_hash = authority_hash(paths)?;
    let ttl = Some(jiff::SignedDuration::from_mins(30));
    let token = token::create(client, &ca_hash, ttl, &format!("sandboxed node {}", spec.name))
        .await
        .map_err(api("making a join token"))?;
    Ok(Some(token.to_string()))
}

/// The hash of the cluster's authority, as join tokens carry it.
pub fn authority_hash(paths: &Paths) -> Result<String, keelson_pki::Error> {
    let path = paths.pki().join("ca.crt");
    let text = keelson_pki::file::read(&path)?.unwrap_or_default();
    join::authority_hash(&keelson_pki::Certificate::from_pem(&text)?)
}

/// Returns when all of `names` are Ready.
async fn nodes_ready(
    client: &Client,
    names: &BTreeSet<String>,
    progress: &Progress<'_>,
) -> Result<(), watcher::Error> {
    let api = Api::<Node>::all(client.clone());
    let mut waiting = names.clone();
    let mut events = std::pin::pin!(watcher(api, watcher::Config::default()).default_backoff());
    while !waiting.is_empty() {
        // The server may be restarting; the watcher tries again by itself.
        let Ok(event) = events.try_next().await else {
            continue;
        };
        let Some(watcher::Event::Apply(node) | watcher::Event::InitApply(node)) = event else {
            continue;
        };
        let name = node.metadata.name.clone().unwrap_or_default();
        if is_ready(&node) && waiting.remove(&name) {
            progress.done(format!("node {name} Ready"));
        }
    }
    Ok(())
}

/// Whether the node says that it is Ready.
pub fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
}
