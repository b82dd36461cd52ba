//! The multi-version index in memory: every key with its versions down to the compaction mark.
//!
//! Newest values are in memory. A superseded value is too until the checkpoint has it; after that it is read from there.
//! The committer is the only writer; readers clone reference-counted bytes under a short lock.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::{Error, KeyValue, LeaseId, Revision};

/// Names a version on disk: its revision and its place within the revision.
pub(super) type VersionId = (u64, u32);

#[derive(Clone, Debug)]
pub(super) enum Value {
    Memory(Bytes),
    /// In the checkpoint, under the version's id.
    Disk,
}

#[derive(Clone, Debug)]
pub(super) struct Version {
    pub(super) id: VersionId,
    /// 0 marks a deletion.
    pub(super) create: u64,
    pub(super) lease: i64,
    pub(super) value: Value,
}

impl Version {
    pub(super) fn is_deletion(&self) -> bool {
        self.create == 0
    }
}

/// A version found by a read; its value may still have to be fetched from the checkpoint.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) key: Bytes,
    pub(super) version: Version,
}

impl Found {
    /// The key-value pair, `fetch` supplying a value that is not in memory (`None` when it was purged meanwhile).
    pub(super) fn resolve(
        self,
        fetch: &mut impl FnMut(VersionId) -> Result<Option<Bytes>, Error>,
    ) -> Result<Option<KeyValue>, Error> {
        let value = match self.version.value {
            Value::Memory(bytes) => bytes,
            Value::Disk => match fetch(self.version.id)? {
                Some(bytes) => bytes,
                None => return Ok(None),
            },
        };
        Ok(Some(KeyValue {
            key: self.key,
            value,
            create_revision: Revision(self.version.create),
            mod_revision: Revision(self.version.id.0),
            lease: (self.version.lease != 0).then_some(LeaseId(self.version.lease)),
        }))
    }

    /// As `resolve` for a version that is known to be in memory.
    pub(super) fn in_memory(self) -> Option<KeyValue> {
        self.resolve(&mut |_| Ok(None)).ok().flatten()
    }

    pub(super) fn needs_disk(&self) -> bool {
        matches!(self.version.value, Value::Disk)
    }
}

/// One historical change: the version it made (or the deletion) and the version before.
pub(super) struct Change {
    pub(super) found: Found,
    pub(super) previous: Option<Found>,
}

/// A part of history for a watcher that is behind.
pub(super) struct History {
    pub(super) changes: Vec<Change>,
    /// Everything up to this revision is in `changes` or before it.
    pub(super) through: u64,
}

/// What a range read found.
pub(super) struct Scan {
    pub(super) found: Vec<Found>,
    pub(super) count: usize,
}

#[derive(Default)]
pub(super) struct Index {
    keys: BTreeMap<Bytes, SmallVec<[Version; 1]>>,
    /// Every change after the older of the compaction mark and the checkpoint, in order.
    log: VecDeque<(VersionId, Bytes)>,
    pub(super) current: u64,
    pub(super) compacted: u64,
    /// Changes up to here are still to be swept for versions that the compaction mark made superfluous.
    swept: u64,
    /// Versions up to here are in the checkpoint.
    pub(super) checkpointed: u64,
    /// Versions up to here are in the checkpoint or in a checkpoint being written.
    pub(super) checkpointing: u64,
    /// Versions in the checkpoint that are no longer needed, older before newer.
    pub(super) purge: VecDeque<VersionId>,
}

impl Index {
    /// An index that is being filled from the checkpoint, until [`Index::set_loaded`]: all that it gets is there already.
    pub(super) fn loading() -> Self {
        Self {
            checkpointed: u64::MAX,
            ..Self::default()
        }
    }

    /// The newest version of a key, if the key exists.
    pub(super) fn latest(&self, key: &[u8]) -> Option<Found> {
        let (key, versions) = self.keys.get_key_value(key)?;
        let version = versions.last()?;
        (!version.is_deletion()).then(|| Found {
            key: key.clone(),
            version: version.clone(),
        })
    }

    /// Checks that a read at `revision` is possible and returns the revision to read at.
    pub(super) fn readable(&self, revision: Option<Revision>) -> Result<u64, Error> {
        let Some(requested) = revision else {
            return Ok(self.current);
        };
        if requested.0 < self.compacted {
            return Err(Error::Compacted {
                requested,
                compacted: Revision(self.compacted),
            });
        }
        if requested.0 > self.current {
            return Err(Error::FutureRevision {
                requested,
                current: Revision(self.current),
            });
        }
        Ok(requested.0)
    }

