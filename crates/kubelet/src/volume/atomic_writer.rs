//! Files that change together: a timestamped directory holds the content, `..data` points to it, and one rename switches.
//! Readers see the old set or the new one, never a mixture.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use k8s_openapi::jiff::Timestamp;

const DATA: &str = "..data";
const NEW_DATA: &str = "..data_tmp";

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) content: Vec<u8>,
    pub(crate) mode: u32,
    /// Owner, where it is not the kubelet.
    pub(crate) owner: Option<u32>,
}

/// Files by path relative to the volume.
pub(crate) type Payload = BTreeMap<PathBuf, File>;

/// Whether a path stays within the volume and clear of the writer's own names.
pub(crate) fn is_valid_path(path: &Path) -> bool {
    let mut components = path.components();
    let first = path.components().next();
    components.all(|component| matches!(component, Component::Normal(_)))
        && first.is_some_and(|first| !first.as_os_str().to_string_lossy().starts_with(".."))
}

/// Brings `dir` to exactly `payload`; returns whether anything changed.
pub(crate) fn write(dir: &Path, payload: &Payload, group: Option<u32>) -> io::Result<bool> {
    std::fs::create_dir_all(dir)?;
    let data = dir.join(DATA);
    let old = std::fs::read_link(&data).ok();
    if let Some(old) = &old
        && unchanged(&dir.join(old), payload)?
    {
        link_top(dir, payload)?;
        return Ok(false);
    }
    let stamp = Timestamp::now().strftime("..%Y_%m_%d_%H_%M_%S").to_string();
    let name = format!("{stamp}.{:010}", rand::random::<u32>());
    let target = dir.join(&name);
    std::fs::create_dir(&target)?;
    std::fs::set_permissions(&target, std::fs::Permissions::from_mode(0o755))?;
    for (path, file) in payload {
        let full = target.join(path);
        if let Some(parent) = full.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(&full, &file.content)?;
        std::fs::set_permissions(&full, std::fs::Permissions::from_mode(file.mode))?;
        if let Some(owner) = file.owner {
            std::os::unix::fs::chown(&full, Some(owner), None)?;
        }
    }
    if let Some(group) = group {
        super::ownership::set(&target, group, true)?;
    }
    let new = dir.join(NEW_DATA);
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    symlink(&name, &new)?;
    std::fs::rename(&new, &data)?;
    link_top(dir, payload)?;
    unlink_stale(dir, payload)?;
    if let Some(old) = old {
        match std::fs::remove_dir_all(dir.join(old)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(true)
}

fn unchanged(dir: &Path, payload: &Payload) -> io::Result<bool> {
    let mut files = Vec::new();
    match list(dir, &mut files) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        result => result?,
    }
    if files.len() != payload.len() {
        return Ok(false);
    }
    for (path, file) in payload {
        match std::fs::read(dir.join(path)) {
            Ok(content) if content == file.content => {}
            Ok(_) => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

fn list(dir: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            list(&entry.path(), files)?;
        } else {
            files.push(entry.path());
        }
    }
    Ok(())
}

fn top(payload: &Payload) -> std::collections::BTreeSet<PathBuf> {
    payload
        .keys()
        .filter_map(|path| path.components().next())
        .map(|first| PathBuf::from(first.as_os_str()))
        .collect()
}

/// One link per top-level name, through `..data`.
fn link_top(dir: &Path, payload: &Payload) -> io::Result<()> {
    for name in top(payload) {
        match symlink(Path::new(DATA).join(&name), dir.join(&name)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn unlink_stale(dir: &Path, payload: &Payload) -> io::Result<()> {
    let wanted = top(payload);
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = PathBuf::from(entry.file_name());
        let ours = name.to_string_lossy().starts_with("..");
        if !ours && !wanted.contains(&name) && entry.file_type()?.is_symlink() {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        let file = |text: &str| File {
            content: text.as_bytes().to_vec(),
            mode: 0o640,
            owner: None,
        };
        files
            .iter()
            .map(|(path, text)| (PathBuf::from(path), file(text)))
            .collect()
    }

    #[test]
    fn content_switches_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        assert!(write(dir, &payload(&[("a", "1"), ("sub/b", "2")]), None).unwrap());
        assert_eq!(std::fs::read_to_string(dir.join("sub/b")).unwrap(), "2");
        assert_eq!(
            std::fs::metadata(dir.join("a")).unwrap().permissions().mode() & 0o777,
            0o640
        );
        let first = std::fs::read_link(dir.join(DATA)).unwrap();
        assert!(
            !write(dir, &payload(&[("a", "1"), ("sub/b", "2")]), None).unwrap(),
            "nothing changed"
        );
        assert_eq!(std::fs::read_link(dir.join(DATA)).unwrap(), first);
        assert!(write(dir, &payload(&[("a", "3"), ("c", "4")]), None).unwrap());
        assert_eq!(std::fs::read_to_string(dir.join("a")).unwrap(), "3");
        assert!(!dir.join("sub").exists() && dir.join("c").exists() && !dir.join(first).exists());
        let names = std::fs::read_dir(dir).unwrap().count();
        assert_eq!(names, 4, "..data, its target, a, c");
    }

    #[test]
    fn paths_outside_are_refused() {
        for (path, valid) in [
            ("a", true),
            ("a/b", true),
            ("/a", false),
            ("../a", false),
            ("a/../b", false),
            ("..data", false),
            ("", false),
        ] {
            assert_eq!(is_valid_path(Path::new(path)), valid, "{path}");
        }
    }
}
