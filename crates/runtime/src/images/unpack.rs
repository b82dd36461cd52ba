//! Unpacks one layer archive into a directory that serves as an overlay lower layer.
//!
//! Follows the OCI layer specification: whiteouts become overlay whiteouts (character device 0:0) and the
//! `trusted.overlay.opaque` attribute; ownership, modes, times, hard links, devices and extended attributes are kept.
//!
//! Safety: every path is resolved by the kernel with `openat2(RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)` below the
//! directory, so neither `..` nor a symlink of the archive, absolute or not, leads outside. `trusted.overlay.*` and
//! `user.overlay.*` attributes of the archive are dropped: they would steer the overlay mount.

use std::collections::{BTreeMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    self, AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

const WHITEOUT_PREFIX: &[u8] = b".wh.";
const OPAQUE_MARKER: &[u8] = b".wh..wh..opq";
const OPAQUE_XATTR: &str = "trusted.overlay.opaque";
const DIR_FLAGS: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// What an unpacked layer consists of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Unpacked {
    /// Directories that the archive needed but did not list, relative to the root, parents first. Their attributes
    /// are those of the layers below and unknown here.
    pub(crate) implicit_dirs: Vec<PathBuf>,
}

/// Why unpacking ended early.
#[derive(Debug)]
pub(crate) enum UnpackError {
    /// Reading the archive failed: damaged, truncated, or the source broke.
    Read(io::Error),
    /// An entry cannot be represented.
    Entry(PathBuf, String),
    /// The file system refused.
    Write(PathBuf, io::Error),
}

/// Unpacks all entries of the tar stream into `root`, which must exist and be empty. Blocking.
pub(crate) fn unpack(archive: impl Read, root: &Path) -> Result<Unpacked, UnpackError> {
    let root_fd = fs::open(root, DIR_FLAGS, Mode::empty())
        .map_err(|e| UnpackError::Write(root.to_path_buf(), e.into()))?;
    let mut unpacker = Unpacker {
        root: root_fd,
        implicit: BTreeMap::new(),
        order: 0,
        seen: HashSet::new(),
        dir_times: Vec::new(),
        cached_parent: None,
    };
    let mut archive = tar::Archive::new(archive);
    for entry in archive.entries().map_err(UnpackError::Read)? {
        unpacker.entry(entry.map_err(UnpackError::Read)?)?;
    }
    unpacker.finish()
}

struct Unpacker {
    root: OwnedFd,
    /// Directories made on the way, with the order of their making.
    implicit: BTreeMap<PathBuf, usize>,
    order: usize,
    /// Names this archive has made (not whiteouts), to tell its own files from those it hides.
    seen: HashSet<PathBuf>,
    /// Directory times are set last, because filling a directory changes them.
    dir_times: Vec<(PathBuf, Timespec)>,
    cached_parent: Option<(PathBuf, OwnedFd)>,
}

/// Attributes of one entry, from its header and PAX records.
struct Meta {
    uid: u32,
    gid: u32,
    mode: u32,
    mtime: Timespec,
    xattrs: Vec<(OsString, Vec<u8>)>,
}

fn write_error(path: &Path) -> impl FnOnce(Errno) -> UnpackError + '_ {
    move |e| UnpackError::Write(path.to_path_buf(), e.into())
}

