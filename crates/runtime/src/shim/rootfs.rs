//! What a creator does to its own mount namespace before libcontainer copies it.
//!
//! libcontainer's bind mounts keep the propagation of their source, whatever the OCI spec says. So everything is
//! made private here, except the mounts that CRI wants to propagate: those are taken aside before and put under the
//! bundle with the propagation that they shall have. The root file system is mounted here too: the host never sees
//! it, and it vanishes with the container's namespace, however the container ends.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::sched::CloneFlags;
use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags,
};

use crate::protocol::{Launch, Propagation, RootfsMount, StagedMount};

/// Room for `mount(2)` options: one page, less the terminator.
const MAX_MOUNT_DATA: usize = 4000;

/// Gives this process a mount namespace of its own, with the root file system at `<bundle>/rootfs` and the staged
/// mounts at their places.
///
/// # Errors
/// The text of what failed.
pub(super) fn prepare(launch: &Launch, bundle: &Path) -> Result<(), String> {
    nix::sched::unshare(CloneFlags::CLONE_NEWNS)
        .map_err(|errno| format!("failed to create a mount namespace: {errno}"))?;
    let mut trees = Vec::with_capacity(launch.staged.len());
    for mount in &launch.staged {
        trees.push(take_aside(mount).map_err(|error| format!("failed to bind {}: {error}", mount.source.display()))?);
    }
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(|errno| format!("failed to make the mounts private: {errno}"))?;
    for (mount, tree) in launch.staged.iter().zip(trees) {
        put_back(mount, tree)?;
    }
    let target = bundle.join("rootfs");
    mount_rootfs(&launch.rootfs, &target)
        .map_err(|error| format!("failed to mount rootfs component: {error}"))
}

fn take_aside(mount: &StagedMount) -> io::Result<OwnedFd> {
    Ok(rustix::mount::open_tree(
        CWD,
        &mount.source,
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE,
    )?)
}

fn put_back(mount: &StagedMount, tree: OwnedFd) -> Result<(), String> {
    let failed = |error: io::Error| format!("failed to bind {}: {error}", mount.source.display());
    rustix::mount::move_mount(&tree, "", CWD, &mount.target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(|errno| failed(errno.into()))?;
    match mount.propagation {
        Propagation::HostToContainer => rustix::mount::mount_change(
            &mount.target,
            MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
        )
        .map_err(|errno| failed(errno.into())),
        Propagation::Bidirectional if is_shared(&mount.target).map_err(failed)? => Ok(()),
        Propagation::Bidirectional => {
            Err(format!("path {:?} is mounted but it is not a shared mount", mount.source.display().to_string()))
        }
    }
}

/// Whether the mount at this mount point belongs to a peer group.
fn is_shared(mount_point: &Path) -> io::Result<bool> {
    let text = fs::read_to_string("/proc/self/mountinfo")?;
    let wanted = mount_point.to_string_lossy();
    Ok(text.lines().any(|line| {
        let mut fields = line.split(' ').skip(4);
        fields.next() == Some(&*wanted)
            && fields.skip(1).take_while(|field| *field != "-").any(|field| field.starts_with("shared:"))
    }))
}

fn mount_rootfs(rootfs: &RootfsMount, target: &Path) -> io::Result<()> {
    match rootfs {
        RootfsMount::Directory(directory) => Ok(rustix::mount::mount_bind(directory, target)?),
        RootfsMount::Overlay { lower, upper, work, options } => {
            let data = overlay_data(lower, upper, work, options);
            if data.len() <= MAX_MOUNT_DATA {
                let data = CString::new(data)?;
                return Ok(rustix::mount::mount("overlay", target, "overlay", MountFlags::empty(), &*data)?);
            }
            // More layers than fit into one page of options: one call per layer (Linux 6.5 and later).
            let fs = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
            for layer in lower {
                rustix::mount::fsconfig_set_string(&fs, "lowerdir+", layer)?;
            }
            rustix::mount::fsconfig_set_string(&fs, "upperdir", upper)?;
            rustix::mount::fsconfig_set_string(&fs, "workdir", work)?;
            for option in options {
                match option.split_once('=') {
                    Some((key, value)) => rustix::mount::fsconfig_set_string(&fs, key, value)?,
                    None => rustix::mount::fsconfig_set_flag(&fs, option.as_str())?,
                }
            }
            rustix::mount::fsconfig_create(&fs)?;
            let mount =
                rustix::mount::fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
            Ok(rustix::mount::move_mount(&mount, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
        }
    }
}

/// The options of an overlay mount; colons, commas and backslashes in paths are escaped as the kernel wants it.
fn overlay_data(lower: &[PathBuf], upper: &Path, work: &Path, options: &[String]) -> Vec<u8> {
    let escape = |path: &Path, out: &mut Vec<u8>| {
        for byte in path.as_os_str().as_encoded_bytes() {
            if matches!(byte, b':' | b',' | b'\\') {
                out.push(b'\\');
            }
            out.push(*byte);
        }
    };
    let mut data = b"lowerdir=".to_vec();
    for (at, layer) in lower.iter().enumerate() {
        if at > 0 {
            data.push(b':');
        }
        escape(layer, &mut data);
    }
    data.extend_from_slice(b",upperdir=");
    escape(upper, &mut data);
    data.extend_from_slice(b",workdir=");
    escape(work, &mut data);
    for option in options {
        data.push(b',');
        data.extend_from_slice(option.as_bytes());
    }
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlay_options_are_escaped() {
        let data = overlay_data(
            &["/a:b".into(), "/c".into()],
            Path::new("/u,p"),
            Path::new("/w"),
            &["volatile".to_owned()],
        );
        assert_eq!(String::from_utf8(data).unwrap(), r"lowerdir=/a\:b:/c,upperdir=/u\,p,workdir=/w,volatile");
    }
}
