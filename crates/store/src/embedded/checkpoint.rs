//! The checkpoint: a redb database with every version that removed journal segments made and that is still needed.
//!
//! Written in one transaction per journal segment, always as of one state of the index, so that the checkpoint together with
//! the journal behind it is a whole store at any moment.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use crate::Error;
use crate::embedded::directory::{disk_error, is_no_space, sync_directory, unusable};
use crate::embedded::index::{Found, Value, VersionId};
use crate::embedded::record::Op;

/// Version id to CRC-32 and operation.
const RECORDS: TableDefinition<'_, VersionId, &[u8]> = TableDefinition::new("records");
/// Lease id to time in seconds.
const LEASES: TableDefinition<'_, i64, u64> = TableDefinition::new("leases");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

/// Numbers that belong to a checkpoint.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct State {
    /// The store that it belongs to.
    pub(super) store_id: u64,
    /// Last journal frame that it covers.
    pub(super) sequence: u64,
    /// Revision after that frame.
    pub(super) revision: u64,
    /// Compaction mark when it was written.
    pub(super) compacted: u64,
    /// Newest revision when it was written; at least this much must come back on opening.
    pub(super) current: u64,
}

/// What one checkpoint adds and removes.
pub(super) struct Update {
    pub(super) state: State,
    pub(super) records: Vec<Found>,
    pub(super) purge: Vec<VersionId>,
    pub(super) leases: Vec<(i64, u64)>,
}

/// The checkpoint database, opened when first needed.
pub(super) struct Checkpoint {
    path: PathBuf,
    cache_bytes: usize,
    database: Mutex<Handle>,
    /// Held shared by every use, exclusively by closing, which waits for them.
    uses: RwLock<()>,
}

enum Handle {
    Unopened,
    Open(Arc<Database>),
    Closed,
}

impl Checkpoint {
    pub(super) fn new(path: PathBuf, cache_bytes: usize) -> Self {
        Self {
            path,
            cache_bytes,
            database: Mutex::new(Handle::Unopened),
            uses: RwLock::new(()),
        }
    }

    /// Reads everything, records in revision order. `None` when there is no checkpoint yet.
    pub(super) fn load(
        &self,
        directory: &Path,
        mut record: impl FnMut(VersionId, Op<'_>) -> Result<(), Error>,
        mut lease: impl FnMut(i64, u64),
    ) -> Result<Option<State>, Error> {
        if !self.path.exists() {
            return Ok(None);
        }
        let damaged = |e: redb::Error| match e {
            redb::Error::Io(e) if is_no_space(&e) => disk_error("open checkpoint", e),
            e => unusable(
                directory,
                format!("checkpoint.redb is damaged ({e}); restore a backup"),
            ),
        };
        let database = self.database().map_err(damaged)?;
        let transaction = database.begin_read().map_err(|e| damaged(e.into()))?;
        let meta = match transaction.open_table(META) {
            Ok(meta) => meta,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None), // made, but nothing committed yet
            Err(e) => return Err(damaged(e.into())),
        };
        let number = |name: &str| -> Result<u64, Error> {
            match meta.get(name).map_err(|e| damaged(e.into()))? {
                Some(value) => Ok(value.value()),
                None => Err(unusable(
                    directory,
                    format!("checkpoint.redb lacks {name}; restore a backup"),
                )),
            }
        };
        let state = State {
            store_id: number("store_id")?,
            sequence: number("sequence")?,
            revision: number("revision")?,
            compacted: number("compacted")?,
            current: number("current")?,
        };
        let records = transaction.open_table(RECORDS).map_err(|e| damaged(e.into()))?;
        for entry in records.iter().map_err(|e| damaged(e.into()))? {
            let (id, bytes) = entry.map_err(|e| damaged(e.into()))?;
            let id = id.value();
            let op = decode(bytes.value()).ok_or_else(|| {
                unusable(
                    directory,
                    format!(
                        "checkpoint.redb is damaged at revision {}; restore a backup",
                        id.0
                    ),
                )
            })?;
            record(id, op)?;
        }
        let leases = transaction.open_table(LEASES).map_err(|e| damaged(e.into()))?;
        for entry in leases.iter().map_err(|e| damaged(e.into()))? {
            let (id, ttl) = entry.map_err(|e| damaged(e.into()))?;
            lease(id.value(), ttl.value());
        }
        Ok(Some(state))
    }

