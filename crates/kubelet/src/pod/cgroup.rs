//! The cgroup tree of pods, `kubepods/{burstable,besteffort}/pod<uid>`, on cgroup v1 and v2.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;

use super::qos::{self, Qos};
use super::spec;
use crate::config::{CgroupDriver, KubeletConfig};

/// Period of the CFS quota in microseconds.
const PERIOD: i64 = 100_000;

/// A group could not be changed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} cgroup {}", path.display())]
pub(crate) struct Error {
    operation: &'static str,
    path: PathBuf,
    #[source]
    source: std::io::Error,
}

impl Error {
    fn new(operation: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self + use<> {
        let path = path.to_path_buf();
        move |source| Self {
            operation,
            path,
            source,
        }
    }
}

/// Limits of one group; `None` leaves the kernel's default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    /// cpu.shares; weights on v2 are derived from it.
    pub(crate) shares: Option<i64>,
    /// CFS quota in microseconds per 100 ms.
    pub(crate) quota: Option<i64>,
    /// Bytes.
    pub(crate) memory: Option<i64>,
    pub(crate) pids: Option<i64>,
}

impl Limits {
    /// What has room for both; no limit is the most.
    fn or_more(self, other: &Self) -> Self {
        let more = |a: Option<i64>, b: Option<i64>| a.zip(b).map(|(a, b)| a.max(b));
        Self {
            shares: more(self.shares, other.shares),
            quota: more(self.quota, other.quota),
            memory: more(self.memory, other.memory),
            pids: more(self.pids, other.pids),
        }
    }
}

/// The tree of one kubelet.
pub(crate) struct Cgroups {
    enabled: bool,
    driver: CgroupDriver,
    root: String,
    pids_limit: Option<i64>,
    /// One on v2; one per mounted controller on v1.
    hierarchies: Vec<PathBuf>,
    unified: bool,
    /// Class and cpu request in thousandths of every pod that has a group.
    pods: Mutex<HashMap<String, (Qos, i64)>>,
}

/// The limits of a pod's group.
pub(crate) fn pod_limits(pod: &Pod, pids: Option<i64>) -> Limits {
    let limit = |resource| Some(qos::pod_limit(pod, resource)).filter(|limit| *limit > 0);
    match qos::class(pod) {
        Qos::BestEffort => Limits {
            shares: Some(2),
            pids,
            ..Limits::default()
        },
        Qos::Guaranteed | Qos::Burstable => Limits {
            shares: Some(qos::cpu_shares(qos::pod_request(pod, "cpu"))),
            quota: limit("cpu").map(qos::cpu_quota),
            memory: limit("memory"),
            pids,
        },
    }
}

impl Cgroups {
    /// Finds what is mounted; touches nothing.
    pub(crate) fn new(config: &KubeletConfig) -> Self {
        let mount = &config.cgroup_mount;
        let unified = mount.join("cgroup.controllers").exists();
        let hierarchies = if unified {
            vec![mount.clone()]
        } else {
            v1_hierarchies(mount)
        };
        Self {
            enabled: config.cgroups_per_qos && !hierarchies.is_empty(),
            driver: config.cgroup_driver,
            root: config.cgroup_root.trim_matches('/').to_owned(),
            pids_limit: config.pod_pids_limit,
            hierarchies,
            unified,
            pods: Mutex::default(),
        }
    }

    /// Names from `kubepods` to the group of a class.
    fn class_path(&self, class: Qos) -> Vec<String> {
        let name = match class {
            Qos::Guaranteed => None,
            Qos::Burstable => Some("burstable"),
            Qos::BestEffort => Some("besteffort"),
        };
        match self.driver {
            CgroupDriver::Cgroupfs => std::iter::once("kubepods")
                .chain(name)
                .map(str::to_owned)
                .collect(),
            CgroupDriver::Systemd => {
                let mut path = vec!["kubepods.slice".to_owned()];
                path.extend(name.map(|name| format!("kubepods-{name}.slice")));
                path
            }
        }
    }

    fn pod_path(&self, class: Qos, uid: &str) -> Vec<String> {
        let mut path = self.class_path(class);
        let leaf = match self.driver {
            CgroupDriver::Cgroupfs => format!("pod{uid}"),
            CgroupDriver::Systemd => {
                let parent = path
                    .last()
                    .map(|name| name.trim_end_matches(".slice"))
                    .unwrap_or_default();
                format!("{parent}-pod{}.slice", uid.replace('-', "_"))
            }
        };
        path.push(leaf);
        path
    }

