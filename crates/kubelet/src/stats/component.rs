//! `/metrics`: the kubelet itself.

use std::collections::BTreeMap;

use super::exposition::{Exposition, seconds};
use super::usage;
use crate::kubelet::Kubelet;
use crate::machine;
use crate::pod::runtime_status::State;
use crate::pod::spec;

/// The answer of `/metrics`.
pub(crate) fn kubelet_metrics(kubelet: &Kubelet) -> String {
    let mut out = Exposition::default();
    of_process(&mut out);
    let handles = kubelet.pods.list();
    let running_pods = handles
        .iter()
        .filter(|handle| handle.runtime().is_running())
        .count();
    let mut states: BTreeMap<&str, usize> = BTreeMap::new();
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
    out.family(
        "kubelet_node_name",
        "gauge",
        "[ALPHA] The node's name. The count is always 1.",
    );
    out.sample("kubelet_node_name", &[("node", &kubelet.config.node_name)], 1);
    out.family(
        "kubelet_running_pods",
        "gauge",
        "[BETA] Number of pods that have a running pod sandbox",
    );
    out.sample("kubelet_running_pods", &[], running_pods);
    out.family(
        "kubelet_running_containers",
        "gauge",
        "[BETA] Number of containers currently running",
    );
    for (state, count) in states {
        out.sample("kubelet_running_containers", &[("container_state", state)], count);
    }
    let desired = handles
        .iter()
        .filter(|handle| !spec::is_static(&handle.pod()))
        .count();
    out.family(
        "kubelet_desired_pods",
        "gauge",
        "[ALPHA] The number of pods the kubelet is being instructed to run. static is true if the pod is not from the apiserver.",
    );
    out.sample("kubelet_desired_pods", &[("static", "")], desired);
    out.sample(
        "kubelet_desired_pods",
        &[("static", "true")],
        handles.len() - desired,
    );
    out.finish()
}

/// The process that this kubelet is in.
fn of_process(out: &mut Exposition) {
    let own = usage::own_process(0);
    out.family(
        "process_cpu_seconds_total",
        "counter",
        "Total user and system CPU time spent in seconds.",
    );
    out.sample("process_cpu_seconds_total", &[], seconds(own.cpu_nanoseconds));
    out.family(
        "process_resident_memory_bytes",
        "gauge",
        "Resident memory size in bytes.",
    );
    out.sample("process_resident_memory_bytes", &[], own.rss);
    if let Some(started) = machine::process_start_time() {
        out.family(
            "process_start_time_seconds",
            "gauge",
            "Start time of the process since unix epoch in seconds.",
        );
        out.sample("process_start_time_seconds", &[], started);
    }
    out.family(
        "kubernetes_build_info",
        "gauge",
        "[ALPHA] A metric with a constant '1' value labeled by major, minor, git version, git commit, git tree state, build date, Go version, and compiler from which Kubernetes was built, and platform on which it is running.",
    );
    let version = crate::node::KUBELET_VERSION;
    let mut parts = version.trim_start_matches('v').split('.');
    let labels = [
        ("git_version", version),
        ("major", parts.next().unwrap_or_default()),
        ("minor", parts.next().unwrap_or_default()),
    ];
    out.sample("kubernetes_build_info", &labels, 1);
}