    pub(super) fn get(&self, key: &[u8], at: u64) -> Option<Found> {
        let (key, versions) = self.keys.get_key_value(key)?;
        visible(versions, at).map(|version| Found {
            key: key.clone(),
            version: version.clone(),
        })
    }

    /// Keys in `[start, end)` as of `at`: up to `limit` of them (0: all, and only a count when `count_only`), and how many
    /// there are.
    pub(super) fn scan(
        &self,
        start: &Bytes,
        end: &Bound<Bytes>,
        at: u64,
        limit: usize,
        count_only: bool,
    ) -> Scan {
        let mut scan = Scan {
            found: Vec::new(),
            count: 0,
        };
        if let Bound::Excluded(end) | Bound::Included(end) = end
            && end < start
        {
            return scan;
        }
        if matches!(end, Bound::Excluded(end) if end == start) {
            return scan;
        }
        for (key, versions) in self
            .keys
            .range::<Bytes, _>((Bound::Included(start), end.as_ref()))
        {
            let Some(version) = visible(versions, at) else {
                continue;
            };
            if !count_only && (limit == 0 || scan.count < limit) {
                scan.found.push(Found {
                    key: key.clone(),
                    version: version.clone(),
                });
            }
            scan.count += 1;
        }
        scan
    }

    /// Adds a version. Its revision is the newest, or the same as the newest with a higher place.
    pub(super) fn apply(&mut self, key: &Bytes, version: Version) {
        self.current = version.id.0;
        let checkpointed = self.checkpointed;
        // The index keeps one copy of each key: the one it already has.
        let shared = match self.keys.get_key_value(key) {
            Some((shared, _)) => shared.clone(),
            None => key.clone(),
        };
        self.log.push_back((version.id, shared.clone()));
        let versions = self.keys.entry(shared).or_default();
        if let Some(last) = versions.last_mut()
            && last.id.0 <= checkpointed
            && !last.is_deletion()
        {
            last.value = Value::Disk;
        }
        versions.push(version);
    }

    /// Changes from revision `from` to `through` to keys under `prefix`, whole revisions, about `limit` of them. `None` when
    /// `from` is at or below the compaction mark.
    pub(super) fn history(&self, prefix: &[u8], from: u64, through: u64, limit: usize) -> Option<History> {
        if from <= self.compacted {
            return None;
        }
        const SCAN_LIMIT: usize = 16_384;
        let start = self.log.partition_point(|((revision, _), _)| *revision < from);
        let mut history = History {
            changes: Vec::new(),
            through: from - 1,
        };
        for (scanned, ((revision, place), key)) in self.log.range(start..).enumerate() {
            if *revision > through {
                break;
            }
            let starts_revision = *revision > history.through;
            if starts_revision && (history.changes.len() >= limit || scanned >= SCAN_LIMIT) {
                return Some(history);
            }
            history.through = *revision;
            if !key.starts_with(prefix) {
                continue;
            }
            let Some(versions) = self.keys.get(key) else {
                continue;
            };
            let position = versions.partition_point(|v| v.id < (*revision, *place));
            let Some(version) = versions.get(position) else {
                continue;
            };
            let previous = position
                .checked_sub(1)
                .map(|p| &versions[p])
                .filter(|v| !v.is_deletion());
            let found = |version: &Version| Found {
                key: key.clone(),
                version: version.clone(),
            };
            history.changes.push(Change {
                found: found(version),
                previous: previous.map(found),
            });
        }
        history.through = through.max(history.through);
        Some(history)
    }

    /// Moves the compaction mark. Versions go with [`Index::sweep`].
    pub(super) fn compact(&mut self, mark: u64) {
        self.compacted = self.compacted.max(mark);
    }

    /// Drops versions that the mark made superfluous, for about `limit` changes; false when there is nothing left to do.
    pub(super) fn sweep(&mut self, limit: usize) -> bool {
        if self.swept >= self.compacted {
            return false;
        }
        let start = self
            .log
            .partition_point(|((revision, _), _)| *revision <= self.swept);
        let mut keys = Vec::new();
        let mut reached = self.swept;
        let mut complete = true;
        for ((revision, _), key) in self.log.range(start..) {
            if *revision > self.compacted {
                break;
            }
            if keys.len() >= limit && *revision > reached {
                complete = false;
                break;
            }
            reached = *revision;
            keys.push(key.clone());
        }
        if complete {
            reached = self.compacted;
        }
        let mut purge = Vec::new();
        for key in keys {
            self.sweep_key(&key, &mut purge);
        }
        purge.sort_unstable();
        self.purge.extend(purge);
        self.swept = reached;
        self.trim_log();
        self.swept < self.compacted
    }