impl Unpacker {
    fn entry<R: Read>(&mut self, mut entry: tar::Entry<'_, R>) -> Result<(), UnpackError> {
        let kind = entry.header().entry_type();
        if kind.is_pax_global_extensions() {
            return Ok(());
        }
        let raw = PathBuf::from(OsString::from_vec(entry.path_bytes().into_owned()));
        let path = clean(&raw)?;
        let meta = Meta::read(&mut entry, &path)?;
        let Some(name) = path.file_name().map(OsStr::to_owned) else {
            return self.root_entry(kind, &meta);
        };
        let parent_path = path.parent().unwrap_or(Path::new("")).to_path_buf();
        if name.as_bytes().starts_with(WHITEOUT_PREFIX) {
            return self.whiteout(&parent_path, &name);
        }
        self.open_parent(&parent_path)?;
        let replaced_whiteout = self.make_room(&path, &name, kind.is_dir())?;
        let parent = &self
            .cached_parent
            .as_ref()
            .expect("invariant: open_parent caches")
            .1;
        match kind {
            tar::EntryType::Directory => {
                match fs::mkdirat(parent, &name, Mode::from_raw_mode(0o700)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(e) => return Err(write_error(&path)(e)),
                }
                let dir = fs::openat(parent, &name, DIR_FLAGS | OFlags::NOFOLLOW, Mode::empty())
                    .map_err(write_error(&path))?;
                meta.apply_fd(&dir).map_err(write_error(&path))?;
                if replaced_whiteout {
                    fs::fsetxattr(&dir, OPAQUE_XATTR, b"y", XattrFlags::empty())
                        .map_err(write_error(&path))?;
                }
                self.implicit.remove(&path);
                self.dir_times.push((path.clone(), meta.mtime));
            }
            tar::EntryType::Regular | tar::EntryType::Continuous | tar::EntryType::GNUSparse => {
                write_file(parent, &name, &path, &mut entry, &meta)?;
            }
            tar::EntryType::Symlink => {
                let target = link_name(&entry, &path)?;
                fs::symlinkat(target.as_os_str(), parent, &name).map_err(write_error(&path))?;
                meta.apply_at(parent, &name, false).map_err(write_error(&path))?;
            }
            tar::EntryType::Link => {
                let target = clean(&link_name(&entry, &path)?)?;
                self.hard_link(&target, &path, &name)?;
            }
            tar::EntryType::Char | tar::EntryType::Block | tar::EntryType::Fifo => {
                let (file_type, dev) = device(&entry, kind, &path)?;
                fs::mknodat(parent, &name, file_type, Mode::from_raw_mode(0o600), dev)
                    .map_err(write_error(&path))?;
                meta.apply_at(parent, &name, true).map_err(write_error(&path))?;
            }
            other => {
                return Err(UnpackError::Entry(
                    path,
                    format!("unsupported entry type {:?}", other.as_byte()),
                ));
            }
        }
        self.seen.insert(path);
        Ok(())
    }

    fn root_entry(&mut self, kind: tar::EntryType, meta: &Meta) -> Result<(), UnpackError> {
        if !kind.is_dir() {
            return Err(UnpackError::Entry(
                PathBuf::from("/"),
                "the root is not a directory".into(),
            ));
        }
        meta.apply_fd(&self.root).map_err(write_error(Path::new("/")))?;
        self.dir_times.push((PathBuf::new(), meta.mtime));
        Ok(())
    }

    /// Makes `.wh.<name>` or the opaque marker what overlay understands.
    fn whiteout(&mut self, parent_path: &Path, name: &OsStr) -> Result<(), UnpackError> {
        let path = parent_path.join(name);
        self.open_parent(parent_path)?;
        let parent = &self
            .cached_parent
            .as_ref()
            .expect("invariant: open_parent caches")
            .1;
        if name.as_bytes() == OPAQUE_MARKER {
            return fs::fsetxattr(parent, OPAQUE_XATTR, b"y", XattrFlags::empty())
                .map_err(write_error(&path));
        }
        let hidden = OsStr::from_bytes(&name.as_bytes()[WHITEOUT_PREFIX.len()..]);
        if hidden.is_empty() || matches!(hidden.as_bytes(), b"." | b"..") {
            return Err(UnpackError::Entry(path, "invalid whiteout name".into()));
        }
        // AUFS metadata such as `.wh..wh.plnk`.
        if hidden.as_bytes().starts_with(WHITEOUT_PREFIX) {
            return Ok(());
        }
        let target = parent_path.join(hidden);
        match fs::mknodat(parent, hidden, FileType::CharacterDevice, Mode::empty(), 0) {
            Ok(()) => Ok(()),
            // The archive itself made this name: it hides the lower one already, a directory when opaque.
            Err(Errno::EXIST) if self.seen.contains(&target) || self.implicit.contains_key(&target) => {
                match fs::openat(parent, hidden, DIR_FLAGS | OFlags::NOFOLLOW, Mode::empty()) {
                    Ok(dir) => fs::fsetxattr(&dir, OPAQUE_XATTR, b"y", XattrFlags::empty())
                        .map_err(write_error(&target)),
                    Err(Errno::NOTDIR | Errno::LOOP) => Ok(()),
                    Err(e) => Err(write_error(&target)(e)),
                }
            }
            Err(Errno::EXIST) => Ok(()),
            Err(e) => Err(write_error(&target)(e)),
        }
    }

