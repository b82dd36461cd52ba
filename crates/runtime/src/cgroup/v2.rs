//! Version 2: the unified hierarchy.

use std::fs;
use std::io;
use std::path::Path;

use keelson_sys::cgroup_device::{self, DeviceRule};

use super::{Error, Group, Resources, write};

/// Controllers that containers need; enabled on the way down when the kernel offers them.
const CONTROLLERS: &[&str] = &["cpuset", "cpu", "io", "memory", "hugetlb", "pids"];

pub(super) fn create(mount: &Path, relative: &Path) -> Result<(), Error> {
    let mut directory = mount.to_owned();
    for component in relative.components() {
        enable_controllers(&directory);
        directory.push(component);
        match fs::create_dir(&directory) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(source) => return Err(Error::new("create", &directory, source)),
        }
    }
    Ok(())
}

/// Best effort: the parents belong to the kubelet, and a limit whose controller is missing fails when it is set.
fn enable_controllers(directory: &Path) {
    let offered = fs::read_to_string(directory.join("cgroup.controllers")).unwrap_or_default();
    let file = directory.join("cgroup.subtree_control");
    let enabled = fs::read_to_string(&file).unwrap_or_default();
    let has = |list: &str, controller: &str| list.split_whitespace().any(|c| c == controller);
    for controller in CONTROLLERS {
        if has(&offered, controller) && !has(&enabled, controller) {
            // Fails for a group with processes of its own (but the root).
            let _ = fs::write(&file, format!("+{controller}"));
        }
    }
}

pub(super) fn apply(group: &Group, r: &Resources) -> Result<(), Error> {
    let Some(directory) = group.directory("") else {
        return Ok(());
    };
    let set = |file: &str, value: Option<String>| match value {
        Some(value) => write(&directory.join(file), &value),
        None => Ok(()),
    };
    let limit = |n: i64| if n < 0 { "max".to_owned() } else { n.to_string() };
    set(
        "cpu.weight",
        r.cpu_shares.map(|shares| weight(shares).to_string()),
    )?;
    if r.cpu_quota.is_some() || r.cpu_period.is_some() {
        let quota = r.cpu_quota.map_or_else(
            || {
                let present = fs::read_to_string(directory.join("cpu.max")).unwrap_or_default();
                present
                    .split(' ')
                    .next()
                    .filter(|q| !q.is_empty())
                    .unwrap_or("max")
                    .to_owned()
            },
            limit,
        );
        let value = match r.cpu_period {
            Some(period) => format!("{quota} {period}"),
            None => quota,
        };
        set("cpu.max", Some(value))?;
    }
    set("cpuset.cpus", r.cpuset_cpus.clone())?;
    set("cpuset.mems", r.cpuset_mems.clone())?;
    set("memory.max", r.memory_limit.map(limit))?;
    if let Some(both) = r.memory_swap_limit
        && directory.join("memory.swap.max").exists()
    {
        let swap = match r.memory_limit {
            _ if both < 0 => "max".to_owned(),
            Some(memory) if memory > 0 => (both - memory).max(0).to_string(),
            _ => both.to_string(),
        };
        set("memory.swap.max", Some(swap))?;
    }
    set("pids.max", r.pids_limit.map(limit))?;
    for (size, bytes) in &r.hugepages {
        let file = format!("hugetlb.{size}.max");
        // The kubelet sets 0 for every page size, whether or not the controller is there.
        if *bytes > 0 || directory.join(&file).exists() {
            set(&file, Some(bytes.to_string()))?;
        }
    }
    for (file, value) in &r.unified {
        if file.contains('/') {
            return Err(Error::new(
                "write the unified file",
                Path::new(file),
                io::ErrorKind::InvalidInput.into(),
            ));
        }
        set(file, Some(value.clone()))?;
    }
    Ok(())
}

/// `cpu.shares` (2 to 262144) as `cpu.weight` (1 to 10000), the linear mapping of KEP-2254.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142
}

pub(super) fn apply_devices(group: &Group, rules: &[DeviceRule]) -> Result<(), Error> {
    let Some(directory) = group.directory("") else {
        return Ok(());
    };
    fs::File::open(&directory)
        .and_then(|handle| cgroup_device::allow_devices(&handle, rules))
        .map_err(|source| Error::new("restrict the devices of", &directory, source))
}

#[cfg(test)]
mod tests {
    #[test]
    fn shares_become_weights() {
        for (shares, weight) in [(0, 1), (2, 1), (1024, 39), (262_144, 10_000), (u64::MAX, 10_000)] {
            assert_eq!(super::weight(shares), weight, "{shares}");
        }
    }
}
