//! Life of a container.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use keelson_cri::v1;
use tonic::Status;

use crate::cgroup::{self, Group, Resources};
use crate::protocol::{Event, ExitRecord, Reply, Request, SeccompFilter};
use crate::records::ContainerRecord;
use crate::runtime::{Runtime, make_private_dir, new_id, now};
use crate::sandbox::{SIGKILL, failed};
use crate::shim_client::ShimError;
use crate::spec::{self, Input, SpecError};
use crate::state::{Container, Phase, START_ERROR_CODE, Sandbox};

/// How long the end of a killed container is waited for; containerd's.
const KILL_TIMEOUT: Duration = Duration::from_secs(120);
/// The longest pause between attempts to remove a group.
const GROUP_PATIENCE: Duration = Duration::from_secs(1);

impl Runtime {
    pub(crate) async fn create_container(
        &self,
        request: v1::CreateContainerRequest,
    ) -> Result<String, Status> {
        let config = request
            .config
            .ok_or_else(|| Status::invalid_argument("container config is missing"))?;
        let metadata = config
            .metadata
            .clone()
            .ok_or_else(|| Status::invalid_argument("container config must include metadata"))?;
        let sandbox = self.sandbox(&request.pod_sandbox_id)?;
        if sandbox.state() != v1::PodSandboxState::SandboxReady {
            return Err(Status::failed_precondition(format!(
                "sandbox \"{}\" is not running",
                sandbox.id
            )));
        }
        let id = new_id();
        self.reserve(
            &format!("container {}_{}_{}", sandbox.id, metadata.name, metadata.attempt),
            &id,
        )?;
        match self.prepare_container(&id, &sandbox, config).await {
            Ok(container) => {
                self.0.containers.write().insert(id.clone(), Arc::new(container));
                self.emit(&sandbox.id, &id, v1::ContainerEventType::ContainerCreatedEvent);
                Ok(id)
            }
            Err(status) => {
                self.discard(&id, &[]).await;
                self.release(&id);
                Err(status)
            }
        }
    }

    /// Removes the files of a container that never became one.
    async fn discard(&self, id: &str, volumes: &[String]) {
        for layer in volumes.iter().map(String::as_str).chain([id]) {
            if let Err(error) = self.0.images.remove_rootfs(layer).await {
                tracing::warn!(container = id, %error, "removing a writable layer");
            }
        }
        match fs::remove_dir_all(self.container_dir(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(container = id, %error, "removing the container directory");
            }
            _ => {}
        }
    }

    async fn prepare_container(
        &self,
        id: &str,
        sandbox: &Arc<Sandbox>,
        mut config: v1::ContainerConfig,
    ) -> Result<Container, Status> {
        let wanted = config.image.clone().unwrap_or_default().image;
        let image =
            self.0.images.status(&wanted).ok_or_else(|| {
                Status::not_found(format!("failed to resolve image \"{wanted}\": not found"))
            })?;
        let join_pid = self.join_pid(sandbox, &config)?;
        let image_id = image.id.to_string();
        let rootfs = self
            .0
            .images
            .prepare_rootfs(&image_id, id)
            .await
            .map_err(failed(format!(
                "create the root file system of container \"{id}\""
            )))?;
        let (volume_ids, image_volumes) = self.prepare_image_volumes(id, &mut config).await?;
        let directory = self.container_dir(id);
        make_private_dir(&directory)
            .and_then(|()| make_private_dir(&directory.join("rootfs")))
            .map_err(failed("create the container directory"))?;
        let mut record = ContainerRecord::new(id, &sandbox.id, now(), &config);
        record.image_ref = image.image_ref();
        record.image_tag = image.repo_tags.first().cloned().unwrap_or_default();
        record.image_id = image_id;
        record.image_volumes = volume_ids;
        record.stop_signal = spec::stop_signal(&config, &image.config.stop_signal);
        let container = self.make_container(record, config, Some(sandbox));

        let generated = {
            let config = container.config.lock();
            spec::generate(Input {
                id,
                bundle: &directory,
                config: &config,
                sandbox_config: &sandbox.config,
                sandbox_files: &sandbox.files,
                image: &image.config,
                rootfs: rootfs.overlay,
                join_pid,
                image_volumes,
                log_path: container.log_path.clone(),
                seccomp_root: &self.0.config.seccomp_root,
            })
        };
        let mut output = generated.map_err(|error| {
            let text =
                format!("failed to generate container \"{id}\" spec: failed to generate spec: {error}");
            match error {
                SpecError::Invalid(_) => Status::invalid_argument(text),
                SpecError::Unsupported(_) => Status::unimplemented(text),
                SpecError::Io { .. } => Status::unknown(text),
            }
        })?;
        self.write_specification(&directory, &mut output)?;
        {
            let mut record = container.record.lock();
            record.cgroup = output.launch.cgroup;
            record.uid = output.user.uid;
            record.gid = output.user.gid;
            record.groups = output.user.groups;
            record
                .write(&directory)
                .map_err(failed("write the container record"))?;
        }
        Ok(container)
    }

