//! Leases.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Backend;
use super::driver::{bytes, delete, keys_at, next, put, put_leased};
use crate::{Error, EventKind, Precondition, Revision, WatchMessage};

/// Revoking a lease deletes its keys, all in one revision, and the lease is gone.
pub async fn leases_delete_their_keys_in_one_revision(backend: &impl Backend) {
    let store = backend.start().await;
    let lease = store.lease_grant(600).await.unwrap();
    let free = put(&store, "/l/free", "1").await;
    for key in ["/l/a", "/l/b", "/l/c"] {
        put_leased(&store, key, lease).await;
    }
    let last = delete(&store, "/l/b").await;
    let kv = store.get(b"/l/a", None).await.unwrap().unwrap();
    assert_eq!(kv.lease, Some(lease));
    let mut watch = store
        .watch(bytes("/l/"), Some(Revision(last.0 + 1)))
        .await
        .unwrap();
    store.lease_revoke(lease).await.unwrap();
    assert_eq!(store.revision().await.unwrap(), Revision(last.0 + 1));
    assert_eq!(keys_at(&store, "/l/", None).await, ["/l/free"]);
    let mut events = Vec::new();
    while events.len() < 2 {
        match next(&mut watch).await.unwrap() {
            WatchMessage::Events(more) => events.extend(more),
            WatchMessage::Progress(_) => {}
            WatchMessage::Lagged => panic!("lagged"),
        }
    }
    let keys: BTreeSet<_> = events.iter().map(|e| e.kv.key.clone()).collect();
    assert_eq!(keys, [bytes("/l/a"), bytes("/l/c")].into());
    assert!(
        events
            .iter()
            .all(|e| e.kind == EventKind::Delete && e.kv.mod_revision.0 == last.0 + 1)
    );
    assert!(matches!(store.lease_revoke(lease).await, Err(Error::LeaseNotFound(l)) if l == lease));
    assert!(matches!(
        store.lease_keep_alive(lease).await,
        Err(Error::LeaseNotFound(_))
    ));
    let refused = store
        .put(bytes("/l/d"), bytes("1"), Precondition::None, Some(lease))
        .await;
    assert!(matches!(refused, Err(Error::LeaseNotFound(_))));
    assert_eq!(
        store.get(b"/l/free", None).await.unwrap().unwrap().mod_revision,
        free
    );
}

/// A lease that is not kept alive takes its keys along when its time is up; one that is stays.
pub async fn leases_expire_unless_kept_alive(backend: &impl Backend) {
    let store = backend.start().await;
    let dying = store.lease_grant(1).await.unwrap();
    let kept = store.lease_grant(2).await.unwrap();
    put_leased(&store, "/e/dying", dying).await;
    let last = put_leased(&store, "/e/kept", kept).await;
    let mut watch = store
        .watch(bytes("/e/"), Some(Revision(last.0 + 1)))
        .await
        .unwrap();
    let mut ticks = tokio::time::interval(Duration::from_millis(500));
    let event = loop {
        tokio::select! {
            _ = ticks.tick() => store.lease_keep_alive(kept).await.unwrap(),
            message = next(&mut watch) => match message.unwrap() {
                WatchMessage::Events(events) => break events[0].clone(),
                WatchMessage::Progress(_) => {}
                WatchMessage::Lagged => panic!("lagged"),
            },
        }
    };
    assert_eq!((event.kind, event.kv.key), (EventKind::Delete, bytes("/e/dying")));
    assert_eq!(keys_at(&store, "/e/", None).await, ["/e/kept"]);
    assert!(matches!(
        store.lease_keep_alive(dying).await,
        Err(Error::LeaseNotFound(_))
    ));
}

/// A key belongs to the lease of its last write.
pub async fn keys_change_leases(backend: &impl Backend) {
    let store = backend.start().await;
    let first = store.lease_grant(600).await.unwrap();
    let second = store.lease_grant(600).await.unwrap();
    for key in ["/m/moved", "/m/freed", "/m/stays"] {
        put_leased(&store, key, first).await;
    }
    put_leased(&store, "/m/moved", second).await;
    put(&store, "/m/freed", "1").await;
    store.lease_revoke(first).await.unwrap();
    assert_eq!(keys_at(&store, "/m/", None).await, ["/m/freed", "/m/moved"]);
    backend.stop(store).await;
    let store = backend.start().await;
    store.lease_revoke(second).await.unwrap();
    assert_eq!(keys_at(&store, "/m/", None).await, ["/m/freed"]);
}
