//! The cases, each over a fresh backend.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::Backend;
use crate::{
    Error, Event, EventKind, KeyValue, LeaseId, Precondition, RangeRequest, Revision, Store, WatchMessage,
    WatchStream, WriteOutcome,
};

/// Anything that takes longer than this is stuck.
const STUCK: Duration = Duration::from_secs(20);

pub(super) fn bytes(text: impl AsRef<str>) -> Bytes {
    Bytes::copy_from_slice(text.as_ref().as_bytes())
}

pub(super) fn committed(outcome: WriteOutcome) -> (Revision, Option<KeyValue>) {
    match outcome {
        WriteOutcome::Committed { revision, previous } => (revision, previous),
        conflict @ WriteOutcome::Conflict { .. } => panic!("expected a commit: {conflict:?}"),
    }
}

async fn put(store: &Arc<dyn Store>, key: &str, value: &str) -> Revision {
    committed(
        store
            .put(bytes(key), bytes(value), Precondition::None, None)
            .await
            .unwrap(),
    )
    .0
}

async fn put_leased(store: &Arc<dyn Store>, key: &str, lease: LeaseId) -> Revision {
    committed(
        store
            .put(bytes(key), bytes("leased"), Precondition::None, Some(lease))
            .await
            .unwrap(),
    )
    .0
}

async fn delete(store: &Arc<dyn Store>, key: &str) -> Revision {
    committed(store.delete(bytes(key), Precondition::None).await.unwrap()).0
}

async fn value_at(store: &Arc<dyn Store>, key: &str, revision: Option<Revision>) -> Option<String> {
    let kv = store.get(key.as_bytes(), revision).await.unwrap()?;
    Some(String::from_utf8(kv.value.to_vec()).unwrap())
}

async fn keys_at(store: &Arc<dyn Store>, prefix: &str, revision: Option<Revision>) -> Vec<String> {
    let request = RangeRequest {
        revision,
        ..RangeRequest::prefix(bytes(prefix))
    };
    let kvs = store.range(request).await.unwrap().kvs;
    kvs.into_iter()
        .map(|kv| String::from_utf8(kv.key.to_vec()).unwrap())
        .collect()
}

pub(super) async fn next(stream: &mut WatchStream) -> Option<WatchMessage> {
    tokio::time::timeout(STUCK, stream.next())
        .await
        .expect("the watch is stuck")
}

/// Reads events until `last` has been seen; checks that revisions never go back. Panics on `Lagged`.
pub(super) async fn events_through(stream: &mut WatchStream, last: Revision) -> Vec<Event> {
    let mut events: Vec<Event> = Vec::new();
    while events.last().is_none_or(|e| e.kv.mod_revision < last) {
        match next(stream).await {
            Some(WatchMessage::Events(more)) => {
                assert!(!more.is_empty(), "an empty message");
                for event in more {
                    let before = events.last().map_or(Revision(0), |e| e.kv.mod_revision);
                    assert!(
                        before <= event.kv.mod_revision,
                        "{before} then {}",
                        event.kv.mod_revision
                    );
                    events.push(event);
                }
            }
            Some(WatchMessage::Progress(_)) => {}
            other => panic!("expected events through {last}, got {other:?} after {events:?}"),
        }
    }
    events
}

fn revisions(events: &[Event]) -> Vec<u64> {
    events.iter().map(|e| e.kv.mod_revision.0).collect()
}

/// Each committed write takes the next revision, and is seen by whoever reads after its acknowledgement.
pub async fn revisions_are_dense_and_writes_visible(backend: &impl Backend) {
    let store = backend.start().await;
    let base = store.revision().await.unwrap().0;
    for step in 1..=20 {
        let key = format!("/k/{}", step % 3);
        assert_eq!(put(&store, &key, &step.to_string()).await, Revision(base + step));
        assert_eq!(store.revision().await.unwrap(), Revision(base + step));
        let kv = store.get(key.as_bytes(), None).await.unwrap().unwrap();
        assert_eq!(
            (kv.mod_revision.0, kv.create_revision.0),
            (base + step, base + (step - 1) % 3 + 1)
        );
        assert_eq!(kv.value, bytes(step.to_string()));
    }
    assert!(store.get(b"/k/none", None).await.unwrap().is_none());
    assert!(store.size().await.unwrap() > 0);
}

