//! What the controller manager is started with.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use keelson_pki::CertificateAuthority;
use kube::Client;

/// Makes the client of one controller; the argument is the name of its service account in `kube-system`
/// (`deployment-controller`). With a single kubeconfig it returns the same client for all.
pub type ClientFactory = Arc<dyn Fn(&str) -> Client + Send + Sync>;

/// Who this candidate for leadership is.
#[derive(Clone, Debug)]
pub struct LeaderElection {
    /// Unique among all candidates.
    pub identity: String,
}

/// Everything [`crate::run`] needs. Field by field what the flags of upstream's kube-controller-manager say.
#[derive(Clone)]
pub struct Config {
    /// A client per controller.
    pub client: ClientFactory,
    /// The client of the shared informers and of leader election (`system:kube-controller-manager`).
    pub informer_client: Client,
    /// `--leader-elect`: `None` runs without election, for a control plane of one node.
    pub leader_election: Option<LeaderElection>,
    /// `--controllers`: names that must not start.
    pub disabled_controllers: BTreeSet<String>,
    /// `--cluster-cidr`: ranges of pod addresses, at most one per family.
    pub cluster_cidrs: Vec<IpNet>,
    /// `--node-cidr-mask-size-ipv4`.
    pub node_cidr_mask_size_ipv4: u8,
    /// `--node-cidr-mask-size-ipv6`.
    pub node_cidr_mask_size_ipv6: u8,
    /// `--allocate-node-cidrs`.
    pub allocate_node_cidrs: bool,
    /// `--service-cluster-ip-range`.
    pub service_cidrs: Vec<IpNet>,
    /// `--cluster-signing-cert-file` and `-key-file`: signs certificate signing requests; `None` signs none.
    pub signing_ca: Option<Arc<CertificateAuthority>>,
    /// `--cluster-signing-duration`.
    pub cluster_signing_duration: Duration,
    /// `--root-ca-file` (PEM): published as `kube-root-ca.crt` in every namespace and put into token secrets.
    pub root_ca_pem: Option<String>,
    /// `--service-account-private-key-file` (PEM): signs the tokens of token secrets.
    pub service_account_key_pem: Option<String>,
    /// Issuer of the tokens of token secrets. Upstream's are `kubernetes/serviceaccount`.
    pub service_account_issuer: String,
    /// `--node-monitor-period`.
    pub node_monitor_period: Duration,
    /// `--node-monitor-grace-period`.
    pub node_monitor_grace_period: Duration,
    /// `--node-startup-grace-period`.
    pub node_startup_grace_period: Duration,
    /// `--node-eviction-rate`: nodes per second.
    pub node_eviction_rate: f32,
    /// `--secondary-node-eviction-rate`: nodes per second in an unhealthy zone.
    pub secondary_node_eviction_rate: f32,
    /// `--unhealthy-zone-threshold`.
    pub unhealthy_zone_threshold: f32,
    /// `--large-cluster-size-threshold`.
    pub large_cluster_size_threshold: i32,
    /// `--terminated-pod-gc-threshold`.
    pub terminated_pod_gc_threshold: i32,
    /// `--horizontal-pod-autoscaler-sync-period`.
    pub hpa_sync_period: Duration,
    /// `--horizontal-pod-autoscaler-downscale-stabilization`.
    pub hpa_downscale_stabilization: Duration,
    /// `--horizontal-pod-autoscaler-tolerance`.
    pub hpa_tolerance: f64,
}

impl Config {
    /// Upstream's defaults, with one client for everything and without leader election.
    pub fn new(client: Client) -> Self {
        let for_controllers = client.clone();
        Self {
            client: Arc::new(move |_| for_controllers.clone()),
            informer_client: client,
            leader_election: None,
            disabled_controllers: BTreeSet::new(),
            cluster_cidrs: Vec::new(),
            node_cidr_mask_size_ipv4: 24,
            node_cidr_mask_size_ipv6: 64,
            allocate_node_cidrs: false,
            service_cidrs: Vec::new(),
            signing_ca: None,
            cluster_signing_duration: Duration::from_secs(365 * 24 * 3600),
            root_ca_pem: None,
            service_account_key_pem: None,
            service_account_issuer: "kubernetes/serviceaccount".into(),
            node_monitor_period: Duration::from_secs(5),
            node_monitor_grace_period: Duration::from_secs(50),
            node_startup_grace_period: Duration::from_secs(60),
            node_eviction_rate: 0.1,
            secondary_node_eviction_rate: 0.01,
            unhealthy_zone_threshold: 0.55,
            large_cluster_size_threshold: 50,
            terminated_pod_gc_threshold: 12_500,
            hpa_sync_period: Duration::from_secs(15),
            hpa_downscale_stabilization: Duration::from_secs(300),
            hpa_tolerance: 0.1,
        }
    }
}
