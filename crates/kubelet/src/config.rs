//! Everything the kubelet is told when it starts. Nothing is read from fixed paths, so many kubelets fit on one machine.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Taint;
use rustls::server::ResolvesServerCert;
use rustls_pki_types::CertificateDer;

use crate::cri::Cri;

/// Who manages the cgroup tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum CgroupDriver {
    /// The kubelet and the runtime write the cgroup file system; parents are paths.
    #[default]
    Cgroupfs,
    /// systemd owns the tree; parents are slice names.
    Systemd,
}

/// A limit below which the node is under pressure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Threshold {
    /// Bytes (or a count, for inodes).
    Quantity(u64),
    /// A fraction of the capacity, 0.0 to 1.0.
    Percentage(f64),
}

impl Threshold {
    /// The threshold in absolute numbers for a resource of that `capacity`.
    #[must_use]
    pub fn of(self, capacity: u64) -> u64 {
        match self {
            Self::Quantity(quantity) => quantity,
            #[expect(
                clippy::cast_precision_loss,
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a share of a capacity needs no more than 52 bits"
            )]
            Self::Percentage(share) => (capacity as f64 * share) as u64,
        }
    }
}

/// Hard eviction thresholds; upstream's defaults.
#[derive(Clone, Debug)]
pub struct EvictionHard {
    /// `memory.available`.
    pub memory_available: Threshold,
    /// `nodefs.available`.
    pub nodefs_available: Threshold,
    /// `nodefs.inodesFree`.
    pub nodefs_inodes_free: Threshold,
    /// `imagefs.available`.
    pub imagefs_available: Threshold,
}

impl Default for EvictionHard {
    fn default() -> Self {
        Self {
            memory_available: Threshold::Quantity(100 << 20),
            nodefs_available: Threshold::Percentage(0.10),
            nodefs_inodes_free: Threshold::Percentage(0.05),
            imagefs_available: Threshold::Percentage(0.15),
        }
    }
}

/// The HTTPS server of the kubelet.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Address to listen on.
    pub address: IpAddr,
    /// Port to listen on and to announce; upstream: 10250.
    pub port: u16,
    /// The serving certificate; may change while the server runs.
    pub certificate: Arc<dyn ResolvesServerCert>,
    /// CAs whose client certificates authenticate.
    pub client_ca: Vec<CertificateDer<'static>>,
}

