//! Cgroups of a node, in every v1 hierarchy or in the one of v2: made, joined, mounted inside, removed.

use std::io;
use std::path::{Path, PathBuf};

/// One mounted cgroup hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Hierarchy {
    mount_point: PathBuf,
    /// v1 mount options (controllers or `name=…`); `None` for v2.
    controllers: Option<String>,
}

/// The hierarchies of this machine.
#[derive(Clone, Debug)]
pub struct CgroupTree {
    hierarchies: Vec<Hierarchy>,
}

impl CgroupTree {
    /// Finds what is mounted below `/sys/fs/cgroup`. A v2 hierarchy counts only where it is the root, as the container
    /// runtime sees it.
    pub fn detect() -> io::Result<Self> {
        Ok(Self::parse(&std::fs::read_to_string("/proc/self/mountinfo")?))
    }

    fn parse(mountinfo: &str) -> Self {
        let mut hierarchies = Vec::new();
        for line in mountinfo.lines() {
            let Some((left, right)) = line.split_once(" - ") else {
                continue;
            };
            let Some(mount_point) = left.split(' ').nth(4) else {
                continue;
            };
            let mut right = right.split(' ');
            let (fs_type, options) = (right.next(), right.nth(1).unwrap_or_default());
            match fs_type {
                Some("cgroup") => {
                    let controllers: Vec<_> = options
                        .split(',')
                        .filter(|option| !matches!(*option, "rw" | "ro" | "xattr" | "clone_children"))
                        .filter(|option| !option.starts_with("release_agent="))
                        .collect();
                    hierarchies.push(Hierarchy {
                        mount_point: mount_point.into(),
                        controllers: Some(controllers.join(",")),
                    });
                }
                Some("cgroup2") if mount_point == "/sys/fs/cgroup" => {
                    hierarchies.push(Hierarchy {
                        mount_point: mount_point.into(),
                        controllers: None,
                    });
                }
                _ => {}
            }
        }
        Self { hierarchies }
    }

    /// Makes `group` (e.g. `/keelson-ab12cd-n2`) in every hierarchy.
    pub fn create(&self, group: &str) -> io::Result<()> {
        for hierarchy in &self.hierarchies {
            let path = hierarchy.path(group);
            std::fs::create_dir_all(&path)?;
            match &hierarchy.controllers {
                Some(controllers) if controllers.split(',').any(|c| c == "cpuset") => fill_cpuset(&path)?,
                Some(_) => {}
                None => enable_controllers(&hierarchy.mount_point)?,
            }
        }
        Ok(())
    }

    /// Moves this process into `group`, in every hierarchy.
    pub fn join(&self, group: &str) -> io::Result<()> {
        for hierarchy in &self.hierarchies {
            std::fs::write(hierarchy.path(group).join("cgroup.procs"), "0")?;
        }
        Ok(())
    }

    /// The directories of `group`, one for each hierarchy.
    pub fn paths(&self, group: &str) -> Vec<PathBuf> {
        self.hierarchies
            .iter()
            .map(|hierarchy| hierarchy.path(group))
            .collect()
    }

    /// Removes `group` and everything below it, in every hierarchy. Its processes must have ended.
    pub fn remove(&self, group: &str) -> io::Result<()> {
        for hierarchy in &self.hierarchies {
            remove_tree(&hierarchy.path(group))?;
        }
        Ok(())
    }

    /// Mounts the hierarchies again at the same places; inside a cgroup namespace they show only what is below the node's group.
    pub(super) fn mount(&self) -> nix::Result<()> {
        use nix::mount::{MsFlags, mount};
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        let root = Path::new("/sys/fs/cgroup");
        if self.hierarchies.iter().any(|h| h.controllers.is_none()) {
            return mount(Some("cgroup2"), root, Some("cgroup2"), flags, None::<&str>);
        }
        mount(Some("tmpfs"), root, Some("tmpfs"), flags, Some("mode=755"))?;
        for hierarchy in &self.hierarchies {
            std::fs::create_dir_all(&hierarchy.mount_point).map_err(errno)?;
            let controllers = hierarchy.controllers.as_deref();
            mount(
                Some("cgroup"),
                &hierarchy.mount_point,
                Some("cgroup"),
                flags,
                controllers,
            )?;
        }
        Ok(())
    }
}

fn errno(error: io::Error) -> nix::Error {
    error.raw_os_error().map_or(nix::Error::EIO, nix::Error::from_raw)
}

impl Hierarchy {
    fn path(&self, group: &str) -> PathBuf {
        self.mount_point.join(group.trim_start_matches('/'))
    }
}

/// A new v1 cpuset group has no processors and no memory nodes: it takes its parent's.
fn fill_cpuset(path: &Path) -> io::Result<()> {
    let Some(parent) = path.parent() else {
        return Ok(());
    };
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if std::fs::read_to_string(path.join(file))?.trim().is_empty() {
            std::fs::write(
                path.join(file),
                std::fs::read_to_string(parent.join(file))?.trim(),
            )?;
        }
    }
    Ok(())
}

fn enable_controllers(root: &Path) -> io::Result<()> {
    let available = std::fs::read_to_string(root.join("cgroup.controllers"))?;
    for controller in available.split_ascii_whitespace() {
        std::fs::write(root.join("cgroup.subtree_control"), format!("+{controller}"))?;
    }
    Ok(())
}

/// Removes the cgroup directory `path` and all below it, innermost first. An absent one is fine.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    match std::fs::remove_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v1_hierarchies_are_found_and_a_side_by_side_v2_is_left_out() {
        let tree = CgroupTree::parse(
            "31 30 0:27 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n\
             32 30 0:28 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd\n\
             33 30 0:29 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n",
        );
        let found: Vec<_> = tree
            .hierarchies
            .iter()
            .map(|h| (h.mount_point.to_str().unwrap(), h.controllers.as_deref()))
            .collect();
        assert_eq!(
            found,
            [
                ("/sys/fs/cgroup/cpu", Some("cpu")),
                ("/sys/fs/cgroup/systemd", Some("name=systemd"))
            ]
        );
    }

    #[test]
    fn a_v2_root_is_found() {
        let tree = CgroupTree::parse("31 30 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n");
        assert_eq!(tree.hierarchies[0].controllers, None);
    }
}