    /// What the shim makes the container of: OCI spec, seccomp filter and the rest.
    fn write_specification(&self, directory: &Path, output: &mut spec::Output) -> Result<(), Status> {
        let profile = output.spec["linux"].get("seccomp").cloned();
        let compiled = self
            .0
            .programs
            .take(&mut output.spec)
            .map_err(|error| Status::invalid_argument(format!("failed to generate spec: {error}")))?;
        let write = |name: &str, value: Result<Vec<u8>, serde_json::Error>| -> io::Result<()> {
            fs::write(directory.join(name), value?)
        };
        if let Some((program, filter)) = compiled {
            output.launch.seccomp = Some(filter);
            fs::write(directory.join(SeccompFilter::FILE), &program.bytes)
                .and_then(|()| write(SeccompFilter::PROFILE, serde_json::to_vec(&profile)))
                .map_err(failed("write the container's seccomp filter"))?;
        }
        write("config.json", serde_json::to_vec(&output.spec))
            .and_then(|()| write("launch.json", serde_json::to_vec(&output.launch)))
            .map_err(failed("write the container's specification"))
    }

    /// The process whose PID namespace a container joins: the pause process or the target container's.
    fn join_pid(&self, sandbox: &Sandbox, config: &v1::ContainerConfig) -> Result<Option<i32>, Status> {
        let options = config
            .linux
            .as_ref()
            .and_then(|linux| linux.security_context.as_ref())
            .and_then(|context| context.namespace_options.clone())
            .unwrap_or_default();
        match v1::NamespaceMode::try_from(options.pid).unwrap_or_default() {
            v1::NamespaceMode::Pod => match *sandbox.pause.lock() {
                Some(pid) => Ok(Some(pid)),
                None => Err(Status::invalid_argument(
                    "the container shares the pod's PID namespace, but the sandbox was created without one",
                )),
            },
            v1::NamespaceMode::Target => {
                let target = self.container(&options.target_id)?;
                if target.sandbox_id != sandbox.id {
                    return Err(Status::invalid_argument(format!(
                        "invalid target container: container \"{}\" does not belong to sandbox \"{}\"",
                        options.target_id, sandbox.id
                    )));
                }
                match target.phase() {
                    Phase::Running { pid, .. } => Ok(Some(pid)),
                    _ => Err(Status::failed_precondition(format!(
                        "invalid target container: container \"{}\" is not running",
                        options.target_id
                    ))),
                }
            }
            v1::NamespaceMode::Container | v1::NamespaceMode::Node => Ok(None),
        }
    }