    /// The parent group that the runtime is to put the pod's containers in; empty leaves it to the runtime.
    pub(crate) fn parent_for_runtime(&self, pod: &Pod) -> String {
        if !self.enabled {
            return String::new();
        }
        let path = self.pod_path(qos::class(pod), spec::uid(pod));
        match self.driver {
            CgroupDriver::Systemd => path.last().cloned().unwrap_or_default(),
            CgroupDriver::Cgroupfs if self.root.is_empty() => format!("/{}", path.join("/")),
            CgroupDriver::Cgroupfs => format!("/{}/{}", self.root, path.join("/")),
        }
    }

    /// Makes the tree down to the classes; `cpu` in thousandths and `memory` in bytes are what pods get altogether.
    pub(crate) fn create_root(&self, cpu: i64, memory: i64) -> Result<(), Error> {
        if !self.enabled {
            return Ok(());
        }
        let limits = Limits {
            shares: Some(qos::cpu_shares(cpu)),
            memory: Some(memory).filter(|memory| *memory > 0),
            ..Limits::default()
        };
        self.apply(&self.class_path(Qos::Guaranteed), &limits)?;
        self.apply(
            &self.class_path(Qos::BestEffort),
            &Limits {
                shares: Some(2),
                ..Limits::default()
            },
        )?;
        self.update_burstable()
    }

    /// Makes the group of `pod`, or brings it up to date; it has room for the pod as it is given and as it is `in_effect`.
    pub(crate) fn create_pod(&self, pod: &Pod, in_effect: &Pod) -> Result<(), Error> {
        if !self.enabled {
            return Ok(());
        }
        let class = qos::class(pod);
        self.apply(
            &self.pod_path(class, spec::uid(pod)),
            &pod_limits(pod, self.pids_limit).or_more(&pod_limits(in_effect, self.pids_limit)),
        )?;
        let entry = (class, qos::pod_request(pod, "cpu"));
        let old = self.pods.lock().insert(spec::uid(pod).to_owned(), entry);
        if old != Some(entry) && class == Qos::Burstable {
            self.update_burstable()
        } else {
            Ok(())
        }
    }

    /// Removes the group of `pod` with everything below it.
    pub(crate) async fn remove_pod(&self, pod: &Pod) -> Result<(), Error> {
        if !self.enabled {
            return Ok(());
        }
        let class = qos::class(pod);
        let path = self.pod_path(class, spec::uid(pod)).join("/");
        for hierarchy in &self.hierarchies {
            let dir = hierarchy.join(&self.root).join(&path);
            remove_tree(&dir).map_err(Error::new("remove", &dir))?;
        }
        let old = self.pods.lock().remove(spec::uid(pod));
        if old.is_some() && class == Qos::Burstable {
            self.update_burstable()
        } else {
            Ok(())
        }
    }

    /// Removes the group of a pod of which only the UID is known.
    pub(crate) fn remove_orphan(&self, uid: &str) -> Result<(), Error> {
        if !self.enabled {
            return Ok(());
        }
        for class in [Qos::Guaranteed, Qos::Burstable, Qos::BestEffort] {
            let path = self.pod_path(class, uid).join("/");
            for hierarchy in &self.hierarchies {
                let dir = hierarchy.join(&self.root).join(&path);
                remove_tree(&dir).map_err(Error::new("remove", &dir))?;
            }
        }
        Ok(())
    }

    /// Whether the host has cgroup v2.
    pub(crate) fn is_unified(&self) -> bool {
        self.unified
    }

    fn update_burstable(&self) -> Result<(), Error> {
        let requests: i64 = self
            .pods
            .lock()
            .values()
            .filter(|(class, _)| *class == Qos::Burstable)
            .map(|(_, cpu)| cpu)
            .sum();
        let limits = Limits {
            shares: Some(qos::cpu_shares(requests)),
            ..Limits::default()
        };
        self.apply(&self.class_path(Qos::Burstable), &limits)
    }

    fn apply(&self, path: &[String], limits: &Limits) -> Result<(), Error> {
        for hierarchy in &self.hierarchies {
            let mut dir = hierarchy.clone();
            for name in self
                .root
                .split('/')
                .filter(|name| !name.is_empty())
                .chain(path.iter().map(String::as_str))
            {
                if self.unified {
                    enable_controllers(&dir)?;
                }
                let parent = dir.clone();
                dir.push(name);
                match std::fs::create_dir(&dir) {
                    Ok(()) => {}
                    Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => continue,
                    Err(error) => return Err(Error::new("create", &dir)(error)),
                }
                if !self.unified && has_controller(hierarchy, "cpuset") {
                    inherit_cpuset(&parent, &dir)?;
                }
            }
            if self.unified {
                write_v2(&dir, limits)?
            } else {
                write_v1(hierarchy, &dir, limits)?
            }
        }
        Ok(())
    }
}

