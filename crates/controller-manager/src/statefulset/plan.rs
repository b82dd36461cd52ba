//! What to do next: make what is missing, replace what failed, scale down, update; in this order, one at a time if the
//! set is ordered.

use super::spec::Wanted;

/// What a pod is like, as far as the order goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct View {
    pub(super) ordinal: i32,
    /// It has run to its end.
    pub(super) finished: bool,
    pub(super) terminating: bool,
    pub(super) pending: bool,
    /// Running, and ready for long enough.
    pub(super) available: bool,
    /// Of the newest revision.
    pub(super) updated: bool,
    /// Its labels say who it is.
    pub(super) identified: bool,
}

impl View {
    fn unavailable(&self) -> bool {
        !self.available || self.terminating || self.finished
    }
}

/// One thing to do; the numbers are ordinals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Make the pod and its claims.
    Create(i32),
    /// Make claims that are missing.
    EnsureClaims(i32),
    /// Set the labels of the pod's identity.
    Identify(i32),
    /// Set the owners of the claims by the retention policy.
    FixClaims(i32),
    /// Delete the pod because it ended or is not wanted any more.
    Delete(i32),
    /// Delete the pod so that it comes back with the newest revision.
    Replace(i32),
}

/// The next actions, in order. `pods` are all of the set, in any order.
pub(super) fn plan(wanted: &Wanted, pods: &[View]) -> Vec<Action> {
    let mut actions = Vec::new();
    let find = |ordinal: i32| pods.iter().find(|pod| pod.ordinal == ordinal);
    let replicas: Vec<_> = (wanted.start..wanted.start.saturating_add(wanted.replicas))
        .map(|ordinal| (ordinal, find(ordinal)))
        .collect();
    for (ordinal, pod) in &replicas {
        if !tend(*ordinal, *pod, &mut actions) && wanted.ordered {
            return actions;
        }
    }
    let mut condemned: Vec<_> = pods.iter().filter(|pod| !wanted.contains(pod.ordinal)).collect();
    condemned.sort_by_key(|pod| std::cmp::Reverse(pod.ordinal));
    actions.extend(condemned.iter().map(|pod| Action::FixClaims(pod.ordinal)));
    let missing_replica = replicas
        .iter()
        .any(|(_, pod)| pod.is_none_or(|pod| pod.unavailable()));
    let first_unhealthy = condemned
        .iter()
        .rev()
        .find(|pod| pod.unavailable())
        .filter(|_| !missing_replica);
    for pod in &condemned {
        if pod.terminating {
            if wanted.ordered {
                return actions;
            }
            continue;
        }
        let first = first_unhealthy.is_some_and(|first| first.ordinal == pod.ordinal);
        if wanted.ordered && !pod.available && !first {
            return actions;
        }
        actions.push(Action::Delete(pod.ordinal));
        if wanted.ordered {
            return actions;
        }
    }
    update(wanted, &replicas, &mut actions);
    actions
}

/// Looks after one wanted pod; whether the next one may be looked at when the set is ordered.
fn tend(ordinal: i32, pod: Option<&View>, actions: &mut Vec<Action>) -> bool {
    let Some(pod) = pod else {
        actions.push(Action::Create(ordinal));
        return false;
    };
    if pod.finished {
        if !pod.terminating {
            actions.push(Action::Delete(ordinal));
        }
        return false;
    }
    if pod.pending {
        actions.push(Action::EnsureClaims(ordinal));
    }
    if !pod.terminating {
        if !pod.identified {
            actions.push(Action::Identify(ordinal));
        }
        actions.push(Action::FixClaims(ordinal));
    }
    !pod.terminating && pod.available
}

/// From the highest ordinal down to the partition. A pod that is down costs nothing; others as many as may be unavailable.
fn update(wanted: &Wanted, replicas: &[(i32, Option<&View>)], actions: &mut Vec<Action>) {
    let Some(rolling) = wanted.rolling else { return };
    let unavailable = replicas
        .iter()
        .filter(|(_, pod)| pod.is_none_or(View::unavailable))
        .count();
    let mut left = i64::from(rolling.max_unavailable) - i64::try_from(unavailable).unwrap_or(i64::MAX);
    for (ordinal, pod) in replicas.iter().rev() {
        if ordinal - wanted.start < rolling.partition {
            return;
        }
        let Some(pod) = pod else { continue };
        if pod.updated || pod.terminating || pod.finished {
            continue;
        }
        if !pod.unavailable() {
            if left <= 0 {
                continue;
            }
            left -= 1;
        }
        actions.push(Action::Replace(*ordinal));
    }
}