    /// Makes root file systems of the images that are mounted as volumes.
    async fn prepare_image_volumes(
        &self,
        id: &str,
        config: &mut v1::ContainerConfig,
    ) -> Result<(Vec<String>, Vec<crate::images::OverlayMount>), Status> {
        // The mounts are made in the order of their depth; see `spec::mounts`.
        let depth = |mount: &v1::Mount| {
            mount
                .container_path
                .split('/')
                .filter(|part| !part.is_empty())
                .count()
        };
        config.mounts.sort_by_key(depth);
        let (mut ids, mut overlays) = (Vec::new(), Vec::new());
        for mount in &config.mounts {
            let Some(image) = mount.image.as_ref().filter(|image| !image.image.is_empty()) else {
                continue;
            };
            let layer = format!("{id}-image-{}", ids.len());
            let rootfs = self
                .0
                .images
                .prepare_rootfs(&image.image, &layer)
                .await
                .map_err(failed(format!("mount image \"{}\"", image.image)))?;
            ids.push(layer);
            overlays.push(rootfs.overlay);
        }
        Ok((ids, overlays))
    }

    pub(crate) async fn start_container(&self, id: &str) -> Result<(), Status> {
        let container = self.container(id)?;
        let _changing = container.changes.lock().await;
        if container.phase() != Phase::Created {
            return Err(Status::failed_precondition(format!(
                "container is in {} state",
                container.phase().cri().as_str_name()
            )));
        }
        let sandbox = self.sandbox(&container.sandbox_id)?;
        let shim = sandbox.shim().ok_or_else(|| {
            Status::failed_precondition(format!("sandbox container \"{}\" is not running", sandbox.id))
        })?;
        let group = {
            let mut record = container.record.lock();
            record.started = true;
            record
                .write(&container.directory)
                .map_err(failed("write the container record"))?;
            self.0.cgroups.group(&record.cgroup)
        };
        let resources = self.resources_of(&container)?;
        let outcome = match group.create(&resources) {
            Err(error) => Err(error.to_string()),
            Ok(()) => {
                let request = Request::Start {
                    id: container.id.clone(),
                    bundle: container.directory.clone(),
                };
                match shim.ask(request, Vec::new()).await {
                    Ok((Reply::Started { pid, at }, _)) => Ok((pid, at)),
                    Ok((other, _)) => Err(format!("unexpected answer {other:?}")),
                    Err(error) => Err(error.to_string()),
                }
            }
        };
        match outcome {
            Ok((pid, started_at)) => {
                // A short-lived container may have ended before the answer came; then this changes nothing.
                container.set_phase(Phase::Running { pid, started_at });
                self.emit(
                    &sandbox.id,
                    &container.id,
                    v1::ContainerEventType::ContainerStartedEvent,
                );
                if let Phase::Exited { .. } = container.phase() {
                    self.emit(
                        &sandbox.id,
                        &container.id,
                        v1::ContainerEventType::ContainerStoppedEvent,
                    );
                }
                Ok(())
            }
            Err(error) => {
                let message = format!(
                    "failed to create containerd task: failed to create shim task: OCI runtime create failed: \
                     unable to start container process: error during container init: {error}"
                );
                if let Err(error) = group.remove() {
                    tracing::debug!(container = container.id, %error, "removing the cgroup");
                }
                self.start_failed(&container, message.clone());
                Err(Status::unknown(message))
            }
        }
    }

    fn start_failed(&self, container: &Arc<Container>, message: String) {
        let at = now();
        {
            let mut record = container.record.lock();
            record.start_error = Some(message.clone());
            record.failed_at = at;
            if let Err(error) = record.write(&container.directory) {
                tracing::warn!(container = container.id, %error, "recording a failed start");
            }
        }
        let exit = ExitRecord {
            code: START_ERROR_CODE,
            at,
            started_at: 0,
            oom: false,
        };
        self.container_ended(
            container,
            Phase::Exited {
                exit,
                reason: "StartError",
                message,
            },
        );
    }

