//! Limits of a container.

use std::collections::BTreeMap;

use keelson_cri::v1::LinuxContainerResources;
use keelson_sys::cgroup_device::DeviceRule;

/// Limits to apply; `None` leaves what is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources {
    /// Relative weight, 2 to 262144 (v1 scale).
    pub cpu_shares: Option<u64>,
    /// Microseconds of CPU time per period; -1 is unlimited.
    pub cpu_quota: Option<i64>,
    /// Microseconds.
    pub cpu_period: Option<u64>,
    /// CPUs, list format.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes, list format.
    pub cpuset_mems: Option<String>,
    /// Bytes; -1 is unlimited.
    pub memory_limit: Option<i64>,
    /// Bytes of memory and swap together; -1 is unlimited.
    pub memory_swap_limit: Option<i64>,
    /// Number of processes; -1 is unlimited.
    pub pids_limit: Option<i64>,
    /// Page size as in file names ("2MB") and bytes.
    pub hugepages: Vec<(String, u64)>,
    /// Version 2 only: file name and value.
    pub unified: BTreeMap<String, String>,
    /// Devices that may be used; `None` does not restrict.
    pub devices: Option<Vec<DeviceRule>>,
}

impl From<&LinuxContainerResources> for Resources {
    /// Zero and empty mean "not specified" in CRI.
    fn from(cri: &LinuxContainerResources) -> Self {
        let text = |s: &String| (!s.is_empty()).then(|| s.clone());
        let number = |n: i64| (n != 0).then_some(n);
        let positive = |n: i64| u64::try_from(n).ok().filter(|n| *n > 0);
        Self {
            cpu_shares: positive(cri.cpu_shares),
            cpu_quota: number(cri.cpu_quota),
            cpu_period: positive(cri.cpu_period),
            cpuset_cpus: text(&cri.cpuset_cpus),
            cpuset_mems: text(&cri.cpuset_mems),
            memory_limit: number(cri.memory_limit_in_bytes),
            memory_swap_limit: number(cri.memory_swap_limit_in_bytes),
            pids_limit: None,
            hugepages: cri
                .hugepage_limits
                .iter()
                .map(|h| (h.page_size.clone(), h.limit))
                .collect(),
            unified: cri.unified.clone().into_iter().collect(),
            devices: None,
        }
    }
}