#[cfg(test)]
mod tests {
    use super::super::spec::Rolling;
    use super::*;

    /// `<ordinal><states>`: `r` ready and available, `u` unready, `p` pending, `f` finished, `t` terminating, `o` outdated.
    fn pod(text: &str) -> View {
        let digits = text.chars().take_while(char::is_ascii_digit).count();
        let (ordinal, states) = text.split_at(digits);
        let has = |state: char| states.contains(state);
        View {
            ordinal: ordinal.parse().unwrap(),
            finished: has('f'),
            terminating: has('t'),
            pending: has('p'),
            available: has('r'),
            updated: !has('o'),
            identified: true,
        }
    }

    fn wanted(start: i32, replicas: i32, ordered: bool, partition: i32, max_unavailable: i32) -> Wanted {
        Wanted {
            start,
            replicas,
            ordered,
            min_ready_seconds: 0,
            rolling: Some(Rolling {
                partition,
                max_unavailable,
            }),
            revision_history_limit: 10,
            delete_claims_with_set: false,
            delete_claims_with_pod: false,
        }
    }

    fn check(wanted: &Wanted, pods: &str, expected: &[Action]) {
        let views: Vec<_> = pods.split_whitespace().map(pod).collect();
        let mut actions = plan(wanted, &views);
        actions.retain(|action| !matches!(action, Action::FixClaims(_)));
        assert_eq!(actions, expected, "{pods} for {wanted:?}");
    }

    use Action::{Create, Delete, EnsureClaims, Replace};

    #[test]
    fn ordered() {
        let three = wanted(0, 3, true, 0, 1);
        check(&three, "", &[Create(0)]);
        check(&three, "0p", &[EnsureClaims(0)]);
        check(&three, "0u", &[]);
        check(&three, "0r", &[Create(1)]);
        check(&three, "0r 1r 2r", &[]);
        check(&three, "0r 2r", &[Create(1)]);
        check(&three, "0f 1r 2r", &[Delete(0)]);
        check(&three, "0ft 1r 2r", &[]);
        check(&three, "0r 1rt 2r", &[]);
        check(&wanted(5, 2, true, 0, 1), "5r", &[Create(6)]);
        check(&wanted(1, 1, true, 0, 1), "0r 1r", &[Delete(0)]);
    }

    #[test]
    fn ordered_scale_down() {
        let one = wanted(0, 1, true, 0, 1);
        check(&one, "0r 1r 2r", &[Delete(2)]);
        check(&one, "0r 1r 2rt", &[]);
        check(&one, "0r 1u 2r", &[Delete(2)]);
        check(&one, "0r 1u", &[Delete(1)]);
        check(&one, "0r 1u 2u", &[]);
        check(&one, "0u 1r 2r", &[]);
    }

    #[test]
    fn parallel() {
        let three = wanted(0, 3, false, 0, 1);
        check(&three, "", &[Create(0), Create(1), Create(2)]);
        check(&three, "0u 1f", &[Delete(1), Create(2)]);
        check(
            &wanted(0, 1, false, 0, 1),
            "0u 1r 2u 3rt",
            &[Delete(2), Delete(1)],
        );
    }

    #[test]
    fn rolling_update() {
        check(&wanted(0, 3, true, 0, 1), "0ro 1ro 2ro", &[Replace(2)]);
        check(&wanted(0, 3, true, 0, 1), "0ro 1ro 2r", &[Replace(1)]);
        check(&wanted(0, 3, true, 0, 1), "0ro 1ro 2u", &[]);
        check(&wanted(0, 3, true, 2, 1), "0ro 1ro 2r", &[]);
        check(
            &wanted(0, 4, false, 0, 2),
            "0ro 1ro 2ro 3ro",
            &[Replace(3), Replace(2)],
        );
        check(&wanted(0, 4, false, 0, 2), "0ro 1ro 2ro 3u", &[Replace(2)]);
        check(&wanted(0, 4, false, 0, 1), "0ro 1uo 2ro 3r", &[Replace(1)]);
        check(&wanted(0, 2, false, 0, 1), "0ro 1uo", &[Replace(1)]);
        let on_delete = Wanted {
            rolling: None,
            ..wanted(0, 2, true, 0, 1)
        };
        check(&on_delete, "0ro 1ro", &[]);
        check(&wanted(3, 2, true, 1, 1), "3ro 4ro", &[Replace(4)]);
    }
}
