//! Version 1: a hierarchy per controller.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use keelson_sys::cgroup_device::DeviceRule;

use super::{Error, Group, Resources, write};

/// The controllers that containers are put into when they are mounted.
pub(super) const CONTROLLERS: &[&str] = &[
    "cpu",
    "cpuacct",
    "cpuset",
    "memory",
    "devices",
    "freezer",
    "blkio",
    "pids",
    "hugetlb",
    "perf_event",
    "net_cls",
    "net_prio",
];

/// Makes the group level by level: a new cpuset group is empty and takes no process until it has CPUs and memory
/// nodes, so every level gets its parent's.
pub(super) fn create(hierarchies: &[(Vec<String>, PathBuf)], relative: &Path) -> Result<(), Error> {
    for (controllers, mount) in hierarchies {
        let cpuset = controllers.iter().any(|c| c == "cpuset");
        let mut directory = mount.clone();
        for component in relative.components() {
            let parent = directory.clone();
            directory.push(component);
            match fs::create_dir(&directory) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => return Err(Error::new("create", &directory, source)),
            }
            if cpuset {
                for file in ["cpuset.cpus", "cpuset.mems"] {
                    inherit(&parent.join(file), &directory.join(file))?;
                }
            }
        }
    }
    Ok(())
}

fn inherit(from: &Path, to: &Path) -> Result<(), Error> {
    let own = fs::read_to_string(to).map_err(|source| Error::new("read", to, source))?;
    if !own.trim().is_empty() {
        return Ok(());
    }
    let value = fs::read_to_string(from).map_err(|source| Error::new("read", from, source))?;
    write(to, value.trim())
}

pub(super) fn apply(group: &Group, r: &Resources) -> Result<(), Error> {
    let set = |controller: &str, file: &str, value: Option<String>| -> Result<(), Error> {
        let Some(value) = value else { return Ok(()) };
        match group.directory(controller) {
            Some(directory) => write(&directory.join(file), &value),
            None => Err(Error::new(
                format!("set {file}: the {controller} controller is not mounted; group"),
                &group.path(),
                io::ErrorKind::Unsupported.into(),
            )),
        }
    };
    let text = |n: Option<i64>| n.map(|n| n.to_string());
    set("cpu", "cpu.shares", r.cpu_shares.map(|n| n.to_string()))?;
    // A period that is too long for the present quota is refused, and the other way round: try both orders.
    let period = || set("cpu", "cpu.cfs_period_us", r.cpu_period.map(|n| n.to_string()));
    let quota = || set("cpu", "cpu.cfs_quota_us", text(r.cpu_quota));
    if period().is_err() {
        quota()?;
        period()?;
    } else {
        quota()?;
    }
    set("cpuset", "cpuset.cpus", r.cpuset_cpus.clone())?;
    set("cpuset", "cpuset.mems", r.cpuset_mems.clone())?;
    apply_memory(group, r, &set)?;
    set(
        "pids",
        "pids.max",
        r.pids_limit
            .map(|n| if n < 0 { "max".to_owned() } else { n.to_string() }),
    )?;
    for (size, limit) in &r.hugepages {
        // The kubelet sets 0 for every page size, whether or not the controller is there.
        if *limit > 0 || group.directory("hugetlb").is_some() {
            set(
                "hugetlb",
                &format!("hugetlb.{size}.limit_in_bytes"),
                Some(limit.to_string()),
            )?;
        }
    }
    Ok(())
}

/// Writes a controller's file, when there is a value.
type Setter<'a> = dyn Fn(&str, &str, Option<String>) -> Result<(), Error> + 'a;

/// The limit of memory and swap is never below that of memory: which is written first depends on the direction.
fn apply_memory(group: &Group, r: &Resources, set: &Setter<'_>) -> Result<(), Error> {
    let memory = || {
        set(
            "memory",
            "memory.limit_in_bytes",
            r.memory_limit.map(|n| n.to_string()),
        )
    };
    let accounted = group
        .directory("memory")
        .is_some_and(|directory| directory.join("memory.memsw.limit_in_bytes").exists());
    let Some(swap) = r.memory_swap_limit.filter(|_| accounted) else {
        return memory();
    };
    let both = || set("memory", "memory.memsw.limit_in_bytes", Some(swap.to_string()));
    if memory().is_err() {
        both()?;
        memory()
    } else {
        both()
    }
}

pub(super) fn apply_devices(group: &Group, rules: &[DeviceRule]) -> Result<(), Error> {
    let Some(directory) = group.directory("devices") else {
        return Err(Error::new(
            "restrict devices: the devices controller is not mounted; group",
            &group.path(),
            io::ErrorKind::Unsupported.into(),
        ));
    };
    write(&directory.join("devices.deny"), "a")?;
    for rule in rules {
        let number = |n: Option<u32>| n.map_or("*".to_owned(), |n| n.to_string());
        let mut access = String::new();
        for (allowed, letter) in [
            (rule.access.read, 'r'),
            (rule.access.write, 'w'),
            (rule.access.mknod, 'm'),
        ] {
            if allowed {
                access.push(letter);
            }
        }
        let kinds: &[char] = match &rule.kind {
            Some(kind) => std::slice::from_ref(kind),
            None => &['c', 'b'],
        };
        for kind in kinds {
            let line = format!("{kind} {}:{} {access}", number(rule.major), number(rule.minor));
            write(&directory.join("devices.allow"), &line)?;
        }
    }
    Ok(())
}
