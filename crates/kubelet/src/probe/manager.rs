//! Which probes run: those of running containers, from the moment the container starts (liveness and readiness from the
//! moment it has started up) until it ends.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

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
use crate::stats::{Exposition, Histogram};

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

impl Outcome {
    /// As metrics name it.
    fn result(&self) -> &'static str {
        match self {
            Self::Success => "successful",
            Self::Failure(_) => "failed",
            Self::Error(_) => "unknown",
        }
    }
}

type Key = (String, Kind);

/// What the probes of one kind of one container came to so far.
#[derive(Default)]
struct Record {
    results: BTreeMap<&'static str, u64>,
    durations: Histogram,
}

/// Namespace, pod, pod UID, container and kind.
type RecordKey = (String, String, String, String, &'static str);

/// The probes of all pods, by pod UID, then container ID and kind.
#[derive(Default)]
pub(crate) struct ProbeManager {
    workers: Mutex<HashMap<String, HashMap<Key, CancellationToken>>>,
    records: Mutex<BTreeMap<RecordKey, Record>>,
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

    /// Counts one execution for the metrics.
    pub(super) fn record(&self, pod: &Pod, container: &str, kind: Kind, outcome: &Outcome, took: Duration) {
        let key = (
            spec::namespace(pod).to_owned(),
            spec::name(pod).to_owned(),
            spec::uid(pod).to_owned(),
            container.to_owned(),
            kind.as_str(),
        );
        let mut records = self.records.lock();
        let record = records.entry(key).or_default();
        *record.results.entry(outcome.result()).or_default() += 1;
        record.durations.observe(took);
    }

    /// The answer of `/metrics/probes`.
    pub(crate) fn metrics(&self) -> String {
        let records = self.records.lock();
        let mut out = Exposition::default();
        let name = "prober_probe_total";
        out.family(
            name,
            "counter",
            "[BETA] Cumulative number of a liveness, readiness or startup probe for a container by result.",
        );
        for ((namespace, pod, uid, container, kind), record) in records.iter() {
            for (result, count) in &record.results {
                let labels = [
                    ("container", container.as_str()),
                    ("namespace", namespace),
                    ("pod", pod),
                    ("pod_uid", uid),
                    ("probe_type", kind),
                    ("result", result),
                ];
                out.sample(name, &labels, count);
            }
        }
        let name = "prober_probe_duration_seconds";
        out.family(
            name,
            "histogram",
            "[ALPHA] Duration in seconds for a probe response.",
        );
        for ((namespace, pod, _, container, kind), record) in records.iter() {
            let labels = [
                ("container", container.as_str()),
                ("namespace", namespace),
                ("pod", pod),
                ("probe_type", kind),
            ];
            record.durations.write(&mut out, name, &labels);
        }
        out.finish()
    }

    /// Stops all probes of the pod.
    pub(crate) fn remove_pod(&self, uid: &str) {
        self.records.lock().retain(|(_, _, other, ..), _| other != uid);
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
