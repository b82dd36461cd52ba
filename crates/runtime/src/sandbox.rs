//! Life of a pod sandbox.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use keelson_cri::v1;
use nix::sys::signal::Signal;
use tonic::Status;

use crate::protocol::Request;
use crate::records::SandboxRecord;
use crate::runtime::{Runtime, make_private_dir, new_id, now};
use crate::shim::ShimConfig;
use crate::shim_client::{ShimClient, ShimError};
use crate::spec::user_namespace_requested;
use crate::state::{Container, KILLED_CODE, Phase, Sandbox};

/// Size of a pod's /dev/shm, bytes; containerd's.
const SHM_SIZE: &str = "size=65536k,mode=1777";
/// `oom_score_adj` of shims: the last to be killed, as containerd's.
const SHIM_OOM_SCORE_ADJ: i32 = -998;

/// An internal failure with what was tried.
pub(crate) fn failed<E: std::fmt::Display>(what: impl std::fmt::Display) -> impl FnOnce(E) -> Status {
    move |error| Status::unknown(format!("failed to {what}: {error}"))
}

impl Runtime {
    pub(crate) async fn run_sandbox(&self, request: v1::RunPodSandboxRequest) -> Result<String, Status> {
        let config = request
            .config
            .ok_or_else(|| Status::invalid_argument("sandbox config is missing"))?;
        let metadata = config
            .metadata
            .clone()
            .ok_or_else(|| Status::invalid_argument("sandbox config must include metadata"))?;
        if !matches!(request.runtime_handler.as_str(), "" | "keelson") {
            return Err(Status::invalid_argument(format!(
                "no runtime for \"{}\" is configured",
                request.runtime_handler
            )));
        }
        let security = config
            .linux
            .as_ref()
            .and_then(|linux| linux.security_context.as_ref());
        if user_namespace_requested(security.and_then(|context| context.namespace_options.as_ref())) {
            return Err(Status::unimplemented(
                "user namespaces are not supported by this runtime yet",
            ));
        }
        let id = new_id();
        let name = format!(
            "sandbox {}_{}_{}_{}",
            metadata.name, metadata.namespace, metadata.uid, metadata.attempt
        );
        self.reserve(&name, &id)?;
        let record = SandboxRecord::new(&id, now(), &request.runtime_handler, &config);
        let sandbox = Arc::new(self.make_sandbox(record, config));
        match self.create_sandbox(&sandbox).await {
            Ok(()) => {
                self.0.sandboxes.write().insert(id.clone(), Arc::clone(&sandbox));
                self.emit(&id, &id, v1::ContainerEventType::ContainerCreatedEvent);
                self.emit(&id, &id, v1::ContainerEventType::ContainerStartedEvent);
                Ok(id)
            }
            Err(status) => {
                if let Err(error) = self.tear_down(&sandbox).await {
                    tracing::warn!(sandbox = id, %error, "cleaning up a sandbox that could not be created");
                }
                if let Err(error) = fs::remove_dir_all(&sandbox.directory) {
                    tracing::debug!(sandbox = id, %error, "removing the directory of a failed sandbox");
                }
                self.release(&id);
                Err(status)
            }
        }
    }

    async fn create_sandbox(&self, sandbox: &Arc<Sandbox>) -> Result<(), Status> {
        let namespaces = sandbox.namespaces();
        let directory = &sandbox.directory;
        make_private_dir(directory).map_err(failed("create the sandbox directory"))?;
        make_private_dir(&sandbox.socket_dir).map_err(failed("create the shim directory"))?;
        write_files(sandbox).map_err(failed("write the sandbox files"))?;
        let host_ipc = namespaces.ipc == v1::NamespaceMode::Node as i32;
        if !host_ipc {
            mount_shm(&sandbox.files.shm).map_err(failed("mount the sandbox's /dev/shm"))?;
        }
        let sysctls = sandbox
            .config
            .linux
            .as_ref()
            .map(|linux| linux.sysctls.clone())
            .unwrap_or_default();
        let shim = ShimConfig {
            sandbox: sandbox.id.clone(),
            socket_dir: sandbox.socket_dir.clone(),
            netns: sandbox.network.as_ref().map(|network| network.netns.clone()),
            ipc: !host_ipc,
            hostname: sandbox.network.is_some().then(|| sandbox.files.name.clone()),
            shared_pid: namespaces.pid == v1::NamespaceMode::Pod as i32,
            sysctls: sysctls.into_iter().collect::<BTreeMap<_, _>>(),
            oom_score_adj: SHIM_OOM_SCORE_ADJ,
        };
        let json = serde_json::to_vec(&shim).map_err(failed("encode the shim's configuration"))?;
        fs::write(directory.join(ShimConfig::FILE), json)
            .map_err(failed("write the shim's configuration"))?;
        sandbox
            .record
            .lock()
            .write(directory)
            .map_err(failed("write the sandbox record"))?;
        self.0
            .launcher
            .start(directory)
            .await
            .map_err(failed("start sandbox"))?;
        let (client, events) =
            ShimClient::connect(&sandbox.socket_dir, &self.0.tasks).map_err(failed("connect to the shim"))?;
        if shim.shared_pid {
            let state = client.state().await.map_err(failed("ask the shim"))?;
            *sandbox.pause.lock() = state.pause;
        }
        self.adopt_shim(sandbox, client, events);
        if let Some(network) = &sandbox.network {
            let ips = self.0.config.network.setup(network).await.map_err(|error| {
                Status::unknown(format!(
                    "failed to setup network for sandbox \"{}\": {error}",
                    sandbox.id
                ))
            })?;
            sandbox.record.lock().ips = ips.0;
        }
        let mut record = sandbox.record.lock();
        record.ready = true;
        record
            .write(directory)
            .map_err(failed("write the sandbox record"))
    }