/// A write happens exactly when its precondition holds; a conflict shows the key as it is and changes nothing.
pub async fn preconditions_decide(backend: &impl Backend) {
    let store = backend.start().await;
    let stale = put(&store, "/there", "1").await;
    let newest = put(&store, "/there", "2").await;
    let table = [
        ("/absent", Precondition::None, true),
        ("/absent2", Precondition::Absent, true),
        ("/absent3", Precondition::ModRevision(newest), false),
        ("/absent3", Precondition::ModRevision(Revision(0)), false),
        ("/there", Precondition::Absent, false),
        ("/there", Precondition::ModRevision(stale), false),
        ("/there", Precondition::ModRevision(newest), true),
    ];
    for (key, precondition, expected) in table {
        let revision = store.revision().await.unwrap();
        let before = store.get(key.as_bytes(), None).await.unwrap();
        match store
            .put(bytes(key), bytes("new"), precondition, None)
            .await
            .unwrap()
        {
            WriteOutcome::Committed {
                revision: at,
                previous,
            } => {
                assert!(expected, "{key} {precondition:?}");
                assert_eq!((at.0, previous), (revision.0 + 1, before));
            }
            WriteOutcome::Conflict {
                revision: at,
                current,
            } => {
                assert!(!expected, "{key} {precondition:?}");
                assert_eq!((at, current), (revision, before));
                assert_eq!(store.revision().await.unwrap(), revision);
            }
        }
    }
}

/// Deleting returns what was deleted; deleting what is not there is a conflict without `current`.
pub async fn deletes_say_what_they_deleted(backend: &impl Backend) {
    let store = backend.start().await;
    let first = put(&store, "/a", "1").await;
    let before = store.get(b"/a", None).await.unwrap();
    let wrong = Precondition::ModRevision(Revision(first.0 + 1));
    let conflict = store.delete(bytes("/a"), wrong).await.unwrap();
    assert_eq!(
        conflict,
        WriteOutcome::Conflict {
            revision: first,
            current: before.clone()
        }
    );
    let (deleted, previous) = committed(
        store
            .delete(bytes("/a"), Precondition::ModRevision(first))
            .await
            .unwrap(),
    );
    assert_eq!((deleted.0, previous), (first.0 + 1, before));
    assert!(store.get(b"/a", None).await.unwrap().is_none());
    for precondition in [
        Precondition::None,
        Precondition::Absent,
        Precondition::ModRevision(first),
    ] {
        let outcome = store.delete(bytes("/a"), precondition).await.unwrap();
        assert_eq!(
            outcome,
            WriteOutcome::Conflict {
                revision: deleted,
                current: None
            }
        );
    }
    let again = put(&store, "/a", "2").await;
    let kv = store.get(b"/a", None).await.unwrap().unwrap();
    assert_eq!((kv.create_revision, kv.mod_revision), (again, again));
}

/// Ranges return keys in byte order, at most `limit`, and count the whole range.
pub async fn ranges_are_ordered_limited_and_counted(backend: &impl Backend) {
    let store = backend.start().await;
    for key in ["/b/2", "/a/1", "/b/10", "/c", "/b", "/b/1", "/b0"] {
        put(&store, key, "x").await;
    }
    for binary in [&b"\xff"[..], b"\xff\xff", b"\xff\xff\x01", b"\x00"] {
        let key = Bytes::copy_from_slice(binary);
        committed(
            store
                .put(key, Bytes::new(), Precondition::Absent, None)
                .await
                .unwrap(),
        );
    }
    let current = store.revision().await.unwrap();
    assert_eq!(keys_at(&store, "/b/", None).await, ["/b/1", "/b/10", "/b/2"]);
    assert_eq!(
        keys_at(&store, "/b", None).await,
        ["/b", "/b/1", "/b/10", "/b/2", "/b0"]
    );
    let table = [
        (Bytes::from_static(b"\xff\xff"), Bound::Unbounded, 0, 2, 2),
        (Bytes::new(), Bound::Unbounded, 3, 3, 11),
        (Bytes::new(), Bound::Unbounded, 0, 11, 11),
        (bytes("/b"), Bound::Excluded(bytes("/b/10")), 0, 2, 2),
        (bytes("/b"), Bound::Excluded(bytes("/b")), 0, 0, 0),
        (bytes("/c"), Bound::Excluded(bytes("/a")), 0, 0, 0),
        (bytes("/b/1"), Bound::Excluded(bytes("/z")), 2, 2, 5),
    ];
    for (start, end, limit, found, count) in table {
        for count_only in [false, true] {
            let request = RangeRequest {
                start: start.clone(),
                end: end.clone(),
                limit,
                revision: None,
                count_only,
            };
            let response = store.range(request.clone()).await.unwrap();
            let expected = if count_only { 0 } else { found };
            assert_eq!(
                (response.kvs.len(), response.count),
                (expected, count),
                "{request:?}"
            );
            assert_eq!(response.revision, current);
            assert!(response.kvs.is_sorted_by(|a, b| a.key < b.key));
        }
    }
}

