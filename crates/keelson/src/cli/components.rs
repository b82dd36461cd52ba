//! Flags of the components that run alone: upstream's names, and upstream's defaults where upstream has one. A flag of
//! upstream whose function is not here does not exist here either, so that nothing is accepted and ignored.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};
use ipnet::IpNet;
use jiff::SignedDuration;
use keelson_cluster::backend::EtcdSettings;

use super::access::{AuthenticationArgs, AuthorizationArgs};

/// Where etcd is.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct EtcdArgs {
    /// URLs of etcd; without them objects are in the embedded store below --data-dir
    #[arg(long, value_delimiter = ',', value_name = "URL")]
    pub(crate) etcd_servers: Vec<String>,
    /// Authority of etcd's certificates, for https URLs
    #[arg(long, value_name = "FILE", requires = "etcd_servers")]
    pub(crate) etcd_cafile: Option<PathBuf>,
    /// Certificate that etcd knows this server by
    #[arg(
        long,
        value_name = "FILE",
        requires = "etcd_keyfile",
        requires = "etcd_cafile"
    )]
    pub(crate) etcd_certfile: Option<PathBuf>,
    /// Key of --etcd-certfile
    #[arg(long, value_name = "FILE", requires = "etcd_certfile")]
    pub(crate) etcd_keyfile: Option<PathBuf>,
}

impl EtcdArgs {
    /// The etcd that the flags name. Whoever reads the files later may have another working directory.
    pub(crate) fn settings(&self) -> std::io::Result<Option<EtcdSettings>> {
        let absolute = |file: &Option<PathBuf>| file.as_ref().map(std::path::absolute).transpose();
        if self.etcd_servers.is_empty() {
            return Ok(None);
        }
        Ok(Some(EtcdSettings {
            servers: self.etcd_servers.clone(),
            ca_file: absolute(&self.etcd_cafile)?,
            cert_file: absolute(&self.etcd_certfile)?,
            key_file: absolute(&self.etcd_keyfile)?,
        }))
    }
}

/// What a component shows to who connects to it.
#[derive(Clone, Debug, Args)]
pub(crate) struct ServingArgs {
    /// Serving certificate, followed by the rest of its chain [default: a self-signed one in --cert-dir]
    #[arg(long, value_name = "FILE", requires = "tls_private_key_file")]
    pub(crate) tls_cert_file: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE", requires = "tls_cert_file")]
    pub(crate) tls_private_key_file: Option<PathBuf>,
}

impl ServingArgs {
    /// Certificate and key, where they are given.
    pub(crate) fn files(&self) -> Option<(&Path, &Path)> {
        self.tls_cert_file
            .as_deref()
            .zip(self.tls_private_key_file.as_deref())
    }
}

