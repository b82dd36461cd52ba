//! Running plugins.

use std::fs;
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use ipnet::IpNet;
use keelson_sys::netns::NetNs;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::ConfigList;
use crate::config::{HostPort, PodRequest, Protocol};
use crate::pod_network::POD_INTERFACE;
use crate::rtnl::Rtnl;

/// A plugin that takes longer is killed; kubelets give a sandbox four minutes.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Why a CNI operation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration is not valid.
    #[error("CNI configuration {}: {reason}", .path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A file operation failed.
    #[error("CNI: {}: {source}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The directory has no configuration any more.
    #[error("cni plugin not initialized: no network configuration in {}", .0.display())]
    NotConfigured(PathBuf),
    /// The plugin's program is in none of the directories.
    #[error("failed to find plugin {plugin:?} in path {path:?}")]
    NoPlugin {
        /// Plugin type.
        plugin: String,
        /// Where it was looked for.
        path: Vec<PathBuf>,
    },
    /// The plugin could not be run or talked to, or took too long.
    #[error("plugin type={plugin:?} {command}: {source}")]
    Exec {
        /// Plugin type.
        plugin: String,
        /// Operation.
        command: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// The plugin answered with an error.
    #[error("plugin type={plugin:?} failed ({}): {message}", .command.to_lowercase())]
    Plugin {
        /// Plugin type.
        plugin: String,
        /// Operation.
        command: &'static str,
        /// The plugin's error code; 0 when it gave none.
        code: u64,
        /// The plugin's message and details.
        message: String,
    },
    /// The plugin's answer has no usable address.
    #[error("the result of network {0} has no address for the pod")]
    NoAddress(String),
}

/// What ADD was given and answered, on disk.
#[derive(Debug, Serialize, Deserialize)]
struct Attachment {
    id: String,
    netns: PathBuf,
    args: String,
    port_mappings: Value,
    config: ConfigList,
    result: Option<Value>,
}

/// The CNI side of the pod network.
#[derive(Debug)]
pub struct Cni {
    host: NetNs,
    conf_dir: PathBuf,
    bin_dirs: Vec<PathBuf>,
    cache: PathBuf,
}

impl Cni {
    /// Configurations from `conf_dir`, plugins from `bin_dirs`, results in `cache`; plugins run in namespace `host`.
    pub fn new(host: NetNs, conf_dir: PathBuf, bin_dirs: Vec<PathBuf>, cache: PathBuf) -> Self {
        Cni {
            host,
            conf_dir,
            bin_dirs,
            cache,
        }
    }

    /// Whether there is a configuration.
    pub fn configured(&self) -> bool {
        !ConfigList::candidates(&self.conf_dir).is_empty()
    }

    /// ADD: all plugins in order. Repeating it for a sandbox that is attached returns its addresses. On failure everything is
    /// undone by DEL.
    pub fn add(&self, pod: &PodRequest) -> Result<Vec<IpAddr>, Error> {
        if let Some(ips) = self.addresses(&pod.id) {
            return Ok(ips);
        }
        let config =
            ConfigList::load(&self.conf_dir)?.ok_or_else(|| Error::NotConfigured(self.conf_dir.clone()))?;
        let mut attachment = Attachment {
            id: pod.id.clone(),
            netns: pod.netns.clone(),
            args: format!(
                "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID={}",
                pod.namespace, pod.name, pod.id, pod.uid
            ),
            port_mappings: port_mappings(&pod.host_ports),
            config,
            result: None,
        };
        // Written first: after a crash in the middle, DEL still knows what to undo.
        self.save(&attachment)?;
        let added = self.loopback_up(pod).and_then(|()| self.add_all(&mut attachment));
        let ips = match added {
            Ok(()) => addresses(attachment.result.as_ref()),
            Err(e) => {
                self.delete(&pod.id)?;
                return Err(e);
            }
        };
        if ips.is_empty() {
            self.delete(&pod.id)?;
            return Err(Error::NoAddress(attachment.config.name));
        }
        self.save(&attachment)?;
        Ok(ips)
    }

    fn add_all(&self, attachment: &mut Attachment) -> Result<(), Error> {
        for i in 0..attachment.config.plugins.len() {
            let answer = self.call("ADD", attachment, i)?;
            attachment.result = answer;
        }
        Ok(())
    }