/// Settings of one kubelet.
#[derive(Clone, Debug)]
pub struct KubeletConfig {
    /// Name of the Node object.
    pub node_name: String,
    /// Value of the `kubernetes.io/hostname` label and of the Hostname address.
    pub hostname: String,
    /// Addresses of the node; the first is the primary one.
    pub node_ips: Vec<IpAddr>,
    /// `spec.providerID`, where a cloud gave one.
    pub provider_id: Option<String>,
    /// Whether a cloud-controller-manager sets addresses and removes the `uninitialized` taint.
    pub external_cloud_provider: bool,
    /// State of pods: volumes, hosts files, checkpoints.
    pub root_dir: PathBuf,
    /// Where container logs are, upstream: `/var/log/pods`.
    pub pod_logs_dir: PathBuf,
    /// The runtime.
    pub cri: Cri,
    /// The HTTPS server; `None` runs without one.
    pub server: Option<ServerConfig>,
    /// Whether pods live in a `kubepods` tree by QoS class. Needs write access to the cgroup file system.
    pub cgroups_per_qos: bool,
    /// Where the cgroup hierarchies are mounted, upstream: `/sys/fs/cgroup`.
    pub cgroup_mount: PathBuf,
    /// The group below which `kubepods` is made, `/` for the root of the mount.
    pub cgroup_root: String,
    /// Who manages the cgroup tree.
    pub cgroup_driver: CgroupDriver,
    /// Name servers of pods with `ClusterFirst`.
    pub cluster_dns: Vec<IpAddr>,
    /// The cluster's DNS domain.
    pub cluster_domain: String,
    /// The node's resolver configuration, for pods with `Default`.
    pub resolv_conf: PathBuf,
    /// Most pods that this node runs.
    pub max_pods: u32,
    /// Most processes in a pod; `None` is no limit.
    pub pod_pids_limit: Option<i64>,
    /// Directory of static pod manifests.
    pub static_pod_path: Option<PathBuf>,
    /// Whether to create the Node object.
    pub register_node: bool,
    /// Taints of the Node object when it is created.
    pub register_with_taints: Vec<Taint>,
    /// Labels of the Node object, set at every start.
    pub node_labels: BTreeMap<String, String>,
    /// What system daemons get: subtracted from allocatable (`cpu`, `memory`, `ephemeral-storage`, `pid`).
    pub system_reserved: BTreeMap<String, String>,
    /// What Kubernetes' own daemons get, likewise.
    pub kube_reserved: BTreeMap<String, String>,
    /// Hard eviction thresholds.
    pub eviction_hard: EvictionHard,
    /// Image garbage collection starts above this percentage of the image file system…
    pub image_gc_high_threshold_percent: u8,
    /// …and ends below this one.
    pub image_gc_low_threshold_percent: u8,
    /// A container's log is rotated above this size, in bytes.
    pub container_log_max_size: u64,
    /// How many log files a container has at most.
    pub container_log_max_files: usize,
    /// One image pull at a time.
    pub serialize_image_pulls: bool,
    /// Pulls at once when they are parallel; `None` is no limit.
    pub max_parallel_image_pulls: Option<usize>,
    /// Pods without a seccomp profile get the runtime's default.
    pub seccomp_default: bool,
    /// Sysctls that pods may set beyond the safe ones; may end in `*`.
    pub allowed_unsafe_sysctls: Vec<String>,
    /// How long a Lease lasts; it is renewed every quarter of that.
    pub node_lease_duration: Duration,
    /// How often the status is computed.
    pub node_status_update_frequency: Duration,
    /// How often the status is written when it did not change.
    pub node_status_report_frequency: Duration,
}

impl KubeletConfig {
    /// Upstream's defaults for a node of that name with its state in `root_dir`.
    #[must_use]
    pub fn new(node_name: impl Into<String>, root_dir: &Path, cri: Cri) -> Self {
        let node_name = node_name.into();
        Self {
            hostname: node_name.clone(),
            node_name,
            node_ips: Vec::new(),
            provider_id: None,
            external_cloud_provider: false,
            root_dir: root_dir.to_path_buf(),
            pod_logs_dir: root_dir.join("log/pods"),
            cri,
            server: None,
            cgroups_per_qos: true,
            cgroup_mount: PathBuf::from("/sys/fs/cgroup"),
            cgroup_root: "/".into(),
            cgroup_driver: CgroupDriver::default(),
            cluster_dns: vec![IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10))],
            cluster_domain: "cluster.local".into(),
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            max_pods: 110,
            pod_pids_limit: None,
            static_pod_path: None,
            register_node: true,
            register_with_taints: Vec::new(),
            node_labels: BTreeMap::new(),
            system_reserved: BTreeMap::new(),
            kube_reserved: BTreeMap::new(),
            eviction_hard: EvictionHard::default(),
            image_gc_high_threshold_percent: 85,
            image_gc_low_threshold_percent: 80,
            container_log_max_size: 10 << 20,
            container_log_max_files: 5,
            serialize_image_pulls: true,
            max_parallel_image_pulls: None,
            seccomp_default: true,
            allowed_unsafe_sysctls: Vec::new(),
            node_lease_duration: Duration::from_secs(40),
            node_status_update_frequency: Duration::from_secs(10),
            node_status_report_frequency: Duration::from_secs(300),
        }
    }

    /// Directory of one pod's state.
    #[must_use]
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.root_dir.join("pods").join(uid)
    }

    /// Directory of one pod's container logs.
    #[must_use]
    pub fn pod_log_dir(&self, namespace: &str, name: &str, uid: &str) -> PathBuf {
        self.pod_logs_dir.join(format!("{namespace}_{name}_{uid}"))
    }

    /// The primary address of the node, as a string; empty when it has none.
    #[must_use]
    pub fn host_ip(&self) -> String {
        self.node_ips.first().map(ToString::to_string).unwrap_or_default()
    }
}
