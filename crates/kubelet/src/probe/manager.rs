//! Which probes run: those of running containers, from the moment the container starts (liveness and readiness from the
//! moment it has started up) until it ends.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::worker;
use crate::kubelet::Kubelet;
use crate::pod::actions::{ProbeResults, Verdict};
use crate::pod::handle::PodHandle;
use crate::pod::runtime_status::{ContainerRecord, PodRuntimeStatus, State};
use crate::pod::spec;

/// What a probe decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Startup,
    Liveness,
    Readiness,
}

impl Kind {
    /// As events name it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }

    fn of(self, container: &Container) -> Option<&Probe> {
        match self {
            Self::Startup => container.startup_probe.as_ref(),
            Self::Liveness => container.liveness_probe.as_ref(),
            Self::Readiness => container.readiness_probe.as_ref(),
        }
    }
}

/// One execution of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Success,
    /// The container is not well, and why.
    Failure(String),
    /// The probe could not be carried out.
    Error(String),
}

type Key = (String, Kind);

/// The probes of all pods, by pod UID, then container ID and kind.
#[derive(Default)]
pub(crate) struct ProbeManager {
    workers: Mutex<HashMap<String, HashMap<Key, CancellationToken>>>,
}

impl ProbeManager {
    /// Starts the probes of containers that run now and stops those of others.
    pub(crate) fn sync(
        &self,
        kubelet: &Arc<Kubelet>,
        handle: &Arc<PodHandle>,
        pod: &Arc<Pod>,
        runtime: &PodRuntimeStatus,
    ) {
        let sidecars = spec::init_containers(pod)
            .iter()
            .filter(|container| spec::is_sidecar(container));
        let mut wanted: Vec<(Key, &Container, &ContainerRecord)> = Vec::new();
        for container in sidecars.chain(spec::containers(pod)) {
            let Some(record) = runtime
                .container(&container.name)
                .filter(|record| record.state == State::Running)
            else {
                continue;
            };
            keep_readiness_over_restart(handle, container, record);
            let up = container.startup_probe.is_none() || handle.startup(&record.id) == Verdict::Success;
            let kinds: &[Kind] = if up {
                &[Kind::Liveness, Kind::Readiness]
            } else {
                &[Kind::Startup]
            };
            for &kind in kinds.iter().filter(|kind| kind.of(container).is_some()) {
                wanted.push(((record.id.clone(), kind), container, record));
            }
        }
        let mut workers = self.workers.lock();
        if wanted.is_empty() && !workers.contains_key(&handle.uid) {
            return;
        }
        let running = workers.entry(handle.uid.clone()).or_default();
        running.retain(|key, stop| {
            let keep = wanted.iter().any(|(other, ..)| other == key);
            if !keep {
                stop.cancel();
            }
            keep
        });
        for (key, container, record) in wanted {
            if running.contains_key(&key) {
                continue;
            }
            let Some(probe) = key.1.of(container) else {
                continue;
            };
            let stop = kubelet.shutdown.child_token();
            let work = worker::Worker {
                kubelet: kubelet.clone(),
                handle: handle.clone(),
                container: container.clone(),
                container_id: record.id.clone(),
                started_at: record.started_at,
                kind: key.1,
                probe: probe.clone(),
                stop: stop.clone(),
            };
            kubelet.tracker.spawn(work.run());
            running.insert(key, stop);
        }
    }

    /// The pod is ending: only readiness is still of interest.
    pub(crate) fn pod_is_ending(&self, uid: &str) {
        if let Some(running) = self.workers.lock().get_mut(uid) {
            running
                .iter()
                .filter(|((_, kind), _)| *kind != Kind::Readiness)
                .for_each(|(_, stop)| stop.cancel());
        }
    }

    /// Stops all probes of the pod.
    pub(crate) fn remove_pod(&self, uid: &str) {
        if let Some(running) = self.workers.lock().remove(uid) {
            running.values().for_each(CancellationToken::cancel);
        }
    }
}

/// A container that was ready before this kubelet started stays so until a probe says otherwise.
fn keep_readiness_over_restart(handle: &PodHandle, container: &Container, record: &ContainerRecord) {
    let Some(status) = handle.status() else { return };
    let lists = [&status.init_container_statuses, &status.container_statuses];
    let mut all = lists.into_iter().flatten().flatten();
    let Some(old) = all.find(|old| old.name == container.name) else {
        return;
    };
    let same = old
        .container_id
        .as_deref()
        .is_some_and(|id| id.ends_with(&record.id));
    if !same {
        return;
    }
    if old.started == Some(true) && handle.verdict(&record.id, Kind::Startup) == Verdict::Unknown {
        handle.set_verdict(&record.id, Kind::Startup, Verdict::Success);
    }
    if old.ready && handle.verdict(&record.id, Kind::Readiness) == Verdict::Unknown {
        handle.set_verdict(&record.id, Kind::Readiness, Verdict::Success);
    }
}

/// The number of a port that may be named.
pub(crate) fn resolve_port(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => match name.parse() {
            Ok(number) => Some(number),
            Err(_) => {
                let ports = container.ports.as_deref().unwrap_or_default();
                let found = ports.iter().find(|port| port.name.as_ref() == Some(name));
                return found
                    .and_then(|port| u16::try_from(port.container_port).ok())
                    .ok_or_else(|| format!("couldn't find port: {name} in container {}", container.name));
            }
        },
    };
    number
        .and_then(|number| u16::try_from(number).ok())
        .filter(|number| *number > 0)
        .ok_or_else(|| format!("invalid port number: {port:?}"))
}
