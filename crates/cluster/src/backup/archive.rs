//! The file: a tar archive.
//!
//! ```text
//! keelson-backup.json                    what it is: the Manifest
//! cluster.json                           the settings
//! pki/…                                  authorities, keys, encryption configuration
//! nodes/NAME/node.json                   the sandboxed nodes
//! nodes/NAME/var/lib/keelson/pki/…       and their identities
//! store.snapshot                         the store at one revision (keelson_store::snapshot)
//! SHA256SUMS                             of all members before it, as sha256sum writes and checks them
//! ```

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::{Component, Path};

use jiff::Timestamp;
use keelson_store::snapshot::{FileError, Snapshot};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::error::{Error, io as io_error};
use crate::settings::ClusterSettings;

/// The format that this code reads and writes.
pub(super) const FORMAT: u32 = 1;
pub(super) const MANIFEST: &str = "keelson-backup.json";
pub(super) const SETTINGS: &str = "cluster.json";
pub(super) const STORE: &str = "store.snapshot";
const SUMS: &str = "SHA256SUMS";
/// No member but the store is longer.
const MAX_MEMBER: u64 = 4 << 20;

/// What a backup says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Version of the archive's form.
    pub format: u32,
    /// Version of the keelson that made it.
    pub keelson: String,
    /// When.
    pub created: Timestamp,
    /// Where the objects were: `embedded` or `etcd`.
    pub backend: String,
    /// The store's revision.
    pub revision: u64,
    /// How many keys the store had.
    pub keys: u64,
}

/// Writes members one after the other.
pub(super) struct Writer<W: Write> {
    tar: tar::Builder<W>,
    sums: String,
    time: u64,
}

impl<W: Write> Writer<W> {
    pub(super) fn new(out: W, time: Timestamp) -> Self {
        Self {
            tar: tar::Builder::new(out),
            sums: String::new(),
            time: u64::try_from(time.as_second()).unwrap_or(0),
        }
    }

    /// Adds a member of `size` bytes.
    pub(super) fn add(&mut self, name: &str, size: u64, content: impl Read) -> io::Result<()> {
        let mut content = Hashing::new(content.take(size));
        self.append(name, size, &mut content)?;
        if content.length != size {
            return Err(io::Error::other(format!(
                "{name} became shorter while it was read"
            )));
        }
        self.sums.push_str(&format!("{}  {name}\n", content.hex()));
        Ok(())
    }

    pub(super) fn add_bytes(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        self.add(name, content.len() as u64, content)
    }

    /// Adds the checksums, and gives the file back.
    pub(super) fn finish(mut self) -> io::Result<W> {
        let sums = std::mem::take(&mut self.sums);
        self.append(SUMS, sums.len() as u64, sums.as_bytes())?;
        self.tar.into_inner()
    }

    fn append(&mut self, name: &str, size: u64, content: impl Read) -> io::Result<()> {
        let mut header = tar::Header::new_ustar();
        header.set_size(size);
        header.set_mode(0o600);
        header.set_mtime(self.time);
        self.tar.append_data(&mut header, name, content)
    }
}

/// A backup of which every byte was checked.
pub(super) struct Backup {
    pub(super) manifest: Manifest,
    pub(super) settings: ClusterSettings,
    pub(super) snapshot: Snapshot,
    /// All other members by name.
    pub(super) files: BTreeMap<String, Vec<u8>>,
    /// SHA-256 of the checksums: tells this backup from others.
    pub(super) id: String,
}

/// Reads and checks a backup. Nothing of it is returned unless all of it is right.
pub(super) fn read(path: &Path) -> Result<Backup, Error> {
    let file = File::open(path).map_err(io_error("read", path))?;
    let reading = Reading {
        path,
        sums: BTreeMap::new(),
        files: BTreeMap::new(),
        snapshot: None,
    };
    reading.all(tar::Archive::new(BufReader::with_capacity(1 << 20, file)))
}

struct Reading<'a> {
    path: &'a Path,
    /// Of what was read.
    sums: BTreeMap<String, String>,
    files: BTreeMap<String, Vec<u8>>,
    snapshot: Option<Snapshot>,
}

