//! What becomes of a recommendation: calmed by recent ones, no faster than the policies allow, within the bounds.

use std::time::Duration;

use k8s_openapi::api::autoscaling::v2::{HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscalerBehavior};
use tokio::time::Instant;

/// What happened to one autoscaler lately.
#[derive(Default)]
pub(super) struct History {
    recommendations: Vec<(Instant, i32)>,
    /// Positive for growth.
    changes: Vec<(Instant, i32)>,
}

/// Longest memory: windows and periods are at most an hour.
const MEMORY: Duration = Duration::from_secs(3600);

impl History {
    pub(super) fn recommend(&mut self, now: Instant, replicas: i32) {
        self.recommendations.retain(|(at, _)| now - *at <= MEMORY);
        self.recommendations.push((now, replicas));
    }

    pub(super) fn changed(&mut self, now: Instant, by: i32) {
        self.changes.retain(|(at, _)| now - *at <= MEMORY);
        self.changes.push((now, by));
    }

    fn within(&self, now: Instant, seconds: i32) -> impl Iterator<Item = i32> {
        let window = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        self.recommendations
            .iter()
            .filter(move |(at, _)| now - *at < window)
            .map(|(_, replicas)| *replicas)
    }

    fn sum(&self, now: Instant, seconds: i32, growth: bool) -> i32 {
        let period = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        let recent = self
            .changes
            .iter()
            .filter(|(at, by)| now - *at < period && (*by > 0) == growth);
        recent.map(|(_, by)| by.abs()).sum()
    }
}

/// Size, bounds and rules.
pub(super) struct Limits<'a> {
    pub(super) current: i32,
    pub(super) min: i32,
    pub(super) max: i32,
    pub(super) behavior: Option<&'a HorizontalPodAutoscalerBehavior>,
    pub(super) downscale_stabilization: Duration,
}

/// The size to take, with the reasons and messages of conditions AbleToScale and ScalingLimited.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Decision {
    pub(super) replicas: i32,
    pub(super) able: (&'static str, &'static str),
    pub(super) limited: Option<(&'static str, &'static str)>,
}

impl Limits<'_> {
    fn up(&self) -> HPAScalingRules {
        let mut rules = self
            .behavior
            .and_then(|behavior| behavior.scale_up.clone())
            .unwrap_or_default();
        rules.stabilization_window_seconds.get_or_insert(0);
        rules
            .policies
            .get_or_insert_with(|| vec![policy("Pods", 4), policy("Percent", 100)]);
        rules
    }

    fn down(&self) -> HPAScalingRules {
        let mut rules = self
            .behavior
            .and_then(|behavior| behavior.scale_down.clone())
            .unwrap_or_default();
        let window = i32::try_from(self.downscale_stabilization.as_secs()).unwrap_or(i32::MAX);
        rules.stabilization_window_seconds.get_or_insert(window);
        rules.policies.get_or_insert_with(|| vec![policy("Percent", 100)]);
        rules
    }
}

fn policy(type_: &str, value: i32) -> HPAScalingPolicy {
    HPAScalingPolicy {
        type_: type_.into(),
        value,
        period_seconds: 15,
    }
}

/// Decides about `desired`, which [`History::recommend`] has recorded.
pub(super) fn decide(limits: &Limits<'_>, desired: i32, history: &History, now: Instant) -> Decision {
    let (up, down) = (limits.up(), limits.down());
    let window = |rules: &HPAScalingRules| rules.stabilization_window_seconds.unwrap_or(0);
    let lowest = history
        .within(now, window(&up))
        .min()
        .map_or(desired, |low| low.min(desired));
    let highest = history
        .within(now, window(&down))
        .max()
        .map_or(desired, |high| high.max(desired));
    let stabilized = limits.current.max(lowest).min(highest);
    let able = if stabilized == desired {
        ("ReadyForNewScale", "recommended size matches current size")
    } else if desired > limits.current {
        let message =
            "recent recommendations were lower than current one, applying the lowest recent recommendation";
        ("ScaleUpStabilized", message)
    } else {
        let message =
            "recent recommendations were higher than current one, applying the highest recent recommendation";
        ("ScaleDownStabilized", message)
    };
    let (replicas, limited) = if stabilized > limits.current {
        let rate = rate_up(&up, limits.current, history, now).max(limits.current);
        if stabilized > rate.min(limits.max) {
            let reason = if limits.max <= rate {
                (
                    "TooManyReplicas",
                    "the desired replica count is more than the maximum replica count",
                )
            } else {
                (
                    "ScaleUpLimit",
                    "the desired replica count is increasing faster than the maximum scale rate",
                )
            };
            (rate.min(limits.max), Some(reason))
        } else {
            (stabilized, None)
        }
    } else if stabilized < limits.current {
        let rate = rate_down(&down, limits.current, history, now).min(limits.current);
        if stabilized < rate.max(limits.min) {
            let reason = if limits.min >= rate {
                (
                    "TooFewReplicas",
                    "the desired replica count is less than the minimum replica count",
                )
            } else {
                (
                    "ScaleDownLimit",
                    "the desired replica count is decreasing faster than the maximum scale rate",
                )
            };
            (rate.max(limits.min), Some(reason))
        } else {
            (stabilized, None)
        }
    } else {
        (stabilized, None)
    };
    Decision {
        replicas,
        able,
        limited,
    }
}

