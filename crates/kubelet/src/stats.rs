//! What pods and the node use: read when asked for, from the runtime and the kernel.

use std::collections::HashMap;
use std::path::PathBuf;

use k8s_openapi::jiff::Timestamp;
use keelson_cri::v1 as cri;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::kubelet::Kubelet;
use crate::labels;
use crate::machine::{self, FileSystem};
use crate::pod::runtime_status::State;
use crate::pod::spec;

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
}

/// One running container.
#[derive(Clone, Debug, Default)]
pub(crate) struct ContainerUsage {
    pub(crate) name: String,
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

fn number(value: Option<cri::UInt64Value>) -> u64 {
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
    let mut network: HashMap<String, cri::NetworkUsage> = HashMap::new();
    for stats in sandboxes {
        let uid = stats
            .attributes
            .and_then(|attributes| attributes.metadata)
            .map(|metadata| metadata.uid);
        if let (Some(uid), Some(usage)) = (uid, stats.linux.and_then(|linux| linux.network)) {
            network.insert(uid, usage);
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
        if usage.cpu_nanocores.is_none() {
            usage.cpu_nanocores = kubelet
                .usage
                .rate(&attributes.id, usage.time, usage.cpu_nanoseconds);
        }
        ids.insert(attributes.id.clone());
        let layer = stats.writable_layer.unwrap_or_default();
        let pod = pods.entry(uid.clone()).or_insert_with(|| PodUsage {
            network: network.remove(&uid),
            uid,
            name: label(labels::POD_NAME),
            namespace: label(labels::POD_NAMESPACE),
            ..PodUsage::default()
        });
        add(&mut pod.total, &usage);
        pod.containers.push(ContainerUsage {
            name: label(labels::CONTAINER_NAME),
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

fn add(total: &mut Usage, part: &Usage) {
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
        let volumes = tokio::task::spawn_blocking(move || directory_size(&dir))
            .await
            .unwrap_or_default();
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

/// Bytes of all files below `dir` on its own file system.
fn directory_size(dir: &std::path::Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(root) = std::fs::metadata(dir) else {
        return 0;
    };
    let mut total = 0;
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
            total += metadata.blocks() * 512;
            if metadata.is_dir() {
                dirs.push(entry.path());
            }
        }
    }
    total
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
    // All but idle and iowait; a tick is 10 ms.
    let busy: u64 = ticks
        .iter()
        .enumerate()
        .take(8)
        .filter(|(index, _)| !matches!(index, 3 | 4))
        .map(|(_, t)| t)
        .sum();
    Some(busy * 10_000_000)
}

fn time(nanoseconds: i64) -> Value {
    crate::pod::runtime_status::timestamp(nanoseconds).map_or(Value::Null, |time| {
        json!(time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
    })
}

fn cpu_json(usage: &Usage) -> Value {
    let mut cpu = json!({"time": time(usage.time), "usageCoreNanoSeconds": usage.cpu_nanoseconds});
    if let Some(nanocores) = usage.cpu_nanocores {
        cpu["usageNanoCores"] = json!(nanocores);
    }
    cpu
}

fn memory_json(usage: &Usage) -> Value {
    json!({
        "time": time(usage.time), "usageBytes": usage.memory, "workingSetBytes": usage.working_set,
        "rssBytes": usage.rss, "pageFaults": usage.page_faults, "majorPageFaults": usage.major_page_faults,
    })
}

fn fs_json(at: i64, fs: FileSystem) -> Value {
    json!({
        "time": time(at), "availableBytes": fs.available, "capacityBytes": fs.capacity,
        "usedBytes": fs.capacity.saturating_sub(fs.available),
        "inodesFree": fs.inodes_free, "inodes": fs.inodes, "inodesUsed": fs.inodes.saturating_sub(fs.inodes_free),
    })
}

fn network_json(usage: &cri::NetworkUsage) -> Value {
    let interface = |interface: &cri::NetworkInterfaceUsage| {
        json!({
            "name": interface.name,
            "rxBytes": number(interface.rx_bytes), "rxErrors": number(interface.rx_errors),
            "txBytes": number(interface.tx_bytes), "txErrors": number(interface.tx_errors),
        })
    };
    let mut network = usage
        .default_interface
        .as_ref()
        .map_or_else(|| json!({}), interface);
    network["time"] = time(usage.timestamp);
    network["interfaces"] = usage
        .default_interface
        .iter()
        .chain(&usage.interfaces)
        .map(interface)
        .collect::<Vec<_>>()
        .into();
    network
}

/// The answer of `/stats/summary`.
pub(crate) async fn summary(kubelet: &Kubelet) -> Result<Value, tonic::Status> {
    let pods = gather(kubelet).await?;
    let node = node_usage(kubelet);
    let root = machine::file_system(&kubelet.config.root_dir).unwrap_or_default();
    let root_json = fs_json(node.time, root);
    let image = image_fs(kubelet).await.map(|fs| fs_json(node.time, fs));
    let mut memory = memory_json(&node);
    memory["availableBytes"] = json!(memory_available(kubelet));
    let pods: Vec<Value> = pods
        .iter()
        .map(|pod| {
            let started = kubelet
                .pods
                .get(&pod.uid)
                .and_then(|handle| handle.status()?.start_time.clone());
            let containers: Vec<Value> = pod
                .containers
                .iter()
                .map(|container| {
                    let fs = |used: u64| {
                        json!({"time": time(container.usage.time), "usedBytes": used,
                        "availableBytes": root.available, "capacityBytes": root.capacity})
                    };
                    let mut rootfs = fs(container.rootfs_bytes);
                    rootfs["inodesUsed"] = json!(container.rootfs_inodes);
                    json!({
                        "name": container.name, "startTime": time(container.started_at),
                        "cpu": cpu_json(&container.usage), "memory": memory_json(&container.usage),
                        "rootfs": rootfs, "logs": fs(container.log_bytes),
                    })
                })
                .collect();
            let used: u64 = pod.containers.iter().map(|c| c.rootfs_bytes + c.log_bytes).sum();
            json!({
                "podRef": {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid},
                "startTime": started,
                "containers": containers,
                "cpu": cpu_json(&pod.total), "memory": memory_json(&pod.total),
                "network": pod.network.as_ref().map(network_json),
                "ephemeral-storage": {"time": time(pod.total.time), "usedBytes": used,
                    "availableBytes": root.available, "capacityBytes": root.capacity},
            })
        })
        .collect();
    Ok(json!({
        "node": {
            "nodeName": kubelet.config.node_name,
            "startTime": Value::Null,
            "cpu": cpu_json(&node), "memory": memory, "fs": root_json,
            "runtime": {"imageFs": image},
        },
        "pods": pods,
    }))
}

/// Seconds with nanoseconds, exactly.
fn seconds(nanoseconds: u64) -> String {
    format!(
        "{}.{:09}",
        nanoseconds / 1_000_000_000,
        nanoseconds % 1_000_000_000
    )
}

/// The answer of `/metrics/resource`.
pub(crate) async fn resource_metrics(kubelet: &Kubelet) -> String {
    let (pods, failed) = match gather(kubelet).await {
        Ok(pods) => (pods, 0),
        Err(status) => {
            tracing::warn!(%status, "the runtime does not tell what containers use");
            (Vec::new(), 1)
        }
    };
    let node = node_usage(kubelet);
    let mut text = String::new();
    let mut family = |name: &str, kind: &str, help: &str, samples: Vec<(String, String, i64)>| {
        if samples.is_empty() {
            return;
        }
        text.push_str(&format!("# HELP {name} [STABLE] {help}\n# TYPE {name} {kind}\n"));
        for (labels, value, at) in samples {
            let labels = if labels.is_empty() {
                labels
            } else {
                format!("{{{labels}}}")
            };
            let at = if at == 0 {
                String::new()
            } else {
                format!(" {}", at / 1_000_000)
            };
            text.push_str(&format!("{name}{labels} {value}{at}\n"));
        }
    };
    let pod_labels = |pod: &PodUsage| format!("namespace=\"{}\",pod=\"{}\"", pod.namespace, pod.name);
    let of_containers = |value: fn(&ContainerUsage) -> String| -> Vec<(String, String, i64)> {
        pods.iter()
            .flat_map(|pod| pod.containers.iter().map(move |container| (pod, container)))
            .map(|(pod, container)| {
                let labels = format!("container=\"{}\",{}", container.name, pod_labels(pod));
                (labels, value(container), container.usage.time)
            })
            .collect()
    };
    let of_pods = |value: fn(&PodUsage) -> String| -> Vec<(String, String, i64)> {
        pods.iter()
            .map(|pod| (pod_labels(pod), value(pod), pod.total.time))
            .collect()
    };
    family(
        "container_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the container in core-seconds",
        of_containers(|container| seconds(container.usage.cpu_nanoseconds)),
    );
    family(
        "container_memory_working_set_bytes",
        "gauge",
        "Current working set of the container in bytes",
        of_containers(|container| container.usage.working_set.to_string()),
    );
    family(
        "container_start_time_seconds",
        "gauge",
        "Start time of the container since unix epoch in seconds",
        of_containers(|container| seconds(u64::try_from(container.started_at).unwrap_or_default())),
    );
    family(
        "node_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the node in core-seconds",
        vec![(String::new(), seconds(node.cpu_nanoseconds), node.time)],
    );
    family(
        "node_memory_working_set_bytes",
        "gauge",
        "Current working set of the node in bytes",
        vec![(String::new(), node.working_set.to_string(), node.time)],
    );
    family(
        "pod_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the pod in core-seconds",
        of_pods(|pod| seconds(pod.total.cpu_nanoseconds)),
    );
    family(
        "pod_memory_working_set_bytes",
        "gauge",
        "Current working set of the pod in bytes",
        of_pods(|pod| pod.total.working_set.to_string()),
    );
    family(
        "resource_scrape_error",
        "gauge",
        "1 if there was an error while getting container metrics, 0 otherwise",
        vec![(String::new(), failed.to_string(), 0)],
    );
    text
}

/// The answer of `/metrics/cadvisor`: the container metrics that dashboards use, under cAdvisor's names.
pub(crate) async fn cadvisor_metrics(kubelet: &Kubelet) -> Result<String, tonic::Status> {
    let pods = gather(kubelet).await?;
    let mut text = String::new();
    type Value = fn(&ContainerUsage) -> String;
    let families: [(&str, &str, &str, Value); 5] = [
        (
            "container_cpu_usage_seconds_total",
            "counter",
            "Cumulative cpu time consumed in seconds.",
            |c| seconds(c.usage.cpu_nanoseconds),
        ),
        (
            "container_memory_working_set_bytes",
            "gauge",
            "Current working set in bytes.",
            |c| c.usage.working_set.to_string(),
        ),
        (
            "container_memory_usage_bytes",
            "gauge",
            "Current memory usage in bytes, including all memory regardless of when it was accessed",
            |c| c.usage.memory.to_string(),
        ),
        ("container_memory_rss", "gauge", "Size of RSS in bytes.", |c| {
            c.usage.rss.to_string()
        }),
        (
            "container_fs_usage_bytes",
            "gauge",
            "Number of bytes that are consumed by the container on this filesystem.",
            |c| c.rootfs_bytes.to_string(),
        ),
    ];
    for (name, kind, help, value) in families {
        text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        for pod in &pods {
            for container in &pod.containers {
                text.push_str(&format!(
                    "{name}{{container=\"{}\",namespace=\"{}\",pod=\"{}\"}} {} {}\n",
                    container.name,
                    pod.namespace,
                    pod.name,
                    value(container),
                    container.usage.time / 1_000_000
                ));
            }
        }
    }
    // What the pods of this node are, for those that join on it.
    text.push_str("# HELP machine_cpu_cores Number of logical CPU cores.\n# TYPE machine_cpu_cores gauge\n");
    text.push_str(&format!("machine_cpu_cores {}\n", kubelet.machine.cpus));
    text.push_str("# HELP machine_memory_bytes Amount of memory installed on the machine.\n# TYPE machine_memory_bytes gauge\n");
    text.push_str(&format!("machine_memory_bytes {}\n", kubelet.machine.memory));
    Ok(text)
}

/// The answer of `/metrics`: the kubelet itself.
pub(crate) fn kubelet_metrics(kubelet: &Kubelet) -> String {
    let handles = kubelet.pods.list();
    let running_pods = handles
        .iter()
        .filter(|handle| handle.runtime().is_running())
        .count();
    let mut states: HashMap<&str, usize> = HashMap::new();
    for handle in &handles {
        for container in &handle.runtime().containers {
            let state = match container.state {
                State::Created => "created",
                State::Running => "running",
                State::Exited => "exited",
                State::Unknown => "unknown",
            };
            *states.entry(state).or_default() += 1;
        }
    }
    let mut text = format!(
        "# HELP kubelet_node_name [ALPHA] The node's name. The count is always 1.\n# TYPE kubelet_node_name gauge\n\
         kubelet_node_name{{node=\"{}\"}} 1\n\
         # HELP kubelet_running_pods [ALPHA] Number of pods that have a running pod sandbox\n# TYPE kubelet_running_pods gauge\n\
         kubelet_running_pods {running_pods}\n\
         # HELP kubelet_running_containers [ALPHA] Number of containers currently running\n# TYPE kubelet_running_containers gauge\n",
        kubelet.config.node_name
    );
    for (state, count) in states {
        text.push_str(&format!(
            "kubelet_running_containers{{container_state=\"{state}\"}} {count}\n"
        ));
    }
    let desired = handles
        .iter()
        .filter(|handle| !spec::is_static(&handle.pod()))
        .count();
    text.push_str(&format!(
        "# HELP kubelet_desired_pods [ALPHA] The number of pods the kubelet is being instructed to run.\n# TYPE kubelet_desired_pods gauge\n\
         kubelet_desired_pods{{static=\"\"}} {desired}\nkubelet_desired_pods{{static=\"true\"}} {}\n",
        handles.len() - desired
    ));
    text
}