/// `kube-apiserver`.
#[derive(Clone, Debug, Args)]
pub(crate) struct ApiserverArgs {
    /// Where to listen
    #[arg(long, default_value = "0.0.0.0", value_name = "IP")]
    pub(crate) bind_address: IpAddr,
    /// Port to listen on
    #[arg(long, default_value_t = 6443, value_name = "PORT")]
    pub(crate) secure_port: u16,
    /// Address that members of the cluster reach this server at [default: --bind-address, else the default route's]
    #[arg(long, value_name = "IP")]
    pub(crate) advertise_address: Option<IpAddr>,
    #[command(flatten)]
    pub(crate) etcd: EtcdArgs,
    #[command(flatten)]
    pub(crate) authorization: AuthorizationArgs,
    #[command(flatten)]
    pub(crate) authentication: AuthenticationArgs,
    /// Authorities of client certificates
    #[arg(long, value_name = "FILE")]
    pub(crate) client_ca_file: PathBuf,
    #[command(flatten)]
    pub(crate) serving: ServingArgs,
    /// Where the self-signed certificate is kept
    #[arg(long, default_value = "/var/run/kubernetes", value_name = "DIR")]
    pub(crate) cert_dir: PathBuf,
    /// Authority of client certificates that may set X-Remote-* headers
    #[arg(long, value_name = "FILE")]
    pub(crate) requestheader_client_ca_file: Option<PathBuf>,
    /// Common names allowed with it [default: any]
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    pub(crate) requestheader_allowed_names: Vec<String>,
    /// Client certificate towards extension API servers, of the authority in --requestheader-client-ca-file
    #[arg(long, value_name = "FILE", requires = "proxy_client_key_file")]
    pub(crate) proxy_client_cert_file: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE", requires = "proxy_client_cert_file")]
    pub(crate) proxy_client_key_file: Option<PathBuf>,
    /// Audit policy: what is recorded of requests
    #[arg(long, value_name = "FILE", requires = "audit_log_path")]
    pub(crate) audit_policy_file: Option<PathBuf>,
    /// Where audit events are written to, as lines of JSON
    #[arg(long, value_name = "FILE", requires = "audit_policy_file")]
    pub(crate) audit_log_path: Option<PathBuf>,
    /// Megabytes before the audit log is put aside [default: never]
    #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "MB")]
    pub(crate) audit_log_maxsize: u64,
    /// Audit logs put aside that are kept [default: all]
    #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "N")]
    pub(crate) audit_log_maxbackup: usize,
    /// Days that audit logs put aside are kept [default: for ever]
    #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "DAYS")]
    pub(crate) audit_log_maxage: u32,
    /// EncryptionConfiguration: what is encrypted in the store
    #[arg(long, value_name = "FILE")]
    pub(crate) encryption_provider_config: Option<PathBuf>,
    /// Issuer of service account tokens
    #[arg(long, value_name = "URL")]
    pub(crate) service_account_issuer: String,
    /// Key that signs service account tokens
    #[arg(long, value_name = "FILE")]
    pub(crate) service_account_signing_key_file: PathBuf,
    /// Further keys that service account tokens are verified with
    #[arg(long, value_delimiter = ',', value_name = "FILE")]
    pub(crate) service_account_key_file: Vec<PathBuf>,
    /// Longest lifetime of a service account token that is asked for, e.g. 24h
    #[arg(long, value_parser = token_lifetime, value_name = "DURATION")]
    pub(crate) service_account_max_token_expiration: Option<Duration>,
    /// Audiences of tokens for this server [default: --service-account-issuer]
    #[arg(long, value_delimiter = ',', value_name = "AUDIENCE")]
    pub(crate) api_audiences: Vec<String>,
    /// Addresses of Services
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "10.0.0.0/24",
        value_name = "CIDR"
    )]
    pub(crate) service_cluster_ip_range: Vec<IpNet>,
    /// Ports of Services of type NodePort
    #[arg(long, default_value = "30000-32767", value_parser = ports, value_name = "FROM-TO")]
    pub(crate) service_node_port_range: RangeInclusive<u16>,
    /// Client certificate towards kubelets; without it there are no logs, exec and the like
    #[arg(long, value_name = "FILE", requires = "kubelet_client_key")]
    pub(crate) kubelet_client_certificate: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE", requires = "kubelet_client_certificate")]
    pub(crate) kubelet_client_key: Option<PathBuf>,
    /// Authority of kubelets' serving certificates [default: they are not verified]
    #[arg(long, value_name = "FILE")]
    pub(crate) kubelet_certificate_authority: Option<PathBuf>,
    /// Lifetime of Events
    #[arg(long, default_value = "1h", value_parser = duration, value_name = "DURATION")]
    pub(crate) event_ttl: Duration,
}

/// `kube-scheduler`.
#[derive(Clone, Debug, Args)]
pub(crate) struct SchedulerArgs {
    /// A KubeSchedulerConfiguration; what it says counts more than the flags
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// How to reach the API server
    #[arg(long, value_name = "FILE", required_unless_present = "config")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Hold a Lease so that only one of several is active
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true,
        default_missing_value = "true", value_name = "BOOL")]
    pub(crate) leader_elect: bool,
}

