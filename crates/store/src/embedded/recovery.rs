//! Opening: checkpoint, then journal, into the index.

use bytes::Bytes;

use crate::Error;
use crate::embedded::Options;
use crate::embedded::checkpoint::{Checkpoint, State};
use crate::embedded::directory::{Directory, unusable};
use crate::embedded::index::{Index, Value, Version};
use crate::embedded::journal::{Journal, Sealed};
use crate::embedded::lease::Leases;
use crate::embedded::record::Op;

/// What was on disk.
pub(super) struct Recovered {
    pub(super) index: Index,
    pub(super) leases: Leases,
    pub(super) checkpoint: Checkpoint,
    pub(super) journal: Journal,
    /// Segments to checkpoint, with the revision after each.
    pub(super) sealed: Vec<(Sealed, u64)>,
}

/// Loads the directory.
pub(super) fn recover(directory: &Directory, options: &Options) -> Result<Recovered, Error> {
    let path = directory.path();
    let checkpoint = Checkpoint::new(directory.checkpoint(), options.checkpoint_cache_bytes);
    let mut index = Index::loading();
    let leases = Leases::default();
    let state = checkpoint.load(
        path,
        |(revision, place), op| {
            match op {
                Op::Put {
                    revision: r,
                    create,
                    lease,
                    key,
                    value,
                } if r == revision => {
                    let value = Value::Memory(Bytes::copy_from_slice(value));
                    let key = Bytes::copy_from_slice(key);
                    index.apply(
                        &key,
                        Version {
                            id: (revision, place),
                            create,
                            lease,
                            value,
                        },
                    );
                }
                Op::Delete { revision: r, key } if r == revision => {
                    let version = deleted(revision, place);
                    index.apply(&Bytes::copy_from_slice(key), version);
                }
                _ => {
                    return Err(unusable(
                        path,
                        format!("checkpoint.redb is damaged at revision {revision}; restore a backup"),
                    ));
                }
            }
            Ok(())
        },
        |id, ttl| leases.insert(id, ttl),
    )?;
    let state = state.unwrap_or(State {
        store_id: directory.store_id,
        ..State::default()
    });
    if state.store_id != directory.store_id {
        return Err(unusable(
            path,
            "checkpoint.redb belongs to another data directory; restore a backup",
        ));
    }
    if index.current > state.revision {
        return Err(unusable(
            path,
            "checkpoint.redb is damaged: it is ahead of itself; restore a backup",
        ));
    }
    index.current = state.revision;
    index.compacted = state.compacted;
    index.checkpointing = state.revision;
    index.set_loaded(state.revision);

    let mut after: Vec<(u64, u64)> = Vec::new();
    let (journal, sealed) = {
        let (index, leases, after) = (&mut index, &leases, &mut after);
        Journal::open(
            directory,
            options.segment_bytes,
            state.sequence + 1,
            move |sequence, payload| {
                replay(index, leases, payload).map_err(|problem| {
                    unusable(
                        path,
                        format!("journal frame {sequence}: {problem}; restore a backup"),
                    )
                })?;
                after.push((sequence, index.current));
                Ok(())
            },
        )?
    };
    if index.current < state.current || index.current < index.compacted {
        return Err(unusable(
            path,
            format!(
                "the journal ends at revision {} but revision {} was written; restore a backup",
                index.current, state.current
            ),
        ));
    }
    index.sweep_all();
    for (key, lease) in index.leased() {
        leases.attach(key, 0, lease);
    }
    let sealed = sealed
        .into_iter()
        .map(|segment| {
            let position = after.partition_point(|(sequence, _)| *sequence <= segment.last);
            let revision = position.checked_sub(1).map_or(state.revision, |p| after[p].1);
            (segment, revision)
        })
        .collect();
    Ok(Recovered {
        index,
        leases,
        checkpoint,
        journal,
        sealed,
    })
}

fn deleted(revision: u64, place: u32) -> Version {
    Version {
        id: (revision, place),
        create: 0,
        lease: 0,
        value: Value::Memory(Bytes::new()),
    }
}

/// Applies one frame. The error says what is wrong with it.
fn replay(index: &mut Index, leases: &Leases, mut payload: &[u8]) -> Result<(), String> {
    let mut place = 0;
    let mut started = index.current;
    while !payload.is_empty() {
        let op = Op::decode(&mut payload).ok_or("its content does not parse")?;
        match op {
            Op::Put { revision, .. } | Op::Delete { revision, .. } => {
                if revision == started + 1 {
                    (started, place) = (revision, 0);
                } else if revision == started && index.current == started && place < u32::MAX {
                    place += 1;
                } else {
                    return Err(format!("revision {revision} follows {started}"));
                }
            }
            _ => {}
        }
        match op {
            Op::Put {
                revision,
                create,
                lease,
                key,
                value,
            } => {
                let key = Bytes::copy_from_slice(key);
                let value = Value::Memory(Bytes::copy_from_slice(value));
                index.apply(
                    &key,
                    Version {
                        id: (revision, place),
                        create,
                        lease,
                        value,
                    },
                );
            }
            Op::Delete { revision, key } => {
                let version = deleted(revision, place);
                index.apply(&Bytes::copy_from_slice(key), version);
            }
            Op::Compact { revision } => index.compact(revision),
            Op::LeaseGrant { id, ttl } => leases.insert(id, ttl),
            Op::LeaseEnd { id } => leases.remove(id),
        }
    }
    Ok(())
}