    /// Removes what stands at `path`, unless both it and the new entry are directories. Tells whether it was a
    /// whiteout of this same archive.
    fn make_room(&mut self, path: &Path, name: &OsStr, is_dir: bool) -> Result<bool, UnpackError> {
        let parent = &self
            .cached_parent
            .as_ref()
            .expect("invariant: open_parent caches")
            .1;
        let stat = match fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(false),
            Err(e) => return Err(write_error(path)(e)),
        };
        let existing = FileType::from_raw_mode(stat.st_mode);
        if existing == FileType::Directory {
            if is_dir {
                return Ok(false);
            }
            let proc_path = format!("/proc/self/fd/{}", parent.as_raw_fd());
            // `remove_dir_all` itself never follows symlinks.
            std::fs::remove_dir_all(Path::new(&proc_path).join(name))
                .map_err(|e| UnpackError::Write(path.to_path_buf(), e))?;
            self.seen.retain(|p| !p.starts_with(path));
            self.implicit.retain(|p, _| !p.starts_with(path));
            self.dir_times.retain(|(p, _)| !p.starts_with(path));
            return Ok(false);
        }
        fs::unlinkat(parent, name, AtFlags::empty()).map_err(write_error(path))?;
        Ok(existing == FileType::CharacterDevice && stat.st_rdev == 0 && !self.seen.contains(path))
    }

    fn hard_link(&mut self, target: &Path, path: &Path, name: &OsStr) -> Result<(), UnpackError> {
        let missing = || {
            UnpackError::Entry(
                path.to_path_buf(),
                format!("hard link to missing {}", target.display()),
            )
        };
        let target_name = target.file_name().ok_or_else(missing)?;
        let target_parent = match self.open_in_root(target.parent().unwrap_or(Path::new(""))) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Err(missing()),
            Err(e) => return Err(write_error(target)(e)),
        };
        let parent = &self
            .cached_parent
            .as_ref()
            .expect("invariant: open_parent caches")
            .1;
        match fs::linkat(&target_parent, target_name, parent, name, AtFlags::empty()) {
            Ok(()) => Ok(()),
            Err(Errno::NOENT | Errno::PERM) => Err(missing()),
            Err(e) => Err(write_error(path)(e)),
        }
    }

    fn open_in_root(&self, path: &Path) -> rustix::io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        loop {
            match fs::openat2(&self.root, path, DIR_FLAGS, Mode::empty(), resolve) {
                // A rename elsewhere in the system made the kernel unsure; it asks to try again.
                Err(Errno::AGAIN | Errno::INTR) => {}
                result => return result,
            }
        }
    }

    /// Opens the directory at `path`, made with its parents when missing, and caches it.
    fn open_parent(&mut self, path: &Path) -> Result<(), UnpackError> {
        if self.cached_parent.as_ref().is_some_and(|(cached, fd)| {
            // A cached directory may have been replaced by a later entry.
            cached == path && fs::fstat(fd).is_ok_and(|s| s.st_nlink > 0)
        }) {
            return Ok(());
        }
        self.cached_parent = None;
        let fd = match self.open_in_root(path) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::NOTDIR) => self.make_parents(path)?,
            Err(e) => return Err(write_error(path)(e)),
        };
        self.cached_parent = Some((path.to_path_buf(), fd));
        Ok(())
    }

    fn make_parents(&mut self, path: &Path) -> Result<OwnedFd, UnpackError> {
        let mut current = PathBuf::new();
        let mut fd = self.open_in_root(&current).map_err(write_error(path))?;
        for component in path.components() {
            current.push(component);
            fd = match self.open_in_root(&current) {
                Ok(fd) => fd,
                Err(Errno::NOENT | Errno::NOTDIR) => {
                    let name = component.as_os_str();
                    // A file, whiteout or dangling symlink in the way is replaced, as containerd does.
                    match fs::unlinkat(&fd, name, AtFlags::empty()) {
                        Ok(()) | Err(Errno::NOENT) => {}
                        Err(e) => return Err(write_error(&current)(e)),
                    }
                    fs::mkdirat(&fd, name, Mode::from_raw_mode(0o755)).map_err(write_error(&current))?;
                    fs::chmodat(&fd, name, Mode::from_raw_mode(0o755), AtFlags::empty())
                        .map_err(write_error(&current))?;
                    self.order += 1;
                    self.implicit.insert(current.clone(), self.order);
                    self.open_in_root(&current).map_err(write_error(&current))?
                }
                Err(e) => return Err(write_error(&current)(e)),
            };
        }
        Ok(fd)
    }

    fn finish(mut self) -> Result<Unpacked, UnpackError> {
        for (path, mtime) in std::mem::take(&mut self.dir_times).into_iter().rev() {
            let times = Timestamps {
                last_access: mtime,
                last_modification: mtime,
            };
            match self.open_in_root(&path) {
                Ok(fd) => fs::futimens(&fd, &times).map_err(write_error(&path))?,
                // Removed or replaced by a later entry.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(e) => return Err(write_error(&path)(e)),
            }
        }
        let mut implicit: Vec<_> = self.implicit.into_iter().collect();
        implicit.sort_by_key(|(_, order)| *order);
        Ok(Unpacked {
            implicit_dirs: implicit.into_iter().map(|(path, _)| path).collect(),
        })
    }
}

