//! `/metrics/resource`: what metrics-server reads.

use super::exposition::{Exposition, seconds};
use super::usage::{self, ContainerUsage, PodUsage, Usage};
use crate::kubelet::Kubelet;

/// The value of a sample; `None` is left out.
type Value = fn(&Usage) -> Option<String>;

/// Name, type, stability and help of a family without its subject, and its value.
const FAMILIES: [(&str, &str, &str, &str, Value); 3] = [
    (
        "cpu_usage_seconds_total",
        "counter",
        "STABLE",
        "Cumulative cpu time consumed by the {} in core-seconds",
        |usage| Some(seconds(usage.cpu_nanoseconds)),
    ),
    (
        "memory_working_set_bytes",
        "gauge",
        "STABLE",
        "Current working set of the {} in bytes",
        |usage| Some(usage.working_set.to_string()),
    ),
    (
        "swap_usage_bytes",
        "gauge",
        "ALPHA",
        "Current amount of the {} swap usage in bytes. Reported only on non-windows systems",
        |usage| usage.swap.map(|swap| swap.to_string()),
    ),
];

/// The answer of `/metrics/resource`.
pub(crate) async fn resource_metrics(kubelet: &Kubelet) -> String {
    let (pods, failed) = match usage::gather(kubelet).await {
        Ok(pods) => (pods, 0),
        Err(status) => {
            tracing::warn!(%status, "the runtime does not tell what containers use");
            (Vec::new(), 1)
        }
    };
    text(&usage::node_usage(kubelet), &pods, failed)
}

fn containers(pods: &[PodUsage]) -> impl Iterator<Item = (&PodUsage, &ContainerUsage)> {
    pods.iter()
        .flat_map(|pod| pod.containers.iter().map(move |container| (pod, container)))
}

fn text(node: &Usage, pods: &[PodUsage], failed: u8) -> String {
    let mut out = Exposition::default();
    for (name, kind, level, help, value) in FAMILIES {
        let help = |subject: &str| format!("[{level}] {}", help.replace("{}", subject));
        let family = format!("container_{name}");
        out.family(&family, kind, &help("container"));
        for (pod, container) in containers(pods) {
            if let Some(value) = value(&container.usage) {
                let labels = [
                    ("container", container.name.as_str()),
                    ("namespace", &pod.namespace),
                    ("pod", &pod.name),
                ];
                out.sample_at(&family, &labels, value, container.usage.time);
            }
        }
        let family = format!("node_{name}");
        out.family(&family, kind, &help("node"));
        if let Some(value) = value(node) {
            out.sample_at(&family, &[], value, node.time);
        }
        let family = format!("pod_{name}");
        out.family(&family, kind, &help("pod"));
        for pod in pods {
            if let Some(value) = value(&pod.total) {
                let labels = [("namespace", pod.namespace.as_str()), ("pod", &pod.name)];
                out.sample_at(&family, &labels, value, pod.total.time);
            }
        }
    }
    out.family(
        "container_start_time_seconds",
        "gauge",
        "[STABLE] Start time of the container since unix epoch in seconds",
    );
    for (pod, container) in containers(pods) {
        let labels = [
            ("container", container.name.as_str()),
            ("namespace", &pod.namespace),
            ("pod", &pod.name),
        ];
        let started = seconds(u64::try_from(container.started_at).unwrap_or_default());
        out.sample("container_start_time_seconds", &labels, started);
    }
    out.family(
        "resource_scrape_error",
        "gauge",
        "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise",
    );
    out.sample("resource_scrape_error", &[], failed);
    out.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_server_finds_its_samples() {
        let usage = Usage {
            time: 5_000_000,
            cpu_nanoseconds: 2_500_000_000,
            working_set: 4096,
            swap: None,
            ..Usage::default()
        };
        let pod = PodUsage {
            name: "p".into(),
            namespace: "ns".into(),
            containers: vec![ContainerUsage {
                name: "c".into(),
                started_at: 1_000_000_000,
                usage,
                ..ContainerUsage::default()
            }],
            total: usage,
            ..PodUsage::default()
        };
        let node = Usage {
            swap: Some(7),
            ..usage
        };
        let text = text(&node, &[pod], 0);
        for line in [
            "container_cpu_usage_seconds_total{container=\"c\",namespace=\"ns\",pod=\"p\"} 2.500000000 5",
            "container_memory_working_set_bytes{container=\"c\",namespace=\"ns\",pod=\"p\"} 4096 5",
            "container_start_time_seconds{container=\"c\",namespace=\"ns\",pod=\"p\"} 1.000000000",
            "node_cpu_usage_seconds_total 2.500000000 5",
            "node_memory_working_set_bytes 4096 5",
            "node_swap_usage_bytes 7 5",
            "pod_cpu_usage_seconds_total{namespace=\"ns\",pod=\"p\"} 2.500000000 5",
            "pod_memory_working_set_bytes{namespace=\"ns\",pod=\"p\"} 4096 5",
            "# TYPE pod_cpu_usage_seconds_total counter",
            "resource_scrape_error 0",
        ] {
            assert!(
                text.lines().any(|other| other == line),
                "{line} is not in\n{text}"
            );
        }
        assert!(!text.contains("pod_swap_usage_bytes{"), "{text}");
    }
}
