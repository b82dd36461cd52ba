//! Devices: the nodes in a container's `/dev` and the rules of its device group.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use keelson_cri::v1;
use keelson_sys::cgroup_device::{Access, DeviceRule};
use serde_json::{Value, json};

use super::SpecError;

/// What every container may use: the standard devices and pseudo terminals, and creating any node.
fn default_rules() -> Vec<DeviceRule> {
    let mknod = Access {
        read: false,
        write: false,
        mknod: true,
    };
    let rule = |kind, major, minor, access| DeviceRule {
        kind: Some(kind),
        major,
        minor,
        access,
    };
    let mut rules = vec![rule('c', None, None, mknod), rule('b', None, None, mknod)];
    // null, zero, full, random, urandom, tty, console, ptmx
    for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)] {
        rules.push(rule('c', Some(major), Some(minor), Access::ALL));
    }
    rules.push(rule('c', Some(136), None, Access::ALL));
    rules
}

/// The specification's devices, and the rules.
pub(super) fn generate(
    devices: &[v1::Device],
    privileged: bool,
) -> Result<(Vec<Value>, Vec<DeviceRule>), SpecError> {
    let mut nodes = Vec::new();
    if privileged {
        host_devices(Path::new("/dev"), Path::new("/dev"), &mut nodes)?;
        let all = DeviceRule {
            kind: None,
            major: None,
            minor: None,
            access: Access::ALL,
        };
        return Ok((nodes.iter().map(Node::oci).collect(), vec![all]));
    }
    let mut rules = default_rules();
    for device in devices {
        let mut found = Vec::new();
        let (host, container) = (Path::new(&device.host_path), Path::new(&device.container_path));
        let metadata = fs::metadata(host).map_err(SpecError::io(format!(
            "error gathering device information while adding custom device {host:?}"
        )))?;
        if metadata.is_dir() {
            host_devices(host, container, &mut found)?;
        } else {
            found.push(
                node(&metadata, container).ok_or_else(|| {
                    SpecError::Invalid(format!("{:?} is not a device node", device.host_path))
                })?,
            );
        }
        let has = |letter| device.permissions.is_empty() || device.permissions.contains(letter);
        let access = Access {
            read: has('r'),
            write: has('w'),
            mknod: has('m'),
        };
        rules.extend(found.iter().map(|node| DeviceRule {
            kind: Some(node.kind),
            major: Some(node.major),
            minor: Some(node.minor),
            access,
        }));
        nodes.extend(found);
    }
    Ok((nodes.iter().map(Node::oci).collect(), rules))
}

#[derive(Debug)]
struct Node {
    path: PathBuf,
    kind: char,
    major: u32,
    minor: u32,
    mode: u32,
    uid: u32,
    gid: u32,
}

impl Node {
    fn oci(&self) -> Value {
        json!({
            "path": self.path, "type": self.kind.to_string(), "major": self.major, "minor": self.minor,
            "fileMode": self.mode & 0o777, "uid": self.uid, "gid": self.gid,
        })
    }
}

fn node(metadata: &fs::Metadata, path: &Path) -> Option<Node> {
    let kind = match metadata.file_type() {
        kind if kind.is_char_device() => 'c',
        kind if kind.is_block_device() => 'b',
        _ => return None,
    };
    Some(Node {
        path: path.to_owned(),
        kind,
        major: rustix::fs::major(metadata.rdev()),
        minor: rustix::fs::minor(metadata.rdev()),
        mode: metadata.mode(),
        uid: metadata.uid(),
        gid: metadata.gid(),
    })
}

/// The device nodes below a host directory. Terminals, shared memory and message queues are the container's own.
fn host_devices(directory: &Path, container: &Path, nodes: &mut Vec<Node>) -> Result<(), SpecError> {
    const OWN: &[&str] = &[
        "pts",
        "shm",
        "fd",
        "mqueue",
        ".lxc",
        ".lxd-mounts",
        ".udev",
        "console",
        "ptmx",
    ];
    let failed = || format!("read {}", directory.display());
    for entry in fs::read_dir(directory).map_err(SpecError::io(failed()))? {
        let entry = entry.map_err(SpecError::io(failed()))?;
        let name = entry.file_name();
        if OWN.iter().any(|own| name == *own) {
            continue;
        }
        // Links lead to nodes that are found by themselves; what vanishes meanwhile is not there.
        let Ok(metadata) = fs::symlink_metadata(entry.path()) else {
            continue;
        };
        let path = container.join(&name);
        if metadata.is_dir() {
            host_devices(&entry.path(), &path, nodes)?;
        } else if let Some(node) = node(&metadata, &path) {
            nodes.push(node);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn custom_devices() {
        let device = |host: &str, permissions: &str| v1::Device {
            host_path: host.to_owned(),
            container_path: "/dev/mine".to_owned(),
            permissions: permissions.to_owned(),
        };
        let (nodes, rules) = generate(&[device("/dev/null", "r")], false).unwrap();
        assert_eq!(
            (nodes[0]["path"].as_str(), nodes[0]["major"].as_u64()),
            (Some("/dev/mine"), Some(1))
        );
        let read = Access {
            read: true,
            write: false,
            mknod: false,
        };
        assert_eq!(
            rules.last(),
            Some(&DeviceRule {
                kind: Some('c'),
                major: Some(1),
                minor: Some(3),
                access: read
            })
        );
        assert!(generate(&[device("/dev/no-such-device", "rw")], false).is_err());
        assert!(generate(&[device("/etc/passwd", "rw")], false).is_err());
    }

    #[test]
    fn privileged_containers_see_the_hosts_devices() {
        let (nodes, rules) = generate(&[], true).unwrap();
        assert!(nodes.iter().any(|node| node["path"] == "/dev/null"));
        assert_eq!(rules.len(), 1);
    }
}
