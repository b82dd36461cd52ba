//! Watches.

use bytes::Bytes;

use super::Backend;
use super::driver::{bytes, delete, events_through, next, put, revisions};
use crate::{Error, EventKind, Revision, WatchMessage, WatchStream};

/// A watch without a revision delivers what happens after it was made, under its prefix only.
pub async fn watch_delivers_what_comes_next(backend: &impl Backend) {
    let store = backend.start().await;
    put(&store, "/w/before", "0").await;
    let mut watch = store.watch(bytes("/w/"), None).await.unwrap();
    let mut all = store.watch(Bytes::new(), None).await.unwrap();
    let created = put(&store, "/w/a", "1").await;
    put(&store, "/wx", "other").await;
    let changed = put(&store, "/w/a", "2").await;
    let deleted = delete(&store, "/w/a").await;
    let events = events_through(&mut watch, deleted).await;
    assert_eq!(revisions(&events), [created.0, changed.0, deleted.0]);
    assert_eq!(events[0].previous, None);
    assert_eq!(events[1].previous.as_ref(), Some(&events[0].kv));
    assert_eq!(events[2].previous.as_ref(), Some(&events[1].kv));
    assert_eq!(events[2].kind, EventKind::Delete);
    assert!(events[2].kv.value.is_empty());
    assert_eq!(revisions(&events_through(&mut all, deleted).await).len(), 4);
    drop(watch);
    put(&store, "/w/b", "3").await;
    backend.stop(store).await;
    while let Some(message) = next(&mut all).await {
        assert!(
            !matches!(message, WatchMessage::Lagged),
            "shutting down is not lagging"
        );
    }
}

/// Watches made at random points of a stream of writes each get exactly the rest of it.
pub async fn watch_from_a_revision_has_no_gap_and_no_duplicate(backend: &impl Backend) {
    let store = backend.start().await;
    let base = store.revision().await.unwrap().0;
    let total = 600;
    let writers = (0..4).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            for n in 0..total / 4 {
                put(&store, &format!("/s/{}", (n + writer) % 7), &n.to_string()).await;
            }
        })
    });
    let writers: Vec<_> = writers.collect();
    let mut watchers = Vec::new();
    for _ in 0..30 {
        let now = store.revision().await.unwrap().0;
        let from = base + 1 + (now - base) / 2;
        let store = store.clone();
        watchers.push(tokio::spawn(async move {
            let mut watch = store.watch(bytes("/s/"), Some(Revision(from))).await.unwrap();
            let events = events_through(&mut watch, Revision(base + total)).await;
            assert_eq!(revisions(&events), (from..=base + total).collect::<Vec<_>>());
            for event in &events {
                let before = Revision(event.kv.mod_revision.0 - 1);
                assert_eq!(
                    event.previous,
                    store.get(&event.kv.key, Some(before)).await.unwrap()
                );
            }
        }));
        tokio::task::yield_now().await;
    }
    for task in writers.into_iter().chain(watchers) {
        task.await.unwrap();
    }
}

/// A watch from a compacted revision is refused; one from right after the mark works.
pub async fn watch_of_compacted_history_is_refused(backend: &impl Backend) {
    let store = backend.start().await;
    put(&store, "/k", "1").await;
    let mark = put(&store, "/k", "2").await;
    let last = put(&store, "/k", "3").await;
    store.compact(mark).await.unwrap();
    for refused in [Revision(mark.0 - 1), mark] {
        let result = store.watch(bytes("/"), Some(refused)).await;
        assert!(matches!(result, Err(Error::Compacted { .. })), "from {refused}");
    }
    let mut watch = store.watch(bytes("/"), Some(last)).await.unwrap();
    let events = events_through(&mut watch, last).await;
    assert_eq!(events[0].previous.as_ref().map(|p| p.mod_revision), Some(mark));
}

/// A watch from a revision that has not happened delivers from that revision on.
pub async fn watch_from_the_future_waits(backend: &impl Backend) {
    let store = backend.start().await;
    let current = put(&store, "/k", "0").await;
    let mut watch = store
        .watch(bytes("/"), Some(Revision(current.0 + 3)))
        .await
        .unwrap();
    for n in 1..=4 {
        put(&store, "/k", &n.to_string()).await;
    }
    let events = events_through(&mut watch, Revision(current.0 + 4)).await;
    assert_eq!(revisions(&events), [current.0 + 3, current.0 + 4]);
}

/// A watcher that does not read never holds up writers, and later gets everything, or a part without gaps and `Lagged`.
pub async fn slow_watcher_gets_everything_or_lagged(backend: &impl Backend) {
    let store = backend.start().await;
    let base = store.revision().await.unwrap().0;
    let mut lazy = store.watch(bytes("/"), None).await.unwrap();
    let mut compacted = store.watch(bytes("/"), None).await.unwrap();
    let total = 2_000;
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                for n in 0..total / 8 {
                    put(&store, &format!("/{writer}"), &n.to_string()).await;
                }
            })
        })
        .collect();
    for task in writers {
        task.await.unwrap();
    }
    check_prefix(&mut lazy, base, total).await;
    store.compact(Revision(base + total)).await.unwrap();
    check_prefix(&mut compacted, base, total).await;
}

async fn check_prefix(watch: &mut WatchStream, base: u64, total: u64) {
    let mut seen = base;
    while seen < base + total {
        match next(watch).await {
            Some(WatchMessage::Events(events)) => {
                for event in events {
                    assert_eq!(event.kv.mod_revision.0, seen + 1, "a gap or a duplicate");
                    seen += 1;
                }
            }
            Some(WatchMessage::Progress(revision)) => assert_eq!(revision.0, seen),
            Some(WatchMessage::Lagged) => {
                assert_eq!(next(watch).await, None, "nothing follows Lagged");
                return;
            }
            None => panic!("silence after revision {seen}"),
        }
    }
}

/// Progress comes after everything that was committed when it was asked for.
pub async fn progress_follows_everything_delivered(backend: &impl Backend) {
    let store = backend.start().await;
    let first = put(&store, "/p/1", "1").await;
    let mut watch = store.watch(bytes("/p/"), Some(first)).await.unwrap();
    let mut seen = Revision(0);
    let caught_up = loop {
        match next(&mut watch).await.unwrap() {
            WatchMessage::Events(events) => seen = events.last().unwrap().kv.mod_revision,
            WatchMessage::Progress(revision) => break revision,
            WatchMessage::Lagged => panic!("lagged"),
        }
    };
    assert_eq!((seen, caught_up), (first, first));
    let second = put(&store, "/p/2", "2").await;
    let foreign = put(&store, "/q", "3").await;
    assert!(watch.request_progress());
    match next(&mut watch).await.unwrap() {
        WatchMessage::Events(events) => assert_eq!(revisions(&events), [second.0]),
        other => panic!("{other:?}"),
    }
    assert_eq!(next(&mut watch).await, Some(WatchMessage::Progress(foreign)));
}
