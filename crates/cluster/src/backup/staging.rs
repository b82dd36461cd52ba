//! Replacing parts of a data directory so that it is the old one or the new one whatever happens.
//!
//! The new parts are made below `replace.new`, all of them, and reach the disk. Renaming that directory to `replace` is the
//! decision. Then each part is moved to its place, which can be repeated until nothing is left.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::{Error, io as io_error};
use crate::lock::DataLock;
use crate::paths::Paths;

const NEW: &str = "replace.new";
const DECIDED: &str = "replace";
const PLAN: &str = "plan.json";
const FILES: &str = "files";

/// What is replaced, as paths below the data directory.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Plan {
    /// What it comes from.
    pub(super) id: String,
    /// Taken away first.
    pub(super) remove: Vec<PathBuf>,
    /// Put there in place of what is there.
    pub(super) replace: Vec<PathBuf>,
}

/// New parts of a data directory that nothing uses yet.
pub(super) struct Staging {
    data: PathBuf,
}

impl Staging {
    /// Begins anew: what an interrupted one left is deleted. The caller holds the lock.
    pub(super) fn begin(paths: &Paths, _lock: &DataLock) -> Result<Self, Error> {
        let staging = Self {
            data: paths.data.clone(),
        };
        let new = staging.data.join(NEW);
        remove(&new)?;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(new.join(FILES))
            .map_err(io_error("make", &new))?;
        Ok(staging)
    }

    /// Where a part is made; the directory above it is there.
    pub(super) fn place(&self, part: &Path) -> Result<PathBuf, Error> {
        let place = self.data.join(NEW).join(FILES).join(part);
        make_parent(&place)?;
        Ok(place)
    }

    /// Makes a part that is a file.
    pub(super) fn write(&self, part: &Path, content: &[u8], mode: u32) -> Result<(), Error> {
        let place = self.place(part)?;
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&place)
            .map_err(io_error("write", &place))?;
        io::Write::write_all(&mut file, content).map_err(io_error("write", &place))
    }

    /// Decides, and moves everything to its place.
    pub(super) fn commit(self, plan: &Plan, lock: &DataLock) -> Result<(), Error> {
        let (new, decided) = (self.data.join(NEW), self.data.join(DECIDED));
        let path = new.join(PLAN);
        let bytes = serde_json::to_vec(plan).map_err(|source| Error::Plan {
            path: path.clone(),
            source,
        })?;
        fs::write(&path, bytes).map_err(io_error("write", &path))?;
        sync_tree(&new).map_err(io_error("write", &new))?;
        fs::rename(&new, &decided).map_err(io_error("write", &decided))?;
        sync(&self.data).map_err(io_error("write", &self.data))?;
        finish(&self.data, lock)?;
        Ok(())
    }
}

/// Completes a restore or migration that was interrupted after its decision; the plan's id if there was one.
///
/// Fails when the command that it belongs to still runs.
pub fn resume(paths: &Paths) -> Result<Option<String>, Error> {
    if !paths.data.join(DECIDED).exists() {
        return Ok(None);
    }
    let lock = DataLock::acquire(paths)?;
    finish(&paths.data, &lock)
}

/// As [`resume`], for who has the lock.
pub(super) fn finish(data: &Path, _lock: &DataLock) -> Result<Option<String>, Error> {
    let decided = data.join(DECIDED);
    let path = decided.join(PLAN);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error("read", &path)(error)),
    };
    let plan: Plan = serde_json::from_slice(&bytes).map_err(|source| Error::Plan {
        path: path.clone(),
        source,
    })?;
    for part in &plan.remove {
        remove(&data.join(part))?;
    }
    for part in &plan.replace {
        let (from, to) = (decided.join(FILES).join(part), data.join(part));
        if from.symlink_metadata().is_err() {
            // Moved before an interruption.
            continue;
        }
        remove(&to)?;
        make_parent(&to)?;
        fs::rename(&from, &to).map_err(io_error("write", &to))?;
        if let Some(parent) = to.parent() {
            sync(parent).map_err(io_error("write", parent))?;
        }
    }
    sync(data).map_err(io_error("write", data))?;
    // The plan goes last but for its directories: without it there is nothing to repeat.
    remove(&decided.join(FILES))?;
    remove(&path)?;
    remove(&decided)?;
    Ok(Some(plan.id))
}

fn make_parent(path: &Path) -> Result<(), Error> {
    match path.parent() {
        Some(parent) => fs::create_dir_all(parent).map_err(io_error("make", parent)),
        None => Ok(()),
    }
}

