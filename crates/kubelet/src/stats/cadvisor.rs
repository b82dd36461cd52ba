//! `/metrics/cadvisor`: the metrics of containers, pods and the machine that dashboards use, under cAdvisor's names.

use k8s_openapi::jiff::Timestamp;
use keelson_cri::v1 as cri;

use super::exposition::{Exposition, seconds};
use super::usage::{self, ContainerUsage, PodUsage, Usage, number};
use crate::kubelet::Kubelet;

/// Name, type, help and value of a family of containers and pods.
type OfUsage = (&'static str, &'static str, &'static str, fn(&Usage) -> String);

const OF_USAGE: [OfUsage; 5] = [
    (
        "container_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed in seconds.",
        |usage| seconds(usage.cpu_nanoseconds),
    ),
    (
        "container_memory_working_set_bytes",
        "gauge",
        "Current working set in bytes.",
        |usage| usage.working_set.to_string(),
    ),
    (
        "container_memory_usage_bytes",
        "gauge",
        "Current memory usage in bytes, including all memory regardless of when it was accessed",
        |usage| usage.memory.to_string(),
    ),
    (
        "container_memory_rss",
        "gauge",
        "Size of RSS in bytes.",
        |usage| usage.rss.to_string(),
    ),
    (
        "container_memory_swap",
        "gauge",
        "Container swap usage in bytes.",
        |usage| usage.swap.unwrap_or_default().to_string(),
    ),
];

type OfContainer = (
    &'static str,
    &'static str,
    &'static str,
    fn(&ContainerUsage) -> String,
);

const OF_CONTAINER: [OfContainer; 4] = [
    (
        "container_fs_usage_bytes",
        "gauge",
        "Number of bytes that are consumed by the container on this filesystem.",
        |container| container.rootfs_bytes.to_string(),
    ),
    (
        "container_fs_inodes_total",
        "gauge",
        "Number of Inodes",
        |container| container.rootfs_inodes.to_string(),
    ),
    (
        "container_start_time_seconds",
        "gauge",
        "Start time of the container since unix epoch in seconds.",
        |container| seconds(u64::try_from(container.started_at).unwrap_or_default()),
    ),
    (
        "container_last_seen",
        "gauge",
        "Last time a container was seen by the exporter",
        |container| (container.usage.time / 1_000_000_000).to_string(),
    ),
];

type OfInterface = (
    &'static str,
    &'static str,
    fn(&cri::NetworkInterfaceUsage) -> Option<cri::UInt64Value>,
);

const OF_INTERFACE: [OfInterface; 4] = [
    (
        "container_network_receive_bytes_total",
        "Cumulative count of bytes received",
        |i| i.rx_bytes,
    ),
    (
        "container_network_receive_errors_total",
        "Cumulative count of errors encountered while receiving",
        |i| i.rx_errors,
    ),
    (
        "container_network_transmit_bytes_total",
        "Cumulative count of bytes transmitted",
        |i| i.tx_bytes,
    ),
    (
        "container_network_transmit_errors_total",
        "Cumulative count of errors encountered while transmitting",
        |i| i.tx_errors,
    ),
];

/// The answer of `/metrics/cadvisor`.
pub(crate) async fn cadvisor_metrics(kubelet: &Kubelet) -> Result<String, tonic::Status> {
    let pods = usage::gather(kubelet).await?;
    let mut out = Exposition::default();
    out.family(
        "cadvisor_version_info",
        "gauge",
        "A metric with a constant '1' value labeled by kernel version, OS version, docker version, cadvisor version & cadvisor revision.",
    );
    let version = [
        ("cadvisorRevision", ""),
        ("cadvisorVersion", ""),
        ("dockerVersion", ""),
        ("kernelVersion", kubelet.machine.kernel_version.as_str()),
        ("osVersion", &kubelet.machine.os_image),
    ];
    out.sample("cadvisor_version_info", &version, 1);
    of_containers(&mut out, &pods);
    of_pods(&mut out, &pods);
    out.family("machine_cpu_cores", "gauge", "Number of logical CPU cores.");
    let machine = [
        ("boot_id", kubelet.machine.boot_id.as_str()),
        ("machine_id", &kubelet.machine.machine_id),
        ("system_uuid", &kubelet.machine.system_uuid),
    ];
    out.sample("machine_cpu_cores", &machine, kubelet.machine.cpus);
    out.family(
        "machine_memory_bytes",
        "gauge",
        "Amount of memory installed on the machine.",
    );
    out.sample("machine_memory_bytes", &machine, kubelet.machine.memory);
    out.family(
        "machine_scrape_error",
        "gauge",
        "1 if there was an error while getting machine metrics, 0 otherwise.",
    );
    out.sample("machine_scrape_error", &[], 0);
    out.family(
        "container_scrape_error",
        "gauge",
        "1 if there was an error while getting container metrics, 0 otherwise",
    );
    out.sample_at(
        "container_scrape_error",
        &[],
        0,
        i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or_default(),
    );
    Ok(out.finish())
}

/// The labels that identify a container; a pod is one without a container.
fn with_labels<R>(
    pod: &PodUsage,
    container: Option<&ContainerUsage>,
    use_labels: impl FnOnce(&[(&str, &str)]) -> R,
) -> R {
    let id = match container {
        Some(container) => format!("{}/{}", pod.cgroup, container.id),
        None => pod.cgroup.clone(),
    };
    let of = |field: fn(&ContainerUsage) -> &str| container.map(field).unwrap_or_default();
    use_labels(&[
        ("container", of(|c| &c.name)),
        ("id", &id),
        ("image", of(|c| &c.image)),
        ("name", of(|c| &c.id)),
        ("namespace", &pod.namespace),
        ("pod", &pod.name),
    ])
}

fn of_containers(out: &mut Exposition, pods: &[PodUsage]) {
    for (name, kind, help, value) in OF_USAGE {
        out.family(name, kind, help);
        for pod in pods {
            with_labels(pod, None, |labels| {
                out.sample_at(name, labels, value(&pod.total), pod.total.time);
            });
            for container in &pod.containers {
                with_labels(pod, Some(container), |labels| {
                    out.sample_at(name, labels, value(&container.usage), container.usage.time);
                });
            }
        }
    }
    for (name, kind, help, value) in OF_CONTAINER {
        out.family(name, kind, help);
        for pod in pods {
            for container in &pod.containers {
                with_labels(pod, Some(container), |labels| {
                    out.sample_at(name, labels, value(container), container.usage.time);
                });
            }
        }
    }
    let name = "container_memory_failures_total";
    out.family(name, "counter", "Cumulative count of memory allocation failures.");
    for pod in pods {
        for container in &pod.containers {
            let usage = &container.usage;
            let faults = [
                ("pgfault", usage.page_faults),
                ("pgmajfault", usage.major_page_faults),
            ];
            with_labels(pod, Some(container), |labels| {
                for (kind, count) in faults {
                    let kind = [("failure_type", kind), ("scope", "container")];
                    let labels: Vec<_> = labels.iter().copied().chain(kind).collect();
                    out.sample_at(name, &labels, count, usage.time);
                }
            });
        }
    }
}

fn of_pods(out: &mut Exposition, pods: &[PodUsage]) {
    for (name, help, value) in OF_INTERFACE {
        out.family(name, "counter", help);
        for pod in pods {
            let network = pod.network.iter();
            let interfaces = network.flat_map(|n| n.default_interface.iter().chain(&n.interfaces));
            for interface in interfaces {
                with_labels(pod, None, |labels| {
                    let own = ("interface", interface.name.as_str());
                    let labels: Vec<_> = labels.iter().copied().chain([own]).collect();
                    out.sample_at(name, &labels, number(value(interface)), pod.total.time);
                });
            }
        }
    }
    let name = "container_threads";
    out.family(name, "gauge", "Number of threads running inside the container");
    for pod in pods {
        if let Some(count) = pod.processes {
            with_labels(pod, None, |labels| {
                out.sample_at(name, labels, count, pod.total.time);
            });
        }
    }
}
