//! What pods and the node use: read when asked for, from the runtime and the kernel.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use k8s_openapi::jiff::Timestamp;
use keelson_cri::v1 as cri;
use parking_lot::Mutex;

use crate::kubelet::Kubelet;
use crate::labels;
use crate::machine::{self, FileSystem};
use crate::pod::runtime_status::State;

/// CPU and memory at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// Nanoseconds since the epoch.
    pub(crate) time: i64,
    pub(crate) cpu_nanoseconds: u64,
    /// Average since the last reading, in billionths of a core.
    pub(crate) cpu_nanocores: Option<u64>,
    pub(crate) working_set: u64,
    pub(crate) memory: u64,
    pub(crate) rss: u64,
    pub(crate) page_faults: u64,
    pub(crate) major_page_faults: u64,
    /// Bytes up to the memory limit, where there is one.
    pub(crate) memory_available: Option<u64>,
    pub(crate) swap: Option<u64>,
}

/// One running container.
#[derive(Clone, Debug, Default)]
pub(crate) struct ContainerUsage {
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) image: String,
    pub(crate) started_at: i64,
    pub(crate) usage: Usage,
    pub(crate) rootfs_bytes: u64,
    pub(crate) rootfs_inodes: u64,
    pub(crate) log_bytes: u64,
}

/// One pod.
#[derive(Clone, Debug, Default)]
pub(crate) struct PodUsage {
    pub(crate) uid: String,
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) containers: Vec<ContainerUsage>,
    pub(crate) total: Usage,
    pub(crate) network: Option<cri::NetworkUsage>,
    /// Processes and threads in the pod's group.
    pub(crate) processes: Option<u64>,
    /// The group of the pod as paths of groups are written; empty when the runtime chose it.
    pub(crate) cgroup: String,
}

/// Memory and local storage of a pod, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PodTotals {
    pub(crate) memory: u64,
    pub(crate) storage: u64,
}

/// Time, CPU nanoseconds and the rate that was found.
type Reading = (i64, u64, Option<u64>);

/// The last readings, from which rates are made.
#[derive(Default)]
pub(crate) struct UsageCache {
    last: Mutex<HashMap<String, Reading>>,
}

impl UsageCache {
    /// The rate since the last reading of `key`; a reading that follows too soon gets the rate of the last one.
    fn rate(&self, key: &str, time: i64, cpu: u64) -> Option<u64> {
        let mut last = self.last.lock();
        let before = last.get(key).copied();
        let Some((then, used, rate)) = before else {
            last.insert(key.to_owned(), (time, cpu, None));
            return None;
        };
        let elapsed = u64::try_from(time - then).unwrap_or_default();
        if elapsed < 100_000_000 || cpu < used {
            return rate;
        }
        let rate = u64::try_from(u128::from(cpu - used) * 1_000_000_000 / u128::from(elapsed)).ok();
        last.insert(key.to_owned(), (time, cpu, rate));
        rate
    }

    fn retain(&self, keep: impl Fn(&str) -> bool) {
        self.last.lock().retain(|key, _| keep(key));
    }
}

pub(super) fn number(value: Option<cri::UInt64Value>) -> u64 {
    value.map(|value| value.value).unwrap_or_default()
}

fn usage(cpu: Option<cri::CpuUsage>, memory: Option<cri::MemoryUsage>) -> Usage {
    let (cpu, memory) = (cpu.unwrap_or_default(), memory.unwrap_or_default());
    Usage {
        time: cpu.timestamp.max(memory.timestamp),
        cpu_nanoseconds: number(cpu.usage_core_nano_seconds),
        cpu_nanocores: cpu.usage_nano_cores.map(|value| value.value),
        working_set: number(memory.working_set_bytes),
        memory: number(memory.usage_bytes),
        rss: number(memory.rss_bytes),
        page_faults: number(memory.page_faults),
        major_page_faults: number(memory.major_page_faults),
        memory_available: memory.available_bytes.map(|value| value.value),
        swap: None,
    }
}