/// Every controller that is mounted below `mount`, once.
fn v1_hierarchies(mount: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(mount) else {
        return Vec::new();
    };
    let mut found: Vec<PathBuf> = entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .filter(|path| path.join("cgroup.procs").exists() && !path.join("cgroup.controllers").exists())
        .collect();
    found.sort();
    found
}

fn has_controller(hierarchy: &Path, controller: &str) -> bool {
    let name = hierarchy
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    name.split(',').any(|part| part == controller)
}

fn enable_controllers(dir: &Path) -> Result<(), Error> {
    let available = std::fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
    let file = dir.join("cgroup.subtree_control");
    let enabled = std::fs::read_to_string(&file).unwrap_or_default();
    for controller in ["cpu", "memory", "pids", "cpuset", "io", "hugetlb"] {
        let has = |list: &str| list.split_whitespace().any(|name| name == controller);
        if has(&available) && !has(&enabled) {
            write(&file, &format!("+{controller}"))?;
        }
    }
    Ok(())
}

/// A new v1 cpuset group is empty and takes no process until it has CPUs and memory nodes.
fn inherit_cpuset(parent: &Path, dir: &Path) -> Result<(), Error> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let value =
            std::fs::read_to_string(parent.join(file)).map_err(Error::new("read", &parent.join(file)))?;
        write(&dir.join(file), value.trim())?;
    }
    Ok(())
}

fn write(path: &Path, value: &str) -> Result<(), Error> {
    std::fs::write(path, value).map_err(Error::new("write", path))
}

fn write_v1(hierarchy: &Path, dir: &Path, limits: &Limits) -> Result<(), Error> {
    if has_controller(hierarchy, "cpu") {
        if let Some(shares) = limits.shares {
            write(&dir.join("cpu.shares"), &shares.to_string())?;
        }
        if let Some(quota) = limits.quota {
            write(&dir.join("cpu.cfs_period_us"), &PERIOD.to_string())?;
            write(&dir.join("cpu.cfs_quota_us"), &quota.to_string())?;
        }
    }
    if let Some(memory) = limits.memory.filter(|_| has_controller(hierarchy, "memory")) {
        write(&dir.join("memory.limit_in_bytes"), &memory.to_string())?;
    }
    if let Some(pids) = limits.pids.filter(|_| has_controller(hierarchy, "pids")) {
        write(&dir.join("pids.max"), &pids.to_string())?;
    }
    Ok(())
}

fn write_v2(dir: &Path, limits: &Limits) -> Result<(), Error> {
    if let Some(shares) = limits.shares {
        write(&dir.join("cpu.weight"), &weight(shares).to_string())?;
    }
    if let Some(quota) = limits.quota {
        write(&dir.join("cpu.max"), &format!("{quota} {PERIOD}"))?;
    }
    if let Some(memory) = limits.memory {
        write(&dir.join("memory.max"), &memory.to_string())?;
    }
    if let Some(pids) = limits.pids {
        write(&dir.join("pids.max"), &pids.to_string())?;
    }
    Ok(())
}

/// cpu.weight (1 to 10000) of cpu.shares (2 to 262144).
fn weight(shares: i64) -> i64 {
    1 + (shares - 2) * 9999 / 262_142
}

fn remove_tree(dir: &Path) -> std::io::Result<()> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    std::fs::remove_dir(dir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn limits_follow_the_class() {
        let pod = |resources: serde_json::Value| -> Pod {
            serde_json::from_value(json!({"metadata": {"uid": "u-1"}, "spec": {"containers": [{"name": "c", "resources": resources}]}}))
                .unwrap()
        };
        for (resources, expected) in [
            (
                json!({}),
                Limits {
                    shares: Some(2),
                    pids: Some(9),
                    ..Limits::default()
                },
            ),
            (
                json!({"requests": {"cpu": "250m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}}),
                Limits {
                    shares: Some(256),
                    memory: Some(128 << 20),
                    pids: Some(9),
                    ..Limits::default()
                },
            ),
            (
                json!({"limits": {"cpu": "2", "memory": "1Gi"}}),
                Limits {
                    shares: Some(2048),
                    quota: Some(200_000),
                    memory: Some(1 << 30),
                    pids: Some(9),
                },
            ),
        ] {
            assert_eq!(
                pod_limits(&pod(resources.clone()), Some(9)),
                expected,
                "{resources}"
            );
        }
        assert_eq!((weight(2), weight(1024), weight(262_144)), (1, 39, 10_000));
    }
}
