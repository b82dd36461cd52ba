//! Control groups of containers, version 1 and 2, chosen by what is mounted at `/sys/fs/cgroup`.
//!
//! A group is a path below every hierarchy's mount point, as kubelet passes it in `cgroup_parent`. Groups are made,
//! limited, read and removed here; libcontainer only puts the first process in. Leaf groups only: the parents belong
//! to the kubelet, and are made (with everything their children need) when they are missing.

mod resources;
mod stats;
mod v1;
mod v2;

pub use resources::Resources;
pub use stats::{Pressure, Stats};

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Why a group could not be handled.
#[derive(Debug, thiserror::Error)]
#[error("cgroup: cannot {action} {path}: {source}", path = .path.display())]
pub struct Error {
    /// What was tried: create, read, write "value" to, remove.
    pub action: String,
    /// The file or directory.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

impl Error {
    fn new(action: impl Into<String>, path: &Path, source: io::Error) -> Self {
        Self {
            action: action.into(),
            path: path.to_owned(),
            source,
        }
    }
}

/// The hierarchies of this machine (or node sandbox).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cgroups {
    /// One mount per controller (or set of them): controllers and mount point.
    V1(Vec<(Vec<String>, PathBuf)>),
    /// The unified hierarchy.
    V2(PathBuf),
}

impl Cgroups {
    /// Reads the mounts of this process.
    ///
    /// # Errors
    /// When there is no cgroup file system at or below `/sys/fs/cgroup`.
    pub fn detect() -> Result<Self, Error> {
        let path = Path::new("/proc/self/mountinfo");
        let text = fs::read_to_string(path).map_err(|source| Error::new("read", path, source))?;
        Self::from_mountinfo(&text).ok_or_else(|| {
            Error::new(
                "find a cgroup file system at",
                Path::new("/sys/fs/cgroup"),
                io::ErrorKind::NotFound.into(),
            )
        })
    }

    fn from_mountinfo(text: &str) -> Option<Self> {
        const ROOT: &str = "/sys/fs/cgroup";
        let mut v1: Vec<(Vec<String>, PathBuf)> = Vec::new();
        for line in text.lines() {
            let (left, right) = line.split_once(" - ")?;
            let mount_point = left.split(' ').nth(4)?;
            let mut right = right.split(' ');
            let (kind, options) = (right.next()?, right.nth(1).unwrap_or_default());
            match kind {
                "cgroup2" if mount_point == ROOT => return Some(Self::V2(ROOT.into())),
                "cgroup" if Path::new(mount_point).starts_with(ROOT) => {
                    let controllers: Vec<String> = options
                        .split(',')
                        .filter(|o| v1::CONTROLLERS.contains(o))
                        .map(str::to_owned)
                        .collect();
                    let known = v1.iter().any(|(_, mounted)| mounted == Path::new(mount_point));
                    if !controllers.is_empty() && !known {
                        v1.push((controllers, mount_point.into()));
                    }
                }
                _ => {}
            }
        }
        (!v1.is_empty()).then_some(Self::V1(v1))
    }

    /// Whether it is the unified hierarchy.
    pub fn is_v2(&self) -> bool {
        matches!(self, Self::V2(_))
    }

    /// The group at `path` below the mount points; it need not exist.
    pub fn group(&self, path: &Path) -> Group {
        let relative: PathBuf = path
            .components()
            .filter(|c| matches!(c, std::path::Component::Normal(_)))
            .collect();
        Group {
            cgroups: self.clone(),
            relative,
        }
    }
}

/// One group in all hierarchies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    cgroups: Cgroups,
    /// Below the mount points; only normal components.
    relative: PathBuf,
}

impl Group {
    /// The group as an absolute path below the mount points.
    pub fn path(&self) -> PathBuf {
        Path::new("/").join(&self.relative)
    }

    /// Its directories.
    fn directories(&self) -> Vec<PathBuf> {
        match &self.cgroups {
            Cgroups::V1(hierarchies) => hierarchies
                .iter()
                .map(|(_, mount)| mount.join(&self.relative))
                .collect(),
            Cgroups::V2(mount) => vec![mount.join(&self.relative)],
        }
    }

    /// The directory where this controller's files are.
    fn directory(&self, controller: &str) -> Option<PathBuf> {
        match &self.cgroups {
            Cgroups::V1(hierarchies) => hierarchies
                .iter()
                .find(|(controllers, _)| controllers.iter().any(|c| c == controller))
                .map(|(_, mount)| mount.join(&self.relative)),
            Cgroups::V2(mount) => Some(mount.join(&self.relative)),
        }
    }

    /// Makes the group, and its parents where they are missing, and applies limits.
    ///
    /// # Errors
    /// When a directory cannot be made or a value is refused; what was made stays, see [`Group::remove`].
    pub fn create(&self, resources: &Resources) -> Result<(), Error> {
        match &self.cgroups {
            Cgroups::V1(hierarchies) => v1::create(hierarchies, &self.relative)?,
            Cgroups::V2(mount) => v2::create(mount, &self.relative)?,
        }
        self.apply(resources)?;
        self.apply_devices(resources)
    }

    /// Applies limits; what is `None` stays as it is. Device rules are set at creation only.
    ///
    /// # Errors
    /// When a value is refused, or a limit is asked for whose controller is not there.
    pub fn apply(&self, resources: &Resources) -> Result<(), Error> {
        match &self.cgroups {
            Cgroups::V1(_) => v1::apply(self, resources),
            Cgroups::V2(_) => v2::apply(self, resources),
        }
    }