/// Removes a file or a directory with all in it; there need be none.
fn remove(path: &Path) -> Result<(), Error> {
    let removed = match path.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(io_error("delete", path)),
    }
}

fn sync(path: &Path) -> io::Result<()> {
    fs::File::open(path)?.sync_all()
}

fn sync_tree(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        } else {
            sync(&entry.path())?;
        }
    }
    sync(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A data directory with `a/old`, `b` and `c`; the plan replaces `a` and `b`, and removes `c`.
    struct Case {
        _directory: tempfile::TempDir,
        paths: Paths,
        lock: DataLock,
    }

    impl Case {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let paths = Paths {
                data: directory.path().join("data"),
                run: directory.path().join("run"),
            };
            fs::create_dir_all(paths.data.join("a")).unwrap();
            for file in ["a/old", "b", "c"] {
                fs::write(paths.data.join(file), "old").unwrap();
            }
            let lock = DataLock::acquire(&paths).unwrap();
            Self {
                _directory: directory,
                paths,
                lock,
            }
        }

        fn staged(&self) -> Staging {
            let staging = Staging::begin(&self.paths, &self.lock).unwrap();
            staging.write(Path::new("a/new"), b"new", 0o600).unwrap();
            staging.write(Path::new("b"), b"new", 0o600).unwrap();
            staging
        }

        fn plan() -> Plan {
            Plan {
                id: "x".into(),
                remove: vec!["c".into()],
                replace: vec!["a".into(), "b".into()],
            }
        }

        fn is_old(&self) -> bool {
            let read = |file: &str| fs::read_to_string(self.paths.data.join(file)).unwrap_or_default();
            [read("a/old"), read("b"), read("c")] == ["old", "old", "old"]
        }

        fn is_new(&self) -> bool {
            let data = &self.paths.data;
            let read = |file: &str| fs::read_to_string(data.join(file)).unwrap_or_default();
            let gone = |file: &str| !data.join(file).exists();
            [read("a/new"), read("b")] == ["new", "new"]
                && ["a/old", "c", NEW, DECIDED].iter().all(|file| gone(file))
        }
    }

    #[test]
    fn a_commit_replaces_all() {
        let case = Case::new();
        case.staged().commit(&Case::plan(), &case.lock).unwrap();
        assert!(case.is_new());
        assert_eq!(finish(&case.paths.data, &case.lock).unwrap(), None);
    }

    #[test]
    fn before_the_decision_nothing_changes() {
        let case = Case::new();
        drop(case.staged());
        assert_eq!(finish(&case.paths.data, &case.lock).unwrap(), None);
        assert!(case.is_old());
        // And the next one begins anew.
        case.staged().commit(&Case::plan(), &case.lock).unwrap();
        assert!(case.is_new());
    }

    /// Whatever was done of the move when it was interrupted, the next command does the rest.
    #[test]
    fn after_the_decision_the_rest_is_done() {
        let interruptions: [&dyn Fn(&Path); 6] = [
            &|_| {},
            &|data| fs::remove_file(data.join("c")).unwrap(),
            &|data| fs::remove_dir_all(data.join("a")).unwrap(),
            &|data| {
                fs::remove_dir_all(data.join("a")).unwrap();
                fs::rename(data.join("replace/files/a"), data.join("a")).unwrap();
            },
            &|data| fs::remove_file(data.join("b")).unwrap(),
            &|data| {
                for (part, remove) in [
                    ("a", fs::remove_dir_all as fn(PathBuf) -> _),
                    ("b", fs::remove_file),
                ] {
                    remove(data.join(part)).unwrap();
                    fs::rename(data.join("replace/files").join(part), data.join(part)).unwrap();
                }
                fs::remove_dir_all(data.join("replace/files")).unwrap();
            },
        ];
        for (number, interrupt) in interruptions.iter().enumerate() {
            let case = Case::new();
            let staging = case.staged();
            let data = &case.paths.data;
            let plan = serde_json::to_vec(&Case::plan()).unwrap();
            fs::write(staging.data.join(NEW).join(PLAN), plan).unwrap();
            fs::rename(data.join(NEW), data.join(DECIDED)).unwrap();
            interrupt(data);
            assert!(
                matches!(resume(&case.paths), Err(Error::Lock(_))),
                "it still runs"
            );
            let Case {
                _directory,
                paths,
                lock,
            } = case;
            drop(lock);
            assert_eq!(resume(&paths).unwrap().as_deref(), Some("x"));
            let lock = DataLock::acquire(&paths).unwrap();
            let case = Case {
                _directory,
                paths,
                lock,
            };
            // The removed part is gone or was not there.
            assert!(case.is_new(), "interruption {number}");
        }
    }
}
