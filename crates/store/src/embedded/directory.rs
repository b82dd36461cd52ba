//! The data directory: its version file, its lock, and durable creation of files in it.
//!
//! ```text
//! LOCK              locked while a store is open; holds the process id
//! VERSION           "keelson-store 1 <store id in hex>"
//! journal/<n>.log   the journal's segments, named by the sequence number of their first frame
//! checkpoint.redb   what the journal's removed segments said
//! ```

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::Error;

/// The format that this code reads and writes.
const FORMAT: u64 = 1;
const NAME: &str = "keelson-store";

/// An open data directory, locked until it is dropped.
pub(super) struct Directory {
    path: PathBuf,
    /// Random, part of every frame: segments of one store are never taken for another's.
    pub(super) store_id: u64,
    _lock: File,
}

impl Directory {
    /// Creates or opens the directory and locks it.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        fs::create_dir_all(path.join("journal"))
            .and_then(|()| path.canonicalize()?.parent().map_or(Ok(()), sync_directory))
            .map_err(|e| disk_error("create data directory", e))?;
        let lock = lock(path)?;
        let version = path.join("VERSION");
        let store_id = match fs::read_to_string(&version) {
            Ok(text) => parse_version(path, &text)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                if path.join("checkpoint.redb").exists() || !is_empty(&path.join("journal"))? {
                    return Err(unusable(
                        path,
                        "it holds data but its file VERSION is missing; restore the file or the directory from a backup",
                    ));
                }
                let id = u64::from_le_bytes(random_bytes()?);
                let text = format!("{NAME} {FORMAT} {id:016x}\n");
                write_durably(&version, text.as_bytes()).map_err(|e| disk_error("create VERSION", e))?;
                id
            }
            Err(e) => return Err(disk_error("read VERSION", e)),
        };
        Ok(Self {
            path: path.to_owned(),
            store_id,
            _lock: lock,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn journal(&self) -> PathBuf {
        self.path.join("journal")
    }

    pub(super) fn checkpoint(&self) -> PathBuf {
        self.path.join("checkpoint.redb")
    }
}

/// Bytes that the directory's files occupy on disk.
pub(super) fn size(path: &Path) -> io::Result<u64> {
    let mut total = 0;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let metadata = match entry.metadata() {
            Ok(metadata) => metadata,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(e),
        };
        total += if metadata.is_dir() {
            size(&entry.path())?
        } else {
            metadata.blocks() * 512
        };
    }
    Ok(total)
}

/// Makes a new directory entry durable.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// An error for a directory that cannot be used as it is.
pub(super) fn unusable(path: &Path, problem: impl Into<String>) -> Error {
    Error::Unusable {
        path: path.display().to_string(),
        problem: problem.into(),
    }
}

/// Sorts an I/O error into "disk full" and the rest.
pub(super) fn disk_error(operation: &'static str, error: io::Error) -> Error {
    if is_no_space(&error) {
        Error::NoSpace(format!("{operation}: {error}"))
    } else {
        Error::Backend {
            operation,
            source: Box::new(error),
        }
    }
}

/// Whether a write failed because there is no room (device or quota).
pub(super) fn is_no_space(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

fn is_empty(path: &Path) -> Result<bool, Error> {
    let mut entries = fs::read_dir(path).map_err(|e| disk_error("read journal directory", e))?;
    Ok(entries.next().is_none())
}

fn lock(path: &Path) -> Result<File, Error> {
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path.join("LOCK"))
        .map_err(|e| disk_error("open LOCK", e))?;
    match file.try_lock() {
        Ok(()) => {
            // The process id is a hint for the message below; a full disk must not keep the store from opening.
            let _ = file
                .set_len(0)
                .and_then(|()| file.rewind())
                .and_then(|()| write!(file, "{}", std::process::id()));
            Ok(file)
        }
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _ = file.read_to_string(&mut holder); // only for the message
            let holder = if holder.is_empty() {
                String::new()
            } else {
                format!(" (process {holder})")
            };
            Err(unusable(
                path,
                format!("another process{holder} has it open; stop that one or use another data directory"),
            ))
        }
        Err(TryLockError::Error(e)) => Err(disk_error("lock data directory", e)),
    }
}

fn parse_version(path: &Path, text: &str) -> Result<u64, Error> {
    let mut words = text.split_whitespace();
    let damaged = || {
        unusable(
            path,
            "its file VERSION is damaged; restore the directory from a backup",
        )
    };
    if words.next() != Some(NAME) {
        return Err(damaged());
    }
    let format: u64 = words.next().and_then(|w| w.parse().ok()).ok_or_else(damaged)?;
    if format > FORMAT {
        return Err(unusable(
            path,
            format!(
                "it has format {format}, written by a newer keelson; this one reads up to format {FORMAT}: use the newer \
                 keelson, or restore a backup made by this one"
            ),
        ));
    }
    words
        .next()
        .and_then(|w| u64::from_str_radix(w, 16).ok())
        .ok_or_else(damaged)
}

fn random_bytes() -> Result<[u8; 8], Error> {
    let mut bytes = [0; 8];
    File::open("/dev/urandom")
        .and_then(|mut f| f.read_exact(&mut bytes))
        .map_err(|e| disk_error("read /dev/urandom", e))?;
    Ok(bytes)
}

fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    sync_directory(path.parent().unwrap_or(Path::new(".")))
}
