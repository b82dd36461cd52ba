//! Keys, ranges, revisions, compaction.

use std::ops::Bound;

use bytes::Bytes;

use super::Backend;
use super::driver::{bytes, committed, delete, keys_at, put, value_at};
use crate::{Error, Precondition, RangeRequest, Revision, WriteOutcome};

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