/// `kube-controller-manager`.
#[derive(Clone, Debug, Args)]
pub(crate) struct ControllerManagerArgs {
    /// How to reach the API server
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: PathBuf,
    /// Hold a Lease so that only one of several is active
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true,
        default_missing_value = "true", value_name = "BOOL")]
    pub(crate) leader_elect: bool,
    /// Each controller acts as a service account of its own in kube-system; with RBAC this is needed
    #[arg(long, default_value_t = false, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true,
        default_missing_value = "true", value_name = "BOOL")]
    pub(crate) use_service_account_credentials: bool,
    /// Controllers to run: `*` is all, `name` is one, `-name` is all but this one
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "*",
        allow_hyphen_values = true,
        value_name = "NAME"
    )]
    pub(crate) controllers: Vec<String>,
    /// Certificate of the authority that signs CertificateSigningRequests
    #[arg(long, value_name = "FILE", requires = "cluster_signing_key_file")]
    pub(crate) cluster_signing_cert_file: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE", requires = "cluster_signing_cert_file")]
    pub(crate) cluster_signing_key_file: Option<PathBuf>,
    /// Longest lifetime of signed certificates
    #[arg(long, default_value = "8760h", value_parser = duration, value_name = "DURATION")]
    pub(crate) cluster_signing_duration: Duration,
    /// Published to every namespace as kube-root-ca.crt
    #[arg(long, value_name = "FILE")]
    pub(crate) root_ca_file: Option<PathBuf>,
    /// Signs the tokens of Secrets for service accounts; without it they stay empty
    #[arg(long, value_name = "FILE")]
    pub(crate) service_account_private_key_file: Option<PathBuf>,
    /// Give each node a part of --cluster-cidr
    #[arg(long, default_value_t = false, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true,
        default_missing_value = "true", requires_if("true", "cluster_cidr"), value_name = "BOOL")]
    pub(crate) allocate_node_cidrs: bool,
    /// Addresses of pods
    #[arg(long, value_delimiter = ',', value_name = "CIDR")]
    pub(crate) cluster_cidr: Vec<IpNet>,
    /// Size of each node's part of IPv4 addresses
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u8).range(1..=32), value_name = "BITS")]
    pub(crate) node_cidr_mask_size_ipv4: u8,
    /// Size of each node's part of IPv6 addresses
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u8).range(1..=128), value_name = "BITS")]
    pub(crate) node_cidr_mask_size_ipv6: u8,
    /// Time between looks at the metrics of each HorizontalPodAutoscaler
    #[arg(long, default_value = "15s", value_parser = duration, value_name = "DURATION")]
    pub(crate) horizontal_pod_autoscaler_sync_period: Duration,
    /// How long past recommendations hold a scale-down back
    #[arg(long, default_value = "5m", value_parser = duration, value_name = "DURATION")]
    pub(crate) horizontal_pod_autoscaler_downscale_stabilization: Duration,
    /// Least relative change of a metric that scales
    #[arg(long, default_value_t = 0.1, value_name = "RATIO")]
    pub(crate) horizontal_pod_autoscaler_tolerance: f64,
}