    /// The limits of a container, with its device rules.
    fn resources_of(&self, container: &Container) -> Result<Resources, Status> {
        let config = container.config.lock();
        let linux = config.linux.clone().unwrap_or_default();
        let mut resources = Resources::from(&linux.resources.unwrap_or_default());
        let privileged = linux.security_context.is_some_and(|context| context.privileged);
        resources.devices =
            Some(spec::device_rules(&config.devices, privileged).map_err(failed("find devices"))?);
        Ok(resources)
    }

    /// Applies what a shim tells.
    pub(crate) fn shim_event(&self, event: Event) {
        match event {
            Event::Exited { id, exit } => {
                if let Ok(container) = self.container(&id) {
                    self.container_ended(&container, Phase::exited(exit));
                }
            }
            Event::ExecExited { exec, code } => {
                if let Some(waiting) = self.0.execs.lock().remove(&exec) {
                    // The waiter may have given up.
                    let _ = waiting.send(code);
                }
            }
        }
    }

    /// Sets the final phase and tells everybody.
    pub(crate) fn container_ended(&self, container: &Arc<Container>, phase: Phase) {
        let was_running = matches!(container.phase(), Phase::Running { .. });
        if container.set_phase(phase) && was_running {
            self.emit(
                &container.sandbox_id,
                &container.id,
                v1::ContainerEventType::ContainerStoppedEvent,
            );
        }
    }

    pub(crate) async fn stop_container(&self, id: &str, timeout: i64) -> Result<(), Status> {
        // A container that is gone is stopped.
        let Ok(container) = self.container(id) else {
            return Ok(());
        };
        let grace = u64::try_from(timeout).unwrap_or(0);
        if grace > 0 {
            let signal = container.record.lock().stop_signal;
            self.signal(&container, signal).await?;
            if self.wait_for_end(&container, Duration::from_secs(grace)).await {
                return Ok(());
            }
        }
        self.stop_now(&container).await
    }

    /// Kills a running container and waits for its end.
    pub(crate) async fn stop_now(&self, container: &Arc<Container>) -> Result<(), Status> {
        if !matches!(container.phase(), Phase::Running { .. }) {
            return Ok(());
        }
        self.signal(container, SIGKILL).await?;
        if self.wait_for_end(container, KILL_TIMEOUT).await {
            return Ok(());
        }
        Err(Status::deadline_exceeded(format!(
            "an error occurs during waiting for container \"{}\" to be killed: it did not end within {} seconds",
            container.id,
            KILL_TIMEOUT.as_secs()
        )))
    }

    async fn signal(&self, container: &Arc<Container>, signal: i32) -> Result<(), Status> {
        let shim = self
            .sandbox(&container.sandbox_id)
            .ok()
            .and_then(|sandbox| sandbox.shim());
        let Some(shim) = shim else {
            self.bury(container);
            return Ok(());
        };
        match shim
            .ask(
                Request::Kill {
                    id: container.id.clone(),
                    signal,
                },
                Vec::new(),
            )
            .await
        {
            // The end of the shim ends the container, which whoever waits sees.
            Ok(_) | Err(ShimError::Gone) => Ok(()),
            // It ended before the signal.
            Err(ShimError::Failed(_)) => Ok(()),
            Err(error) => Err(Status::unknown(format!(
                "failed to kill container \"{}\": {error}",
                container.id
            ))),
        }
    }

    /// Whether a container that was started has ended, or ends within this time.
    async fn wait_for_end(&self, container: &Arc<Container>, within: Duration) -> bool {
        let mut phases = container.phase.subscribe();
        let ended = phases.wait_for(|phase| !matches!(phase, Phase::Running { .. }));
        matches!(tokio::time::timeout(within, ended).await, Ok(Ok(_)))
    }