    /// The value of one version; `None` when it was purged.
    pub(super) fn fetch(&self, id: VersionId) -> Result<Option<Bytes>, Error> {
        let _use = self.uses.read();
        let read = || -> Result<Option<Result<Bytes, Error>>, redb::Error> {
            let transaction = self.database()?.begin_read()?;
            let records = transaction.open_table(RECORDS)?;
            let Some(bytes) = records.get(id)? else {
                return Ok(None);
            };
            Ok(Some(match decode(bytes.value()) {
                Some(Op::Put { value, .. }) => Ok(Bytes::copy_from_slice(value)),
                _ => Err(Error::Backend {
                    operation: "read checkpoint",
                    source: format!("revision {} is damaged in {}", id.0, self.path.display()).into(),
                }),
            }))
        };
        read().map_err(|e| backend("read checkpoint", e))?.transpose()
    }

    /// Makes one update durable. After an error nothing of it has happened.
    pub(super) fn write(&self, update: &Update) -> Result<(), Error> {
        let _use = self.uses.read();
        let result = self.try_write(update);
        if result.is_err() {
            // redb refuses to go on after an I/O error; the next use opens it afresh.
            let mut handle = self.database.lock();
            if matches!(*handle, Handle::Open(_)) {
                *handle = Handle::Unopened;
            }
        }
        result.map_err(|e| backend("write checkpoint", e))
    }

    fn try_write(&self, update: &Update) -> Result<(), redb::Error> {
        let database = self.database()?;
        let transaction = database.begin_write()?;
        {
            let mut records = transaction.open_table(RECORDS)?;
            let mut bytes = Vec::new();
            for found in &update.records {
                encode(found, &mut bytes);
                records.insert(found.version.id, bytes.as_slice())?;
            }
            for id in &update.purge {
                records.remove(*id)?;
            }
            let mut leases = transaction.open_table(LEASES)?;
            let wanted: HashSet<i64> = update.leases.iter().map(|(id, _)| *id).collect();
            leases.retain(|id, _| wanted.contains(&id))?;
            for (id, ttl) in &update.leases {
                leases.insert(*id, *ttl)?;
            }
            let mut meta = transaction.open_table(META)?;
            meta.insert("store_id", update.state.store_id)?;
            meta.insert("sequence", update.state.sequence)?;
            meta.insert("revision", update.state.revision)?;
            meta.insert("compacted", update.state.compacted)?;
            meta.insert("current", update.state.current)?;
        }
        transaction.commit()?;
        Ok(())
    }

    /// Closes the database file for good, after waiting for whoever uses it.
    pub(super) fn close(&self) {
        let _uses = self.uses.write();
        *self.database.lock() = Handle::Closed;
    }

    fn database(&self) -> Result<Arc<Database>, redb::Error> {
        let mut handle = self.database.lock();
        match &*handle {
            Handle::Open(database) => return Ok(database.clone()),
            Handle::Closed => return Err(redb::Error::DatabaseClosed),
            Handle::Unopened => {}
        }
        let is_new = !self.path.exists();
        // The check makes a damaged file an error; without it redb may panic. It writes, which a full disk prevents: then
        // the records' own checksums have to do.
        let mut builder = Database::builder();
        builder.set_cache_size(self.cache_bytes);
        let opened = match builder
            .set_check_integrity_on_open(true)
            .create(&self.path)
            .map_err(redb::Error::from)
        {
            Err(redb::Error::Io(e)) if is_no_space(&e) => {
                builder.set_check_integrity_on_open(false).create(&self.path)?
            }
            opened => opened?,
        };
        if is_new && let Some(folder) = self.path.parent() {
            sync_directory(folder)?; // before the first journal segment is removed
        }
        let database = Arc::new(opened);
        *handle = Handle::Open(database.clone());
        Ok(database)
    }
}

fn backend(operation: &'static str, error: redb::Error) -> Error {
    match error {
        redb::Error::Io(e) => disk_error(operation, e),
        e => Error::Backend {
            operation,
            source: Box::new(e),
        },
    }
}

fn encode(found: &Found, out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(&[0; 4]);
    let version = &found.version;
    let op = match &version.value {
        Value::Memory(value) if !version.is_deletion() => Op::Put {
            revision: version.id.0,
            create: version.create,
            lease: version.lease,
            key: &found.key,
            value,
        },
        _ => Op::Delete {
            revision: version.id.0,
            key: &found.key,
        },
    };
    op.encode(out);
    let crc = crc32fast::hash(&out[4..]);
    out[..4].copy_from_slice(&crc.to_le_bytes());
}

fn decode(bytes: &[u8]) -> Option<Op<'_>> {
    let (crc, mut rest) = bytes.split_first_chunk::<4>()?;
    if crc32fast::hash(rest) != u32::from_le_bytes(*crc) {
        return None;
    }
    let op = Op::decode(&mut rest)?;
    rest.is_empty().then_some(op)
}