/// `kubelet`.
#[derive(Clone, Debug, Args)]
pub(crate) struct KubeletArgs {
    /// How to reach the API server
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: PathBuf,
    /// The CRI runtime's socket
    #[arg(
        long,
        default_value = "unix:///run/containerd/containerd.sock",
        value_name = "ENDPOINT"
    )]
    pub(crate) container_runtime_endpoint: String,
    /// Name of the node [default: the host name]
    #[arg(long, value_name = "NAME")]
    pub(crate) hostname_override: Option<String>,
    /// Addresses of the node, at most one per family [default: the default route's]
    #[arg(long, value_delimiter = ',', value_name = "IP")]
    pub(crate) node_ip: Vec<IpAddr>,
    /// State of pods
    #[arg(long, default_value = "/var/lib/kubelet", value_name = "DIR")]
    pub(crate) root_dir: PathBuf,
    /// Manifests of static pods
    #[arg(long, value_name = "DIR")]
    pub(crate) pod_manifest_path: Option<PathBuf>,
    /// Where to serve
    #[arg(long, default_value = "0.0.0.0", value_name = "IP")]
    pub(crate) address: IpAddr,
    /// Port to serve on
    #[arg(long, default_value_t = 10250, value_name = "PORT")]
    pub(crate) port: u16,
    /// Authorities of client certificates
    #[arg(long, value_name = "FILE")]
    pub(crate) client_ca_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) serving: ServingArgs,
    /// Where the self-signed certificate is kept
    #[arg(long, default_value = "/var/lib/kubelet/pki", value_name = "DIR")]
    pub(crate) cert_dir: PathBuf,
    /// Addresses of the cluster's DNS
    #[arg(long = "cluster-dns", value_delimiter = ',', value_name = "IP")]
    pub(crate) cluster_dns: Vec<IpAddr>,
    /// The cluster's DNS domain
    #[arg(long, default_value = "cluster.local", value_name = "DOMAIN")]
    pub(crate) cluster_domain: String,
    /// The node's resolver configuration
    #[arg(long, default_value = "/etc/resolv.conf", value_name = "FILE")]
    pub(crate) resolv_conf: PathBuf,
    /// The cgroup below which pods are
    #[arg(long, default_value = "/", value_name = "CGROUP")]
    pub(crate) cgroup_root: String,
    /// Who manages cgroups
    #[arg(long, value_enum, default_value_t = CgroupDriver::Cgroupfs)]
    pub(crate) cgroup_driver: CgroupDriver,
    /// Put pods into a tree of cgroups by QoS class
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true,
        default_missing_value = "true", value_name = "BOOL")]
    pub(crate) cgroups_per_qos: bool,
    /// Create the Node object
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true,
        default_missing_value = "true", value_name = "BOOL")]
    pub(crate) register_node: bool,
    /// Taints of the Node object when it is created
    #[arg(long, value_delimiter = ',', value_name = "KEY=VALUE:EFFECT")]
    pub(crate) register_with_taints: Vec<NodeTaint>,
    /// Labels of the Node object
    #[arg(long, value_delimiter = ',', value_parser = pair, value_name = "KEY=VALUE")]
    pub(crate) node_labels: Vec<(String, String)>,
    /// `external`: a cloud controller manager sets addresses and removes the taint `uninitialized`
    #[arg(long, value_parser = ["external"], value_name = "NAME")]
    pub(crate) cloud_provider: Option<String>,
    /// How the cloud calls this machine
    #[arg(long, value_name = "ID")]
    pub(crate) provider_id: Option<String>,
    /// Most pods on this node
    #[arg(long, default_value_t = 110, value_name = "N")]
    pub(crate) max_pods: u32,
    /// Most processes in a pod; -1 is no limit
    #[arg(long, default_value_t = -1, allow_negative_numbers = true, value_name = "N")]
    pub(crate) pod_max_pids: i64,
    /// What system daemons get, e.g. cpu=200m,memory=500Mi
    #[arg(long, value_delimiter = ',', value_parser = pair, value_name = "RESOURCE=QUANTITY")]
    pub(crate) system_reserved: Vec<(String, String)>,
    /// What Kubernetes' daemons get
    #[arg(long, value_delimiter = ',', value_parser = pair, value_name = "RESOURCE=QUANTITY")]
    pub(crate) kube_reserved: Vec<(String, String)>,
    /// One image pull at a time
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true,
        default_missing_value = "true", value_name = "BOOL")]
    pub(crate) serialize_image_pulls: bool,
    /// Disk usage in percent above which images are removed
    #[arg(long, default_value_t = 85, value_parser = clap::value_parser!(u8).range(0..=100), value_name = "PERCENT")]
    pub(crate) image_gc_high_threshold: u8,
    /// Disk usage in percent below which no images are removed
    #[arg(long, default_value_t = 80, value_parser = clap::value_parser!(u8).range(0..=100), value_name = "PERCENT")]
    pub(crate) image_gc_low_threshold: u8,
    /// Most log files of a container
    #[arg(long, default_value_t = 5, value_name = "N")]
    pub(crate) container_log_max_files: usize,
    /// Pods without a seccomp profile get the runtime's default
    #[arg(long, default_value_t = false, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true,
        default_missing_value = "true", value_name = "BOOL")]
    pub(crate) seccomp_default: bool,
    /// Sysctls that pods may set beyond the safe ones; may end in `*`
    #[arg(long, value_delimiter = ',', value_name = "SYSCTL")]
    pub(crate) allowed_unsafe_sysctls: Vec<String>,
    /// How often the node's status is computed
    #[arg(long, default_value = "10s", value_parser = duration, value_name = "DURATION")]
    pub(crate) node_status_update_frequency: Duration,
}

/// `--cgroup-driver`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CgroupDriver {
    /// The cgroup file system.
    Cgroupfs,
    /// systemd.
    Systemd,
}

/// `kube-proxy`.
#[derive(Clone, Debug, Args)]
pub(crate) struct ProxyArgs {
    /// How to reach the API server
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: PathBuf,
    /// Name of the node [default: the host name]
    #[arg(long, value_name = "NAME")]
    pub(crate) hostname_override: Option<String>,
    /// How Services are made
    #[arg(long, default_value = "nftables", value_parser = ["nftables"], value_name = "MODE")]
    pub(crate) proxy_mode: String,
    /// Addresses of pods: who comes from elsewhere to a Service's address is masqueraded [default: nobody is]
    #[arg(long, value_delimiter = ',', value_name = "CIDR")]
    pub(crate) cluster_cidr: Vec<IpNet>,
    /// Which of the node's addresses answer on node ports [default: all but loopback]
    #[arg(long, value_delimiter = ',', value_name = "CIDR")]
    pub(crate) nodeport_addresses: Vec<IpNet>,
    /// Where /healthz and /livez answer
    #[arg(long, default_value = "0.0.0.0:10256", value_name = "IP:PORT")]
    pub(crate) healthz_bind_address: SocketAddr,
    /// Where /metrics and /proxyMode answer
    #[arg(long, default_value = "127.0.0.1:10249", value_name = "IP:PORT")]
    pub(crate) metrics_bind_address: SocketAddr,
}

