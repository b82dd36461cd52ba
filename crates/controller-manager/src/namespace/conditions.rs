//! The conditions of a namespace that is being deleted; pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::NamespaceCondition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// What one pass over the content came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Group versions that could not be discovered.
    pub(super) undiscovered: Vec<String>,
    /// Deletions that failed, by resource.
    pub(super) failed: BTreeMap<String, String>,
    /// How many objects are left, by `resource.group` (upstream writes the dot for the core group, too).
    pub(super) remaining: BTreeMap<String, usize>,
    /// How many objects are left per finalizer.
    pub(super) finalizers: BTreeMap<String, usize>,
}

impl Outcome {
    /// Whether the namespace is empty for sure.
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

struct Kind {
    name: &'static str,
    ok: (&'static str, &'static str),
    bad: &'static str,
}

const KINDS: [Kind; 5] = [
    Kind {
        name: "NamespaceDeletionDiscoveryFailure",
        ok: ("ResourcesDiscovered", "All resources successfully discovered"),
        bad: "DiscoveryFailed",
    },
    Kind {
        name: "NamespaceDeletionGroupVersionParsingFailure",
        ok: ("ParsedGroupVersions", "All legacy kube types successfully parsed"),
        bad: "GroupVersionParsingFailed",
    },
    Kind {
        name: "NamespaceDeletionContentFailure",
        ok: (
            "ContentDeleted",
            "All content successfully deleted, may be waiting on finalization",
        ),
        bad: "ContentDeletionFailed",
    },
    Kind {
        name: "NamespaceContentRemaining",
        ok: ("ContentRemoved", "All content successfully removed"),
        bad: "SomeResourcesRemain",
    },
    Kind {
        name: "NamespaceFinalizersRemaining",
        ok: (
            "ContentHasNoFinalizers",
            "All content-preserving finalizers finished",
        ),
        bad: "SomeFinalizersRemain",
    },
];

fn messages(outcome: &Outcome) -> [Option<String>; 5] {
    let list = |parts: Vec<String>| parts.join(", ");
    let some = |there: bool, text: String| there.then_some(text);
    let (undiscovered, failed) = (&outcome.undiscovered, &outcome.failed);
    let counts = |map: &BTreeMap<String, usize>, verb: &str| {
        list(
            map.iter()
                .map(|(what, count)| format!("{what} {verb} {count} resource instances"))
                .collect(),
        )
    };
    [
        some(
            !undiscovered.is_empty(),
            format!(
                "Discovery failed for some groups, {} failing: unable to retrieve the complete list of server APIs: {}",
                undiscovered.len(),
                list(
                    undiscovered
                        .iter()
                        .map(|version| format!("{version}: stale GroupVersion discovery: {version}"))
                        .collect()
                )
            ),
        ),
        None,
        some(
            !failed.is_empty(),
            format!(
                "Failed to delete all resource types, {} remaining: {}",
                failed.len(),
                list(failed.values().cloned().collect())
            ),
        ),
        some(
            !outcome.remaining.is_empty(),
            format!(
                "Some resources are remaining: {}",
                counts(&outcome.remaining, "has")
            ),
        ),
        some(
            !outcome.finalizers.is_empty(),
            format!(
                "Some content in the namespace has finalizers remaining: {}",
                counts(&outcome.finalizers, "in")
            ),
        ),
    ]
}

/// Brings `conditions` up to date; whether anything changed.
pub(super) fn update(conditions: &mut Vec<NamespaceCondition>, outcome: &Outcome, now: Timestamp) -> bool {
    let mut changed = false;
    for (kind, problem) in KINDS.iter().zip(messages(outcome)) {
        let (status, reason, message) = match problem {
            Some(message) => ("True", kind.bad, message),
            None => ("False", kind.ok.0, kind.ok.1.to_owned()),
        };
        let wanted = |since| NamespaceCondition {
            type_: kind.name.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.clone()),
            last_transition_time: since,
        };
        let since = Some(Time(now));
        match conditions
            .iter_mut()
            .find(|condition| condition.type_ == kind.name)
        {
            None => conditions.push(wanted(since)),
            Some(found) => {
                let since = if found.status == status {
                    found.last_transition_time.clone()
                } else {
                    since
                };
                let new = wanted(since);
                if *found == new {
                    continue;
                }
                *found = new;
            }
        }
        changed = true;
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_follow_the_outcome() {
        let early: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let late: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        let mut conditions = Vec::new();
        assert!(update(&mut conditions, &Outcome::default(), early));
        assert!(!update(&mut conditions, &Outcome::default(), late));
        assert!(conditions.iter().all(|condition| condition.status == "False"));
        assert_eq!(conditions.len(), 5);
        let outcome = Outcome {
            remaining: [("configmaps.".to_owned(), 1), ("pods.".to_owned(), 2)].into(),
            finalizers: [("a.b/c".to_owned(), 1)].into(),
            ..Outcome::default()
        };
        assert!(update(&mut conditions, &outcome, late));
        let text = |index: usize| {
            let condition: &NamespaceCondition = &conditions[index];
            let since = condition.last_transition_time.as_ref().unwrap().0;
            (
                condition.reason.as_deref().unwrap(),
                condition.message.as_deref().unwrap(),
                since == late,
            )
        };
        let remaining = "Some resources are remaining: configmaps. has 1 resource instances, pods. has 2 resource instances";
        assert_eq!(text(3), ("SomeResourcesRemain", remaining, true));
        let finalizers =
            "Some content in the namespace has finalizers remaining: a.b/c in 1 resource instances";
        assert_eq!(text(4), ("SomeFinalizersRemain", finalizers, true));
        assert_eq!(text(2).0, "ContentDeleted");
        assert!(!text(2).2, "unchanged ones keep their time");
    }
}