/// Reads at an old revision see exactly what was there then; unknown revisions are refused.
pub async fn old_revisions_stay_readable(backend: &impl Backend) {
    let store = backend.start().await;
    let first = put(&store, "/k", "1").await;
    let second = put(&store, "/k", "2").await;
    let third = delete(&store, "/k").await;
    let fourth = put(&store, "/k", "4").await;
    let other = put(&store, "/l", "5").await;
    let table = [
        (first, Some("1")),
        (second, Some("2")),
        (third, None),
        (fourth, Some("4")),
        (other, Some("4")),
    ];
    for (revision, expected) in table {
        assert_eq!(
            value_at(&store, "/k", Some(revision)).await.as_deref(),
            expected,
            "at {revision}"
        );
        let keys = keys_at(&store, "/", Some(revision)).await;
        assert_eq!(keys.contains(&"/k".to_owned()), expected.is_some());
        assert_eq!(keys.contains(&"/l".to_owned()), revision == other);
    }
    let future = Revision(other.0 + 1);
    let error = store.get(b"/k", Some(future)).await.unwrap_err();
    assert!(
        matches!(error, Error::FutureRevision { requested, current } if requested == future && current == other)
    );
    let request = RangeRequest {
        revision: Some(future),
        ..RangeRequest::prefix("/")
    };
    assert!(matches!(
        store.range(request).await,
        Err(Error::FutureRevision { .. })
    ));
    let page = RangeRequest {
        revision: Some(first),
        limit: 1,
        ..RangeRequest::prefix("/")
    };
    assert_eq!(
        store.range(page).await.unwrap().revision,
        other,
        "the response carries the newest revision"
    );
}

/// After compaction everything at and after the mark reads as before; before it reads are refused.
pub async fn compaction_forgets_only_superseded_versions(backend: &impl Backend) {
    let store = backend.start().await;
    put(&store, "/changed", "1").await;
    put(&store, "/constant", "c").await;
    put(&store, "/gone", "g").await;
    delete(&store, "/gone").await;
    let before = put(&store, "/changed", "2").await;
    let mark = put(&store, "/changed", "3").await;
    let after = put(&store, "/changed", "4").await;
    assert!(matches!(
        store.compact(Revision(after.0 + 1)).await,
        Err(Error::FutureRevision { .. })
    ));
    store.compact(mark).await.unwrap();
    store.compact(before).await.unwrap(); // below the mark: nothing changes
    for (revision, expected) in [(Some(mark), "3"), (Some(after), "4"), (None, "4")] {
        assert_eq!(
            value_at(&store, "/changed", revision).await.as_deref(),
            Some(expected)
        );
        assert_eq!(keys_at(&store, "/", revision).await, ["/changed", "/constant"]);
    }
    let error = store.get(b"/changed", Some(before)).await.unwrap_err();
    assert!(
        matches!(error, Error::Compacted { requested, compacted } if requested == before && compacted == mark)
    );
    let request = RangeRequest {
        revision: Some(before),
        ..RangeRequest::prefix("/")
    };
    assert!(matches!(store.range(request).await, Err(Error::Compacted { .. })));
    assert_eq!(
        store.revision().await.unwrap(),
        after,
        "compaction takes no revision"
    );
    backend.stop(store).await;
    let store = backend.start().await;
    assert!(matches!(
        store.get(b"/changed", Some(before)).await,
        Err(Error::Compacted { .. })
    ));
    assert_eq!(
        value_at(&store, "/changed", Some(mark)).await.as_deref(),
        Some("3")
    );
    assert_eq!(
        value_at(&store, "/constant", Some(mark)).await.as_deref(),
        Some("c")
    );
    assert!(store.get(b"/gone", None).await.unwrap().is_none());
}

/// Writers that compare and swap the same key never lose an update.
pub async fn concurrent_compare_and_swap_loses_nothing(backend: &impl Backend) {
    let store = backend.start().await;
    let (writers, rounds) = (8, 25);
    put(&store, "/counter", "0").await;
    let tasks = (0..writers).map(|_| {
        let store = store.clone();
        tokio::spawn(async move {
            for _ in 0..rounds {
                let mut current = store.get(b"/counter", None).await.unwrap().unwrap();
                loop {
                    let number: u64 = std::str::from_utf8(&current.value).unwrap().parse().unwrap();
                    let precondition = Precondition::ModRevision(current.mod_revision);
                    let value = bytes((number + 1).to_string());
                    match store
                        .put(bytes("/counter"), value, precondition, None)
                        .await
                        .unwrap()
                    {
                        WriteOutcome::Committed { .. } => break,
                        WriteOutcome::Conflict { current: found, .. } => current = found.unwrap(),
                    }
                }
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    assert_eq!(
        value_at(&store, "/counter", None).await,
        Some((writers * rounds).to_string())
    );
}

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
