//! Making a data directory of a snapshot.

use std::path::Path;

use crate::Error;
use crate::embedded::Options;
use crate::embedded::checkpoint::{Checkpoint, State, Update};
use crate::embedded::directory::{Directory, unusable};
use crate::embedded::index::{Found, Value, Version};
use crate::snapshot::Snapshot;

/// Makes the store in `path` be `snapshot`: same keys, same revisions, compacted at its revision. Blocks.
///
/// The directory must not hold data: `Error::Unusable` otherwise. After an error, or when the process ends meanwhile, it
/// holds nothing but an empty store.
pub fn load(path: &Path, snapshot: &Snapshot) -> Result<(), Error> {
    let directory = Directory::open(path)?;
    let in_use = directory.checkpoint().exists()
        || std::fs::read_dir(directory.journal())
            .map_err(|error| super::directory::disk_error("read journal directory", error))?
            .next()
            .is_some();
    if in_use {
        return Err(unusable(
            path,
            "it holds data; a snapshot is loaded into an empty directory only",
        ));
    }
    let mut kvs: Vec<_> = snapshot.kvs.iter().collect();
    kvs.sort_by_key(|kv| kv.mod_revision);
    let mut records: Vec<Found> = Vec::with_capacity(kvs.len());
    for kv in kvs {
        let place = match records.last() {
            Some(last) if last.version.id.0 == kv.mod_revision.0 => last.version.id.1 + 1,
            _ => 0,
        };
        records.push(Found {
            key: kv.key.clone(),
            version: Version {
                id: (kv.mod_revision.0, place),
                create: kv.create_revision.0,
                lease: kv.lease.map_or(0, |lease| lease.0),
                value: Value::Memory(kv.value.clone()),
            },
        });
    }
    let revision = snapshot.revision.0;
    let update = Update {
        state: State {
            store_id: directory.store_id,
            sequence: 0,
            revision,
            compacted: revision,
            current: revision,
        },
        records,
        purge: Vec::new(),
        leases: snapshot
            .leases
            .iter()
            .map(|(lease, ttl)| (lease.0, *ttl))
            .collect(),
    };
    let checkpoint = Checkpoint::new(directory.checkpoint(), Options::default().checkpoint_cache_bytes);
    checkpoint.write(&update)?;
    checkpoint.close();
    Ok(())
}
