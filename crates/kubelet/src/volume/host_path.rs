//! hostPath: a path of the node, checked or made as its type says.

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::HostPathVolumeSource;

use super::manager::{Mounted, PluginError};

pub(super) async fn set_up(source: &HostPathVolumeSource) -> Result<Mounted, PluginError> {
    let path = PathBuf::from(&source.path);
    if path
        .components()
        .any(|component| component == std::path::Component::ParentDir)
    {
        return Err(PluginError::Invalid(format!(
            "hostPath {:?} must not contain '..'",
            source.path
        )));
    }
    check(&path, source.type_.as_deref().unwrap_or_default())?;
    Ok(Mounted {
        host_path: path,
        ..Mounted::default()
    })
}

fn check(path: &Path, kind: &str) -> Result<(), PluginError> {
    let metadata = std::fs::metadata(path).ok();
    let fails = |what: &str| {
        PluginError::Invalid(format!(
            "hostPath type check failed: {} is not a {what}",
            path.display()
        ))
    };
    let is = |test: fn(&std::fs::Metadata) -> bool| metadata.as_ref().is_some_and(test);
    let socket = |metadata: &std::fs::Metadata| metadata.file_type().is_socket();
    let char_device = |metadata: &std::fs::Metadata| metadata.file_type().is_char_device();
    let block_device = |metadata: &std::fs::Metadata| metadata.file_type().is_block_device();
    match kind {
        "" => Ok(()),
        "DirectoryOrCreate" => {
            if metadata.is_none() {
                std::fs::create_dir_all(path).map_err(PluginError::io(path))?;
                let mode = std::fs::Permissions::from_mode(0o755);
                std::fs::set_permissions(path, mode).map_err(PluginError::io(path))?;
                return Ok(());
            }
            if is(std::fs::Metadata::is_dir) {
                Ok(())
            } else {
                Err(fails("directory"))
            }
        }
        "FileOrCreate" => {
            if metadata.is_none() {
                std::fs::write(path, "").map_err(PluginError::io(path))?;
                let mode = std::fs::Permissions::from_mode(0o644);
                return std::fs::set_permissions(path, mode).map_err(PluginError::io(path));
            }
            if is(std::fs::Metadata::is_file) {
                Ok(())
            } else {
                Err(fails("file"))
            }
        }
        "Directory" if is(std::fs::Metadata::is_dir) => Ok(()),
        "Directory" => Err(fails("directory")),
        "File" if is(std::fs::Metadata::is_file) => Ok(()),
        "File" => Err(fails("file")),
        "Socket" if is(socket) => Ok(()),
        "Socket" => Err(fails("socket file")),
        "CharDevice" if is(char_device) => Ok(()),
        "CharDevice" => Err(fails("character device")),
        "BlockDevice" if is(block_device) => Ok(()),
        "BlockDevice" => Err(fails("block device")),
        other => Err(PluginError::Invalid(format!(
            "{other:?} is an invalid volume type"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("file"), "").unwrap();
        for (path, kind, ok) in [
            (at("none"), "", true),
            (at("none"), "Directory", false),
            (at("new/dir"), "DirectoryOrCreate", true),
            (at("new/dir"), "Directory", true),
            (at("new/file"), "FileOrCreate", true),
            (at("new/file"), "File", true),
            (at("file"), "DirectoryOrCreate", false),
            (at("file"), "Socket", false),
            (PathBuf::from("/dev/null"), "CharDevice", true),
            (at("file"), "Nonsense", false),
        ] {
            assert_eq!(check(&path, kind).is_ok(), ok, "{} {kind}", path.display());
        }
    }
}
