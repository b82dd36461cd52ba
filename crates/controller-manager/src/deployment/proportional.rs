//! A change of size in the midst of a rolling update: every set takes a share that is proportional to its size.

use super::spec::Wanted;

/// What the decision needs of an active ReplicaSet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Share {
    /// `spec.replicas`.
    pub(super) replicas: i32,
    /// `deployment.kubernetes.io/max-replicas` as it was when the set was last scaled; 0 if unknown.
    pub(super) max_replicas_before: i32,
}

/// The sizes after a change to `wanted`. `sets` come largest first; among equals the newest first when growing and the
/// oldest first when shrinking ([`largest_first`]). `status_replicas` serves where a set's annotation is missing.
pub(super) fn sizes(wanted: &Wanted, sets: &[Share], status_replicas: i32) -> Vec<i32> {
    let allowed = if wanted.replicas > 0 {
        wanted.max_replicas()
    } else {
        0
    };
    let to_add = allowed - sets.iter().map(|set| set.replicas).sum::<i32>();
    let mut added = 0;
    let mut sizes = Vec::with_capacity(sets.len());
    for set in sets {
        let share = if to_add == 0 {
            0
        } else {
            proportion(wanted, set, status_replicas, to_add, added)
        };
        added += share;
        sizes.push(set.replicas + share);
    }
    if let Some(first) = sizes.first_mut() {
        // What rounding left over goes to the largest.
        *first = (*first + to_add - added).max(0);
    }
    sizes
}

fn proportion(wanted: &Wanted, set: &Share, status_replicas: i32, to_add: i32, added: i32) -> i32 {
    if set.replicas == 0 || to_add == added {
        return 0;
    }
    let share = fraction(wanted, set, status_replicas);
    let allowed = to_add - added;
    if to_add > 0 {
        share.min(allowed)
    } else {
        share.max(allowed)
    }
}

fn fraction(wanted: &Wanted, set: &Share, status_replicas: i32) -> i32 {
    if wanted.replicas == 0 {
        return -set.replicas;
    }
    let before = if set.max_replicas_before == 0 {
        status_replicas
    } else {
        set.max_replicas_before
    };
    if before == 0 {
        return 0;
    }
    // Rounded half away from zero, as Go's math.Round does.
    let product = i64::from(set.replicas) * i64::from(wanted.max_replicas());
    let before = i64::from(before);
    let rounded = (2 * product + before).div_euclid(2 * before);
    i32::try_from(rounded).unwrap_or(i32::MAX) - set.replicas
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares() {
        let check = |replicas, surge, sets: &[(i32, i32)], expected: &[i32]| {
            let wanted = Wanted {
                replicas,
                max_surge: surge,
                max_unavailable: 0,
                recreate: false,
                paused: false,
                progress_deadline_seconds: None,
                min_ready_seconds: 0,
                revision_history_limit: None,
            };
            let share = |&(replicas, max_replicas_before)| Share {
                replicas,
                max_replicas_before,
            };
            let sets: Vec<_> = sets.iter().map(share).collect();
            assert_eq!(sizes(&wanted, &sets, 10), expected, "{replicas}+{surge} {sets:?}");
        };
        // The example of the documentation: 10 replicas, surge 3, 8 old and 5 new, scaled to 15: 3 to the old, 2 to the new.
        check(15, 3, &[(8, 13), (5, 13)], &[11, 7]);
        check(5, 0, &[(6, 10), (4, 10)], &[3, 2]);
        check(12, 0, &[(5, 10), (5, 10)], &[6, 6]);
        check(0, 0, &[(6, 10), (4, 10)], &[0, 0]);
        check(10, 0, &[(6, 10), (4, 10)], &[6, 4]);
        check(11, 0, &[(5, 10), (5, 10)], &[6, 5]);
        check(3, 0, &[(7, 0), (3, 0)], &[2, 1]);
    }
}
