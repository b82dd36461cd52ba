//! The mounts of a container: the runtime's own, the sandbox's files, CRI's.

use std::fs;
use std::path::{Component, Path, PathBuf};

use keelson_cri::v1;
use serde_json::{Value, json};

use super::{Input, SpecError};
use crate::protocol::{Propagation, RootfsMount, StagedMount};

/// The mounts, and what has to be prepared for them.
#[derive(Debug)]
pub(super) struct Mounts {
    pub(super) oci: Vec<Value>,
    pub(super) staged: Vec<StagedMount>,
    pub(super) images: Vec<(RootfsMount, PathBuf)>,
    /// Some mount propagates to the host.
    pub(super) bidirectional: bool,
}

pub(super) fn generate(
    input: &Input<'_>,
    privileged: bool,
    namespaces: &v1::NamespaceOption,
) -> Result<Mounts, SpecError> {
    let mut cri = input.config.mounts.clone();
    for mount in &mut cri {
        mount.container_path = normalize(&mount.container_path);
    }
    // Parents before what is mounted in them.
    cri.sort_by_key(|mount| Path::new(&mount.container_path).components().count());
    let taken = |destination: &str| cri.iter().any(|mount| mount.container_path == destination);

    let mut oci: Vec<Value> = Vec::new();
    let mut add = |destination: &str, kind: &str, source: &str, options: &[&str]| {
        if !taken(destination) {
            oci.push(json!({"destination": destination, "type": kind, "source": source, "options": options}));
        }
    };
    let access = if privileged { "rw" } else { "ro" };
    add("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]);
    add(
        "/dev",
        "tmpfs",
        "tmpfs",
        &["nosuid", "strictatime", "mode=755", "size=65536k"],
    );
    add(
        "/dev/pts",
        "devpts",
        "devpts",
        &[
            "nosuid",
            "noexec",
            "newinstance",
            "ptmxmode=0666",
            "mode=0620",
            "gid=5",
        ],
    );
    add("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]);
    add("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", access]);
    // libcontainer finds the groups of v1 by its own number in /proc, which in a PID namespace that it joins is another's
    // or nobody's: a container in there sees no groups.
    let v2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    if input.join_pid.is_none() || v2 {
        add(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", "relatime", access],
        );
    }

    let files = input.sandbox_files;
    let read_only_root = input
        .config
        .linux
        .as_ref()
        .and_then(|l| l.security_context.as_ref())
        .is_some_and(|s| s.readonly_rootfs);
    let file_access = if read_only_root { "ro" } else { "rw" };
    let shm = if namespaces.ipc == v1::NamespaceMode::Node as i32 {
        Path::new("/dev/shm")
    } else {
        &files.shm
    };
    for (destination, source, access) in [
        ("/etc/hostname", files.hostname.as_path(), file_access),
        ("/etc/hosts", &files.hosts, file_access),
        ("/etc/resolv.conf", &files.resolv_conf, file_access),
        ("/dev/shm", shm, "rw"),
    ] {
        add(
            destination,
            "bind",
            &source.to_string_lossy(),
            &["rbind", "rprivate", access],
        );
    }
    let mut mounts = Mounts {
        oci,
        staged: Vec::new(),
        images: Vec::new(),
        bidirectional: false,
    };
    let mut volumes = input.image_volumes.iter();
    for (number, mount) in cri.iter().enumerate() {
        let target = input.bundle.join("mounts").join(number.to_string());
        let image = mount.image.as_ref().is_some_and(|image| !image.image.is_empty());
        if image {
            let overlay = volumes.next().ok_or_else(|| {
                SpecError::Invalid(format!(
                    "image of the mount at {} is missing",
                    mount.container_path
                ))
            })?;
            fs::create_dir_all(&target).map_err(SpecError::io(format!("create {}", target.display())))?;
            let source = image_source(&target, &mount.image_sub_path)?;
            mounts
                .images
                .push((RootfsMount::Overlay(overlay.clone()), target));
            mounts
                .oci
                .push(bind(&mount.container_path, &source, &["ro", "noexec"]));
        } else {
            host_mount(mount, target, &mut mounts)?;
        }
    }
    Ok(mounts)
}

/// One bind mount of a host path.
fn host_mount(mount: &v1::Mount, target: PathBuf, mounts: &mut Mounts) -> Result<(), SpecError> {
    let source = Path::new(&mount.host_path);
    if !source.is_absolute() {
        return Err(SpecError::Invalid(format!(
            "mount source {:?} of {} is not an absolute path",
            mount.host_path, mount.container_path
        )));
    }
    if !source.exists() {
        fs::create_dir_all(source)
            .map_err(SpecError::io(format!("failed to mkdir {:?}", mount.host_path)))?;
    }
    let source = fs::canonicalize(source).map_err(SpecError::io(format!(
        "failed to resolve symlink {:?}",
        mount.host_path
    )))?;
    let propagation = v1::MountPropagation::try_from(mount.propagation).unwrap_or_default();
    let staged = match propagation {
        v1::MountPropagation::PropagationPrivate => None,
        v1::MountPropagation::PropagationHostToContainer => Some(Propagation::HostToContainer),
        v1::MountPropagation::PropagationBidirectional => Some(Propagation::Bidirectional),
    };
    if mount.recursive_read_only {
        if !mount.readonly {
            return Err(SpecError::Invalid(
                "recursive_read_only conflicts with readonly=false".to_owned(),
            ));
        }
        if staged.is_some() {
            return Err(SpecError::Invalid(
                "recursive_read_only requires private propagation".to_owned(),
            ));
        }
    }
    let access = match (mount.readonly, mount.recursive_read_only) {
        (_, true) => "rro",
        (true, false) => "ro",
        (false, false) => "rw",
    };
    let source = match staged {
        None => source,
        Some(propagation) => {
            let made = if source.is_dir() {
                fs::create_dir_all(&target)
            } else {
                target
                    .parent()
                    .map_or(Ok(()), fs::create_dir_all)
                    .and_then(|()| fs::write(&target, ""))
            };
            made.map_err(SpecError::io(format!("create {}", target.display())))?;
            mounts.bidirectional |= propagation == Propagation::Bidirectional;
            mounts.staged.push(StagedMount {
                source,
                target: target.clone(),
                propagation,
            });
            target
        }
    };
    mounts.oci.push(bind(&mount.container_path, &source, &[access]));
    Ok(())
}

fn bind(destination: &str, source: &Path, options: &[&str]) -> Value {
    let options: Vec<&str> = ["rbind", "rprivate"]
        .into_iter()
        .chain(options.iter().copied())
        .collect();
    json!({"destination": destination, "type": "bind", "source": source, "options": options})
}

/// The path below an image volume. It is resolved when it is mounted; here only what is plainly outside is refused.
fn image_source(target: &Path, sub_path: &str) -> Result<PathBuf, SpecError> {
    let sub_path = Path::new(sub_path);
    if sub_path
        .components()
        .any(|c| !matches!(c, Component::Normal(_) | Component::CurDir))
    {
        return Err(SpecError::Invalid(format!(
            "invalid image sub path {:?}",
            sub_path.display().to_string()
        )));
    }
    Ok(target.join(sub_path))
}

/// An absolute path without dots, by text.
fn normalize(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_normalized() {
        for (path, expected) in [
            ("/a//b/./c/", "/a/b/c"),
            ("a/../b", "/b"),
            ("/..", "/"),
            ("", "/"),
        ] {
            assert_eq!(normalize(path), expected, "{path}");
        }
    }

    #[test]
    fn image_paths_stay_inside() {
        let check =
            |path: &str, ok: bool| assert_eq!(image_source(Path::new("/v"), path).is_ok(), ok, "{path}");
        check("", true);
        check("a/b", true);
        check("../x", false);
        check("/etc", false);
    }

    #[test]
    fn conflicting_mounts_are_refused() {
        let host = tempfile::tempdir().unwrap();
        let check = |readonly, recursive, propagation: v1::MountPropagation, ok: bool| {
            let mount = v1::Mount {
                host_path: host.path().display().to_string(),
                container_path: "/data".to_owned(),
                readonly,
                recursive_read_only: recursive,
                propagation: propagation as i32,
                ..Default::default()
            };
            let mut mounts = Mounts {
                oci: vec![],
                staged: vec![],
                images: vec![],
                bidirectional: false,
            };
            let result = host_mount(&mount, host.path().join("target"), &mut mounts);
            assert_eq!(result.is_ok(), ok, "{mount:?}");
        };
        use v1::MountPropagation::{PropagationHostToContainer, PropagationPrivate};
        check(true, true, PropagationPrivate, true);
        check(false, true, PropagationPrivate, false);
        check(true, true, PropagationHostToContainer, false);
        check(false, false, PropagationHostToContainer, true);
    }
}
