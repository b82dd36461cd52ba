//! Pods: ready containers, the one-word status, restarts.

use jiff::Timestamp;
use serde_json::Value;

use super::format::{age, condition, human_duration, is_deleting, name, or_none, seconds_between, timestamp};
use crate::access::{flag, int, items, text};

/// What a pod's containers say together.
#[derive(Default)]
struct Summary {
    ready: i64,
    reason: String,
    restarts: i64,
    last_restart: Option<Timestamp>,
}

impl Summary {
    fn count_restarts(&mut self, container: &Value) {
        self.restarts += int(container, "restartCount");
        let finished = timestamp(&container["lastState"]["terminated"]["finishedAt"]);
        self.last_restart = self.last_restart.max(finished);
    }
}

fn is_sidecar(spec: &Value, status: &Value) -> bool {
    let spec = items(&spec["initContainers"])
        .iter()
        .find(|c| c["name"] == status["name"]);
    spec.is_some_and(|c| text(c, "restartPolicy") == "Always")
}

fn exit(terminated: &Value) -> String {
    match (text(terminated, "reason"), int(terminated, "signal")) {
        ("", 0) => format!("ExitCode:{}", int(terminated, "exitCode")),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

/// The state of initialization: whether it is still going on. Restarts of sidecars are counted in `sidecars` too.
fn init_containers(pod: &Value, summary: &mut Summary, sidecars: &mut Summary) -> bool {
    let spec = &pod["spec"];
    for (at, container) in items(&pod["status"]["initContainerStatuses"]).iter().enumerate() {
        summary.count_restarts(container);
        let sidecar = is_sidecar(spec, container);
        if sidecar {
            sidecars.count_restarts(container);
        }
        let state = &container["state"];
        let (terminated, waiting) = (&state["terminated"], text(&state["waiting"], "reason"));
        if terminated.is_object() && int(terminated, "exitCode") == 0 {
            continue;
        }
        if sidecar && flag(container, "started") {
            summary.ready += i64::from(flag(container, "ready"));
            continue;
        }
        summary.reason = if terminated.is_object() {
            format!("Init:{}", exit(terminated))
        } else if !waiting.is_empty() && waiting != "PodInitializing" {
            format!("Init:{waiting}")
        } else {
            format!("Init:{at}/{}", items(&spec["initContainers"]).len())
        };
        return true;
    }
    false
}

fn containers(pod: &Value, summary: &mut Summary) {
    let mut running = false;
    for container in items(&pod["status"]["containerStatuses"]).iter().rev() {
        summary.count_restarts(container);
        let state = &container["state"];
        let waiting = text(&state["waiting"], "reason");
        if !waiting.is_empty() {
            summary.reason = waiting.to_owned();
        } else if state["terminated"].is_object() {
            summary.reason = exit(&state["terminated"]);
        } else if flag(container, "ready") && state["running"].is_object() {
            running = true;
            summary.ready += 1;
        }
    }
    if summary.reason == "Completed" && running {
        let ready = condition(pod, "Ready").is_some_and(|c| c["status"] == "True");
        summary.reason = if ready { "Running" } else { "NotReady" }.to_owned();
    }
}

fn summarize(pod: &Value) -> Summary {
    let status = &pod["status"];
    let phase = text(status, "phase");
    let reason = match text(status, "reason") {
        "" => phase.to_owned(),
        reason => reason.to_owned(),
    };
    let mut summary = Summary {
        reason,
        ..Summary::default()
    };
    if condition(pod, "PodScheduled").is_some_and(|c| c["reason"] == "SchedulingGated") {
        summary.reason = "SchedulingGated".to_owned();
    }
    let mut sidecars = Summary::default();
    let initializing = init_containers(pod, &mut summary, &mut sidecars);
    if !initializing || condition(pod, "Initialized").is_some_and(|c| c["status"] == "True") {
        summary.restarts = sidecars.restarts;
        summary.last_restart = sidecars.last_restart;
        containers(pod, &mut summary);
    }
    if is_deleting(pod) {
        if text(status, "reason") == "NodeLost" {
            summary.reason = "Unknown".to_owned();
        } else if !matches!(phase, "Succeeded" | "Failed") {
            summary.reason = "Terminating".to_owned();
        }
    }
    summary
}

/// `Pod`.
pub(super) fn pod(pod: &Value, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (&pod["spec"], &pod["status"]);
    let summary = summarize(pod);
    let sidecars = items(&spec["initContainers"])
        .iter()
        .filter(|c| text(c, "restartPolicy") == "Always")
        .count();
    let total = items(&spec["containers"]).len() + sidecars;
    let restarts = match summary.last_restart {
        Some(time) if summary.restarts != 0 => {
            format!(
                "{} ({} ago)",
                summary.restarts,
                human_duration(seconds_between(time, now))
            )
        }
        _ => summary.restarts.to_string(),
    };
    let gates = items(&spec["readinessGates"]);
    let open = gates.iter().filter(|gate| {
        condition(pod, text(gate, "conditionType")).is_some_and(|condition| condition["status"] == "True")
    });
    let gates = match gates.len() {
        0 => Value::from("<none>"),
        count => Value::from(format!("{}/{count}", open.count())),
    };
    vec![
        name(pod),
        Value::from(format!("{}/{total}", summary.ready)),
        Value::from(summary.reason),
        Value::from(restarts),
        age(pod, now),
        or_none(status["podIPs"][0]["ip"].as_str().unwrap_or_default()),
        or_none(text(spec, "nodeName")),
        or_none(text(status, "nominatedNodeName")),
        gates,
    ]
}
