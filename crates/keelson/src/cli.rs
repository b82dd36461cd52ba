//! The command line: what exists, with which flags. What each command does is in `commands`.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnet::Ipv4Net;
use keelson_cluster::paths::{DEFAULT_DATA_DIR, DEFAULT_RUN_DIR, Paths};

/// A complete Kubernetes in one binary.
#[derive(Debug, Parser)]
#[command(name = "keelson", version, propagate_version = true, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags that every command has.
#[derive(Clone, Debug, Args)]
pub(crate) struct Global {
    /// Directory of what must survive a reboot: store, keys, images
    #[arg(long, global = true, env = "KEELSON_DATA_DIR", default_value = DEFAULT_DATA_DIR, value_name = "DIR")]
    pub(crate) data_dir: PathBuf,
    /// Directory of sockets and process records
    #[arg(long, global = true, env = "KEELSON_RUN_DIR", default_value = DEFAULT_RUN_DIR, value_name = "DIR")]
    pub(crate) run_dir: PathBuf,
    /// How much to log to standard error: error, warn, info, debug, trace, or a filter such as `keelson_kubelet=debug`
    #[arg(long, global = true, env = "KEELSON_LOG", default_value = "info", value_name = "FILTER")]
    pub(crate) log: String,
    /// Format of the output
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Text)]
    pub(crate) output: Output,
}

impl Global {
    pub(crate) fn paths(&self) -> Paths {
        Paths { data: self.data_dir.clone(), run: self.run_dir.clone() }
    }
}

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a cluster on this machine and return when it is ready
    Up(UpArgs),
    /// Stop the cluster on this machine
    Down {
        /// Delete its data too: objects, images, keys
        #[arg(long)]
        purge: bool,
    },
    /// Show nodes, components, versions, certificates, store and memory
    Status,
    /// Print the logs of the cluster's processes
    Logs {
        /// Only this component, e.g. kubelet, kube-scheduler, apiserver; or a sandboxed node as node/NAME
        component: Option<String>,
        /// Go on as lines come
        #[arg(short, long)]
        follow: bool,
    },
    /// Print the administrator's kubeconfig, or merge it into ~/.kube/config
    Kubeconfig {
        /// Merge it into ~/.kube/config (or $KUBECONFIG) as context `keelson` and make that the current context
        #[arg(long)]
        merge: bool,
    },
    /// Tokens by which machines join
    Token {
        #[command(subcommand)]
        command: TokenCommand,
    },
    /// Run this machine's control plane and node in the foreground (what `up` starts in the background)
    Server(UpArgs),
    /// Join this machine to a cluster as a node
    Agent(AgentArgs),
    /// The images of this machine's runtime
    Image {
        #[command(subcommand)]
        command: ImageCommand,
    },
    /// Run the API server alone
    KubeApiserver(ApiserverArgs),
    /// Run the scheduler alone
    KubeScheduler(ComponentArgs),
    /// Run the controller manager alone
    KubeControllerManager(ControllerManagerArgs),
    /// Run the kubelet alone, against any CRI runtime
    Kubelet(KubeletArgs),
    /// Run the service proxy alone
    KubeProxy(ProxyArgs),
    /// Print a completion script for a shell
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Entry points for processes that keelson starts itself
    #[command(hide = true)]
    Internal {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

/// `up` and `server`.
#[derive(Clone, Debug, Args)]
pub(crate) struct UpArgs {
    /// How many nodes: this machine and N-1 sandboxed ones on it
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=100), value_name = "N")]
    pub(crate) nodes: u16,
    /// Name of this machine's node [default: the host name]
    #[arg(long, value_name = "NAME")]
    pub(crate) node_name: Option<String>,
    /// Address of this machine in the cluster [default: the address of the default route, else the underlay's first]
    #[arg(long, value_name = "IP")]
    pub(crate) node_ip: Option<IpAddr>,
    /// Port of the API server
    #[arg(long, default_value_t = 6443, value_name = "PORT")]
    pub(crate) api_port: u16,
    /// Addresses of pods; each node gets a /24
    #[arg(long, default_value = "10.244.0.0/16", value_name = "CIDR")]
    pub(crate) cluster_cidr: Ipv4Net,
    /// Addresses of Services
    #[arg(long, default_value = "10.96.0.0/12", value_name = "CIDR")]
    pub(crate) service_cidr: Ipv4Net,
    /// Addresses of Services of type LoadBalancer
    #[arg(long, default_value = "10.112.0.0/16", value_name = "CIDR")]
    pub(crate) load_balancer_cidr: Ipv4Net,
    /// Network between this machine and its sandboxed nodes
    #[arg(long, default_value = "172.31.240.0/24", value_name = "CIDR")]
    pub(crate) underlay_cidr: Ipv4Net,
    /// Registries configuration: mirrors, credentials, plain HTTP
    #[arg(long, value_name = "FILE")]
    pub(crate) registries: Option<PathBuf>,
    /// Further names and addresses for the API server's certificate
    #[arg(long = "tls-san", value_name = "HOST")]
    pub(crate) tls_sans: Vec<String>,
    /// Do not touch ~/.kube/config
    #[arg(long)]
    pub(crate) no_kubeconfig: bool,
    /// Seconds to wait until all nodes are Ready
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    pub(crate) timeout: u64,
}

