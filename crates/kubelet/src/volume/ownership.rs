//! Group ownership by `fsGroup`.

use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::Path;

/// Gives everything below `path` to `group`, readable by it and, unless `read_only`, writable; directories pass it on.
pub(crate) fn set(path: &Path, group: u32, read_only: bool) -> io::Result<()> {
    let metadata = std::fs::symlink_metadata(path)?;
    if metadata.is_symlink() {
        return lchown(path, None, Some(group));
    }
    let mut mode = metadata.mode() & 0o7777;
    mode |= if read_only { 0o440 } else { 0o660 };
    if metadata.is_dir() {
        mode |= 0o2110;
    }
    if metadata.gid() != group {
        lchown(path, None, Some(group))?;
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    if metadata.is_dir() {
        for entry in std::fs::read_dir(path)? {
            set(&entry?.path(), group, read_only)?;
        }
    }
    Ok(())
}