/// Every pod that has a running container.
pub(crate) async fn gather(kubelet: &Kubelet) -> Result<Vec<PodUsage>, tonic::Status> {
    let runtime = &kubelet.config.cri;
    let response = runtime
        .runtime()
        .list_container_stats(cri::ListContainerStatsRequest { filter: None })
        .await?;
    let stats = response.into_inner().stats;
    // Not all runtimes know a pod's network.
    let sandboxes = runtime
        .runtime()
        .list_pod_sandbox_stats(cri::ListPodSandboxStatsRequest { filter: None })
        .await;
    let sandboxes = sandboxes
        .map(|response| response.into_inner().stats)
        .unwrap_or_default();
    let mut of_pods: HashMap<String, cri::LinuxPodSandboxStats> = HashMap::new();
    for stats in sandboxes {
        let uid = stats
            .attributes
            .and_then(|attributes| attributes.metadata)
            .map(|metadata| metadata.uid);
        if let (Some(uid), Some(linux)) = (uid, stats.linux) {
            of_pods.insert(uid, linux);
        }
    }
    let mut pods: HashMap<String, PodUsage> = HashMap::new();
    let mut ids = std::collections::HashSet::new();
    for stats in stats {
        let Some(attributes) = stats.attributes else {
            continue;
        };
        let label = |key: &str| attributes.labels.get(key).cloned().unwrap_or_default();
        let uid = label(labels::POD_UID);
        let Some(handle) = kubelet.pods.get(&uid) else {
            continue;
        };
        let records = handle.runtime();
        let record = records
            .containers
            .iter()
            .find(|record| record.id == attributes.id);
        let Some(record) = record.filter(|record| record.state == State::Running) else {
            continue;
        };
        let mut usage = usage(stats.cpu, stats.memory);
        usage.swap = stats
            .swap
            .and_then(|swap| swap.swap_usage_bytes)
            .map(|value| value.value);
        if usage.cpu_nanocores.is_none() {
            usage.cpu_nanocores = kubelet
                .usage
                .rate(&attributes.id, usage.time, usage.cpu_nanoseconds);
        }
        ids.insert(attributes.id.clone());
        let layer = stats.writable_layer.unwrap_or_default();
        let pod = pods.entry(uid.clone()).or_insert_with(|| {
            let sandbox = of_pods.remove(&uid).unwrap_or_default();
            PodUsage {
                network: sandbox.network,
                processes: sandbox
                    .process
                    .and_then(|process| process.process_count)
                    .map(|value| value.value),
                cgroup: kubelet.cgroups.parent_for_runtime(&handle.pod()),
                uid,
                name: label(labels::POD_NAME),
                namespace: label(labels::POD_NAMESPACE),
                ..PodUsage::default()
            }
        });
        add(&mut pod.total, &usage);
        pod.containers.push(ContainerUsage {
            name: label(labels::CONTAINER_NAME),
            id: attributes.id.clone(),
            image: record.image.clone(),
            started_at: record.started_at,
            usage,
            rootfs_bytes: number(layer.used_bytes),
            rootfs_inodes: number(layer.inodes_used),
            log_bytes: std::fs::metadata(&record.log_path)
                .map(|metadata| metadata.len())
                .unwrap_or_default(),
        });
    }
    kubelet.usage.retain(|key| key == "node" || ids.contains(key));
    let mut pods: Vec<PodUsage> = pods.into_values().collect();
    pods.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    Ok(pods)
}

pub(super) fn add(total: &mut Usage, part: &Usage) {
    total.time = total.time.max(part.time);
    total.cpu_nanoseconds += part.cpu_nanoseconds;
    total.cpu_nanocores = match (total.cpu_nanocores, part.cpu_nanocores) {
        (Some(a), Some(b)) => Some(a + b),
        (a, b) => a.or(b),
    };
    total.working_set += part.working_set;
    total.memory += part.memory;
    total.rss += part.rss;
    total.page_faults += part.page_faults;
    total.major_page_faults += part.major_page_faults;
    total.swap = match (total.swap, part.swap) {
        (Some(a), Some(b)) => Some(a + b),
        (a, b) => a.or(b),
    };
}

/// Memory and storage by pod UID, for eviction; empty when the runtime does not tell.
pub(crate) async fn pod_usages(kubelet: &Kubelet) -> HashMap<String, PodTotals> {
    let pods = match gather(kubelet).await {
        Ok(pods) => pods,
        Err(status) => {
            tracing::warn!(%status, "the runtime does not tell what containers use");
            return HashMap::new();
        }
    };
    let mut totals = HashMap::new();
    for pod in pods {
        let dir = kubelet
            .config
            .pod_dir(&pod.uid)
            .join("volumes/kubernetes.io~empty-dir");
        let (volumes, _) = tokio::task::spawn_blocking(move || directory_size(&dir))
            .await
            .expect("invariant: measuring a directory does not panic");
        let own: u64 = pod
            .containers
            .iter()
            .map(|container| container.rootfs_bytes + container.log_bytes)
            .sum();
        totals.insert(
            pod.uid,
            PodTotals {
                memory: pod.total.working_set,
                storage: own + volumes,
            },
        );
    }
    totals
}

