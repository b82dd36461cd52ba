//! The contract suite over Debian's etcd: one member, and three; and what is special to several members.
//!
//! Every test starts its own members on loopback addresses of its own, so that tests beside each other never meet.

#![expect(clippy::unwrap_used, reason = "test code")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use keelson_store::contract::Backend;
use keelson_store::etcd::EtcdStore;
use keelson_store::{Precondition, Revision, Store, WatchMessage, WriteOutcome};
use parking_lot::Mutex;
use support::Cluster;

struct Etcd {
    cluster: Mutex<Cluster>,
    open: Mutex<Option<EtcdStore>>,
    restarted: AtomicBool,
}

impl Etcd {
    fn new(members: usize) -> Self {
        Self {
            cluster: Mutex::new(Cluster::start(members)),
            open: Mutex::new(None),
            restarted: AtomicBool::new(false),
        }
    }
}

#[async_trait]
impl Backend for Etcd {
    async fn start(&self) -> Arc<dyn Store> {
        let options = {
            let mut cluster = self.cluster.lock();
            cluster.ensure_running();
            cluster.options()
        };
        let store = EtcdStore::connect(&options).await.unwrap();
        *self.open.lock() = Some(store.clone());
        Arc::new(store)
    }

    async fn stop(&self, store: Arc<dyn Store>) {
        drop(store);
        let open = self.open.lock().take().unwrap();
        open.close().await;
        // Members that die are worth one look; each election costs seconds.
        if !self.restarted.swap(true, Ordering::Relaxed) {
            self.cluster.lock().stop();
        }
    }
}

mod one_member {
    fn backend() -> super::Etcd {
        super::Etcd::new(1)
    }

    keelson_store::contract_suite!(backend);
}

mod three_members {
    fn backend() -> super::Etcd {
        super::Etcd::new(3)
    }

    keelson_store::contract_suite!(backend);
}

/// Kills members one after the other, each by kill -9 and while clients write: no acknowledged write is lost, no watch has
/// a gap or a duplicate.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_may_die_at_any_time() {
    let mut cluster = Cluster::start(3);
    let store = EtcdStore::connect(&cluster.options()).await.unwrap();
    let base = store.revision().await.unwrap();
    let mut watch = store
        .watch(Bytes::from_static(b"/w/"), Some(Revision(base.0 + 1)))
        .await
        .unwrap();
    let writer = tokio::spawn({
        let store = store.clone();
        async move {
            let mut acknowledged = Vec::new();
            for n in 0..400 {
                let key = Bytes::from(format!("/w/{n}"));
                // A failed write may or may not have happened; only what was acknowledged must be there.
                if let Ok(WriteOutcome::Committed { revision, .. }) = store
                    .put(key.clone(), Bytes::from_static(b"v"), Precondition::Absent, None)
                    .await
                {
                    acknowledged.push((key, revision));
                }
            }
            acknowledged
        }
    });
    for victim in 0..3 {
        // The faults are spread over the writes: each waits for some of them to be seen by the watch.
        let mut seen = 0;
        while seen < 60 {
            match watch.next().await.unwrap() {
                WatchMessage::Events(events) => seen += events.len(),
                WatchMessage::Progress(_) => {}
                WatchMessage::Lagged => panic!("lagged"),
            }
        }
        tokio::task::block_in_place(|| cluster.kill_and_restart(victim));
    }
    let acknowledged = writer.await.unwrap();
    assert!(
        acknowledged.len() > 300,
        "only {} writes were acknowledged",
        acknowledged.len()
    );
    for (key, revision) in &acknowledged {
        let kv = store.get(key, None).await.unwrap().unwrap();
        assert_eq!(kv.mod_revision, *revision, "{key:?}");
    }
    let newest = store.revision().await.unwrap();
    let mut again = store
        .watch(Bytes::from_static(b"/w/"), Some(Revision(base.0 + 1)))
        .await
        .unwrap();
    let mut next = base.0 + 1;
    while next <= newest.0 {
        if let WatchMessage::Events(events) = again.next().await.unwrap() {
            for event in events {
                assert_eq!(event.kv.mod_revision.0, next, "a gap or a duplicate");
                next += 1;
            }
        }
    }
    store.close().await;
}

/// Without a majority nothing is acknowledged, and the error says what is wrong; with it again, work goes on.
#[tokio::test(flavor = "multi_thread")]
async fn no_majority_means_no_acknowledgement() {
    let mut cluster = Cluster::start(3);
    let mut options = cluster.options();
    // The first connection waits until there is a leader.
    EtcdStore::connect(&options).await.unwrap().close().await;
    options.timeout = std::time::Duration::from_secs(2);
    let store = EtcdStore::connect(&options).await.unwrap();
    let (key, value) = (Bytes::from_static(b"/m"), Bytes::from_static(b"v"));
    store
        .put(key.clone(), value.clone(), Precondition::Absent, None)
        .await
        .unwrap();
    cluster.kill(0);
    cluster.kill(1);
    let refused = store
        .put(key.clone(), value.clone(), Precondition::None, None)
        .await;
    assert!(refused.is_err(), "{refused:?}");
    assert!(
        store.revision().await.is_err(),
        "a read without a majority would be stale"
    );
    cluster.ensure_running();
    let end = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
    while store
        .put(key.clone(), value.clone(), Precondition::None, None)
        .await
        .is_err()
    {
        assert!(
            tokio::time::Instant::now() < end,
            "the majority is back and writes still fail"
        );
    }
    store.close().await;
    let closed = store.revision().await;
    assert!(matches!(closed, Err(keelson_store::Error::Closed)), "{closed:?}");
}
