//! `keelson status`: what runs, since when, with how much.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use keelson_pki::{Certificate, Identity};
use kube::api::ListParams;
use kube::{Api, Client};
use serde::Serialize;

use crate::backend::Backend;
use crate::paths::Paths;
use crate::process::ProcessRecord;
use crate::settings::{self, ClusterSettings, sandboxed_nodes};
use crate::up::is_ready;

/// Everything that `keelson status` shows.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Whether the server process runs.
    pub running: bool,
    /// Version of this binary.
    pub version: &'static str,
    /// The API's version, as the server says it.
    pub kubernetes_version: Option<String>,
    /// The data directory.
    pub data_dir: String,
    /// URL for other machines.
    pub server: String,
    /// The nodes as the API knows them.
    pub nodes: Vec<NodeStatus>,
    /// Health checks of the API server: name and `ok` or what is wrong.
    pub components: Vec<ComponentStatus>,
    /// Certificates and when they end.
    pub certificates: Vec<CertificateStatus>,
    /// Where the objects are: `embedded`, or `etcd at` its URLs.
    pub store: String,
    /// Bytes of the embedded store on disk; etcd has its own answer to that.
    pub store_bytes: Option<u64>,
    /// Resident memory of the cluster's processes on this machine, in bytes.
    pub memory_bytes: u64,
}

/// One node.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// Whether it is Ready.
    pub ready: bool,
    /// The kubelet's version.
    pub version: String,
    /// Its address.
    pub address: String,
    /// `this machine`, `sandbox` or `machine`.
    pub kind: &'static str,
}

/// One health check.
#[derive(Clone, Debug, Serialize)]
pub struct ComponentStatus {
    /// Its name.
    pub name: String,
    /// `ok`, or what is wrong.
    pub status: String,
}

/// One certificate.
#[derive(Clone, Debug, Serialize)]
pub struct CertificateStatus {
    /// Its name.
    pub name: String,
    /// When it ends, or why that is not known.
    pub expires: String,
    /// Whole days until then; negative when it has expired.
    pub days: Option<i64>,
}

/// How long the server may take to answer everything.
const PATIENCE: Duration = Duration::from_secs(10);

/// Gathers the status and changes nothing. A cluster that is stopped has one too.
pub async fn gather(paths: &Paths) -> Result<Status, settings::Error> {
    let settings = ClusterSettings::read(paths)?;
    let running = ProcessRecord::read_running(&paths.server_record());
    let mut status = Status {
        running: running.is_some(),
        version: env!("CARGO_PKG_VERSION"),
        kubernetes_version: None,
        data_dir: paths.data.display().to_string(),
        server: settings
            .as_ref()
            .map(ClusterSettings::advertised_url)
            .unwrap_or_default(),
        nodes: Vec::new(),
        components: Vec::new(),
        certificates: Vec::new(),
        store: String::new(),
        store_bytes: None,
        memory_bytes: memory(paths, running),
    };
    let Some(settings) = settings else {
        return Ok(status);
    };
    match &settings.etcd {
        Some(_) => status.store = Backend::of(&settings, paths).to_string(),
        None => {
            status.store = "embedded".into();
            status.store_bytes = Some(directory_size(&paths.store()));
        }
    }
    status.certificates = certificates(paths, Timestamp::now());
    if running.is_some()
        && let Ok(client) = keelson_client::client_from_kubeconfig(&paths.admin_kubeconfig(), "keelson").await
    {
        let asked = tokio::time::timeout(PATIENCE, ask(&mut status, &client, paths, &settings)).await;
        if asked.is_err() {
            status.components.push(ComponentStatus {
                name: "kube-apiserver".into(),
                status: format!(
                    "does not answer within {} s; see `keelson logs`",
                    PATIENCE.as_secs()
                ),
            });
        }
    }
    Ok(status)
}

