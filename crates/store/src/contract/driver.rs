//! Short forms of what every case does.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::{
    Event, KeyValue, LeaseId, Precondition, RangeRequest, Revision, Store, WatchMessage, WatchStream,
    WriteOutcome,
};

/// Anything that takes longer than this is stuck.
pub(super) const STUCK: Duration = Duration::from_secs(20);

pub(super) fn bytes(text: impl AsRef<str>) -> Bytes {
    Bytes::copy_from_slice(text.as_ref().as_bytes())
}

pub(super) fn committed(outcome: WriteOutcome) -> (Revision, Option<KeyValue>) {
    match outcome {
        WriteOutcome::Committed { revision, previous } => (revision, previous),
        conflict @ WriteOutcome::Conflict { .. } => panic!("expected a commit: {conflict:?}"),
    }
}

pub(super) async fn put(store: &Arc<dyn Store>, key: &str, value: &str) -> Revision {
    committed(
        store
            .put(bytes(key), bytes(value), Precondition::None, None)
            .await
            .unwrap(),
    )
    .0
}

pub(super) async fn put_leased(store: &Arc<dyn Store>, key: &str, lease: LeaseId) -> Revision {
    committed(
        store
            .put(bytes(key), bytes("leased"), Precondition::None, Some(lease))
            .await
            .unwrap(),
    )
    .0
}

pub(super) async fn delete(store: &Arc<dyn Store>, key: &str) -> Revision {
    committed(store.delete(bytes(key), Precondition::None).await.unwrap()).0
}

pub(super) async fn value_at(
    store: &Arc<dyn Store>,
    key: &str,
    revision: Option<Revision>,
) -> Option<String> {
    let kv = store.get(key.as_bytes(), revision).await.unwrap()?;
    Some(String::from_utf8(kv.value.to_vec()).unwrap())
}

pub(super) async fn keys_at(store: &Arc<dyn Store>, prefix: &str, revision: Option<Revision>) -> Vec<String> {
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

pub(super) fn revisions(events: &[Event]) -> Vec<u64> {
    events.iter().map(|e| e.kv.mod_revision.0).collect()
}