impl Reading<'_> {
    fn all(mut self, mut archive: tar::Archive<impl Read>) -> Result<Backup, Error> {
        let mut manifest = None;
        let mut entries = archive
            .entries()
            .map_err(|_| Error::NotABackup(self.path.into()))?;
        while let Some(entry) = entries.next() {
            let entry = entry.map_err(|error| self.broken(error, manifest.is_none()))?;
            let name = entry.path_bytes().into_owned();
            let name = String::from_utf8_lossy(&name).into_owned();
            if manifest.is_none() && name != MANIFEST {
                return Err(Error::NotABackup(self.path.into()));
            }
            if name == SUMS {
                let (sums, id) = self.text(entry, SUMS)?;
                self.check(&sums)?;
                match entries.next() {
                    None => {}
                    Some(Ok(_)) => return Err(self.damaged(format!("something follows {SUMS}"))),
                    Some(Err(error)) => return Err(self.broken(error, false)),
                }
                return self.complete(manifest, id);
            }
            if name == STORE {
                self.store(entry)?;
                continue;
            }
            let (bytes, hash) = self.member(entry, &name)?;
            if name == MANIFEST {
                manifest = Some(self.manifest(&bytes)?);
            }
            if self.sums.insert(name.clone(), hash).is_some() {
                return Err(self.damaged(format!("{name} is there twice")));
            }
            self.files.insert(name, bytes);
        }
        Err(Error::Truncated(self.path.into()))
    }

    /// Reading the archive failed; at its beginning, it may be none.
    fn broken(&self, error: io::Error, at_start: bool) -> Error {
        match error.kind() {
            io::ErrorKind::UnexpectedEof if !at_start => Error::Truncated(self.path.into()),
            _ if at_start => Error::NotABackup(self.path.into()),
            // The archive's reader has no kind of its own for a header that is cut off.
            _ if error.to_string().contains("failed to read entire block") => {
                Error::Truncated(self.path.into())
            }
            _ => self.damaged(error.to_string()),
        }
    }

    fn damaged(&self, what: String) -> Error {
        Error::Damaged {
            path: self.path.into(),
            what,
        }
    }

    fn manifest(&self, bytes: &[u8]) -> Result<Manifest, Error> {
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let wrong = |error: serde_json::Error| self.damaged(format!("{MANIFEST}: {error}"));
        let version: Version = serde_json::from_slice(bytes).map_err(wrong)?;
        if version.format > FORMAT {
            return Err(Error::Newer {
                path: self.path.into(),
                found: version.format,
                known: FORMAT,
            });
        }
        serde_json::from_slice(bytes).map_err(wrong)
    }

    /// All of a member but the store, and its hash.
    fn member(&self, entry: tar::Entry<'_, impl Read>, name: &str) -> Result<(Vec<u8>, String), Error> {
        let size = entry.size();
        if !is_known(name) || !entry.header().entry_type().is_file() || size > MAX_MEMBER {
            return Err(self.damaged(format!("{name:?} does not belong into a backup")));
        }
        let mut content = Hashing::new(entry);
        let mut bytes = Vec::new();
        content
            .read_to_end(&mut bytes)
            .map_err(|error| self.broken(error, false))?;
        if content.length != size {
            return Err(Error::Truncated(self.path.into()));
        }
        Ok((bytes, content.hex()))
    }

    fn text(&self, entry: tar::Entry<'_, impl Read>, name: &str) -> Result<(String, String), Error> {
        let (bytes, hash) = self.member(entry, name)?;
        let text = String::from_utf8(bytes).map_err(|_| self.damaged(format!("{name} is no text")))?;
        Ok((text, hash))
    }

    fn store(&mut self, entry: tar::Entry<'_, impl Read>) -> Result<(), Error> {
        let size = entry.size();
        let mut content = Hashing::new(entry);
        let snapshot = Snapshot::read_from(&mut content).map_err(|error| match error {
            FileError::Truncated if content.length < size => Error::Truncated(self.path.into()),
            FileError::Read(error) => self.broken(error, false),
            other => self.damaged(format!("{STORE}: {other}")),
        })?;
        // What follows a snapshot in its member is none of it.
        io::copy(&mut content, &mut io::sink()).map_err(|error| self.broken(error, false))?;
        self.sums.insert(STORE.to_owned(), content.hex());
        self.snapshot = Some(snapshot);
        Ok(())
    }

    /// Whether the checksums are of these members and of no others.
    fn check(&self, sums: &str) -> Result<(), Error> {
        let mut expected = BTreeMap::new();
        for line in sums.lines() {
            let line = line.split_once("  ");
            let (hash, name) = line.ok_or_else(|| self.damaged(format!("{SUMS} has another form")))?;
            expected.insert(name, hash);
        }
        for (name, hash) in &self.sums {
            if expected.remove(name.as_str()) != Some(hash) {
                return Err(self.damaged(format!("the checksum of {name} does not fit")));
            }
        }
        match expected.keys().next() {
            Some(name) => Err(self.damaged(format!("{name} is missing"))),
            None => Ok(()),
        }
    }

    fn complete(mut self, manifest: Option<Manifest>, id: String) -> Result<Backup, Error> {
        let settings = self.files.remove(SETTINGS);
        self.files.remove(MANIFEST);
        let (Some(manifest), Some(settings), Some(snapshot)) = (manifest, settings, self.snapshot.take())
        else {
            return Err(self.damaged("a member is missing".into()));
        };
        let settings = ClusterSettings::parse(&settings, self.path)?;
        Ok(Backup {
            manifest,
            settings,
            snapshot,
            files: self.files,
            id,
        })
    }
}

