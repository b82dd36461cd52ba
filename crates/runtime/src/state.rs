//! Sandboxes and containers in memory.

use std::path::PathBuf;
use std::sync::Arc;

use keelson_cri::v1;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::network::PodNetworkRequest;
use crate::protocol::ExitRecord;
use crate::records::{ContainerRecord, SandboxRecord};
use crate::shim_client::ShimClient;
use crate::spec::SandboxFiles;

/// Exit code of a container that could not be started; containerd's.
pub(crate) const START_ERROR_CODE: i32 = 128;
/// Exit code of a container whose end nobody saw: killed.
pub(crate) const KILLED_CODE: i32 = 137;

/// One pod sandbox.
#[derive(Debug)]
pub(crate) struct Sandbox {
    pub(crate) id: String,
    pub(crate) config: v1::PodSandboxConfig,
    pub(crate) directory: PathBuf,
    /// Directory of the shim's socket.
    pub(crate) socket_dir: PathBuf,
    pub(crate) files: SandboxFiles,
    /// How its network is asked for; none in the host's network.
    pub(crate) network: Option<PodNetworkRequest>,
    pub(crate) record: Mutex<SandboxRecord>,
    pub(crate) shim: Mutex<Option<Arc<ShimClient>>>,
    /// The pause process of a shared PID namespace.
    pub(crate) pause: Mutex<Option<i32>>,
    /// Stopping and removing, one at a time.
    pub(crate) changes: tokio::sync::Mutex<()>,
}

impl Sandbox {
    /// The shim, when the sandbox is ready.
    pub(crate) fn shim(&self) -> Option<Arc<ShimClient>> {
        self.shim.lock().clone()
    }

    pub(crate) fn state(&self) -> v1::PodSandboxState {
        if self.shim.lock().is_some() && !self.record.lock().stopped {
            v1::PodSandboxState::SandboxReady
        } else {
            v1::PodSandboxState::SandboxNotready
        }
    }

    /// Namespace modes as asked for.
    pub(crate) fn namespaces(&self) -> v1::NamespaceOption {
        self.config
            .linux
            .as_ref()
            .and_then(|linux| linux.security_context.as_ref())
            .and_then(|context| context.namespace_options.clone())
            .unwrap_or_default()
    }
}

/// Where a container is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Not started.
    Created,
    /// Started.
    Running {
        /// Process id of its init process.
        pid: i32,
        /// Nanoseconds since the epoch.
        started_at: i64,
    },
    /// Ended, or could not be started.
    Exited {
        /// How it ended.
        exit: ExitRecord,
        /// CRI's reason.
        reason: &'static str,
        /// More for people.
        message: String,
    },
}

impl Phase {
    /// The phase after a recorded exit.
    pub(crate) fn exited(exit: ExitRecord) -> Self {
        let reason = match &exit {
            ExitRecord { oom: true, .. } => "OOMKilled",
            ExitRecord { code: 0, .. } => "Completed",
            _ => "Error",
        };
        Self::Exited {
            exit,
            reason,
            message: String::new(),
        }
    }

    pub(crate) fn cri(&self) -> v1::ContainerState {
        match self {
            Self::Created => v1::ContainerState::ContainerCreated,
            Self::Running { .. } => v1::ContainerState::ContainerRunning,
            Self::Exited { .. } => v1::ContainerState::ContainerExited,
        }
    }
}

/// One container.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) sandbox_id: String,
    /// Bundle and record.
    pub(crate) directory: PathBuf,
    pub(crate) config: Mutex<v1::ContainerConfig>,
    pub(crate) log_path: Option<PathBuf>,
    pub(crate) record: Mutex<ContainerRecord>,
    /// The phase; watched by who waits for the end.
    pub(crate) phase: watch::Sender<Phase>,
    /// Starting, stopping and removing, one at a time.
    pub(crate) changes: tokio::sync::Mutex<()>,
    /// The last CPU reading: time and usage, both in nanoseconds.
    pub(crate) last_cpu: Mutex<Option<(i64, u64)>>,
}

impl Container {
    pub(crate) fn phase(&self) -> Phase {
        self.phase.borrow().clone()
    }

    /// Sets the phase; the end is final.
    pub(crate) fn set_phase(&self, phase: Phase) -> bool {
        self.phase.send_if_modified(|present| {
            if matches!(present, Phase::Exited { .. }) {
                return false;
            }
            *present = phase;
            true
        })
    }
}