    pub(crate) async fn stop_sandbox(&self, id: &str) -> Result<(), Status> {
        // A sandbox that is gone is stopped.
        let Ok(sandbox) = self.sandbox(id) else {
            return Ok(());
        };
        let _changing = sandbox.changes.lock().await;
        self.stop_sandbox_locked(&sandbox).await
    }

    async fn stop_sandbox_locked(&self, sandbox: &Arc<Sandbox>) -> Result<(), Status> {
        let was_ready = sandbox.state() == v1::PodSandboxState::SandboxReady;
        for container in self.containers_of(&sandbox.id) {
            self.stop_now(&container).await?;
        }
        {
            let mut record = sandbox.record.lock();
            record.stopped = true;
            record
                .write(&sandbox.directory)
                .map_err(failed("write the sandbox record"))?;
        }
        self.tear_down(sandbox).await?;
        if was_ready {
            self.emit(
                &sandbox.id,
                &sandbox.id,
                v1::ContainerEventType::ContainerStoppedEvent,
            );
        }
        Ok(())
    }

    /// Ends what a sandbox has on the host: its network, shim, namespaces and mounts. Idempotent.
    async fn tear_down(&self, sandbox: &Arc<Sandbox>) -> Result<(), Status> {
        if let Some(network) = &sandbox.network {
            self.0.config.network.teardown(network).await.map_err(|error| {
                Status::unknown(format!(
                    "failed to destroy network for sandbox \"{}\": {error}",
                    sandbox.id
                ))
            })?;
        }
        let shim = sandbox.shim.lock().take();
        if let Some(shim) = shim {
            match shim.ask(Request::Shutdown, Vec::new()).await {
                Ok(_) | Err(ShimError::Gone) => {}
                Err(error) => tracing::warn!(sandbox = sandbox.id, %error, "shutting the shim down"),
            }
            shim.close();
        }
        release_host_resources(sandbox).map_err(failed("release the sandbox's namespaces and mounts"))
    }

