//! From usage to a number of replicas.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::autoscaling::v2::{HPAScalingRules, HorizontalPodAutoscalerBehavior};
use k8s_openapi::api::core::v1::{Container, Pod};
use keelson_api::quantity::Quantity;

use crate::shared::owner::{is_deleting, name};
use crate::shared::pod::{condition, phase};

/// `--horizontal-pod-autoscaler-cpu-initialization-period`.
const CPU_INITIALIZATION: SignedDuration = SignedDuration::from_mins(5);
/// `--horizontal-pod-autoscaler-initial-readiness-delay`.
const INITIAL_READINESS: SignedDuration = SignedDuration::from_secs(30);

/// What is aimed at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// Percent of what the pods request.
    Utilization(i32),
    /// Thousandths of the unit per pod.
    Average(i64),
}

/// How far from the target usage may be before anything happens, as parts of it: 0.1 is ten percent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Tolerance {
    pub(super) down: f64,
    pub(super) up: f64,
}

impl Tolerance {
    /// What the autoscaler's behavior says for each direction, else `default`.
    pub(super) fn of(behavior: Option<&HorizontalPodAutoscalerBehavior>, default: f64) -> Self {
        let own = |rules: Option<&HPAScalingRules>| {
            let text = &rules?.tolerance.as_ref()?.0;
            Some(Quantity::parse(text).ok()?.as_f64())
        };
        Self {
            down: own(behavior.and_then(|behavior| behavior.scale_down.as_ref())).unwrap_or(default),
            up: own(behavior.and_then(|behavior| behavior.scale_up.as_ref())).unwrap_or(default),
        }
    }

    fn covers(self, ratio: f64) -> bool {
        (1.0 - self.down..=1.0 + self.up).contains(&ratio)
    }
}

/// What the calculation starts from.
pub(super) struct Input<'a> {
    pub(super) current: i32,
    pub(super) target: Target,
    /// `cpu`, `memory` or another resource.
    pub(super) resource: &'a str,
    pub(super) container: Option<&'a str>,
    pub(super) pods: &'a [Arc<Pod>],
    /// Usage by pod name, in thousandths.
    pub(super) usage: HashMap<String, i64>,
    pub(super) tolerance: Tolerance,
    pub(super) now: Timestamp,
}

/// The number, and what was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Proposal {
    pub(super) replicas: i32,
    /// Percent, for utilization targets.
    pub(super) utilization: Option<i32>,
    /// Thousandths per pod.
    pub(super) average: i64,
}

/// Thousandths that the pod requests.
fn request(pod: &Pod, resource: &str, container: Option<&str>) -> Result<i64, String> {
    let spec = pod.spec.as_ref();
    let sidecar = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
    let init = spec
        .and_then(|spec| spec.init_containers.as_ref())
        .into_iter()
        .flatten()
        .filter(sidecar);
    let containers = spec
        .map(|spec| spec.containers.as_slice())
        .unwrap_or_default()
        .iter()
        .chain(init);
    let mut total = 0;
    for found in containers.filter(|found| container.is_none_or(|name| found.name == name)) {
        let requests = found
            .resources
            .as_ref()
            .and_then(|resources| resources.requests.as_ref());
        let quantity = requests
            .and_then(|requests| requests.get(resource))
            .and_then(|text| Quantity::parse(&text.0).ok());
        let missing = || {
            format!(
                "missing request for {resource} in container {} of Pod {}",
                found.name,
                name(pod)
            )
        };
        total += quantity.ok_or_else(missing)?.milli_value();
    }
    Ok(total)
}

/// Whether the usage of a pod says nothing yet, because it has just started.
fn is_unready(pod: &Pod, resource: &str, now: Timestamp) -> bool {
    if phase(pod) == "Pending" {
        return true;
    }
    if resource != "cpu" {
        return false;
    }
    let started = pod.status.as_ref().and_then(|status| status.start_time.as_ref());
    let ready = condition(pod, "Ready");
    let (Some(started), Some(ready)) = (started, ready) else {
        return true;
    };
    let changed = ready
        .last_transition_time
        .as_ref()
        .map_or(started.0, |time| time.0);
    if started.0 + CPU_INITIALIZATION > now {
        ready.status == "False"
    } else {
        // Never ready since it started.
        ready.status == "False" && started.0 + INITIAL_READINESS > changed
    }
}

