//! The contract suite: what every backend must do, as test cases over a [`Backend`].
//!
//! A backend's tests call `keelson_store::contract_suite!(make_backend)`, which makes one test of each case. Revisions are
//! compared with the store's revision at the start, because backends may start at different ones.

#![expect(clippy::unwrap_used, reason = "test code")]

mod driver;
mod keys;
mod leases;
mod model;
mod restart;
mod watches;

use std::sync::Arc;

use async_trait::async_trait;

use crate::Store;

pub use keys::*;
pub use leases::*;
pub use model::random_operations_match_a_model;
pub use restart::*;
pub use watches::*;

/// Starts and stops stores over the same data; each test case gets a fresh one without data.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// Opens the store.
    async fn start(&self) -> Arc<dyn Store>;

    /// Shuts the store down, so that `start` opens its data again.
    async fn stop(&self, store: Arc<dyn Store>);
}

/// Makes a `#[tokio::test]` of each case of the contract; the argument is a function that returns a fresh [`Backend`].
#[macro_export]
macro_rules! contract_suite {
    ($backend:expr) => {
        $crate::contract_suite!(@ $backend,
            revisions_are_dense_and_writes_visible,
            preconditions_decide,
            deletes_say_what_they_deleted,
            ranges_are_ordered_limited_and_counted,
            old_revisions_stay_readable,
            compaction_forgets_only_superseded_versions,
            concurrent_compare_and_swap_loses_nothing,
            watch_delivers_what_comes_next,
            watch_from_a_revision_has_no_gap_and_no_duplicate,
            watch_of_compacted_history_is_refused,
            watch_from_the_future_waits,
            slow_watcher_gets_everything_or_lagged,
            progress_follows_everything_delivered,
            leases_delete_their_keys_in_one_revision,
            leases_expire_unless_kept_alive,
            keys_change_leases,
            restart_keeps_everything,
            random_operations_match_a_model
        );
    };
    (@ $backend:expr, $($case:ident),*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                $crate::contract::$case(&$backend()).await;
            }
        )*
    };
}