    fn apply_devices(&self, resources: &Resources) -> Result<(), Error> {
        let Some(rules) = &resources.devices else {
            return Ok(());
        };
        match &self.cgroups {
            Cgroups::V1(_) => v1::apply_devices(self, rules),
            Cgroups::V2(_) => v2::apply_devices(self, rules),
        }
    }

    /// Moves the calling process in.
    ///
    /// # Errors
    /// When the group does not exist.
    pub fn add_self(&self) -> Result<(), Error> {
        self.directories()
            .iter()
            .try_for_each(|directory| write(&directory.join("cgroup.procs"), "0"))
    }

    /// Its processes, and those of groups below it.
    pub fn processes(&self) -> Vec<i32> {
        let mut pids = Vec::new();
        // Every process is in all hierarchies alike: the first is enough.
        if let Some(directory) = self.directories().first() {
            collect_processes(directory, &mut pids);
        }
        pids
    }

    /// Sends SIGKILL to all its processes, also to those that they start meanwhile. Returns without waiting for
    /// their end.
    pub fn kill_all(&self) {
        if let Cgroups::V2(mount) = &self.cgroups
            && fs::write(mount.join(&self.relative).join("cgroup.kill"), "1").is_ok()
        {
            return;
        }
        // A process that forks between reading and killing is found in the next round; each round leaves fewer that
        // can fork, and a bomb is limited by pids.max.
        for _ in 0..16 {
            let pids = self.processes();
            if pids.is_empty() {
                return;
            }
            for pid in pids {
                // ESRCH: gone in the meantime.
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }

    /// Removes the group with all groups below it. Absence is success.
    ///
    /// # Errors
    /// `EBUSY` while it has processes.
    pub fn remove(&self) -> Result<(), Error> {
        if self.relative.as_os_str().is_empty() {
            return Ok(());
        }
        self.directories()
            .iter()
            .try_for_each(|directory| remove_tree(directory))
    }

    /// How many of its processes the OOM killer has killed.
    pub fn oom_kills(&self) -> u64 {
        let file = if self.cgroups.is_v2() {
            "memory.events"
        } else {
            "memory.oom_control"
        };
        self.directory("memory")
            .and_then(|directory| keyed(&directory.join(file), "oom_kill"))
            .unwrap_or(0)
    }

    /// Present usage.
    ///
    /// # Errors
    /// When the group does not exist.
    pub fn stats(&self) -> Result<Stats, Error> {
        match &self.cgroups {
            Cgroups::V1(_) => stats::v1(self),
            Cgroups::V2(_) => stats::v2(self),
        }
    }
}

fn collect_processes(directory: &Path, pids: &mut Vec<i32>) {
    let text = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    pids.extend(
        text.lines()
            .filter_map(|line| line.parse::<i32>().ok())
            .filter(|pid| *pid > 0),
    );
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect_processes(&entry.path(), pids);
        }
    }
}

fn remove_tree(directory: &Path) -> Result<(), Error> {
    match fs::remove_dir(directory) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(_) => {}
    }
    for entry in fs::read_dir(directory)
        .map_err(|source| Error::new("read", directory, source))?
        .flatten()
    {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    match fs::remove_dir(directory) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(Error::new("remove", directory, source))
        }
        _ => Ok(()),
    }
}

fn write(path: &Path, value: &str) -> Result<(), Error> {
    fs::write(path, value).map_err(|source| Error::new(format!("write {value:?} to"), path, source))
}

fn read_number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The number after `key` in a file of `key number` lines.
fn keyed(path: &Path, key: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    find_key(&text, key)
}

fn find_key(text: &str, key: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_found_in_mountinfo() {
        let v1 = "30 24 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
                  31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
                  32 30 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
                  33 30 0:29 /x /mnt/cgroup/pids rw - cgroup cgroup rw,pids\n\
                  34 30 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                  35 30 0:31 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let expected = Cgroups::V1(vec![
            (
                vec!["cpu".into(), "cpuacct".into()],
                "/sys/fs/cgroup/cpu,cpuacct".into(),
            ),
            (vec!["memory".into()], "/sys/fs/cgroup/memory".into()),
        ]);
        assert_eq!(Cgroups::from_mountinfo(v1), Some(expected));
        let v2 = "30 24 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(
            Cgroups::from_mountinfo(v2),
            Some(Cgroups::V2("/sys/fs/cgroup".into()))
        );
        assert_eq!(Cgroups::from_mountinfo(""), None);
    }

    #[test]
    fn groups_stay_below_the_mount_point() {
        let group = Cgroups::V2("/sys/fs/cgroup".into()).group(Path::new("/a/../../b"));
        assert_eq!(group.path(), Path::new("/a/b"));
    }

    #[test]
    fn life_of_a_group() {
        let Ok(cgroups) = Cgroups::detect() else { return };
        let name = format!("/keelson-test-{}/a/b", std::process::id());
        let group = cgroups.group(Path::new(&name));
        let resources = Resources {
            cpu_shares: Some(512),
            cpu_period: Some(100_000),
            cpu_quota: Some(20_000),
            memory_limit: Some(64 << 20),
            pids_limit: Some(17),
            ..Resources::default()
        };
        group.create(&resources).unwrap();
        group
            .apply(&Resources {
                memory_limit: Some(32 << 20),
                ..Resources::default()
            })
            .unwrap();
        let stats = group.stats().unwrap();
        assert_eq!(stats.memory_limit, Some(32 << 20));
        assert_eq!(group.processes(), Vec::<i32>::new());
        assert_eq!(group.oom_kills(), 0);
        let parent = cgroups.group(Path::new(name.trim_end_matches("/a/b")));
        parent.remove().unwrap();
        group.remove().unwrap();
        assert!(group.stats().is_err());
    }
}
