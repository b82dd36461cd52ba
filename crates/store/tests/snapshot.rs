//! State moves between backends, through a file, without losing a revision.

#![expect(clippy::unwrap_used, reason = "test code")]

mod support;

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use keelson_store::embedded::{self, EmbeddedStore, Options};
use keelson_store::etcd::EtcdStore;
use keelson_store::snapshot::Snapshot;
use keelson_store::{Error, Precondition, RangeRequest, Revision, Store, WatchMessage};
use support::Cluster;

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// A store with some history: keys made, changed, deleted, made again, with and without leases.
async fn write_some(store: &dyn Store) {
    let lease = store.lease_grant(3600).await.unwrap();
    store.lease_grant(7200).await.unwrap();
    for round in 0..5 {
        for key in 0..40 {
            if (key + round) % 7 == 0 {
                drop(
                    store
                        .delete(bytes(&format!("/k/{key}")), Precondition::None)
                        .await
                        .unwrap(),
                );
                continue;
            }
            let lease = (key % 5 == 0).then_some(lease);
            let value = bytes(&format!("{round} {}", "x".repeat(key * 10)));
            store
                .put(bytes(&format!("/k/{key}")), value, Precondition::None, lease)
                .await
                .unwrap();
        }
    }
    // Revisions of keys that are gone must count too.
    for n in 0..300 {
        store
            .put(bytes("/gone"), bytes(&n.to_string()), Precondition::None, None)
            .await
            .unwrap();
    }
    store.delete(bytes("/gone"), Precondition::None).await.unwrap();
}

/// Everything that a client can see of a store that was made of `snapshot`.
async fn check(store: &dyn Store, snapshot: &Snapshot) {
    let taken = Snapshot::take(store).await.unwrap();
    assert_eq!(taken.revision, snapshot.revision);
    assert_eq!(taken.leases, snapshot.leases);
    assert_eq!(taken.kvs, snapshot.kvs);
    let at = snapshot.revision;
    let old = RangeRequest {
        revision: Some(Revision(at.0 - 1)),
        ..RangeRequest::prefix(Bytes::new())
    };
    assert!(matches!(store.range(old).await, Err(Error::Compacted { .. })));
    let refused = store.watch(Bytes::new(), Some(at)).await;
    assert!(matches!(refused, Err(Error::Compacted { .. })));
    let mut watch = store.watch(Bytes::new(), Some(Revision(at.0 + 1))).await.unwrap();
    let kv = &snapshot.kvs[0];
    let precondition = Precondition::ModRevision(kv.mod_revision);
    store
        .put(kv.key.clone(), bytes("changed"), precondition, None)
        .await
        .unwrap();
    loop {
        match watch.next().await.unwrap() {
            WatchMessage::Events(events) => {
                assert_eq!(events[0].kv.mod_revision, Revision(at.0 + 1));
                assert_eq!(events[0].previous.as_ref(), Some(kv));
                break;
            }
            WatchMessage::Progress(_) => {}
            WatchMessage::Lagged => panic!("lagged"),
        }
    }
}

fn through_a_file(snapshot: &Snapshot) -> Snapshot {
    let mut file = Vec::new();
    snapshot.write_to(&mut file).unwrap();
    Snapshot::read_from(&file[..]).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn embedded_to_embedded() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = EmbeddedStore::open(from.path(), Options::default()).unwrap();
    write_some(&*store).await;
    let snapshot = through_a_file(&Snapshot::take(&*store).await.unwrap());
    embedded::load(to.path(), &snapshot).unwrap();
    let loaded = EmbeddedStore::open(to.path(), Options::default()).unwrap();
    check(&*loaded, &snapshot).await;
    loaded.close().await;
    let again = embedded::load(to.path(), &snapshot);
    assert!(
        matches!(again, Err(Error::Unusable { .. })),
        "a store was overwritten: {again:?}"
    );
    // And once more from disk: the checkpoint and the journal behind it fit.
    let reopened = EmbeddedStore::open(to.path(), Options::default()).unwrap();
    assert_eq!(
        reopened.revision().await.unwrap(),
        Revision(snapshot.revision.0 + 1)
    );
    reopened.close().await;
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn embedded_to_etcd_and_back() {
    let directory = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(directory.path(), Options::default()).unwrap();
    // etcd begins at revision 1: what an embedded store has there moves by one.
    store
        .put(bytes("/first"), bytes("1"), Precondition::None, None)
        .await
        .unwrap();
    store.delete(bytes("/first"), Precondition::None).await.unwrap();
    write_some(&*store).await;
    let snapshot = through_a_file(&Snapshot::take(&*store).await.unwrap());
    store.close().await;

    let cluster = Cluster::start(1);
    let etcd = EtcdStore::connect(&cluster.options()).await.unwrap();
    // Interrupted at some point: nobody may use it, and the same load completes it.
    let seen = AtomicU64::new(0);
    let reached = |revision: Revision| seen.store(revision.0, Ordering::Relaxed);
    let interrupted = tokio::select! {
        biased;
        result = etcd.load(&snapshot, &reached) => Some(result),
        () = async { while seen.load(Ordering::Relaxed) < 100 { tokio::task::yield_now().await; } } => None,
    };
    assert!(interrupted.is_none(), "the load was not interrupted");
    let refused = EtcdStore::open(&cluster.options())
        .await
        .err()
        .unwrap()
        .to_string();
    assert!(refused.contains("interrupted"), "{refused}");
    let mut other = snapshot.clone();
    other.kvs.pop();
    let refused = etcd.load(&other, &|_| {}).await.unwrap_err().to_string();
    assert!(refused.contains("another load"), "{refused}");
    etcd.load(&snapshot, &|_| {}).await.unwrap();
    etcd.load(&snapshot, &|_| {}).await.unwrap();
    let opened = EtcdStore::open(&cluster.options()).await.unwrap();
    check(&opened, &snapshot).await;
    let refused = etcd.load(&snapshot, &|_| {}).await.unwrap_err().to_string();
    assert!(refused.contains("not empty"), "{refused}");

    let back = tempfile::tempdir().unwrap();
    let snapshot = through_a_file(&Snapshot::take(&opened).await.unwrap());
    embedded::load(back.path(), &snapshot).unwrap();
    let loaded = EmbeddedStore::open(back.path(), Options::default()).unwrap();
    check(&*loaded, &snapshot).await;
    loaded.close().await;
    opened.close().await;
}