/// `agent`.
#[derive(Clone, Debug, Args)]
pub(crate) struct AgentArgs {
    /// The API server, e.g. https://10.0.0.5:6443
    #[arg(long, value_name = "URL")]
    pub(crate) server: String,
    /// The token that `keelson token create` printed; needed the first time only
    #[arg(long, env = "KEELSON_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub(crate) token: Option<String>,
    /// Name of this node [default: the host name]
    #[arg(long, value_name = "NAME")]
    pub(crate) node_name: Option<String>,
    /// Address of this node [default: the one that the route to the server uses]
    #[arg(long, value_name = "IP")]
    pub(crate) node_ip: Option<IpAddr>,
    /// Registries configuration: mirrors, credentials, plain HTTP
    #[arg(long, value_name = "FILE")]
    pub(crate) registries: Option<PathBuf>,
    /// Use another CRI runtime, e.g. unix:///run/containerd/containerd.sock
    #[arg(long, value_name = "ENDPOINT")]
    pub(crate) container_runtime_endpoint: Option<String>,
}

/// `token`.
#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token and print it with the command that joins a machine
    Create {
        /// How long it is good for, e.g. 24h; 0 for ever
        #[arg(long, default_value = "24h", value_name = "DURATION")]
        ttl: String,
    },
    /// List the tokens that are good
    List,
    /// Delete a token
    Delete {
        /// Its id: the six characters before the dot
        id: String,
    },
}

/// `image`.
#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Import images from an archive: `docker save` or OCI layout, plain or compressed
    Import {
        /// The archive
        file: PathBuf,
    },
    /// Pull an image
    Pull {
        /// Its reference, e.g. registry.example/app:v1
        image: String,
    },
    /// List images
    #[command(alias = "ls")]
    List,
    /// Remove images
    Rm {
        /// References or ids
        #[arg(required = true)]
        images: Vec<String>,
    },
}

/// Flags of every component that is only a client.
#[derive(Clone, Debug, Args)]
pub(crate) struct ComponentArgs {
    /// How to reach the API server
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: PathBuf,
    /// Hold a Lease so that only one of several is active
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    pub(crate) leader_elect: bool,
}

