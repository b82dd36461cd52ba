//! Restarts.

use super::Backend;
use super::driver::{bytes, delete, events_through, next, put, put_leased, revisions, value_at};
use crate::WatchMessage;

/// Keys, history, revisions and leases survive a restart.
pub async fn restart_keeps_everything(backend: &impl Backend) {
    let store = backend.start().await;
    let lease = store.lease_grant(600).await.unwrap();
    let short = store.lease_grant(1).await.unwrap();
    let first = put(&store, "/r/a", "1").await;
    let second = put(&store, "/r/a", "2").await;
    put_leased(&store, "/r/leased", lease).await;
    put_leased(&store, "/r/short", short).await;
    let last = delete(&store, "/r/a").await;
    backend.stop(store).await;

    let store = backend.start().await;
    assert_eq!(store.revision().await.unwrap(), last);
    assert_eq!(value_at(&store, "/r/a", Some(first)).await.as_deref(), Some("1"));
    assert_eq!(value_at(&store, "/r/a", Some(second)).await.as_deref(), Some("2"));
    assert_eq!(value_at(&store, "/r/a", None).await, None);
    let mut watch = store.watch(bytes("/r/"), Some(first)).await.unwrap();
    let events = events_through(&mut watch, last).await;
    assert_eq!(revisions(&events), (first.0..=last.0).collect::<Vec<_>>());
    store.lease_keep_alive(lease).await.unwrap();
    loop {
        match next(&mut watch).await.unwrap() {
            WatchMessage::Events(events) => {
                assert_eq!(events[0].kv.key, bytes("/r/short"));
                assert_eq!(events[0].kv.mod_revision.0, last.0 + 1);
                break;
            }
            WatchMessage::Progress(_) => {}
            WatchMessage::Lagged => panic!("lagged"),
        }
    }
    store.lease_revoke(lease).await.unwrap();
    assert_eq!(put(&store, "/r/new", "1").await.0, last.0 + 3);
}
