//! Mounts below a directory, as the kernel lists them.

use std::io;
use std::path::{Path, PathBuf};

use rustix::mount::{UnmountFlags, unmount};

/// Mount points at or below `dir`, the deepest first.
fn below(table: &str, dir: &Path) -> Vec<PathBuf> {
    let points = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|field| PathBuf::from(unescape(field)));
    let mut found: Vec<PathBuf> = points.filter(|point| point.starts_with(dir)).collect();
    found.sort();
    found.reverse();
    found
}

/// The kernel writes blanks and backslashes as three octal digits.
fn unescape(field: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = field.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let code = (first == b'\\' && tail.len() >= 3)
            .then(|| {
                std::str::from_utf8(&tail[..3])
                    .ok()
                    .and_then(|digits| u8::from_str_radix(digits, 8).ok())
            })
            .flatten();
        match code {
            Some(code) => {
                bytes.push(code);
                rest = &tail[3..];
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Whether something is mounted exactly at `path`.
pub(crate) fn is_mount_point(path: &Path) -> io::Result<bool> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    Ok(below(&table, path).iter().any(|point| point == path))
}

/// Unmounts everything at or below `dir`.
pub(crate) fn unmount_below(dir: &Path) -> io::Result<()> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    for point in below(&table, dir) {
        match unmount(&point, UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            // A reader from outside must not keep the pod's directory: it goes when the reader does.
            Err(rustix::io::Errno::BUSY) => unmount(&point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?,
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_read_with_its_escapes() {
        let table = "1 2 0:1 / /a rw - ext4 x rw\n3 1 0:2 / /a/b\\040c/d rw - tmpfs x rw\n4 1 0:2 / /a/b\\040c rw - tmpfs x rw\n5 1 0:3 / /ab rw - tmpfs x rw\n";
        let names: Vec<String> = below(table, Path::new("/a/b c"))
            .iter()
            .map(|p| p.display().to_string())
            .collect();
        assert_eq!(names, ["/a/b c/d", "/a/b c"]);
    }
}