/// Whether a backup has members of this name. No other name is ever written to disk.
fn is_known(name: &str) -> bool {
    let path = Path::new(name);
    let mut parts = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => parts.push(part.to_string_lossy().into_owned()),
            _ => return false,
        }
    }
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    matches!(
        parts.as_slice(),
        [MANIFEST | SETTINGS | SUMS]
            | ["pki", .., _]
            | ["nodes", _, "node.json"]
            | ["nodes", _, "var", "lib", "keelson", "pki", _]
    )
}

/// Hashes what is read.
struct Hashing<R> {
    inner: R,
    hash: Sha256,
    length: u64,
}

impl<R> Hashing<R> {
    fn new(inner: R) -> Self {
        Self {
            inner,
            hash: Sha256::new(),
            length: 0,
        }
    }

    fn hex(self) -> String {
        hex::encode(self.hash.finalize())
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hash.update(&buffer[..read]);
        self.length += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use keelson_store::{KeyValue, Revision};

    use super::*;
    use crate::paths::Paths;
    use crate::settings::Requested;

    fn settings() -> ClusterSettings {
        let requested = Requested {
            node_name: Some("one".into()),
            node_ip: Some([10, 0, 0, 1].into()),
            ..Requested::default()
        };
        requested.resolve(None, &Paths::default()).unwrap()
    }

    fn written() -> Vec<u8> {
        let snapshot = Snapshot {
            revision: Revision(9),
            leases: Vec::new(),
            kvs: vec![KeyValue {
                key: Bytes::from_static(b"/registry/a"),
                value: Bytes::from_static(b"{}"),
                create_revision: Revision(3),
                mod_revision: Revision(8),
                lease: None,
            }],
        };
        let mut store = Vec::new();
        snapshot.write_to(&mut store).unwrap();
        let manifest = Manifest {
            format: FORMAT,
            keelson: "0.1.0".into(),
            created: Timestamp::UNIX_EPOCH,
            backend: "embedded".into(),
            revision: 9,
            keys: 1,
        };
        let mut writer = Writer::new(Vec::new(), Timestamp::UNIX_EPOCH);
        for (name, content) in [
            (MANIFEST, serde_json::to_vec(&manifest).unwrap()),
            (SETTINGS, serde_json::to_vec(&settings()).unwrap()),
            ("pki/ca.key", b"key".to_vec()),
            (STORE, store),
        ] {
            writer.add_bytes(name, &content).unwrap();
        }
        writer.finish().unwrap()
    }

    fn read_bytes(bytes: &[u8]) -> Result<Backup, Error> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        read(file.path())
    }

    #[test]
    fn what_was_written_is_read() {
        let backup = read_bytes(&written()).unwrap();
        assert_eq!(backup.settings, settings());
        assert_eq!(backup.snapshot.revision, Revision(9));
        assert_eq!(backup.files.keys().collect::<Vec<_>>(), ["pki/ca.key"]);
    }

    #[test]
    fn no_truncated_backup_is_taken() {
        let bytes = written();
        // Two blocks of zeros end an archive, and have nothing in them.
        for end in (0..bytes.len() - 1024).step_by(97) {
            let Err(error) = read_bytes(&bytes[..end]) else {
                panic!("the first {end} of {} bytes are taken for a backup", bytes.len());
            };
            let expected = matches!(error, Error::Truncated(_))
                || (end < 1024 && matches!(error, Error::NotABackup(_)))
                || (end < bytes.len() && matches!(error, Error::Damaged { .. }));
            assert!(expected, "{end}: {error}");
        }
    }

    /// A change is noticed, or it is one of bytes that mean nothing: padding, or a header's spelling.
    #[test]
    fn no_changed_content_is_taken() {
        let bytes = written();
        for position in (0..bytes.len()).step_by(13) {
            let mut changed = bytes.clone();
            changed[position] ^= 1;
            if let Ok(backup) = read_bytes(&changed) {
                assert_eq!(backup.files["pki/ca.key"], b"key", "byte {position}");
                assert_eq!(backup.settings, settings(), "byte {position}");
                assert_eq!(backup.manifest.revision, 9, "byte {position}");
                assert_eq!(backup.snapshot.kvs.len(), 1, "byte {position}");
            }
        }
    }

    #[test]
    fn names_from_elsewhere_are_refused() {
        for (name, known) in [
            ("pki/ca.key", true),
            ("nodes/one-2/node.json", true),
            ("nodes/one-2/var/lib/keelson/pki/kubelet.key", true),
            ("pki", false),
            ("pki/../../etc/passwd", false),
            ("/etc/passwd", false),
            ("nodes/../node.json", false),
            ("nodes/a/var/lib/other", false),
            ("LOCK", false),
        ] {
            assert_eq!(is_known(name), known, "{name}");
        }
    }
}
