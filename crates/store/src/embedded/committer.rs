//! The two threads behind the queue: the committer, which makes groups of writes durable and visible, and the
//! checkpointer, which moves full journal segments to the checkpoint.

use std::collections::VecDeque;
use std::fs;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex, RwLock};
use tokio::sync::mpsc;

use crate::Error;
use crate::embedded::checkpoint::{Checkpoint, State, Update};
use crate::embedded::hub::Hub;
use crate::embedded::index::Index;
use crate::embedded::journal::{Journal, Sealed};
use crate::embedded::lease::Leases;
use crate::embedded::stage::{LeaseChange, Request, Stage};

/// Bytes of one group commit, about; more waits for the next.
const GROUP_BYTES: usize = 4 << 20;
/// Changes that one step of the sweep after a compaction handles.
const SWEEP_STEP: usize = 1_000;
/// Versions that one checkpoint purges at most.
const PURGE_STEP: usize = 20_000;
/// Sealed segments that may wait for the checkpoint before writers wait for it.
const BACKLOG: usize = 4;

/// What the threads, the store and its watches share.
pub(super) struct Shared {
    pub(super) index: RwLock<Index>,
    pub(super) hub: Mutex<Hub>,
    pub(super) leases: Leases,
    pub(super) checkpoint: Checkpoint,
    pub(super) sealed: SealedQueue,
    pub(super) store_id: u64,
    pub(super) watch_buffer: usize,
}

/// Segments that wait for the checkpoint.
#[derive(Default)]
pub(super) struct SealedQueue {
    state: Mutex<SealedState>,
    changed: Condvar,
}

#[derive(Default)]
struct SealedState {
    /// With the store's revision after the segment.
    waiting: VecDeque<(Sealed, u64)>,
    /// The last checkpoint failed: nobody waits for the next.
    failing: bool,
    closed: bool,
}

impl SealedQueue {
    pub(super) fn push(&self, sealed: Sealed, revision: u64) {
        let mut state = self.state.lock();
        state.waiting.push_back((sealed, revision));
        self.changed.notify_all();
    }

    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_all();
    }

    /// Waits until at most this many segments wait; not for a checkpoint that cannot be written.
    pub(super) fn wait_until_at_most(&self, waiting: usize) {
        let mut state = self.state.lock();
        while state.waiting.len() > waiting && !state.failing && !state.closed {
            self.changed.wait(&mut state);
        }
    }
}

/// Commits until every sender of the queue is gone.
pub(super) fn run_committer(shared: &Shared, mut journal: Journal, mut queue: mpsc::Receiver<Request>) {
    let mut sweeping = true;
    let mut requests = Vec::new();
    loop {
        let first = if sweeping {
            match queue.try_recv() {
                Ok(request) => Some(request),
                Err(mpsc::error::TryRecvError::Empty) => {
                    sweeping = shared.index.write().sweep(SWEEP_STEP);
                    continue;
                }
                Err(mpsc::error::TryRecvError::Disconnected) => None,
            }
        } else {
            queue.blocking_recv()
        };
        let Some(first) = first else { break };
        let mut weight = first.weight();
        requests.push(first);
        while weight < GROUP_BYTES
            && let Ok(request) = queue.try_recv()
        {
            weight += request.weight();
            requests.push(request);
        }
        let mut stage = Stage::new(shared.index.read().current);
        for request in requests.drain(..) {
            if request.is_barrier() && !stage.is_empty() {
                sweeping |= commit(shared, &mut journal, stage);
                stage = Stage::new(shared.index.read().current);
            }
            stage.add(request, &shared.index.read(), &shared.leases);
        }
        sweeping |= commit(shared, &mut journal, stage);
        if sweeping {
            sweeping = shared.index.write().sweep(SWEEP_STEP);
        }
    }
}

/// Makes a group durable, then visible, then answers. True when there is something to sweep.
fn commit(shared: &Shared, journal: &mut Journal, stage: Stage) -> bool {
    if stage.payload.is_empty() {
        stage.succeed();
        return false;
    }
    let before = shared.index.read().current;
    match journal.append(&stage.payload) {
        Ok(None) => {}
        Ok(Some(sealed)) => {
            shared.sealed.push(sealed, before);
            shared.sealed.wait_until_at_most(BACKLOG);
        }
        Err(error) => {
            tracing::warn!(%error, "writes refused");
            let no_space = matches!(error, Error::NoSpace(_));
            let text = match &error {
                Error::NoSpace(text) => text.clone(),
                other => format!(
                    "{other}: {}",
                    std::error::Error::source(other).map_or_else(String::new, ToString::to_string)
                ),
            };
            stage.fail(
                || {
                    if no_space {
                        Error::NoSpace(text.clone())
                    } else {
                        Error::Backend {
                            operation: "commit",
                            source: text.clone().into(),
                        }
                    }
                },
                &shared.leases,
            );
            return false;
        }
    }
    {
        let mut index = shared.index.write();
        for (key, version) in &stage.versions {
            index.apply(key, version.clone());
        }
        if let Some(mark) = stage.compact {
            index.compact(mark);
        }
    }
    for change in &stage.leases {
        match change {
            LeaseChange::Grant { id, ttl } => shared.leases.insert(*id, *ttl),
            LeaseChange::End { id } => shared.leases.remove(*id),
            LeaseChange::Attach { key, from, to } => shared.leases.attach(key, *from, *to),
        }
    }
    if !stage.events.is_empty() {
        shared.hub.lock().publish(&stage.events, stage.current);
    }
    let compacted = stage.compact.is_some();
    stage.succeed();
    compacted
}

/// Checkpoints sealed segments until the queue is closed. What is not done by then is done after the next opening.
pub(super) fn run_checkpointer(shared: &Arc<Shared>) {
    loop {
        let (sealed, revision) = {
            let mut state = shared.sealed.state.lock();
            loop {
                if state.closed {
                    return;
                }
                // After a failure the next sealed segment, not the clock, brings the next attempt.
                if let Some(first) = state.waiting.front()
                    && !state.failing
                {
                    break first.clone();
                }
                shared.sealed.changed.wait(&mut state);
                state.failing = false;
            }
        };
        let result = checkpoint(shared, &sealed, revision);
        let mut state = shared.sealed.state.lock();
        match result {
            Ok(()) => {
                state.waiting.pop_front();
                drop(state);
                if let Err(error) = fs::remove_file(&sealed.path) {
                    tracing::warn!(path = %sealed.path.display(), %error, "a journal segment that is no longer needed stays");
                }
            }
            Err(error) => {
                tracing::warn!(%error, "checkpoint failed; the journal grows until the next attempt");
                state.failing = true;
            }
        }
        shared.sealed.changed.notify_all();
    }
}

fn checkpoint(shared: &Shared, sealed: &Sealed, revision: u64) -> Result<(), Error> {
    let (update, purged) = {
        let mut index = shared.index.write();
        index.checkpointing = index.checkpointing.max(revision);
        let purged = index.purge.len().min(PURGE_STEP);
        let update = Update {
            state: State {
                store_id: shared.store_id,
                sequence: sealed.last,
                revision,
                compacted: index.compacted,
                current: index.current,
            },
            records: index.uncheckpointed(revision),
            purge: index.purge.iter().take(purged).copied().collect(),
            leases: shared.leases.list(),
        };
        (update, purged)
    };
    shared.checkpoint.write(&update)?;
    let mut index = shared.index.write();
    index.purge.drain(..purged);
    index.set_checkpointed(revision);
    Ok(())
}
