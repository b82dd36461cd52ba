//! emptyDir: a directory, or a tmpfs for `medium: Memory`, that lives as long as the pod.

use std::os::unix::fs::PermissionsExt;

use k8s_openapi::api::core::v1::EmptyDirVolumeSource;
use rustix::mount::{MountFlags, mount};

use super::manager::{Context, Mounted, PluginError};
use super::{mount_table, ownership};
use crate::quantity;

pub(super) async fn set_up(
    context: &Context<'_>,
    source: &EmptyDirVolumeSource,
) -> Result<Mounted, PluginError> {
    let path = context.dir("empty-dir");
    let group = context.fs_group();
    let memory = match source.medium.as_deref().unwrap_or_default() {
        "" => false,
        "Memory" => true,
        other => return Err(PluginError::Invalid(format!("unknown storage medium {other:?}"))),
    };
    let limit = source
        .size_limit
        .as_ref()
        .and_then(|limit| quantity::value(&limit.0))
        .filter(|limit| *limit > 0);
    let path_ = path.clone();
    let work = tokio::task::spawn_blocking(move || -> std::io::Result<()> {
        let fresh = !path_.exists();
        std::fs::create_dir_all(&path_)?;
        if memory && !mount_table::is_mount_point(&path_)? {
            let size = limit.map(|bytes| format!("size={bytes}"));
            let options = size
                .map(std::ffi::CString::new)
                .transpose()
                .map_err(std::io::Error::other)?;
            let flags = MountFlags::NOSUID | MountFlags::NODEV;
            mount("tmpfs", &path_, "tmpfs", flags, options.as_deref())?;
        }
        if fresh || memory {
            std::fs::set_permissions(&path_, std::fs::Permissions::from_mode(0o777))?;
        }
        // What containers wrote stays theirs after a restart of the kubelet.
        if let Some(group) = group.filter(|_| fresh) {
            ownership::set(&path_, group, false)?;
        }
        Ok(())
    });
    work.await.unwrap_or(Ok(())).map_err(PluginError::io(&path))?;
    Ok(Mounted {
        host_path: path,
        ..Mounted::default()
    })
}
