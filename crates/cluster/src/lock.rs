//! One process at a time works on a data directory: the server, or a command that replaces what the server reads.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;

use crate::paths::Paths;

/// The lock cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody has it.
    #[error("another keelson works on {data}: wait until it has ended, or stop it with `keelson down`", data = data.display())]
    Held {
        /// The data directory.
        data: PathBuf,
    },
    /// The file cannot be made.
    #[error("cannot lock {path}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}

/// Held until it is dropped, or the process ends in whatever way.
#[derive(Debug)]
pub struct DataLock {
    _file: File,
}

impl DataLock {
    /// Takes the lock of a data directory, which is made if need be.
    pub fn acquire(paths: &Paths) -> Result<Self, Error> {
        let path = paths.data.join("LOCK");
        let io = |source| Error::Io {
            path: path.clone(),
            source,
        };
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&paths.data)
            .map_err(io)?;
        let file = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(io)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(Error::Held {
                data: paths.data.clone(),
            }),
            Err(TryLockError::Error(source)) => Err(io(source)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_has_it_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let paths = Paths {
            data: directory.path().join("data"),
            run: directory.path().join("run"),
        };
        let first = DataLock::acquire(&paths).unwrap();
        assert!(matches!(DataLock::acquire(&paths), Err(Error::Held { .. })));
        drop(first);
        DataLock::acquire(&paths).unwrap();
    }
}
