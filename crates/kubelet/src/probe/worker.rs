//! One probe of one container instance: runs it at its period and counts towards the thresholds.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Probe};
use k8s_openapi::jiff::Timestamp;
use keelson_client::EventType;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{Kind, Outcome, exec, grpc, http, resolve_port, tcp};
use crate::kubelet::Kubelet;
use crate::pod::actions::Verdict;
use crate::pod::handle::PodHandle;
use crate::pod::{runtime_status, spec};

/// Attempts to carry a probe out at all, as upstream.
const MAX_RETRIES: usize = 3;

pub(crate) struct Worker {
    pub(crate) kubelet: Arc<Kubelet>,
    pub(crate) handle: Arc<PodHandle>,
    pub(crate) container: Container,
    pub(crate) container_id: String,
    /// Nanoseconds since the epoch.
    pub(crate) started_at: i64,
    pub(crate) kind: Kind,
    pub(crate) probe: Probe,
    pub(crate) stop: CancellationToken,
}

/// Consecutive results of one kind against the thresholds.
#[derive(Debug, Default)]
pub(crate) struct Counter {
    last: Option<bool>,
    run: i32,
}

impl Counter {
    /// Counts a result; returns the verdict when the threshold of its kind is reached.
    pub(crate) fn count(&mut self, success: bool, probe: &Probe) -> Option<Verdict> {
        if self.last == Some(success) {
            self.run = self.run.saturating_add(1);
        } else {
            self.last = Some(success);
            self.run = 1;
        }
        let (threshold, verdict) = if success {
            (probe.success_threshold.unwrap_or(1), Verdict::Success)
        } else {
            (probe.failure_threshold.unwrap_or(3), Verdict::Failure)
        };
        (self.run >= threshold).then_some(verdict)
    }
}

fn seconds(value: Option<i32>, default: u64) -> Duration {
    Duration::from_secs(
        value
            .and_then(|value| u64::try_from(value).ok())
            .filter(|value| *value > 0)
            .unwrap_or(default),
    )
}

impl Worker {
    /// Probes until stopped, or until the verdict is final (started up, or to be killed).
    pub(crate) async fn run(self) {
        let period = seconds(self.probe.period_seconds, 10);
        let mut next = Instant::now() + self.initial_wait();
        let mut counter = Counter::default();
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = sleep_until(next) => {}
            }
            let began = Instant::now();
            next = began + period;
            let outcome = tokio::select! {
                () = self.stop.cancelled() => return,
                outcome = self.probe_with_retries() => outcome,
            };
            let pod = self.handle.pod();
            self.kubelet
                .probes
                .record(&pod, &self.container.name, self.kind, &outcome, began.elapsed());
            self.report(&outcome);
            let Some(verdict) = counter.count(outcome == Outcome::Success, &self.probe) else {
                continue;
            };
            if self.handle.set_verdict(&self.container_id, self.kind, verdict) {
                self.handle.wake();
            }
            let is_final = match self.kind {
                Kind::Startup => true,
                Kind::Liveness => verdict == Verdict::Failure,
                Kind::Readiness => false,
            };
            if is_final {
                // The container is killed, or its other probes start; nothing is left to find out.
                return;
            }
        }
    }

    fn initial_wait(&self) -> Duration {
        let delay = Duration::from_secs(
            self.probe
                .initial_delay_seconds
                .and_then(|s| u64::try_from(s).ok())
                .unwrap_or_default(),
        );
        let started = runtime_status::timestamp(self.started_at).unwrap_or_else(Timestamp::now);
        let age = Duration::try_from(Timestamp::now().duration_since(started)).unwrap_or_default();
        delay.saturating_sub(age)
    }

    async fn probe_with_retries(&self) -> Outcome {
        let mut outcome = Outcome::Success;
        for _ in 0..MAX_RETRIES {
            outcome = self.probe_once().await;
            if !matches!(outcome, Outcome::Error(_)) {
                break;
            }
        }
        outcome
    }

    async fn probe_once(&self) -> Outcome {
        let timeout = seconds(self.probe.timeout_seconds, 1);
        if let Some(action) = &self.probe.exec {
            let command = action.command.clone().unwrap_or_default();
            return exec::probe(&self.kubelet.config.cri, &self.container_id, command, timeout).await;
        }
        let pod_ip = match self.handle.runtime().ips().first() {
            _ if spec::host_network(&self.handle.pod()) => self.kubelet.config.host_ip(),
            Some(ip) => ip.clone(),
            None => String::new(),
        };
        let port = |port| resolve_port(port, &self.container);
        if let Some(action) = &self.probe.http_get {
            match port(&action.port) {
                Ok(port) => http::probe(action, &pod_ip, port, timeout).await,
                Err(error) => Outcome::Error(error),
            }
        } else if let Some(action) = &self.probe.tcp_socket {
            match port(&action.port) {
                Ok(port) => tcp::probe(action.host.as_deref().unwrap_or(&pod_ip), port, timeout).await,
                Err(error) => Outcome::Error(error),
            }
        } else if let Some(action) = &self.probe.grpc {
            let port = u16::try_from(action.port).unwrap_or_default();
            grpc::probe(
                &pod_ip,
                port,
                action.service.as_deref().unwrap_or_default(),
                timeout,
            )
            .await
        } else {
            Outcome::Error(format!(
                "missing probe handler for {}",
                spec::format(&self.handle.pod())
            ))
        }
    }

    fn report(&self, outcome: &Outcome) {
        let kind = self.kind.as_str();
        let text = match outcome {
            Outcome::Success => return,
            Outcome::Failure(output) => format!("{kind} probe failed: {output}"),
            Outcome::Error(error) => format!("{kind} probe errored and resulted in failed state: {error}"),
        };
        self.kubelet.container_event(
            &self.handle.pod(),
            &self.container.name,
            EventType::Warning,
            "Unhealthy",
            text,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_count_consecutive_results() {
        let probe = Probe {
            failure_threshold: Some(3),
            success_threshold: Some(2),
            ..Probe::default()
        };
        let mut counter = Counter::default();
        let mut verdicts = Vec::new();
        for success in [false, false, true, false, false, false, false, true, true, true] {
            verdicts.push(counter.count(success, &probe));
        }
        let (f, s) = (Some(Verdict::Failure), Some(Verdict::Success));
        assert_eq!(verdicts, [None, None, None, None, None, f, f, None, s, s]);
    }
}