    fn loopback_up(&self, pod: &PodRequest) -> Result<(), Error> {
        let up = || {
            let mut rtnl = Rtnl::open().map_err(io::Error::other)?;
            let lo = rtnl.link("lo").map_err(io::Error::other)?;
            rtnl.set_up(lo.index).map_err(io::Error::other)
        };
        NetNs::open(&pod.netns)
            .and_then(|ns| ns.run(up))
            .map_err(|source| Error::File {
                path: pod.netns.clone(),
                source,
            })
    }

    /// DEL: all plugins in reverse order. Unknown sandboxes are fine.
    pub fn delete(&self, id: &str) -> Result<(), Error> {
        let Some(mut attachment) = self.load(id)? else {
            return Ok(());
        };
        if !attachment.config.has_check() {
            attachment.result = None;
        }
        for i in (0..attachment.config.plugins.len()).rev() {
            self.call("DEL", &attachment, i)?;
        }
        let path = self.path(id);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Error::File { path, source }),
            _ => Ok(()),
        }
    }

    /// CHECK: whether the sandbox is attached as ADD left it. Networks that cannot be checked pass.
    pub fn check(&self, id: &str) -> Result<(), Error> {
        let Some(attachment) = self.load(id)? else {
            return Ok(());
        };
        if attachment.config.disable_check || !attachment.config.has_check() {
            return Ok(());
        }
        for i in 0..attachment.config.plugins.len() {
            self.call("CHECK", &attachment, i)?;
        }
        Ok(())
    }

    /// The addresses that ADD answered for the sandbox.
    pub fn addresses(&self, id: &str) -> Option<Vec<IpAddr>> {
        let attachment = self.load(id).ok()??;
        Some(addresses(attachment.result.as_ref())).filter(|ips| !ips.is_empty())
    }

    fn path(&self, id: &str) -> PathBuf {
        self.cache.join(format!("{id}.json"))
    }

    fn save(&self, attachment: &Attachment) -> Result<(), Error> {
        let path = self.path(&attachment.id);
        let temporary = path.with_extension("tmp");
        let json = serde_json::to_vec(attachment).expect("invariant: an attachment is plain data");
        fs::create_dir_all(&self.cache)
            .and_then(|()| fs::write(&temporary, json))
            .and_then(|()| fs::rename(&temporary, &path))
            .map_err(|source| Error::File { path, source })
    }

    fn load(&self, id: &str) -> Result<Option<Attachment>, Error> {
        let path = self.path(id);
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|e| Error::File {
                path,
                source: io::Error::other(e),
            }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::File { path, source }),
        }
    }

    fn find(&self, plugin: &str) -> Result<PathBuf, Error> {
        let not_found = || Error::NoPlugin {
            plugin: plugin.to_owned(),
            path: self.bin_dirs.clone(),
        };
        if plugin.contains('/') {
            return Err(not_found());
        }
        self.bin_dirs
            .iter()
            .map(|d| d.join(plugin))
            .find(|p| p.is_file())
            .ok_or_else(not_found)
    }

    /// One plugin, one operation: the answer of ADD.
    fn call(
        &self,
        command: &'static str,
        attachment: &Attachment,
        index: usize,
    ) -> Result<Option<Value>, Error> {
        let config = &attachment.config;
        let plugin = config.plugins[index]
            .get("type")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        let program = self.find(&plugin)?;
        let stdin =
            serde_json::to_vec(&plugin_config(attachment, index)).expect("invariant: JSON values encode");
        let mut process = Command::new(&program);
        process
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", &attachment.id)
            .env("CNI_NETNS", existing(&attachment.netns))
            .env("CNI_IFNAME", POD_INTERFACE)
            .env("CNI_ARGS", &attachment.args)
            .env(
                "CNI_PATH",
                std::env::join_paths(&self.bin_dirs).unwrap_or_default(),
            )
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // A child starts in the network namespace of the thread that starts it.
        let (ok, stdout, stderr) = self
            .host
            .run(move || converse(process, &stdin))
            .map_err(|source| Error::Exec {
                plugin: plugin.clone(),
                command,
                source,
            })?;
        if !ok {
            let answer: Value = serde_json::from_slice(&stdout).unwrap_or_default();
            let part = |key: &str| {
                answer
                    .get(key)
                    .and_then(Value::as_str)
                    .unwrap_or_default()
                    .to_owned()
            };
            let (mut message, details) = (part("msg"), part("details"));
            if message.is_empty() {
                message = String::from_utf8_lossy(if stdout.is_empty() { &stderr } else { &stdout })
                    .trim()
                    .to_owned();
            }
            if !details.is_empty() {
                message = format!("{message}; {details}");
            }
            let code = answer.get("code").and_then(Value::as_u64).unwrap_or(0);
            return Err(Error::Plugin {
                plugin,
                command,
                code,
                message,
            });
        }
        if command != "ADD" {
            return Ok(None);
        }
        let answer = serde_json::from_slice(&stdout).map_err(|e| Error::Exec {
            plugin,
            command,
            source: io::Error::other(format!("its answer is not JSON: {e}")),
        })?;
        Ok(Some(answer))
    }
}