/// Computes the number; an error is a sentence for the condition.
pub(super) fn compute(input: Input<'_>) -> Result<Proposal, String> {
    let mut usage = input.usage;
    let (mut ready, mut unready, mut missing) = (0_i32, Vec::new(), Vec::new());
    for pod in input.pods {
        if is_deleting(pod.as_ref()) || phase(pod) == "Failed" || phase(pod) == "Succeeded" {
            usage.remove(name(pod.as_ref()));
        } else if is_unready(pod, input.resource, input.now) {
            usage.remove(name(pod.as_ref()));
            unready.push(pod);
        } else if usage.contains_key(name(pod.as_ref())) {
            ready += 1;
        } else {
            missing.push(pod);
        }
    }
    if usage.is_empty() {
        return Err("did not receive metrics for targeted pods (pods might be unready)".into());
    }
    let mut requests = HashMap::new();
    for pod in input.pods {
        if let Target::Utilization(_) = input.target {
            requests.insert(name(pod.as_ref()), request(pod, input.resource, input.container)?);
        }
    }
    let ratio = |usage: &HashMap<String, i64>| -> Result<f64, String> {
        let used: i64 = usage.values().sum();
        match input.target {
            Target::Utilization(percent) => {
                let requested: i64 = usage.keys().filter_map(|pod| requests.get(pod.as_str())).sum();
                if requested == 0 {
                    return Err("no metrics returned matched known pods".into());
                }
                Ok(real(used * 100 / requested) / f64::from(percent))
            }
            Target::Average(target) => Ok(real(used / count(usage.len())) / real(target)),
        }
    };
    let first = ratio(&usage)?;
    let measured = measured(&usage, &requests, input.target);
    let propose = |replicas: i32| Proposal { replicas, ..measured };
    let within = |ratio: f64| input.tolerance.covers(ratio);
    let growing_with_unready = !unready.is_empty() && first > 1.0;
    if !growing_with_unready && missing.is_empty() {
        return Ok(propose(if within(first) {
            input.current
        } else {
            ceil(first * f64::from(ready))
        }));
    }
    // What is not known is assumed so that it holds back whatever is about to happen.
    for pod in &missing {
        let requested = requests.get(name(pod.as_ref())).copied().unwrap_or(0);
        let assumed = match input.target {
            _ if first > 1.0 => 0,
            Target::Utilization(percent) => requested * i64::from(percent.max(100)) / 100,
            Target::Average(target) => target,
        };
        usage.insert(name(pod.as_ref()).to_owned(), assumed);
    }
    if growing_with_unready {
        usage.extend(unready.iter().map(|pod| (name(pod.as_ref()).to_owned(), 0)));
    }
    let second = ratio(&usage)?;
    if within(second) || (first < 1.0 && second > 1.0) || (first > 1.0 && second < 1.0) {
        return Ok(propose(input.current));
    }
    let replicas = ceil(second * real(count(usage.len())));
    let backwards = (second < 1.0 && replicas > input.current) || (second > 1.0 && replicas < input.current);
    Ok(propose(if backwards { input.current } else { replicas }))
}

fn measured(usage: &HashMap<String, i64>, requests: &HashMap<&str, i64>, target: Target) -> Proposal {
    let used: i64 = usage.values().sum();
    let requested: i64 = usage.keys().filter_map(|pod| requests.get(pod.as_str())).sum();
    let utilization = match target {
        Target::Utilization(_) if requested > 0 => i32::try_from(used * 100 / requested).ok(),
        _ => None,
    };
    Proposal {
        replicas: 0,
        utilization,
        average: used / count(usage.len()).max(1),
    }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "ratios of usage need no 64 bits")]
fn real(number: i64) -> f64 {
    number as f64
}

#[expect(clippy::cast_possible_truncation, reason = "bounded by clamp")]
fn ceil(number: f64) -> i32 {
    number.ceil().clamp(0.0, f64::from(i32::MAX)) as i32
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// `<usage>` in thousandths, `?` for none; `u` before it for a pod that is not ready yet.
    fn check(target: Target, current: i32, pods: &str, expected: Result<i32, &str>) {
        let now: Timestamp = "2026-01-01T01:00:00Z".parse().unwrap();
        let mut usage = HashMap::new();
        let mut all = Vec::new();
        for (i, text) in pods.split_whitespace().enumerate() {
            let unready = text.starts_with('u');
            if let Ok(used) = text.trim_start_matches('u').parse() {
                usage.insert(format!("p{i}"), used);
            }
            let (status, start) = if unready {
                ("False", "2026-01-01T00:59:00Z")
            } else {
                ("True", "2026-01-01T00:00:00Z")
            };
            let pod: Pod = serde_json::from_value(json!({
                "metadata": {"name": format!("p{i}")},
                "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]},
                "status": {"phase": "Running", "startTime": start,
                           "conditions": [{"type": "Ready", "status": status, "lastTransitionTime": start}]}
            }))
            .unwrap();
            all.push(Arc::new(pod));
        }
        let input = Input {
            current,
            target,
            resource: "cpu",
            container: None,
            pods: &all,
            usage,
            tolerance: Tolerance { down: 0.1, up: 0.1 },
            now,
        };
        let found = compute(input).map(|proposal| proposal.replicas);
        assert_eq!(found, expected.map_err(str::to_owned), "{pods}");
    }

    #[test]
    fn proposals() {
        let half = Target::Utilization(50);
        check(half, 3, "500 500 500", Ok(3));
        check(half, 3, "540 540 540", Ok(3));
        check(half, 3, "900 900 900", Ok(6));
        check(half, 3, "100 100 100", Ok(1));
        check(half, 3, "900 900 ?", Ok(4));
        check(half, 3, "100 100 ?", Ok(3));
        check(half, 3, "900 900 u900", Ok(4));
        check(half, 3, "500 500 u900", Ok(3));
        check(
            half,
            2,
            "? ?",
            Err("did not receive metrics for targeted pods (pods might be unready)"),
        );
        check(Target::Average(200), 2, "400 400", Ok(4));
        check(Target::Average(200), 4, "100 100 100 100", Ok(2));
    }

    #[test]
    fn tolerances() {
        let check = |behavior: serde_json::Value, ratio: f64, covered: bool| {
            let behavior: Option<HorizontalPodAutoscalerBehavior> = serde_json::from_value(behavior).unwrap();
            let tolerance = Tolerance::of(behavior.as_ref(), 0.1);
            assert_eq!(tolerance.covers(ratio), covered, "{behavior:?} {ratio}");
        };
        let both = json!({"scaleUp": {"tolerance": "50m"}, "scaleDown": {"tolerance": "0.3"}});
        for (ratio, default, own) in [
            (1.1, true, false),
            (1.04, true, true),
            (0.9, true, true),
            (0.75, false, true),
            (0.6, false, false),
        ] {
            check(json!(null), ratio, default);
            check(json!({"scaleUp": {}}), ratio, default);
            check(both.clone(), ratio, own);
        }
        check(json!({"scaleUp": {"tolerance": "0"}}), 1.01, false);
    }
}
