//! `keelson kubelet`: the kubelet alone, on any CRI runtime.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Taint;
use keelson_cluster::preflight;
use keelson_kubelet::{Cri, KubeletConfig, ServerConfig};
use keelson_pki::Certificate;
use keelson_pki::tls::ServingCertificate;

use crate::cli::{CgroupDriver, KubeletArgs, NodeTaint};
use crate::commands::{standalone, stop_signal};

/// Upstream's; no flag changes it there.
const POD_LOGS: &str = "/var/log/pods";

/// Runs pods until a signal; they go on afterwards.
pub(crate) async fn run(args: KubeletArgs) -> Result<()> {
    preflight::require_root()?;
    let stop = stop_signal()?;
    check_labels(&args.node_labels)?;
    let client = keelson_client::client_from_kubeconfig(&args.kubeconfig, "kubelet").await?;
    let config = config(args)?;
    tracing::info!(node = config.node_name, "starting the kubelet");
    keelson_kubelet::run(config, client, stop).await?;
    Ok(())
}

fn config(args: KubeletArgs) -> Result<KubeletConfig> {
    let name = standalone::node_name(args.hostname_override.as_deref())?;
    let cri = Cri::connect(&args.container_runtime_endpoint).context("--container-runtime-endpoint")?;
    let mut config = KubeletConfig::new(&name, &args.root_dir, cri);
    config.node_ips = match args.node_ip.as_slice() {
        [] => vec![standalone::own_address("node-ip")?],
        ips => ips.to_vec(),
    };
    config.server = Some(server(&args, &config)?);
    config.pod_logs_dir = POD_LOGS.into();
    config.provider_id = args.provider_id;
    config.external_cloud_provider = args.cloud_provider.is_some();
    config.cgroups_per_qos = args.cgroups_per_qos;
    config.cgroup_root = args.cgroup_root;
    config.cgroup_driver = match args.cgroup_driver {
        CgroupDriver::Cgroupfs => keelson_kubelet::CgroupDriver::Cgroupfs,
        CgroupDriver::Systemd => keelson_kubelet::CgroupDriver::Systemd,
    };
    config.cluster_dns = args.cluster_dns;
    config.cluster_domain = args.cluster_domain;
    config.resolv_conf = args.resolv_conf;
    config.max_pods = args.max_pods;
    config.pod_pids_limit = (args.pod_max_pids > 0).then_some(args.pod_max_pids);
    config.static_pod_path = args.pod_manifest_path;
    config.register_node = args.register_node;
    config.register_with_taints = args.register_with_taints.into_iter().map(taint).collect();
    config.node_labels = args.node_labels.into_iter().collect();
    config.system_reserved = reserved("system-reserved", args.system_reserved)?;
    config.kube_reserved = reserved("kube-reserved", args.kube_reserved)?;
    anyhow::ensure!(
        args.image_gc_low_threshold < args.image_gc_high_threshold,
        "--image-gc-low-threshold must be less than --image-gc-high-threshold"
    );
    config.image_gc_high_threshold_percent = args.image_gc_high_threshold;
    config.image_gc_low_threshold_percent = args.image_gc_low_threshold;
    config.container_log_max_files = args.container_log_max_files;
    config.serialize_image_pulls = args.serialize_image_pulls;
    config.seccomp_default = args.seccomp_default;
    config.allowed_unsafe_sysctls = args.allowed_unsafe_sysctls;
    config.node_status_update_frequency = args.node_status_update_frequency;
    Ok(config)
}

fn server(args: &KubeletArgs, config: &KubeletConfig) -> Result<ServerConfig> {
    let mut hosts = vec![config.node_name.clone()];
    hosts.extend(config.node_ips.iter().map(ToString::to_string));
    let serving = standalone::serving(args.serving.files(), &args.cert_dir, "kubelet", &hosts)?;
    let certificate = ServingCertificate::from_pem(&serving.chain, &serving.key)
        .context("the serving certificate cannot be used")?;
    let client_ca = match &args.client_ca_file {
        Some(file) => {
            let text = standalone::read_text("client-ca-file", file)?;
            let authorities = Certificate::all_from_pem(&text).context("--client-ca-file")?;
            authorities
                .iter()
                .map(|authority| authority.der().clone())
                .collect()
        }
        // Clients show tokens then.
        None => Vec::new(),
    };
    Ok(ServerConfig {
        address: args.address,
        port: args.port,
        certificate,
        client_ca,
    })
}

fn taint(taint: NodeTaint) -> Taint {
    Taint {
        key: taint.key,
        value: taint.value,
        effect: taint.effect,
        time_added: None,
    }
}

/// Resources that can be reserved, each once.
fn reserved(flag: &str, pairs: Vec<(String, String)>) -> Result<BTreeMap<String, String>> {
    for (resource, _) in &pairs {
        anyhow::ensure!(
            ["cpu", "memory", "ephemeral-storage", "pid"].contains(&resource.as_str()),
            "--{flag}: cannot reserve {resource:?} resource"
        );
    }
    Ok(pairs.into_iter().collect())
}

/// A node may give itself only some labels of Kubernetes' own name spaces.
fn check_labels(labels: &[(String, String)]) -> Result<()> {
    const ALLOWED: [&str; 11] = [
        "beta.kubernetes.io/arch",
        "beta.kubernetes.io/instance-type",
        "beta.kubernetes.io/os",
        "failure-domain.beta.kubernetes.io/region",
        "failure-domain.beta.kubernetes.io/zone",
        "kubernetes.io/arch",
        "kubernetes.io/hostname",
        "kubernetes.io/os",
        "node.kubernetes.io/instance-type",
        "topology.kubernetes.io/region",
        "topology.kubernetes.io/zone",
    ];
    let within = |space: &str, domain: &str| space == domain || space.ends_with(&format!(".{domain}"));
    let forbidden = |key: &str| {
        let space = key.split_once('/').map_or("", |(space, _)| space);
        let ours = within(space, "kubernetes.io") || within(space, "k8s.io");
        let free = within(space, "kubelet.kubernetes.io") || within(space, "node.kubernetes.io");
        ours && !free && !ALLOWED.contains(&key)
    };
    let unknown: Vec<&str> = labels
        .iter()
        .map(|(key, _)| key.as_str())
        .filter(|key| forbidden(key))
        .collect();
    anyhow::ensure!(
        unknown.is_empty(),
        "--node-labels: unknown 'kubernetes.io' or 'k8s.io' labels specified: {}; a node may set only those that start with \
         kubelet.kubernetes.io/ or node.kubernetes.io/, or are in the specifically allowed set ({})",
        unknown.join(", "),
        ALLOWED.join(", ")
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_that_a_node_may_set() {
        let check = |key: &str| check_labels(&[(key.to_owned(), String::new())]).is_ok();
        for good in [
            "disk",
            "example.com/a",
            "node.kubernetes.io/a",
            "a.kubelet.kubernetes.io/b",
            "topology.kubernetes.io/zone",
        ] {
            assert!(check(good), "{good}");
        }
        for bad in [
            "node-role.kubernetes.io/control-plane",
            "kubernetes.io/a",
            "x.k8s.io/a",
        ] {
            assert!(!check(bad), "{bad}");
        }
    }

    #[test]
    fn only_some_resources_can_be_reserved() {
        let pair = |key: &str| vec![(key.to_owned(), "1".to_owned())];
        assert!(reserved("kube-reserved", pair("cpu")).is_ok());
        let error = reserved("kube-reserved", pair("gpu")).unwrap_err().to_string();
        assert_eq!(error, "--kube-reserved: cannot reserve \"gpu\" resource");
    }
}