    pub(crate) async fn remove_sandbox(&self, id: &str) -> Result<(), Status> {
        let Ok(sandbox) = self.sandbox(id) else {
            return Ok(());
        };
        let changing = sandbox.changes.lock().await;
        if !self.0.sandboxes.read().contains_key(&sandbox.id) {
            return Ok(());
        }
        self.stop_sandbox_locked(&sandbox).await?;
        for container in self.containers_of(&sandbox.id) {
            self.remove_container(&container.id).await?;
        }
        match fs::remove_dir_all(&sandbox.directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Status::unknown(format!(
                    "failed to remove sandbox directory: {error}"
                )));
            }
            _ => {}
        }
        self.emit(
            &sandbox.id,
            &sandbox.id,
            v1::ContainerEventType::ContainerDeletedEvent,
        );
        self.0.sandboxes.write().remove(&sandbox.id);
        self.release(&sandbox.id);
        drop(changing);
        Ok(())
    }

    /// A shim has ended without being asked to: its containers are killed and their end is recorded.
    pub(crate) async fn shim_gone(&self, sandbox: &Arc<Sandbox>) {
        if sandbox.shim.lock().take().is_none() {
            return;
        }
        tracing::warn!(
            sandbox = sandbox.id,
            "the shim ended unexpectedly; its containers are killed"
        );
        for container in self.containers_of(&sandbox.id) {
            self.bury(&container);
        }
        self.emit(
            &sandbox.id,
            &sandbox.id,
            v1::ContainerEventType::ContainerStoppedEvent,
        );
    }

    /// Ends a container whose shim is gone: what the shim recorded stands, otherwise it counts as killed.
    pub(crate) fn bury(&self, container: &Arc<Container>) {
        let (started, cgroup) = {
            let record = container.record.lock();
            (record.started, record.cgroup.clone())
        };
        if !started || matches!(container.phase(), Phase::Exited { .. }) {
            return;
        }
        let group = self.0.cgroups.group(&cgroup);
        group.kill_all();
        let exit = match crate::protocol::ExitRecord::read(&container.directory) {
            Ok(Some(exit)) => exit,
            _ => {
                let started_at = match container.phase() {
                    Phase::Running { started_at, .. } => started_at,
                    _ => container.record.lock().created_at,
                };
                let exit = crate::protocol::ExitRecord {
                    code: KILLED_CODE,
                    at: now(),
                    started_at,
                    oom: false,
                };
                if let Err(error) = exit.write(&container.directory) {
                    tracing::warn!(container = container.id, %error, "recording the exit");
                }
                exit
            }
        };
        // Killed processes may still be ending; removing the container removes the group again.
        if let Err(error) = group.remove() {
            tracing::debug!(container = container.id, %error, "removing the cgroup");
        }
        self.container_ended(container, Phase::exited(exit));
    }

    /// Takes a name for an id.
    pub(crate) fn reserve(&self, name: &str, id: &str) -> Result<(), Status> {
        let mut names = self.0.names.lock();
        if let Some(other) = names.get(name) {
            return Err(Status::unknown(format!(
                "failed to reserve name: name \"{name}\" is reserved for \"{other}\""
            )));
        }
        names.insert(name.to_owned(), id.to_owned());
        Ok(())
    }

    /// Gives the names of an id free.
    pub(crate) fn release(&self, id: &str) {
        self.0.names.lock().retain(|_, taken| taken != id);
    }
}

/// `/etc/hostname`, `/etc/hosts` and `/etc/resolv.conf` of the pod.
fn write_files(sandbox: &Sandbox) -> io::Result<()> {
    let files = &sandbox.files;
    fs::write(&files.hostname, format!("{}\n", files.name))?;
    fs::write(&files.hosts, fs::read_to_string("/etc/hosts").unwrap_or_default())?;
    let resolv_conf = match &sandbox.config.dns_config {
        Some(dns) if !(dns.servers.is_empty() && dns.searches.is_empty() && dns.options.is_empty()) => {
            resolv_conf(dns)
        }
        _ => fs::read_to_string("/etc/resolv.conf").unwrap_or_default(),
    };
    fs::write(&files.resolv_conf, resolv_conf)
}

fn resolv_conf(dns: &v1::DnsConfig) -> String {
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text.push_str(&format!("search {}\n", dns.searches.join(" ")));
    }
    for server in &dns.servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if !dns.options.is_empty() {
        text.push_str(&format!("options {}\n", dns.options.join(" ")));
    }
    text
}

fn mount_shm(path: &Path) -> io::Result<()> {
    use rustix::mount::MountFlags;
    fs::create_dir_all(path)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let data = std::ffi::CString::new(SHM_SIZE)?;
    rustix::mount::mount("shm", path, "tmpfs", flags, data.as_c_str())?;
    Ok(())
}

/// Unmounts shared memory and network namespace and removes the socket. Idempotent.
pub(crate) fn release_host_resources(sandbox: &Sandbox) -> io::Result<()> {
    let gone = |result: io::Result<()>| match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    unmount(&sandbox.files.shm)?;
    gone(fs::remove_dir(&sandbox.files.shm))?;
    if let Some(network) = &sandbox.network {
        unmount(&network.netns)?;
        gone(fs::remove_file(&network.netns))?;
    }
    gone(fs::remove_dir_all(&sandbox.socket_dir))
}

fn unmount(path: &Path) -> io::Result<()> {
    match rustix::mount::unmount(
        path,
        rustix::mount::UnmountFlags::DETACH | rustix::mount::UnmountFlags::NOFOLLOW,
    ) {
        // Not there, or not a mount point.
        Ok(()) | Err(rustix::io::Errno::NOENT | rustix::io::Errno::INVAL) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// SIGKILL, as protocol requests carry it.
pub(crate) const SIGKILL: i32 = Signal::SIGKILL as i32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_has_the_usual_order() {
        let dns = v1::DnsConfig {
            servers: vec!["10.96.0.10".into(), "1.1.1.1".into()],
            searches: vec!["default.svc.cluster.local".into(), "svc.cluster.local".into()],
            options: vec!["ndots:5".into()],
        };
        let expected = "search default.svc.cluster.local svc.cluster.local\nnameserver 10.96.0.10\n\
                        nameserver 1.1.1.1\noptions ndots:5\n";
        assert_eq!(resolv_conf(&dns), expected);
    }
}