/// Bytes and number of all files below `dir` on its own file system.
fn directory_size(dir: &Path) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    let Ok(root) = std::fs::metadata(dir) else {
        return (0, 0);
    };
    let (mut bytes, mut inodes) = (0, 0);
    let mut dirs = vec![dir.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        let Ok(entries) = std::fs::read_dir(dir) else {
            continue;
        };
        for entry in entries.filter_map(Result::ok) {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.dev() != root.dev() {
                continue;
            }
            bytes += metadata.blocks() * 512;
            inodes += 1;
            if metadata.is_dir() {
                dirs.push(entry.path());
            }
        }
    }
    (bytes, inodes)
}

/// One volume of a pod that the kubelet made.
#[derive(Clone, Debug)]
pub(super) struct VolumeUsage {
    pub(super) name: String,
    pub(super) used: u64,
    pub(super) inodes: u64,
    pub(super) file_system: FileSystem,
    /// Whether it lies on the file system of the kubelet's root directory.
    pub(super) local: bool,
}

/// The volumes below the pod's directory, by name.
pub(super) async fn volumes(kubelet: &Kubelet, uid: &str) -> Vec<VolumeUsage> {
    use std::os::unix::fs::MetadataExt;
    let dir = kubelet.config.pod_dir(uid).join("volumes");
    let measured = tokio::task::spawn_blocking(move || {
        let device = std::fs::metadata(&dir).map(|metadata| metadata.dev()).ok();
        let below = |dir: &Path| {
            std::fs::read_dir(dir)
                .into_iter()
                .flatten()
                .filter_map(Result::ok)
        };
        let mut all: Vec<VolumeUsage> = below(&dir)
            .flat_map(|plugin| below(&plugin.path()).collect::<Vec<_>>())
            .filter_map(|volume| {
                let path = volume.path();
                let metadata = std::fs::metadata(&path).ok()?;
                let (used, inodes) = directory_size(&path);
                Some(VolumeUsage {
                    name: volume.file_name().to_string_lossy().into_owned(),
                    used,
                    inodes,
                    file_system: machine::file_system(&path).ok()?,
                    local: Some(metadata.dev()) == device,
                })
            })
            .collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    });
    measured
        .await
        .expect("invariant: measuring directories does not panic")
}