/// The namespace's path, or nothing when the namespace is gone, as DEL is then told.
fn existing(netns: &Path) -> &Path {
    if netns.exists() { netns } else { Path::new("") }
}

fn converse(mut process: Command, stdin: &[u8]) -> io::Result<(bool, Vec<u8>, Vec<u8>)> {
    let mut child = process.spawn()?;
    let mut pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (done, finished) = mpsc::sync_channel(1);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            if let Some(mut pipe) = pipes.0.take() {
                // A plugin that does not read its configuration says so by its exit status.
                let _ = pipe.write_all(stdin);
            }
        });
        let errors = scope.spawn(move || read_all(pipes.2.take()));
        scope.spawn(move || {
            // The receiver may have given up.
            let _ = done.send(read_all(pipes.1.take()));
        });
        let stdout = match finished.recv_timeout(TIMEOUT) {
            Ok(stdout) => stdout,
            Err(_) => {
                child.kill()?;
                child.wait()?;
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("no answer within {} s", TIMEOUT.as_secs()),
                ));
            }
        };
        let status = child.wait()?;
        Ok((status.success(), stdout, errors.join().unwrap_or_default()))
    })
}

fn read_all(pipe: Option<impl Read>) -> Vec<u8> {
    let mut out = Vec::new();
    if let Some(mut pipe) = pipe {
        // What arrived before a read error still tells what went wrong.
        let _ = pipe.read_to_end(&mut out);
    }
    out
}

fn plugin_config(attachment: &Attachment, index: usize) -> Map<String, Value> {
    let list = &attachment.config;
    let mut config = list.plugins[index].clone();
    config.insert("name".into(), json!(list.name));
    config.insert("cniVersion".into(), json!(list.cni_version));
    let capability = |config: &Map<String, Value>, name: &str| {
        config
            .get("capabilities")
            .and_then(|c| c.get(name))
            .and_then(Value::as_bool)
            == Some(true)
    };
    let mappings = attachment.port_mappings.as_array().is_some_and(|a| !a.is_empty());
    if mappings && capability(&config, "portMappings") {
        config.insert(
            "runtimeConfig".into(),
            json!({ "portMappings": attachment.port_mappings }),
        );
    }
    config.remove("capabilities");
    if let Some(result) = &attachment.result {
        config.insert("prevResult".into(), result.clone());
    }
    config
}

fn port_mappings(ports: &[HostPort]) -> Value {
    let one = |p: &HostPort| {
        json!({
            "hostPort": p.host_port,
            "containerPort": p.container_port,
            "protocol": match p.protocol { Protocol::Tcp => "tcp", Protocol::Udp => "udp", Protocol::Sctp => "sctp" },
            "hostIP": p.host_ip.map(|ip| ip.to_string()).unwrap_or_default(),
        })
    };
    Value::Array(ports.iter().map(one).collect())
}

/// The pod's own addresses in a result: those of interfaces inside a sandbox, or of no named interface.
fn addresses(result: Option<&Value>) -> Vec<IpAddr> {
    let Some(result) = result else { return Vec::new() };
    let interfaces = result.get("interfaces").and_then(Value::as_array);
    let inside = |ip: &Value| {
        let Some(index) = ip.get("interface").and_then(Value::as_u64) else {
            return true;
        };
        let interface = interfaces.and_then(|i| i.get(usize::try_from(index).ok()?));
        interface
            .and_then(|i| i.get("sandbox"))
            .and_then(Value::as_str)
            .is_some_and(|s| !s.is_empty())
    };
    let ips = result.get("ips").and_then(Value::as_array);
    ips.into_iter()
        .flatten()
        .filter(|ip| inside(ip))
        .filter_map(|ip| Some(ip.get("address")?.as_str()?.parse::<IpNet>().ok()?.addr()))
        .collect()
}