/// `kube-controller-manager`.
#[derive(Clone, Debug, Args)]
pub(crate) struct ControllerManagerArgs {
    #[command(flatten)]
    pub(crate) component: ComponentArgs,
    /// Certificate of the authority that signs CertificateSigningRequests
    #[arg(long, value_name = "FILE")]
    pub(crate) cluster_signing_cert_file: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE")]
    pub(crate) cluster_signing_key_file: Option<PathBuf>,
    /// Published to every namespace as kube-root-ca.crt
    #[arg(long, value_name = "FILE")]
    pub(crate) root_ca_file: Option<PathBuf>,
    /// Addresses of pods
    #[arg(long, default_value = "10.244.0.0/16", value_name = "CIDR")]
    pub(crate) cluster_cidr: Ipv4Net,
    /// Give each node a part of --cluster-cidr
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    pub(crate) allocate_node_cidrs: bool,
}

/// `kubelet`.
#[derive(Clone, Debug, Args)]
pub(crate) struct KubeletArgs {
    /// How to reach the API server
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: PathBuf,
    /// The CRI runtime
    #[arg(long, default_value = "unix:///run/containerd/containerd.sock", value_name = "ENDPOINT")]
    pub(crate) container_runtime_endpoint: String,
    /// Name of the node [default: the host name]
    #[arg(long, value_name = "NAME")]
    pub(crate) hostname_override: Option<String>,
    /// Address of the node
    #[arg(long, value_name = "IP")]
    pub(crate) node_ip: Option<IpAddr>,
    /// The kubelet's files
    #[arg(long, default_value = "/var/lib/kubelet", value_name = "DIR")]
    pub(crate) root_dir: PathBuf,
    /// Manifests of static pods
    #[arg(long, value_name = "DIR")]
    pub(crate) pod_manifest_path: Option<PathBuf>,
    /// Authority of clients' certificates
    #[arg(long, value_name = "FILE")]
    pub(crate) client_ca_file: Option<PathBuf>,
    /// Serving certificate
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_cert_file: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_private_key_file: Option<PathBuf>,
    /// Addresses of the cluster's DNS
    #[arg(long, value_delimiter = ',', default_value = "10.96.0.10", value_name = "IP")]
    pub(crate) cluster_dns: Vec<IpAddr>,
    /// The cluster's DNS domain
    #[arg(long, default_value = "cluster.local", value_name = "DOMAIN")]
    pub(crate) cluster_domain: String,
    /// Port to serve on
    #[arg(long, default_value_t = 10250, value_name = "PORT")]
    pub(crate) port: u16,
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
    /// Addresses of pods
    #[arg(long, default_value = "10.244.0.0/16", value_name = "CIDR")]
    pub(crate) cluster_cidr: Ipv4Net,
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
    /// Address that members of the cluster reach this server at
    #[arg(long, value_name = "IP")]
    pub(crate) advertise_address: Option<IpAddr>,
    /// Authorities of client certificates
    #[arg(long, value_name = "FILE")]
    pub(crate) client_ca_file: PathBuf,
    /// Serving certificate
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_cert_file: PathBuf,
    /// Its key
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_private_key_file: PathBuf,
    /// Key that signs service account tokens
    #[arg(long, value_name = "FILE")]
    pub(crate) service_account_signing_key_file: PathBuf,
    /// Keys that service account tokens are verified with
    #[arg(long, value_name = "FILE")]
    pub(crate) service_account_key_file: Vec<PathBuf>,
    /// Issuer of service account tokens
    #[arg(long, default_value = "https://kubernetes.default.svc.cluster.local", value_name = "URL")]
    pub(crate) service_account_issuer: String,
    /// Addresses of Services
    #[arg(long, default_value = "10.96.0.0/12", value_name = "CIDR")]
    pub(crate) service_cluster_ip_range: Ipv4Net,
    /// Client certificate towards kubelets
    #[arg(long, value_name = "FILE")]
    pub(crate) kubelet_client_certificate: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE")]
    pub(crate) kubelet_client_key: Option<PathBuf>,
    /// Authority of kubelets' serving certificates
    #[arg(long, value_name = "FILE")]
    pub(crate) kubelet_certificate_authority: Option<PathBuf>,
}
