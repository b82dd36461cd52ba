//! Sub-paths of volumes, resolved so that no link inside the volume can lead out of it: the path is opened below the volume's
//! root with the kernel's help, and the open file, not the name, is bound to a place of the kubelet's own.

use std::os::fd::AsRawFd;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags, mkdirat, openat, openat2};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, mount_bind, unmount};

use super::mount_table;

/// A sub-path cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("subPath {0:?} must be relative and must not contain '..'")]
    Invalid(PathBuf),
    #[error("failed to prepare subPath {path:?} of volume")]
    Resolve {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

/// Makes `sub_path` of `volume` available at `place` and returns the path to mount. A missing directory is made.
pub(crate) fn prepare(volume: &Path, sub_path: &Path, place: &Path) -> Result<PathBuf, Error> {
    let valid = sub_path
        .components()
        .all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if !valid {
        return Err(Error::Invalid(sub_path.to_path_buf()));
    }
    let fails = |source: std::io::Error| Error::Resolve {
        path: sub_path.to_path_buf(),
        source,
    };
    let target = open_below(volume, sub_path).map_err(|error| fails(error.into()))?;
    let is_dir = rustix::fs::fstat(&target)
        .map(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir())
        .map_err(|error| fails(error.into()))?;
    bind(&target, is_dir, place).map_err(fails)?;
    Ok(place.to_path_buf())
}

fn open_below(volume: &Path, sub_path: &Path) -> Result<rustix::fd::OwnedFd, Errno> {
    let path_only = OFlags::PATH | OFlags::CLOEXEC;
    let root = openat(
        rustix::fs::CWD,
        volume,
        path_only | OFlags::DIRECTORY,
        Mode::empty(),
    )?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    match openat2(&root, sub_path, path_only, Mode::empty(), resolve) {
        Err(Errno::NOENT) => {}
        result => return result,
    }
    // Made as open as the volume itself, whatever the kubelet's own mask.
    let mode = rustix::fs::fstat(&root)?.st_mode & 0o7777;
    // Make what is missing, one level at a time, never through a link that leaves the volume.
    let mut done = PathBuf::new();
    let mut parent = root.try_clone().map_err(|_| Errno::MFILE)?;
    for part in sub_path
        .components()
        .filter(|part| matches!(part, Component::Normal(_)))
    {
        done.push(part);
        parent = match openat2(&root, &done, path_only, Mode::empty(), resolve) {
            Ok(found) => found,
            Err(Errno::NOENT) => {
                match mkdirat(&parent, part.as_os_str(), Mode::from_raw_mode(0o750)) {
                    Err(Errno::EXIST) | Ok(()) => {}
                    Err(error) => return Err(error),
                }
                let made = openat2(&root, &done, path_only, Mode::empty(), resolve)?;
                let by_descriptor = format!("/proc/self/fd/{}", made.as_raw_fd());
                rustix::fs::chmod(by_descriptor, Mode::from_raw_mode(mode))?;
                made
            }
            Err(error) => return Err(error),
        };
    }
    Ok(parent)
}

fn bind(target: &rustix::fd::OwnedFd, is_dir: bool, place: &Path) -> std::io::Result<()> {
    if mount_table::is_mount_point(place)? {
        // Of an earlier container instance; what it showed may have been replaced since.
        unmount(place, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?;
    }
    if is_dir {
        std::fs::create_dir_all(place)?;
    } else {
        if let Some(parent) = place.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::File::create(place)?;
    }
    mount_bind(format!("/proc/self/fd/{}", target.as_raw_fd()), place)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_cannot_leave_the_volume() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("v");
        std::fs::create_dir_all(volume.join("in")).unwrap();
        std::os::unix::fs::symlink("/etc", volume.join("out")).unwrap();
        std::os::unix::fs::symlink("in", volume.join("alias")).unwrap();
        for (path, ok) in [
            ("in", true),
            ("alias", true),
            ("new/deep", true),
            ("out", false),
            ("out/passwd", false),
            ("out/new", false),
        ] {
            assert_eq!(open_below(&volume, Path::new(path)).is_ok(), ok, "{path}");
        }
        assert!(volume.join("new/deep").is_dir());
        assert!(!Path::new("/etc/new").exists());
        assert!(matches!(
            prepare(&volume, Path::new("../x"), dir.path()),
            Err(Error::Invalid(_))
        ));
        assert!(matches!(
            prepare(&volume, Path::new("/x"), dir.path()),
            Err(Error::Invalid(_))
        ));
    }
}