/// Bytes that can be had without swapping.
pub(crate) fn memory_available(_kubelet: &Kubelet) -> Option<u64> {
    machine::meminfo(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable")
}

/// The file system that images are on.
pub(crate) async fn image_fs(kubelet: &Kubelet) -> Option<FileSystem> {
    let response = kubelet
        .config
        .cri
        .image()
        .image_fs_info(cri::ImageFsInfoRequest {})
        .await
        .ok()?
        .into_inner();
    let mountpoint = response.image_filesystems.into_iter().next()?.fs_id?.mountpoint;
    machine::file_system(&PathBuf::from(mountpoint)).ok()
}

/// What the whole node uses.
pub(crate) fn node_usage(kubelet: &Kubelet) -> Usage {
    let time = i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or_default();
    let cpu_nanoseconds = node_cpu(kubelet).unwrap_or_default();
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let read = |key: &str| machine::meminfo(&meminfo, key).unwrap_or_default();
    let memory = read("MemTotal").saturating_sub(read("MemFree"));
    Usage {
        time,
        cpu_nanoseconds,
        cpu_nanocores: kubelet.usage.rate("node", time, cpu_nanoseconds),
        working_set: memory.saturating_sub(read("Inactive(file)")),
        memory,
        rss: read("AnonPages"),
        memory_available: machine::meminfo(&meminfo, "MemAvailable"),
        swap: Some(read("SwapTotal").saturating_sub(read("SwapFree"))),
        ..Usage::default()
    }
}

/// From the root group that this node sees, so that nodes on one machine do not report each other; else from the kernel.
fn node_cpu(kubelet: &Kubelet) -> Option<u64> {
    let mount = &kubelet.config.cgroup_mount;
    for dir in ["cpuacct", "cpu,cpuacct"] {
        if let Ok(text) = std::fs::read_to_string(mount.join(dir).join("cpuacct.usage")) {
            return text.trim().parse().ok();
        }
    }
    if let Ok(text) = std::fs::read_to_string(mount.join("cpu.stat"))
        && let Some(usec) = text.lines().find_map(|line| line.strip_prefix("usage_usec "))
    {
        return usec.trim().parse::<u64>().ok().map(|usec| usec * 1000);
    }
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    let ticks: Vec<u64> = stat
        .lines()
        .next()?
        .split_whitespace()
        .skip(1)
        .filter_map(|word| word.parse().ok())
        .collect();
    // All but idle and iowait.
    let busy: u64 = ticks
        .iter()
        .enumerate()
        .take(8)
        .filter(|(index, _)| !matches!(index, 3 | 4))
        .map(|(_, t)| t)
        .sum();
    Some(busy * (1_000_000_000 / machine::TICKS_PER_SECOND))
}

/// The counters of this machine's interfaces; the default one is that of the default route.
pub(super) fn node_network(time: i64) -> Option<cri::NetworkUsage> {
    let text = std::fs::read_to_string("/proc/self/net/dev").ok()?;
    let routes = std::fs::read_to_string("/proc/self/net/route").unwrap_or_default();
    Some(network_usage(&text, &routes, time))
}

fn network_usage(devices: &str, routes: &str, time: i64) -> cri::NetworkUsage {
    let default = routes.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let (name, destination) = (words.next()?, words.next()?);
        (destination == "00000000").then_some(name)
    });
    let counter = |value: u64| Some(cri::UInt64Value { value });
    let (mut default_interface, mut interfaces) = (None, Vec::new());
    for line in devices.lines() {
        let Some((name, counters)) = line.split_once(':') else {
            continue;
        };
        let name = name.trim();
        let counters: Vec<u64> = counters
            .split_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect();
        if name == "lo" || counters.len() < 11 {
            continue;
        }
        let usage = cri::NetworkInterfaceUsage {
            name: name.to_owned(),
            rx_bytes: counter(counters[0]),
            rx_errors: counter(counters[2]),
            tx_bytes: counter(counters[8]),
            tx_errors: counter(counters[10]),
        };
        if Some(name) == default {
            default_interface = Some(usage);
        } else {
            interfaces.push(usage);
        }
    }
    cri::NetworkUsage {
        timestamp: time,
        default_interface,
        interfaces,
    }
}

/// What the process that this kubelet is in uses; it may hold other components, too.
pub(super) fn own_process(time: i64) -> Usage {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name in parentheses may hold anything; user and system time are the 12th and 13th fields after it.
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .map(|(_, rest)| rest.split_whitespace().collect())
        .unwrap_or_default();
    let field = |index: usize| fields.get(index).and_then(|word| word.parse::<u64>().ok());
    let ticks = field(11).unwrap_or_default() + field(12).unwrap_or_default();
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let rss = machine::meminfo(&status, "VmRSS").unwrap_or_default();
    Usage {
        time,
        cpu_nanoseconds: ticks * (1_000_000_000 / machine::TICKS_PER_SECOND),
        working_set: rss,
        memory: rss,
        rss,
        page_faults: field(7).unwrap_or_default(),
        major_page_faults: field(9).unwrap_or_default(),
        ..Usage::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nodes_default_interface_is_that_of_the_default_route() {
        let devices = "Inter-| Receive | Transmit\n face |bytes\n lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n\
            eth0: 100 2 3 0 0 0 0 0 400 5 6 0 0 0 0 0\n br0: 7 2 3 0 0 0 0 0 8 5 6 0 0 0 0 0\n";
        let routes = "Iface Destination Gateway\nbr0 0000F40A 00000000\neth0 00000000 0100A8C0\n";
        let usage = network_usage(devices, routes, 1);
        let default = usage.default_interface.unwrap();
        assert_eq!(
            (
                default.name.as_str(),
                number(default.rx_bytes),
                number(default.tx_errors)
            ),
            ("eth0", 100, 6)
        );
        assert_eq!(usage.interfaces.len(), 1);
        let own = own_process(1);
        assert!(own.rss > 1 << 20, "{own:?}");
    }

    #[test]
    fn rates_need_two_readings_that_lie_apart() {
        let cache = UsageCache::default();
        let second = 1_000_000_000;
        assert_eq!(cache.rate("c", 0, 0), None);
        assert_eq!(cache.rate("c", second, 500_000_000), Some(500_000_000));
        assert_eq!(cache.rate("c", second + 1000, 900_000_000), Some(500_000_000));
        assert_eq!(cache.rate("c", 2 * second, 750_000_000), Some(250_000_000));
    }
}
