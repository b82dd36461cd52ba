//! A snapshot as a file.
//!
//! ```text
//! "keelson-snapshot 1\n"
//! revision, number of leases, number of keys       8 bytes each, little endian, as all numbers
//! per lease: id, seconds
//! per key: create revision, mod revision, lease or 0, key length (4 bytes), value length (4 bytes), key, value
//! SHA-256 of everything before it
//! ```

use std::io::{self, Read, Write};

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::Snapshot;
use crate::{KeyValue, LeaseId, Revision};

const MAGIC: &[u8] = b"keelson-snapshot 1\n";
/// No key or value of a store is longer.
const MAX_LENGTH: u32 = 1 << 30;

/// A snapshot file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It could not be read.
    #[error("the snapshot cannot be read")]
    Read(#[from] io::Error),
    /// It is none, or of a version that this code does not know.
    #[error("this is not a snapshot of a store that this version of keelson can read")]
    NotASnapshot,
    /// It ends too early.
    #[error("the snapshot is truncated; take another backup")]
    Truncated,
    /// Its bytes changed.
    #[error("the snapshot is damaged: its checksum does not fit; take another backup")]
    Damaged,
}

impl Snapshot {
    /// Writes the snapshot; the caller makes it durable.
    pub fn write_to(&self, out: impl Write) -> io::Result<()> {
        let mut out = Hashing::new(out);
        out.write_all(MAGIC)?;
        out.number(self.revision.0)?;
        out.number(self.leases.len() as u64)?;
        out.number(self.kvs.len() as u64)?;
        for (lease, seconds) in &self.leases {
            out.number(lease.0.cast_unsigned())?;
            out.number(*seconds)?;
        }
        for kv in &self.kvs {
            out.number(kv.create_revision.0)?;
            out.number(kv.mod_revision.0)?;
            out.number(kv.lease.map_or(0, |lease| lease.0.cast_unsigned()))?;
            out.write_all(&length(&kv.key)?.to_le_bytes())?;
            out.write_all(&length(&kv.value)?.to_le_bytes())?;
            out.write_all(&kv.key)?;
            out.write_all(&kv.value)?;
        }
        let digest = out.hash.finalize();
        out.inner.write_all(&digest)?;
        out.inner.flush()
    }

    /// Reads and checks a snapshot. Nothing of it is returned unless all of it is right.
    pub fn read_from(input: impl Read) -> Result<Self, FileError> {
        let mut input = Hashing::new(input);
        let mut magic = vec![0; MAGIC.len()];
        input.fill(&mut magic)?;
        if magic != MAGIC {
            return Err(FileError::NotASnapshot);
        }
        let (revision, leases, kvs) = (input.read_number()?, input.read_number()?, input.read_number()?);
        let mut snapshot = Self {
            revision: Revision(revision),
            // Counts are believed only as far as bytes follow.
            leases: Vec::new(),
            kvs: Vec::new(),
        };
        for _ in 0..leases {
            let lease = LeaseId(input.read_number()?.cast_signed());
            snapshot.leases.push((lease, input.read_number()?));
        }
        for _ in 0..kvs {
            let (create, modified) = (input.read_number()?, input.read_number()?);
            let lease = input.read_number()?.cast_signed();
            let (key, value) = (input.read_length()?, input.read_length()?);
            snapshot.kvs.push(KeyValue {
                key: input.read_bytes(key)?,
                value: input.read_bytes(value)?,
                create_revision: Revision(create),
                mod_revision: Revision(modified),
                lease: (lease != 0).then_some(LeaseId(lease)),
            });
        }
        let expected = input.hash.finalize_reset();
        let mut digest = [0; 32];
        input.fill(&mut digest)?;
        if digest[..] != expected[..] {
            return Err(FileError::Damaged);
        }
        Ok(snapshot)
    }
}

fn length(bytes: &Bytes) -> io::Result<u32> {
    match u32::try_from(bytes.len()) {
        Ok(length) if length <= MAX_LENGTH => Ok(length),
        _ => Err(io::Error::other("a key or value of more than 1 GiB")),
    }
}

/// Hashes what passes.
struct Hashing<T> {
    inner: T,
    hash: Sha256,
}

impl<T> Hashing<T> {
    fn new(inner: T) -> Self {
        Self {
            inner,
            hash: Sha256::new(),
        }
    }
}

impl<T: Write> Hashing<T> {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.inner.write_all(bytes)
    }

    fn number(&mut self, number: u64) -> io::Result<()> {
        self.write_all(&number.to_le_bytes())
    }
}

impl<T: Read> Hashing<T> {
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), FileError> {
        self.inner.read_exact(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => FileError::Truncated,
            _ => FileError::Read(error),
        })?;
        self.hash.update(&*bytes);
        Ok(())
    }

    fn read_number(&mut self) -> Result<u64, FileError> {
        let mut bytes = [0; 8];
        self.fill(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn read_length(&mut self) -> Result<u32, FileError> {
        let mut bytes = [0; 4];
        self.fill(&mut bytes)?;
        match u32::from_le_bytes(bytes) {
            length if length <= MAX_LENGTH => Ok(length),
            _ => Err(FileError::Damaged),
        }
    }

    fn read_bytes(&mut self, length: u32) -> Result<Bytes, FileError> {
        let mut bytes = Vec::new();
        // A wrong length must not reserve what does not follow.
        (&mut self.inner)
            .take(u64::from(length))
            .read_to_end(&mut bytes)?;
        if bytes.len() != length as usize {
            return Err(FileError::Truncated);
        }
        self.hash.update(&bytes);
        Ok(bytes.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Snapshot {
        let kv = |key: &'static str, value: &'static str, revision, lease: i64| KeyValue {
            key: Bytes::from_static(key.as_bytes()),
            value: Bytes::from_static(value.as_bytes()),
            create_revision: Revision(revision),
            mod_revision: Revision(revision + 3),
            lease: (lease != 0).then_some(LeaseId(lease)),
        };
        Snapshot {
            revision: Revision(77),
            leases: vec![(LeaseId(5), 3600), (LeaseId(i64::MAX), 1)],
            kvs: vec![kv("/a", "1", 3, 5), kv("/b", "", 9, 0)],
        }
    }

    fn written() -> Vec<u8> {
        let mut bytes = Vec::new();
        sample().write_to(&mut bytes).expect("memory takes everything");
        bytes
    }

    #[test]
    fn a_snapshot_comes_back_as_it_was() {
        assert_eq!(Snapshot::read_from(&written()[..]).expect("as written"), sample());
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let bytes = written();
        for position in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[position] ^= 1;
            let result = Snapshot::read_from(&changed[..]);
            assert!(result.is_err(), "byte {position} was changed and nobody noticed");
        }
    }

    #[test]
    fn every_truncation_is_noticed() {
        let bytes = written();
        for end in 0..bytes.len() {
            let result = Snapshot::read_from(&bytes[..end]);
            assert!(matches!(result, Err(FileError::Truncated)), "{end}: {result:?}");
        }
    }
}