/// The entry's path relative to the root: `.` and leading `/` dropped, `..` refused.
fn clean(path: &Path) -> Result<PathBuf, UnpackError> {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(UnpackError::Entry(
                    path.to_path_buf(),
                    "path leads out of the layer".into(),
                ));
            }
        }
    }
    Ok(clean)
}

fn link_name<R: Read>(entry: &tar::Entry<'_, R>, path: &Path) -> Result<PathBuf, UnpackError> {
    match entry.link_name_bytes() {
        Some(name) if !name.is_empty() => Ok(PathBuf::from(OsString::from_vec(name.into_owned()))),
        _ => Err(UnpackError::Entry(
            path.to_path_buf(),
            "link without a target".into(),
        )),
    }
}

fn device<R: Read>(
    entry: &tar::Entry<'_, R>,
    kind: tar::EntryType,
    path: &Path,
) -> Result<(FileType, u64), UnpackError> {
    let file_type = match kind {
        tar::EntryType::Char => FileType::CharacterDevice,
        tar::EntryType::Block => FileType::BlockDevice,
        _ => return Ok((FileType::Fifo, 0)),
    };
    let part = |n: io::Result<Option<u32>>| {
        n.ok()
            .flatten()
            .ok_or_else(|| UnpackError::Entry(path.to_path_buf(), "device without number".into()))
    };
    let major = part(entry.header().device_major())?;
    let minor = part(entry.header().device_minor())?;
    Ok((file_type, fs::makedev(major, minor)))
}

fn write_file(
    parent: &OwnedFd,
    name: &OsStr,
    path: &Path,
    data: &mut impl Read,
    meta: &Meta,
) -> Result<(), UnpackError> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = fs::openat(parent, name, flags, Mode::from_raw_mode(0o600)).map_err(write_error(path))?;
    let mut buf = vec![0_u8; 64 * 1024];
    loop {
        let n = match data.read(&mut buf) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(UnpackError::Read(e)),
        };
        let mut rest = &buf[..n];
        while !rest.is_empty() {
            match rustix::io::write(&fd, rest) {
                Ok(written) => rest = &rest[written..],
                Err(Errno::INTR) => {}
                Err(e) => return Err(write_error(path)(e)),
            }
        }
    }
    meta.apply_fd(&fd).map_err(write_error(path))?;
    let times = Timestamps {
        last_access: meta.mtime,
        last_modification: meta.mtime,
    };
    fs::futimens(&fd, &times).map_err(write_error(path))
}

