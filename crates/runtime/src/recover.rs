//! Finding sandboxes and containers of an earlier process.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use keelson_cri::v1;

use crate::protocol::{ExitRecord, ShimState};
use crate::records::{ContainerRecord, SandboxRecord};
use crate::runtime::{OpenError, Runtime};
use crate::sandbox::release_host_resources;
use crate::shim_client::ShimClient;
use crate::state::{Container, Phase, START_ERROR_CODE, Sandbox};

impl Runtime {
    /// Reads all records and connects to the shims that live.
    pub(crate) async fn recover(&self) -> Result<(), OpenError> {
        for directory in entries(&self.0.config.root.join("sandboxes"))? {
            let read = SandboxRecord::read(&directory).and_then(|record| {
                let config = record.config()?;
                Ok((record, config))
            });
            match read {
                Ok((record, config)) => {
                    let metadata = config.metadata.clone().unwrap_or_default();
                    let name = format!(
                        "sandbox {}_{}_{}_{}",
                        metadata.name, metadata.namespace, metadata.uid, metadata.attempt
                    );
                    let sandbox = Arc::new(self.make_sandbox(record, config));
                    self.0.names.lock().insert(name, sandbox.id.clone());
                    self.0.sandboxes.write().insert(sandbox.id.clone(), sandbox);
                }
                Err(error) => drop_remains(&directory, &error),
            }
        }
        for directory in entries(&self.0.config.root.join("containers"))? {
            let read = ContainerRecord::read(&directory).and_then(|record| {
                let config = record.config()?;
                Ok((record, config))
            });
            match read {
                Ok((record, config)) => self.recover_container(record, config),
                Err(error) => drop_remains(&directory, &error),
            }
        }
        let sandboxes: Vec<Arc<Sandbox>> = self.0.sandboxes.read().values().cloned().collect();
        for sandbox in sandboxes {
            self.recover_sandbox(&sandbox).await;
        }
        self.drop_orphan_layers().await;
        Ok(())
    }

    fn recover_container(&self, record: ContainerRecord, config: v1::ContainerConfig) {
        let metadata = config.metadata.clone().unwrap_or_default();
        let name = format!(
            "container {}_{}_{}",
            record.sandbox_id, metadata.name, metadata.attempt
        );
        let sandbox = self.0.sandboxes.read().get(&record.sandbox_id).cloned();
        let container = Arc::new(self.make_container(record, config, sandbox.as_deref()));
        self.0.names.lock().insert(name, container.id.clone());
        self.0.containers.write().insert(container.id.clone(), container);
    }

    async fn recover_sandbox(&self, sandbox: &Arc<Sandbox>) {
        let stopped = sandbox.record.lock().stopped;
        let connected = if stopped {
            None
        } else {
            match ShimClient::connect(&sandbox.socket_dir, &self.0.tasks) {
                Ok((client, events)) => match client.state().await {
                    Ok(state) => Some((client, events, state)),
                    Err(error) => {
                        tracing::warn!(sandbox = sandbox.id, %error, "a shim does not answer");
                        None
                    }
                },
                Err(error) => {
                    tracing::info!(sandbox = sandbox.id, %error, "the sandbox's shim is gone");
                    None
                }
            }
        };
        match connected {
            Some((client, events, state)) => {
                *sandbox.pause.lock() = state.pause;
                for container in self.containers_of(&sandbox.id) {
                    self.apply_state(&container, &state);
                }
                self.adopt_shim(sandbox, client, events);
                let ready = sandbox.record.lock().ready;
                if !ready && let Err(error) = self.stop_sandbox(&sandbox.id).await {
                    tracing::warn!(sandbox = sandbox.id, %error, "stopping a half-created sandbox");
                }
            }
            None => {
                for container in self.containers_of(&sandbox.id) {
                    self.apply_state(&container, &ShimState::default());
                    self.bury(&container);
                }
                if stopped && let Err(error) = release_host_resources(sandbox) {
                    tracing::warn!(sandbox = sandbox.id, %error, "releasing what a stopped sandbox has left");
                }
            }
        }
    }

    /// Sets a container's phase from what was recorded and what its shim knows.
    fn apply_state(&self, container: &Arc<Container>, state: &ShimState) {
        let (started, start_error, failed_at) = {
            let record = container.record.lock();
            (record.started, record.start_error.clone(), record.failed_at)
        };
        if let Some(message) = start_error {
            let exit = ExitRecord {
                code: START_ERROR_CODE,
                at: failed_at,
                started_at: 0,
                oom: false,
            };
            container.set_phase(Phase::Exited {
                exit,
                reason: "StartError",
                message,
            });
            return;
        }
        let known = state.containers.iter().find(|known| known.id == container.id);
        match known {
            Some(known) => {
                container.set_phase(match &known.exit {
                    Some(exit) => Phase::exited(exit.clone()),
                    None => Phase::Running {
                        pid: known.pid,
                        started_at: known.started_at,
                    },
                });
            }
            None if started => match ExitRecord::read(&container.directory) {
                Ok(Some(exit)) => drop(container.set_phase(Phase::exited(exit))),
                // Starting was interrupted, or the shim is gone: what is left of it is killed.
                _ => self.bury(container),
            },
            None => {}
        }
    }

    /// Removes writable layers whose containers are gone.
    async fn drop_orphan_layers(&self) {
        let known: HashSet<String> = {
            let containers = self.0.containers.read();
            let volumes = containers
                .values()
                .flat_map(|c| c.record.lock().image_volumes.clone());
            containers.keys().cloned().chain(volumes).collect()
        };
        for id in self.0.images.rootfs_ids() {
            if !known.contains(&id) {
                match self.0.images.remove_rootfs(&id).await {
                    Ok(()) => tracing::info!(container = id, "removed a writable layer without a container"),
                    Err(error) => tracing::warn!(container = id, %error, "removing a writable layer"),
                }
            }
        }
    }
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>, OpenError> {
    let failed = |source| OpenError::Directory {
        path: directory.to_owned(),
        source,
    };
    fs::read_dir(directory)
        .map_err(failed)?
        .map(|entry| entry.map(|entry| entry.path()).map_err(failed))
        .collect()
}

/// A directory without a readable record is what an interrupted creation (or a full disk) left: nothing refers to it.
fn drop_remains(directory: &Path, error: &std::io::Error) {
    tracing::warn!(directory = %directory.display(), %error, "removing the remains of an interrupted creation");
    if let Err(error) = fs::remove_dir_all(directory) {
        tracing::warn!(directory = %directory.display(), %error, "removing it");
    }
}
