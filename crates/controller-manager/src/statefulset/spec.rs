//! What a StatefulSet asks for, with defaults resolved.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use keelson_api::int_or_string::IntOrString as Scalable;

/// The numbers and switches of a StatefulSet's spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// The first ordinal.
    pub(super) start: i32,
    pub(super) replicas: i32,
    /// One after the other (`OrderedReady`), not all at once (`Parallel`).
    pub(super) ordered: bool,
    pub(super) min_ready_seconds: i32,
    /// `None` for `OnDelete`.
    pub(super) rolling: Option<Rolling>,
    pub(super) revision_history_limit: i32,
    /// Claims go with the set.
    pub(super) delete_claims_with_set: bool,
    /// Claims go with a pod that is scaled away.
    pub(super) delete_claims_with_pod: bool,
}

/// A rolling update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rolling {
    /// How many of the first pods stay at the old revision.
    pub(super) partition: i32,
    /// How many pods may be unavailable, at least 1.
    pub(super) max_unavailable: i32,
}

impl Wanted {
    pub(super) fn of(set: &StatefulSet) -> Self {
        let spec = set.spec.clone().unwrap_or_default();
        let replicas = spec.replicas.unwrap_or(1).max(0);
        let strategy = spec.update_strategy.unwrap_or_default();
        let rolling = strategy.rolling_update.unwrap_or_default();
        let max_unavailable = match rolling.max_unavailable {
            Some(IntOrString::Int(number)) => number,
            // Validation admits numbers and percentages only.
            Some(IntOrString::String(text)) => Scalable::String(text).scaled(replicas, false).unwrap_or(1),
            None => 1,
        };
        let rolling = Rolling {
            partition: rolling.partition.unwrap_or(0),
            max_unavailable: max_unavailable.max(1),
        };
        let retention = spec.persistent_volume_claim_retention_policy.unwrap_or_default();
        Self {
            start: spec.ordinals.and_then(|ordinals| ordinals.start).unwrap_or(0),
            replicas,
            ordered: spec.pod_management_policy.as_deref() != Some("Parallel"),
            min_ready_seconds: spec.min_ready_seconds.unwrap_or(0),
            rolling: (strategy.type_.as_deref() != Some("OnDelete")).then_some(rolling),
            revision_history_limit: spec.revision_history_limit.unwrap_or(10),
            delete_claims_with_set: retention.when_deleted.as_deref() == Some("Delete"),
            delete_claims_with_pod: retention.when_scaled.as_deref() == Some("Delete"),
        }
    }

    /// Whether a pod of that ordinal is wanted.
    pub(super) fn contains(&self, ordinal: i32) -> bool {
        ordinal >= self.start && ordinal - self.start < self.replicas
    }

    /// Whether a missing pod of that ordinal is to be made of the old revision.
    pub(super) fn keeps_current(&self, ordinal: i32) -> bool {
        self.rolling
            .is_some_and(|rolling| ordinal - self.start < rolling.partition)
    }
}