impl Meta {
    fn read<R: Read>(entry: &mut tar::Entry<'_, R>, path: &Path) -> Result<Self, UnpackError> {
        let bad = |what: &str| UnpackError::Entry(path.to_path_buf(), format!("invalid {what}"));
        let header = entry.header();
        let old = header.as_old();
        let mut uid = number(&old.uid, header.uid()).ok_or_else(|| bad("uid"))?;
        let mut gid = number(&old.gid, header.gid()).ok_or_else(|| bad("gid"))?;
        let mode = header.mode().map_err(|_| bad("mode"))? & 0o7777;
        let seconds = header.mtime().unwrap_or(0);
        let mut mtime = Timespec {
            tv_sec: seconds.try_into().unwrap_or(0),
            tv_nsec: 0,
        };
        let mut xattrs = Vec::new();
        if let Some(extensions) = entry.pax_extensions().map_err(UnpackError::Read)? {
            for extension in extensions {
                let extension = extension.map_err(UnpackError::Read)?;
                let key = extension.key_bytes();
                let text = std::str::from_utf8(extension.value_bytes()).ok();
                match key {
                    b"uid" => uid = text.and_then(|t| t.parse().ok()).ok_or_else(|| bad("uid"))?,
                    b"gid" => gid = text.and_then(|t| t.parse().ok()).ok_or_else(|| bad("gid"))?,
                    b"mtime" => mtime = text.and_then(parse_time).ok_or_else(|| bad("mtime"))?,
                    _ => {
                        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.")
                            && !name.starts_with(b"trusted.overlay.")
                            && !name.starts_with(b"user.overlay.")
                        {
                            xattrs.push((
                                OsString::from_vec(name.to_vec()),
                                extension.value_bytes().to_vec(),
                            ));
                        }
                    }
                }
            }
        }
        let uid = u32::try_from(uid)
            .ok()
            .filter(|&n| n != u32::MAX)
            .ok_or_else(|| bad("uid"))?;
        let gid = u32::try_from(gid)
            .ok()
            .filter(|&n| n != u32::MAX)
            .ok_or_else(|| bad("gid"))?;
        Ok(Self {
            uid,
            gid,
            mode,
            mtime,
            xattrs,
        })
    }

    /// Owner first (it clears setuid and capabilities), then mode, then attributes.
    fn apply_fd(&self, fd: &OwnedFd) -> rustix::io::Result<()> {
        fs::fchown(fd, Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)))?;
        fs::fchmod(fd, Mode::from_raw_mode(self.mode))?;
        for (name, value) in &self.xattrs {
            ignore_unsupported(fs::fsetxattr(fd, name.as_os_str(), value, XattrFlags::empty()))?;
        }
        Ok(())
    }

    fn apply_at(&self, parent: &OwnedFd, name: &OsStr, chmod: bool) -> rustix::io::Result<()> {
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        if chmod {
            // Only called for a node made just now, which is no symlink.
            fs::chmodat(parent, name, Mode::from_raw_mode(self.mode), AtFlags::empty())?;
        }
        if !self.xattrs.is_empty() {
            let path = PathBuf::from(format!("/proc/self/fd/{}", parent.as_raw_fd())).join(name);
            for (key, value) in &self.xattrs {
                ignore_unsupported(fs::lsetxattr(&path, key.as_os_str(), value, XattrFlags::empty()))?;
            }
        }
        let times = Timestamps {
            last_access: self.mtime,
            last_modification: self.mtime,
        };
        fs::utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)
    }
}

/// A numeric header field; a blank one is zero, as Go's reader takes it.
fn number(field: &[u8], parsed: io::Result<u64>) -> Option<u64> {
    match parsed {
        Ok(number) => Some(number),
        Err(_) => field.iter().all(|b| matches!(b, 0 | b' ')).then_some(0),
    }
}

/// File systems and kernels without some attribute namespace: the layer is usable without it, as in containerd.
fn ignore_unsupported(result: rustix::io::Result<()>) -> rustix::io::Result<()> {
    match result {
        Err(Errno::OPNOTSUPP) => Ok(()),
        other => other,
    }
}

/// `seconds[.fraction]`, possibly negative, of a PAX record.
fn parse_time(text: &str) -> Option<Timespec> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let whole: i64 = seconds.parse().ok()?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let digits: String = fraction.chars().chain(std::iter::repeat('0')).take(9).collect();
    let nanos: i64 = digits.parse().ok()?;
    if seconds.starts_with('-') && nanos > 0 {
        return Some(Timespec {
            tv_sec: whole.checked_sub(1)?,
            tv_nsec: 1_000_000_000 - nanos,
        });
    }
    Some(Timespec {
        tv_sec: whole,
        tv_nsec: nanos,
    })
}

#[cfg(test)]
#[path = "unpack_tests.rs"]
mod tests;