    pub(crate) async fn remove_container(&self, id: &str) -> Result<(), Status> {
        let Ok(container) = self.container(id) else {
            return Ok(());
        };
        let _changing = container.changes.lock().await;
        if !self.0.containers.read().contains_key(&container.id) {
            return Ok(());
        }
        self.stop_now(&container).await?;
        let shim = self
            .sandbox(&container.sandbox_id)
            .ok()
            .and_then(|sandbox| sandbox.shim());
        if let Some(shim) = shim {
            match shim
                .ask(
                    Request::Delete {
                        id: container.id.clone(),
                    },
                    Vec::new(),
                )
                .await
            {
                Ok(_) | Err(ShimError::Gone) => {}
                Err(error) => tracing::warn!(container = container.id, %error, "telling the shim"),
            }
        }
        let (cgroup, volumes) = {
            let record = container.record.lock();
            (record.cgroup.clone(), record.image_volumes.clone())
        };
        if container.record.lock().started {
            let group = self.0.cgroups.group(&cgroup);
            group.kill_all();
            remove_group(&group)
                .await
                .map_err(failed(format!("remove container \"{}\"", container.id)))?;
        }
        self.discard(&container.id, &volumes).await;
        self.emit(
            &container.sandbox_id,
            &container.id,
            v1::ContainerEventType::ContainerDeletedEvent,
        );
        self.0.containers.write().remove(&container.id);
        self.release(&container.id);
        Ok(())
    }

    pub(crate) fn update_container(
        &self,
        request: v1::UpdateContainerResourcesRequest,
    ) -> Result<(), Status> {
        let container = self.container(&request.container_id)?;
        if matches!(container.phase(), Phase::Exited { .. }) {
            return Err(Status::failed_precondition(format!(
                "cannot update container \"{}\" in exited state",
                container.id
            )));
        }
        let Some(update) = request.linux else {
            return Ok(());
        };
        if let Phase::Running { .. } = container.phase() {
            let cgroup = container.record.lock().cgroup.clone();
            self.0
                .cgroups
                .group(&cgroup)
                .apply(&Resources::from(&update))
                .map_err(failed(format!(
                    "update resources of container \"{}\"",
                    container.id
                )))?;
        }
        let mut config = container.config.lock();
        let present = config
            .linux
            .get_or_insert_default()
            .resources
            .get_or_insert_default();
        merge(present, update);
        let mut record = container.record.lock();
        record.set_config(&config);
        record
            .write(&container.directory)
            .map_err(failed("write the container record"))
    }
}

/// Removes a group whose processes have ended or are ending. The kernel lets go of a task only after its last switch
/// of context, some time after its parent has seen its end, and version 1 tells nobody: so this tries again.
async fn remove_group(group: &Group) -> Result<(), cgroup::Error> {
    let mut pause = Duration::from_millis(1);
    loop {
        match group.remove() {
            Err(error) if error.source.raw_os_error() == Some(nix::libc::EBUSY) && pause < GROUP_PATIENCE => {
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
            result => return result,
        }
    }
}

/// Takes over what an update specifies.
fn merge(present: &mut v1::LinuxContainerResources, update: v1::LinuxContainerResources) {
    let number = |to: &mut i64, from: i64| {
        if from != 0 {
            *to = from;
        }
    };
    number(&mut present.cpu_period, update.cpu_period);
    number(&mut present.cpu_quota, update.cpu_quota);
    number(&mut present.cpu_shares, update.cpu_shares);
    number(&mut present.memory_limit_in_bytes, update.memory_limit_in_bytes);
    number(
        &mut present.memory_swap_limit_in_bytes,
        update.memory_swap_limit_in_bytes,
    );
    number(&mut present.oom_score_adj, update.oom_score_adj);
    for (to, from) in [
        (&mut present.cpuset_cpus, update.cpuset_cpus),
        (&mut present.cpuset_mems, update.cpuset_mems),
    ] {
        if !from.is_empty() {
            *to = from;
        }
    }
    if !update.hugepage_limits.is_empty() {
        present.hugepage_limits = update.hugepage_limits;
    }
    present.unified.extend(update.unified);
}
