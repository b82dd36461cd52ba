//! What a creator does to its own mount namespace before libcontainer copies it.
//!
//! libcontainer's bind mounts keep the propagation of their source, whatever the OCI spec says. So everything is
//! made private here, except the mounts that CRI wants to propagate: those are taken aside before and put under the
//! bundle with the propagation that they shall have. The root file system is mounted here too: the host never sees
//! it, and it vanishes with the container's namespace, however the container ends.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use nix::sched::CloneFlags;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::mount::{MountPropagationFlags, MoveMountFlags, OpenTreeFlags};

use crate::protocol::{Launch, Propagation, RootfsMount, StagedMount};

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
        trees.push(
            take_aside(mount)
                .map_err(|error| format!("failed to bind {}: {error}", mount.source.display()))?,
        );
    }
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(|errno| format!("failed to make the mounts private: {errno}"))?;
    for (mount, tree) in launch.staged.iter().zip(trees) {
        put_back(mount, tree)?;
    }
    let target = bundle.join("rootfs");
    let volumes = launch
        .image_mounts
        .iter()
        .map(|(rootfs, target)| (rootfs, target));
    for (rootfs, target) in volumes.chain([(&launch.rootfs, &target)]) {
        mount_rootfs(rootfs, target).map_err(|error| format!("failed to mount rootfs component: {error}"))?;
    }
    for directory in &launch.directories {
        make_directory(&target, directory)
            .map_err(|error| format!("failed to create {} in the rootfs: {error}", directory.display()))?;
    }
    Ok(())
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
    rustix::mount::move_mount(
        &tree,
        "",
        CWD,
        &mount.target,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )
    .map_err(|errno| failed(errno.into()))?;
    match mount.propagation {
        Propagation::HostToContainer => rustix::mount::mount_change(
            &mount.target,
            MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
        )
        .map_err(|errno| failed(errno.into())),
        Propagation::Bidirectional if is_shared(&mount.target).map_err(failed)? => Ok(()),
        Propagation::Bidirectional => Err(format!(
            "path {:?} is mounted but it is not a shared mount",
            mount.source.display().to_string()
        )),
    }
}

/// Whether the mount at this mount point belongs to a peer group.
fn is_shared(mount_point: &Path) -> io::Result<bool> {
    let text = fs::read_to_string("/proc/self/mountinfo")?;
    let wanted = mount_point.to_string_lossy();
    Ok(text.lines().any(|line| {
        let mut fields = line.split(' ').skip(4);
        fields.next() == Some(&*wanted)
            && fields
                .skip(1)
                .take_while(|field| *field != "-")
                .any(|field| field.starts_with("shared:"))
    }))
}

fn mount_rootfs(rootfs: &RootfsMount, target: &Path) -> Result<(), String> {
    match rootfs {
        RootfsMount::Directory(directory) => rustix::mount::mount_bind(directory, target)
            .map_err(|errno| format!("{}: {errno}", directory.display())),
        RootfsMount::Overlay(overlay) => overlay.mount(target).map_err(|error| error.to_string()),
    }
}

/// Makes a directory below `root` with its parents, without ever leaving `root` by a symbolic link.
fn make_directory(root: &Path, directory: &Path) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut at = rustix::fs::open(root, flags, Mode::empty())?;
    let mut walked = PathBuf::new();
    let root = at.try_clone()?;
    for component in directory.components() {
        let Component::Normal(name) = component else {
            continue;
        };
        walked.push(name);
        at = match rustix::fs::openat2(&root, &walked, flags, Mode::empty(), ResolveFlags::IN_ROOT) {
            Ok(found) => found,
            Err(rustix::io::Errno::NOENT) => {
                rustix::fs::mkdirat(&at, name, Mode::from_raw_mode(0o755))?;
                rustix::fs::openat2(&root, &walked, flags, Mode::empty(), ResolveFlags::IN_ROOT)?
            }
            Err(errno) => return Err(errno.into()),
        };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_made_inside() {
        let root = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(outside.path(), root.path().join("link")).unwrap();
        make_directory(root.path(), Path::new("/a/b/../c")).unwrap();
        assert!(root.path().join("a/b/c").is_dir());
        make_directory(root.path(), Path::new("/a/b")).unwrap();
        // The link is resolved within the root, where its target does not exist.
        assert!(make_directory(root.path(), Path::new("/link/x")).is_err());
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    }
}