fn rate_up(rules: &HPAScalingRules, current: i32, history: &History, now: Instant) -> i32 {
    let limit = |policy: &HPAScalingPolicy| {
        let period = policy.period_seconds;
        let start = current - history.sum(now, period, true) + history.sum(now, period, false);
        match policy.type_.as_str() {
            "Percent" => {
                let grown = i64::from(start) * (100 + i64::from(policy.value));
                i32::try_from((grown + 99).div_euclid(100)).unwrap_or(i32::MAX)
            }
            _ => start.saturating_add(policy.value),
        }
    };
    let policies = rules.policies.as_deref().unwrap_or_default().iter().map(limit);
    match rules.select_policy.as_deref() {
        Some("Disabled") => current,
        Some("Min") => policies.min().unwrap_or(current),
        _ => policies.max().unwrap_or(current),
    }
}

fn rate_down(rules: &HPAScalingRules, current: i32, history: &History, now: Instant) -> i32 {
    let limit = |policy: &HPAScalingPolicy| {
        let period = policy.period_seconds;
        let start = current + history.sum(now, period, false) - history.sum(now, period, true);
        match policy.type_.as_str() {
            "Percent" => {
                let shrunk = i64::from(start) * (100 - i64::from(policy.value)) / 100;
                i32::try_from(shrunk).unwrap_or(0)
            }
            _ => start - policy.value,
        }
    };
    let policies = rules.policies.as_deref().unwrap_or_default().iter().map(limit);
    match rules.select_policy.as_deref() {
        Some("Disabled") => current,
        Some("Min") => policies.max().unwrap_or(current),
        _ => policies.min().unwrap_or(current),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn decisions() {
        let now = Instant::now();
        let check = |current,
                     desired,
                     recent: &[i32],
                     changes: &[i32],
                     behavior: Value,
                     expected: i32,
                     limited: Option<&str>| {
            let behavior: HorizontalPodAutoscalerBehavior = serde_json::from_value(behavior).unwrap();
            let limits = Limits {
                current,
                min: 2,
                max: 20,
                behavior: Some(&behavior),
                downscale_stabilization: Duration::from_secs(300),
            };
            let mut history = History::default();
            recent
                .iter()
                .for_each(|replicas| history.recommend(now, *replicas));
            changes.iter().for_each(|by| history.changed(now, *by));
            let decision = decide(&limits, desired, &history, now);
            assert_eq!(
                (decision.replicas, decision.limited.map(|(reason, _)| reason)),
                (expected, limited),
                "{current} -> {desired}"
            );
        };
        let none = json!({});
        check(4, 6, &[6], &[], none.clone(), 6, None);
        check(4, 30, &[30], &[], none.clone(), 8, Some("ScaleUpLimit"));
        check(15, 30, &[30], &[], none.clone(), 20, Some("TooManyReplicas"));
        check(8, 30, &[30], &[4], none.clone(), 8, Some("ScaleUpLimit"));
        check(8, 3, &[3], &[], none.clone(), 3, None);
        check(8, 3, &[6, 3], &[], none.clone(), 6, None);
        check(8, 1, &[1], &[], none.clone(), 2, Some("TooFewReplicas"));
        let slow = json!({"scaleDown": {"policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}]}});
        check(8, 3, &[3], &[], slow.clone(), 7, Some("ScaleDownLimit"));
        check(7, 3, &[3], &[-1], slow, 7, Some("ScaleDownLimit"));
        check(
            8,
            3,
            &[3],
            &[],
            json!({"scaleDown": {"selectPolicy": "Disabled"}}),
            8,
            Some("ScaleDownLimit"),
        );
        check(
            4,
            6,
            &[4, 6],
            &[],
            json!({"scaleUp": {"stabilizationWindowSeconds": 60}}),
            4,
            None,
        );
    }
}
