//! What a Deployment asks for, with defaults resolved.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use keelson_api::int_or_string::IntOrString as Scalable;

/// Upstream's default of both, `maxSurge` and `maxUnavailable`.
const QUARTER: &str = "25%";

/// The numbers and switches of a Deployment's spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) replicas: i32,
    /// Pods beyond `replicas` that may exist; 0 unless rolling.
    pub(super) max_surge: i32,
    /// Pods that may be missing; 0 unless rolling.
    pub(super) max_unavailable: i32,
    pub(super) recreate: bool,
    pub(super) paused: bool,
    /// `None` when there is no deadline.
    pub(super) progress_deadline_seconds: Option<i32>,
    pub(super) min_ready_seconds: i32,
    /// `None` keeps all.
    pub(super) revision_history_limit: Option<i32>,
}

impl Wanted {
    pub(super) fn of(deployment: &Deployment) -> Self {
        let spec = deployment.spec.clone().unwrap_or_default();
        let replicas = spec.replicas.unwrap_or(1);
        let strategy = spec.strategy.unwrap_or_default();
        let recreate = strategy.type_.as_deref() == Some("Recreate");
        let rolling = strategy.rolling_update.unwrap_or_default();
        let (max_surge, max_unavailable) = if recreate {
            (0, 0)
        } else {
            fenceposts(
                rolling.max_surge.as_ref(),
                rolling.max_unavailable.as_ref(),
                replicas,
            )
        };
        Self {
            replicas,
            max_surge,
            max_unavailable,
            recreate,
            paused: spec.paused.unwrap_or(false),
            progress_deadline_seconds: Some(spec.progress_deadline_seconds.unwrap_or(600))
                .filter(|seconds| *seconds != i32::MAX),
            min_ready_seconds: spec.min_ready_seconds.unwrap_or(0),
            revision_history_limit: Some(spec.revision_history_limit.unwrap_or(10))
                .filter(|limit| *limit != i32::MAX),
        }
    }

    /// Most pods at any time.
    pub(super) fn max_replicas(&self) -> i32 {
        self.replicas.saturating_add(self.max_surge)
    }

    /// Least available pods at any time.
    pub(super) fn min_available(&self) -> i32 {
        self.replicas - self.max_unavailable
    }
}

/// The surge is rounded up, the unavailable down; if both are 0 the update could never move, so one may be unavailable.
fn fenceposts(surge: Option<&IntOrString>, unavailable: Option<&IntOrString>, replicas: i32) -> (i32, i32) {
    let scaled = |value: Option<&IntOrString>, up| {
        let value = match value {
            Some(IntOrString::Int(number)) => Scalable::Int(*number),
            Some(IntOrString::String(text)) => Scalable::String(text.clone()),
            None => Scalable::String(QUARTER.into()),
        };
        // Validation admits numbers and percentages only.
        value.scaled(replicas, up).unwrap_or(0).max(0)
    };
    let (surge, mut unavailable) = (scaled(surge, true), scaled(unavailable, false));
    if surge == 0 && unavailable == 0 {
        unavailable = 1;
    }
    (surge, unavailable.min(replicas))
}

/// `spec.replicas` of a set.
pub(super) fn replicas(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

/// `status.availableReplicas` of a set.
pub(super) fn available(set: &ReplicaSet) -> i32 {
    set.status
        .as_ref()
        .and_then(|status| status.available_replicas)
        .unwrap_or(0)
}

/// `status.replicas` of a set.
pub(super) fn actual(set: &ReplicaSet) -> i32 {
    set.status.as_ref().map_or(0, |status| status.replicas)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fenceposts_resolve() {
        let value = |text: &str| {
            Some(
                text.parse()
                    .map_or_else(|_| IntOrString::String(text.into()), IntOrString::Int),
            )
        };
        let check = |surge: &str, unavailable: &str, replicas, expected| {
            let (surge, unavailable) = (value(surge), value(unavailable));
            assert_eq!(
                fenceposts(surge.as_ref(), unavailable.as_ref(), replicas),
                expected
            );
        };
        check("25%", "25%", 10, (3, 2));
        check("25%", "25%", 1, (1, 0));
        check("0", "0", 3, (0, 1));
        check("0%", "10%", 3, (0, 1));
        check("1", "0", 3, (1, 0));
        check("2", "5", 3, (2, 3));
        check("1", "1", 0, (1, 0));
        assert_eq!(fenceposts(None, None, 4), (1, 1));
    }
}
