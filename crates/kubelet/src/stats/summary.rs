//! `/stats/summary`: usage of the node and its pods as JSON (`stats.k8s.io` v1alpha1).

use keelson_cri::v1 as cri;
use serde_json::{Value, json};

use super::usage::{self, ContainerUsage, PodUsage, Usage, number};
use crate::kubelet::Kubelet;
use crate::machine::{self, FileSystem};
use crate::pod::{runtime_status, spec};

/// How much is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Detail {
    /// Everything.
    Full,
    /// `?only_cpu_and_memory=true`
    CpuAndMemory,
}

fn time(nanoseconds: i64) -> Value {
    runtime_status::timestamp(nanoseconds).map_or(Value::Null, |time| {
        json!(time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
    })
}

fn cpu_json(usage: &Usage) -> Value {
    json!({
        "time": time(usage.time), "usageNanoCores": usage.cpu_nanocores,
        "usageCoreNanoSeconds": usage.cpu_nanoseconds,
    })
}

fn memory_json(usage: &Usage) -> Value {
    json!({
        "time": time(usage.time), "availableBytes": usage.memory_available, "usageBytes": usage.memory,
        "workingSetBytes": usage.working_set, "rssBytes": usage.rss, "pageFaults": usage.page_faults,
        "majorPageFaults": usage.major_page_faults,
    })
}

fn swap_json(usage: &Usage) -> Value {
    usage.swap.map_or(
        Value::Null,
        |swap| json!({"time": time(usage.time), "swapUsageBytes": swap}),
    )
}

fn fs_json(at: i64, fs: FileSystem) -> Value {
    json!({
        "time": time(at), "availableBytes": fs.available, "capacityBytes": fs.capacity,
        "usedBytes": fs.capacity.saturating_sub(fs.available),
        "inodesFree": fs.inodes_free, "inodes": fs.inodes, "inodesUsed": fs.inodes.saturating_sub(fs.inodes_free),
    })
}

/// A part of the file system `fs`.
fn part_json(at: i64, fs: FileSystem, used: u64, inodes: Option<u64>) -> Value {
    json!({
        "time": time(at), "availableBytes": fs.available, "capacityBytes": fs.capacity, "usedBytes": used,
        "inodesFree": fs.inodes_free, "inodes": fs.inodes, "inodesUsed": inodes,
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

/// Removes members that are null, as the API leaves out what it does not know.
fn without_nulls(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|_, member| !member.is_null());
            members.values_mut().for_each(without_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(without_nulls),
        _ => {}
    }
}

/// The answer of `/stats/summary`.
pub(crate) async fn summary(kubelet: &Kubelet, detail: Detail) -> Result<Value, tonic::Status> {
    let pods = usage::gather(kubelet).await?;
    let node = usage::node_usage(kubelet);
    let root = machine::file_system(&kubelet.config.root_dir).unwrap_or_default();
    let mut shown = Vec::with_capacity(pods.len());
    for pod in &pods {
        shown.push(match detail {
            Detail::CpuAndMemory => brief_json(kubelet, pod),
            Detail::Full => pod_json(kubelet, pod, root).await,
        });
    }
    let mut answer = json!({
        "node": {
            "nodeName": kubelet.config.node_name,
            "startTime": machine::boot_time().map(|seconds| time(seconds.saturating_mul(1_000_000_000))),
            "cpu": cpu_json(&node), "memory": memory_json(&node), "swap": swap_json(&node),
            "systemContainers": system_containers(&pods, node.time),
        },
        "pods": shown,
    });
    if detail == Detail::Full {
        let image = usage::image_fs(kubelet).await.map(|fs| fs_json(node.time, fs));
        answer["node"]["fs"] = fs_json(node.time, root);
        answer["node"]["runtime"] = json!({"imageFs": image, "containerFs": image});
        answer["node"]["network"] = usage::node_network(node.time).as_ref().map(network_json).into();
        answer["node"]["rlimit"] = machine::process_limits().map_or(
            Value::Null,
            |(most, now)| json!({"time": time(node.time), "maxpid": most, "curproc": now}),
        );
    }
    without_nulls(&mut answer);
    Ok(answer)
}

/// All pods together, and the process that this kubelet is in.
fn system_containers(pods: &[PodUsage], at: i64) -> Value {
    let mut all = Usage {
        time: at,
        ..Usage::default()
    };
    for pod in pods {
        usage::add(&mut all, &pod.total);
    }
    let own = usage::own_process(at);
    json!([
        {"name": "kubelet", "cpu": cpu_json(&own), "memory": memory_json(&own)},
        {"name": "pods", "cpu": cpu_json(&all), "memory": memory_json(&all), "swap": swap_json(&all)},
    ])
}

fn start_time(kubelet: &Kubelet, pod: &PodUsage) -> Value {
    let handle = kubelet.pods.get(&pod.uid);
    json!(handle.and_then(|handle| handle.status()?.start_time.clone()))
}

fn container_json(container: &ContainerUsage) -> Value {
    json!({
        "name": container.name, "startTime": time(container.started_at),
        "cpu": cpu_json(&container.usage), "memory": memory_json(&container.usage), "swap": swap_json(&container.usage),
    })
}

fn brief_json(kubelet: &Kubelet, pod: &PodUsage) -> Value {
    json!({
        "podRef": {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid},
        "startTime": start_time(kubelet, pod),
        "containers": pod.containers.iter().map(container_json).collect::<Vec<_>>(),
        "cpu": cpu_json(&pod.total), "memory": memory_json(&pod.total), "swap": swap_json(&pod.total),
    })
}

async fn pod_json(kubelet: &Kubelet, pod: &PodUsage, root: FileSystem) -> Value {
    let at = pod.total.time;
    let mut shown = brief_json(kubelet, pod);
    let mut used: u64 = 0;
    for (index, container) in pod.containers.iter().enumerate() {
        used += container.rootfs_bytes + container.log_bytes;
        let inodes = Some(container.rootfs_inodes);
        shown["containers"][index]["rootfs"] = part_json(at, root, container.rootfs_bytes, inodes);
        shown["containers"][index]["logs"] = part_json(at, root, container.log_bytes, Some(1));
    }
    let volumes = usage::volumes(kubelet, &pod.uid).await;
    // What lies in memory is charged as memory.
    used += volumes.iter().filter(|v| v.local).map(|v| v.used).sum::<u64>();
    let claims = kubelet.pods.get(&pod.uid).map(|handle| handle.pod());
    shown["volume"] = volumes
        .iter()
        .map(|volume| {
            let mut json = part_json(at, volume.file_system, volume.used, Some(volume.inodes));
            json["name"] = json!(volume.name);
            let claim = claims.as_deref().and_then(|pod| {
                let all = spec::spec(pod).volumes.as_deref()?;
                let source = all.iter().find(|other| other.name == volume.name)?;
                Some(source.persistent_volume_claim.as_ref()?.claim_name.clone())
            });
            json["pvcRef"] = claim.map_or(
                Value::Null,
                |name| json!({"name": name, "namespace": pod.namespace}),
            );
            json
        })
        .collect::<Vec<_>>()
        .into();
    shown["network"] = pod.network.as_ref().map(network_json).into();
    shown["ephemeral-storage"] = part_json(at, root, used, None);
    shown["process_stats"] = pod
        .processes
        .map_or(Value::Null, |count| json!({"process_count": count}));
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_left_out() {
        let mut value = json!({"a": null, "b": [{"c": null, "d": 0}], "e": {"f": null}});
        without_nulls(&mut value);
        assert_eq!(value, json!({"b": [{"d": 0}], "e": {}}));
        let usage = Usage {
            time: 1_500_000_000,
            ..Usage::default()
        };
        assert_eq!(cpu_json(&usage)["time"], "1970-01-01T00:00:01Z");
        assert_eq!(swap_json(&usage), Value::Null);
    }
}
