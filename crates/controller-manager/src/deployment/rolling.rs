//! One step of a rolling update: how many pods the new set may have, and how many the old ones must give up.

use super::spec::Wanted;

/// What the decision needs of a ReplicaSet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Set {
    /// `spec.replicas`.
    pub(super) replicas: i32,
    /// `status.availableReplicas`.
    pub(super) available: i32,
}

/// The size of the new set: all that is wanted, as far as the surge allows beside the `old` pods.
pub(super) fn new_size(wanted: &Wanted, new: i32, old: i32) -> i32 {
    if wanted.recreate || new > wanted.replicas {
        return wanted.replicas;
    }
    let room = (wanted.max_replicas() - new - old).max(0);
    new + room.min(wanted.replicas - new)
}

/// The sizes of the `old` sets (oldest first) after this step. Unhealthy pods go first, whichever set they are in; then
/// as many as the minimum of available pods allows.
pub(super) fn old_sizes(wanted: &Wanted, new: Set, old: &[Set]) -> Vec<i32> {
    let mut sizes: Vec<i32> = old.iter().map(|set| set.replicas).collect();
    let total: i32 = new.replicas + sizes.iter().sum::<i32>();
    let new_unavailable = new.replicas - new.available;
    let most = total - wanted.min_available() - new_unavailable;
    if most <= 0 {
        return sizes;
    }
    let mut left = most;
    for (size, set) in sizes.iter_mut().zip(old) {
        let unhealthy = (*size - set.available).max(0).min(left);
        *size -= unhealthy;
        left -= unhealthy;
    }
    let available: i32 = new.available + old.iter().map(|set| set.available).sum::<i32>();
    let mut left = available - wanted.min_available();
    for size in &mut sizes {
        if left <= 0 {
            break;
        }
        let step = (*size).min(left);
        *size -= step;
        left -= step;
    }
    sizes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(replicas: i32, max_surge: i32, max_unavailable: i32) -> Wanted {
        Wanted {
            replicas,
            max_surge,
            max_unavailable,
            recreate: false,
            paused: false,
            progress_deadline_seconds: None,
            min_ready_seconds: 0,
            revision_history_limit: None,
        }
    }

    #[test]
    fn new_grows_as_room_allows() {
        let check = |replicas, surge, new, old, expected| {
            assert_eq!(
                new_size(&wanted(replicas, surge, 0), new, old),
                expected,
                "{replicas}+{surge}: {new} {old}"
            );
        };
        check(10, 0, 0, 10, 0);
        check(10, 2, 0, 10, 2);
        check(10, 2, 2, 10, 2);
        check(10, 2, 2, 7, 5);
        check(10, 2, 8, 0, 10);
        check(10, 2, 10, 5, 10);
        check(3, 1, 5, 0, 3);
        assert_eq!(
            new_size(
                &Wanted {
                    recreate: true,
                    ..wanted(4, 0, 0)
                },
                0,
                4
            ),
            4
        );
    }

    #[test]
    fn old_shrink_as_availability_allows() {
        let check = |wanted: Wanted, new: (i32, i32), old: &[(i32, i32)], expected: &[i32]| {
            let set = |(replicas, available)| Set { replicas, available };
            let old: Vec<_> = old.iter().copied().map(set).collect();
            assert_eq!(old_sizes(&wanted, set(new), &old), expected, "{new:?} {old:?}");
        };
        // Nothing to give up while the new pods are not available.
        check(wanted(10, 2, 0), (2, 0), &[(10, 10)], &[10]);
        check(wanted(10, 2, 0), (2, 1), &[(10, 10)], &[9]);
        check(wanted(10, 0, 2), (0, 0), &[(10, 10)], &[8]);
        // Unhealthy old pods go first and cost no availability.
        check(wanted(10, 2, 2), (2, 0), &[(10, 8)], &[8]);
        check(wanted(10, 0, 2), (2, 2), &[(5, 5), (3, 1)], &[5, 1]);
        check(wanted(10, 2, 2), (5, 5), &[(3, 3), (4, 4)], &[0, 3]);
        check(wanted(3, 1, 0), (3, 3), &[(1, 1)], &[0]);
        check(wanted(0, 1, 0), (0, 0), &[(2, 1)], &[0]);
    }
}
