//! One watch: reads history until it has caught up, then takes what the hub delivers, and goes back to history when it did
//! not keep up. It ends in `Lagged` only when the history that it needs was compacted.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc::{self, error::TryRecvError};

use crate::embedded::committer::Shared;
use crate::embedded::hub::Delivery;
use crate::embedded::index::{Change, Found};
use crate::embedded::stage::deletion;
use crate::{Error, Event, EventKind, KeyValue, Revision, WatchMessage, WatchSource};

/// Changes read from history at a time.
const HISTORY_STEP: usize = 256;

/// Where a watch stands.
enum Position {
    /// Reads history.
    Behind,
    /// Registered with the hub under an id.
    Live(u64, mpsc::Receiver<Delivery>),
    /// Has delivered its last message.
    Ended,
}

/// A watch of the embedded store.
pub(super) struct EmbeddedWatch {
    shared: Arc<Shared>,
    prefix: Bytes,
    /// First revision that was not delivered yet.
    next: u64,
    position: Position,
    progress_wanted: bool,
}

impl EmbeddedWatch {
    /// A watch from revision `from`, or from what comes next.
    pub(super) fn new(shared: Arc<Shared>, prefix: Bytes, from: Option<u64>) -> Result<Self, Error> {
        let mut hub = shared.hub.lock();
        if hub.closed {
            return Err(Error::Closed);
        }
        let (next, position) = match from {
            Some(from) => {
                let compacted = shared.index.read().compacted;
                if from <= compacted {
                    return Err(Error::Compacted {
                        requested: Revision(from),
                        compacted: Revision(compacted),
                    });
                }
                (from, Position::Behind)
            }
            None => {
                let (id, receiver) = hub.register(&prefix, shared.watch_buffer);
                (hub.published + 1, Position::Live(id, receiver))
            }
        };
        drop(hub);
        Ok(Self {
            shared,
            prefix,
            next,
            position,
            progress_wanted: from.is_some(),
        })
    }

    /// The part of a delivery that is wanted (a watch may start in the future); the position moves behind it.
    fn accept(&mut self, mut delivery: Delivery) -> Option<WatchMessage> {
        delivery.events.retain(|e| e.kv.mod_revision.0 >= self.next);
        self.next = self.next.max(delivery.through + 1);
        (!delivery.events.is_empty()).then_some(WatchMessage::Events(delivery.events))
    }

    /// Registers with the hub if everything published so far has been delivered; otherwise the revision to read to.
    fn go_live(&mut self) -> Result<(), u64> {
        let mut hub = self.shared.hub.lock();
        if hub.closed {
            self.position = Position::Ended;
            return Ok(());
        }
        if self.next <= hub.published {
            return Err(hub.published);
        }
        let (id, receiver) = hub.register(&self.prefix, self.shared.watch_buffer);
        self.position = Position::Live(id, receiver);
        Ok(())
    }

    /// One step through history; `None` when nothing in it was for this watch.
    async fn catch_up(&mut self, through: u64) -> Option<WatchMessage> {
        let history = self
            .shared
            .index
            .read()
            .history(&self.prefix, self.next, through, HISTORY_STEP);
        let Some(history) = history else {
            return self.lagged();
        };
        let on_disk = history.changes.iter().any(Change::needs_disk);
        let events = if on_disk {
            let shared = self.shared.clone();
            match tokio::task::spawn_blocking(move || resolve(&shared, history.changes)).await {
                Ok(events) => events,
                Err(error) => Err(Error::Backend {
                    operation: "watch",
                    source: Box::new(error),
                }),
            }
        } else {
            resolve(&self.shared, history.changes)
        };
        let events = match events {
            Ok(Some(events)) => events,
            Ok(None) => return self.lagged(),
            Err(error) => {
                tracing::warn!(%error, "a watch ends because its history cannot be read");
                return self.lagged();
            }
        };
        self.next = history.through + 1;
        (!events.is_empty()).then_some(WatchMessage::Events(events))
    }

    fn lagged(&mut self) -> Option<WatchMessage> {
        self.position = Position::Ended;
        Some(WatchMessage::Lagged)
    }

    /// A progress message, if everything published so far has been delivered.
    fn progress(&mut self) -> Option<WatchMessage> {
        let Position::Live(_, receiver) = &mut self.position else {
            return None;
        };
        let hub = self.shared.hub.lock();
        if hub.closed || !receiver.is_empty() || receiver.is_closed() {
            return None;
        }
        self.progress_wanted = false;
        Some(WatchMessage::Progress(Revision(hub.published)))
    }
}

#[async_trait]
impl WatchSource for EmbeddedWatch {
    async fn next(&mut self) -> Option<WatchMessage> {
        loop {
            if self.progress_wanted
                && let Some(message) = self.progress()
            {
                return Some(message);
            }
            let delivery = match &mut self.position {
                Position::Ended => return None,
                Position::Behind => {
                    if let Err(through) = self.go_live() {
                        match self.catch_up(through).await {
                            Some(message) => return Some(message),
                            None => tokio::task::yield_now().await,
                        }
                    }
                    continue;
                }
                Position::Live(_, receiver) if self.progress_wanted => match receiver.try_recv() {
                    Ok(delivery) => Some(delivery),
                    Err(TryRecvError::Empty) => continue,
                    Err(TryRecvError::Disconnected) => None,
                },
                Position::Live(_, receiver) => receiver.recv().await,
            };
            match delivery {
                Some(delivery) => {
                    if let Some(message) = self.accept(delivery) {
                        return Some(message);
                    }
                }
                // The hub let it go: shut down, or it did not keep up. `go_live` tells which.
                None => self.position = Position::Behind,
            }
        }
    }

    fn request_progress(&mut self) -> bool {
        self.progress_wanted = true;
        true
    }
}

impl Drop for EmbeddedWatch {
    fn drop(&mut self) {
        if let Position::Live(id, _) = &self.position {
            self.shared.hub.lock().unregister(&self.prefix, *id);
        }
    }
}

impl Change {
    fn needs_disk(&self) -> bool {
        self.found.needs_disk() || self.previous.as_ref().is_some_and(Found::needs_disk)
    }
}

/// The events of some changes; `None` when a value was purged meanwhile.
fn resolve(shared: &Shared, changes: Vec<Change>) -> Result<Option<Vec<Event>>, Error> {
    let mut fetch = |id| shared.checkpoint.fetch(id);
    let mut events = Vec::with_capacity(changes.len());
    for change in changes {
        let previous: Option<KeyValue> = match change.previous {
            Some(previous) => match previous.resolve(&mut fetch)? {
                Some(previous) => Some(previous),
                None => return Ok(None),
            },
            None => None,
        };
        if change.found.version.is_deletion() {
            let Some(previous) = previous else { continue };
            events.push(deletion(previous, change.found.version.id.0));
            continue;
        }
        match change.found.resolve(&mut fetch)? {
            Some(kv) => events.push(Event {
                kind: EventKind::Put,
                kv,
                previous,
            }),
            None => return Ok(None),
        }
    }
    Ok(Some(events))
}