/// A taint as `--register-with-taints` has it: `key=value:Effect` or `key:Effect`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodeTaint {
    /// Its key.
    pub(crate) key: String,
    /// Its value, where it has one.
    pub(crate) value: Option<String>,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    pub(crate) effect: String,
}

impl FromStr for NodeTaint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, effect) = text
            .split_once(':')
            .ok_or_else(|| format!("invalid taint spec: {text}"))?;
        if !["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect) {
            return Err(format!(
                "invalid taint effect: {effect}, unsupported taint effect"
            ));
        }
        let (key, value) = match name.split_once('=') {
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (name, None),
        };
        if key.is_empty() {
            return Err(format!("invalid taint spec: {text}"));
        }
        Ok(Self {
            key: key.to_owned(),
            value,
            effect: effect.to_owned(),
        })
    }
}

/// A Go duration: `1h0m0s`, `500ms`, `0`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let parsed: SignedDuration = text
        .parse()
        .map_err(|_| "write a duration such as 30s, 5m or 1h30m".to_owned())?;
    Duration::try_from(parsed).map_err(|_| "must not be negative".to_owned())
}

/// `--service-account-max-token-expiration`.
fn token_lifetime(text: &str) -> Result<Duration, String> {
    let lifetime = duration(text)?;
    if (3600..=1 << 32).contains(&lifetime.as_secs()) {
        Ok(lifetime)
    } else {
        Err("must be between 1 hour and 2^32 seconds".to_owned())
    }
}

/// `FROM-TO`.
fn ports(text: &str) -> Result<RangeInclusive<u16>, String> {
    let range = text
        .split_once('-')
        .and_then(|(from, to)| Some(from.parse().ok()?..=to.parse().ok()?));
    range
        .filter(|range| !range.is_empty())
        .ok_or_else(|| "write a range such as 30000-32767".to_owned())
}

/// `KEY=VALUE`.
pub(super) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;
    use crate::cli::{Cli, Command};

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn values_of_flags() {
        let seconds = |text| duration(text).map(|duration| duration.as_secs_f64());
        for (text, wanted) in [
            ("1h0m0s", 3600.0),
            ("500ms", 0.5),
            ("0", 0.0),
            ("1h30m", 5400.0),
            ("8760h", 31_536_000.0),
        ] {
            assert_eq!(seconds(text), Ok(wanted), "{text}");
        }
        for wrong in ["", "5", "-5s", "soon"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
        assert_eq!(token_lifetime("1h"), Ok(Duration::from_secs(3600)));
        assert!(token_lifetime("59m").is_err() && token_lifetime("4294967297s").is_err());
        assert_eq!(ports("30000-32767"), Ok(30000..=32767));
        for wrong in ["30000", "2-1", "1-70000", "a-b"] {
            assert!(ports(wrong).is_err(), "{wrong}");
        }
        let taint = |key: &str, value: Option<&str>, effect: &str| {
            Ok(NodeTaint {
                key: key.into(),
                value: value.map(Into::into),
                effect: effect.into(),
            })
        };
        assert_eq!("a/b=c:NoSchedule".parse(), taint("a/b", Some("c"), "NoSchedule"));
        assert_eq!("a:NoExecute".parse(), taint("a", None, "NoExecute"));
        for wrong in ["a", "a=b", "a:Never", ":NoExecute", "=b:NoExecute"] {
            assert!(wrong.parse::<NodeTaint>().is_err(), "{wrong}");
        }
        assert!(pair("a").is_err() && pair("=b").is_err());
        assert_eq!(pair("a=b=c"), Ok(("a".into(), "b=c".into())));
    }

    #[test]
    fn booleans_are_written_as_upstream_has_them() {
        for (arguments, wanted) in [
            (&[][..], true),
            (&["--leader-elect=false"], false),
            (&["--leader-elect"], true),
        ] {
            let line = ["keelson", "kube-scheduler", "--kubeconfig=k"]
                .iter()
                .chain(arguments);
            let Command::KubeScheduler(args) = Cli::parse_from(line).command else {
                panic!("another command")
            };
            assert_eq!(args.leader_elect, wanted, "{arguments:?}");
        }
    }
}