    /// Sweeps every key; for a freshly loaded index, whose log does not reach back to the mark.
    pub(super) fn sweep_all(&mut self) {
        let mut purge = Vec::new();
        let keys: Vec<Bytes> = self
            .keys
            .iter()
            .filter(|(_, v)| v.len() > 1 || v[0].is_deletion())
            .map(|(k, _)| k.clone())
            .collect();
        for key in keys {
            self.sweep_key(&key, &mut purge);
        }
        purge.sort_unstable();
        self.purge.extend(purge);
        self.swept = self.compacted;
        self.trim_log();
    }

    fn sweep_key(&mut self, key: &Bytes, purge: &mut Vec<VersionId>) {
        let Some(versions) = self.keys.get_mut(key) else {
            return;
        };
        let below = versions.partition_point(|v| v.id.0 <= self.compacted);
        let Some(newest) = below.checked_sub(1) else {
            return;
        };
        let gone = if versions[newest].is_deletion() {
            below
        } else {
            newest
        };
        let on_disk = self.checkpointing;
        purge.extend(versions.drain(..gone).map(|v| v.id).filter(|id| id.0 <= on_disk));
        if versions.is_empty() {
            self.keys.remove(key);
        } else if versions.len() == 1 {
            versions.shrink_to_fit();
        }
    }

    fn trim_log(&mut self) {
        let keep_after = self.swept.min(self.checkpointed);
        while self
            .log
            .front()
            .is_some_and(|((revision, _), _)| *revision <= keep_after)
        {
            self.log.pop_front();
        }
        if self.log.capacity() > 4096 && self.log.len() < self.log.capacity() / 4 {
            self.log.shrink_to(self.log.len() * 2);
        }
    }

    /// The versions after the checkpoint, up to and with revision `through`, that are still needed.
    pub(super) fn uncheckpointed(&self, through: u64) -> Vec<Found> {
        let start = self
            .log
            .partition_point(|((revision, _), _)| *revision <= self.checkpointed);
        let end = self
            .log
            .partition_point(|((revision, _), _)| *revision <= through);
        let mut found = Vec::new();
        for (id, key) in self.log.range(start..end) {
            let Some(versions) = self.keys.get(key) else {
                continue;
            };
            if let Ok(position) = versions.binary_search_by_key(id, |v| v.id) {
                found.push(Found {
                    key: key.clone(),
                    version: versions[position].clone(),
                });
            }
        }
        found
    }

    /// The checkpoint now has everything up to `through`: superseded values leave memory.
    pub(super) fn set_checkpointed(&mut self, through: u64) {
        let start = self
            .log
            .partition_point(|((revision, _), _)| *revision <= self.checkpointed);
        let end = self
            .log
            .partition_point(|((revision, _), _)| *revision <= through);
        for (_, key) in self.log.range(start..end) {
            let Some((_, superseded)) = self.keys.get_mut(key).and_then(|v| v.split_last_mut()) else {
                continue;
            };
            for version in superseded
                .iter_mut()
                .filter(|v| v.id.0 <= through && !v.is_deletion())
            {
                version.value = Value::Disk;
            }
        }
        self.checkpointed = through;
        self.checkpointing = through;
        self.trim_log();
    }

    /// The index was filled from a checkpoint that covers everything up to `through`.
    pub(super) fn set_loaded(&mut self, through: u64) {
        self.checkpointed = through;
        self.checkpointing = through;
        self.swept = self.compacted;
        self.log.retain(|((revision, _), _)| *revision > self.swept);
    }

    /// Key and lease of every key that exists and is attached to a lease.
    pub(super) fn leased(&self) -> impl Iterator<Item = (&Bytes, i64)> {
        self.keys.iter().filter_map(|(key, versions)| {
            let version = versions.last()?;
            (!version.is_deletion() && version.lease != 0).then_some((key, version.lease))
        })
    }
}

fn visible(versions: &[Version], at: u64) -> Option<&Version> {
    let position = versions.partition_point(|v| v.id.0 <= at);
    versions[..position].last().filter(|v| !v.is_deletion())
}