/// The cluster's own certificates, read and left as they are.
fn certificates(paths: &Paths, now: Timestamp) -> Vec<CertificateStatus> {
    let leaves = Identity::ALL.iter().map(|identity| identity.file_stem());
    let stems = ["ca", "front-proxy-ca"].into_iter().chain(leaves);
    let read = |stem: &str| -> Result<Timestamp, String> {
        let path = paths.pki().join(format!("{stem}.crt"));
        let text = keelson_pki::file::read(&path).map_err(|error| error.to_string())?;
        let text = text.ok_or("missing")?;
        let certificate = Certificate::from_pem(&text).map_err(|error| error.to_string())?;
        Ok(certificate.not_after())
    };
    let status = |name: &str| match read(name) {
        Ok(end) => CertificateStatus {
            name: name.to_owned(),
            expires: end.to_string(),
            days: Some((end.as_second() - now.as_second()).div_euclid(86_400)),
        },
        Err(reason) => CertificateStatus {
            name: name.to_owned(),
            expires: reason,
            days: None,
        },
    };
    stems.map(status).collect()
}

async fn ask(status: &mut Status, client: &Client, paths: &Paths, settings: &ClusterSettings) {
    match client.apiserver_version().await {
        Ok(version) => status.kubernetes_version = Some(version.git_version),
        Err(error) => {
            status.components.push(ComponentStatus {
                name: "kube-apiserver".into(),
                status: error.to_string(),
            });
            return;
        }
    }
    status.components = readiness(client).await;
    let sandboxes: Vec<String> = sandboxed_nodes(paths).into_iter().map(|node| node.name).collect();
    match Api::<Node>::all(client.clone())
        .list(&ListParams::default())
        .await
    {
        Ok(nodes) => {
            status.nodes = nodes
                .iter()
                .map(|node| describe(node, settings, &sandboxes))
                .collect()
        }
        Err(error) => {
            status.components.push(ComponentStatus {
                name: "nodes".into(),
                status: error.to_string(),
            });
        }
    }
}

/// The lines of `/readyz?verbose`: `[+]name ok` and `[-]name failed: …`.
async fn readiness(client: &Client) -> Vec<ComponentStatus> {
    let Ok(request) = http::Request::get("/readyz?verbose").body(Vec::new()) else {
        return Vec::new();
    };
    let text = match client.request_text(request).await {
        Ok(text) => text,
        Err(error) => error.to_string(),
    };
    let line = |line: &str| {
        let (mark, rest) = line.split_once(']')?;
        let (name, state) = rest.split_once(' ')?;
        mark.starts_with('[').then(|| ComponentStatus {
            name: name.into(),
            status: state.into(),
        })
    };
    text.lines().filter_map(line).collect()
}

fn describe(node: &Node, settings: &ClusterSettings, sandboxes: &[String]) -> NodeStatus {
    let name = node.metadata.name.clone().unwrap_or_default();
    let status = node.status.clone().unwrap_or_default();
    let addresses = status.addresses.unwrap_or_default();
    let kind = match () {
        () if name == settings.node_name => "this machine",
        () if sandboxes.contains(&name) => "sandbox",
        () => "machine",
    };
    NodeStatus {
        ready: is_ready(node),
        version: status
            .node_info
            .map(|info| info.kubelet_version)
            .unwrap_or_default(),
        address: addresses
            .into_iter()
            .find(|a| a.type_ == "InternalIP")
            .map(|a| a.address)
            .unwrap_or_default(),
        kind,
        name,
    }
}

fn directory_size(path: &std::path::Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(path) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => directory_size(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}

/// The server, the sandboxed nodes' processes and the shims; not the containers.
fn memory(paths: &Paths, server: Option<ProcessRecord>) -> u64 {
    let ours: Vec<String> = [&paths.data, &paths.run]
        .iter()
        .map(|dir| dir.display().to_string())
        .collect();
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return 0;
    };
    let mut total = 0;
    for entry in entries.flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<i32>().ok())
        else {
            continue;
        };
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command);
        let ours = ours.iter().any(|dir| command.contains(dir.as_str())) && command.contains("internal");
        if ours || server.is_some_and(|server| server.pid == pid) {
            total += resident(&entry.path());
        }
    }
    total
}

fn resident(process: &std::path::Path) -> u64 {
    let status = std::fs::read_to_string(process.join("status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok())
        .unwrap_or(0)
        * 1024
}
