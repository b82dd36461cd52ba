//! The command line: what exists, with which flags. What each command does is in `commands`.

mod access;
mod components;

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnet::Ipv4Net;
use keelson_cluster::paths::{DEFAULT_DATA_DIR, DEFAULT_RUN_DIR, Paths};

pub(crate) use self::access::{AuthenticationArgs, AuthorizationArgs};
pub(crate) use self::components::{
    ApiserverArgs, CgroupDriver, ControllerManagerArgs, EtcdArgs, KubeletArgs, NodeTaint, ProxyArgs,
    SchedulerArgs,
};

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
    #[arg(
        long,
        global = true,
        env = "KEELSON_LOG",
        default_value = "info",
        value_name = "FILTER"
    )]
    pub(crate) log: String,
    /// Format of the output
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Text)]
    pub(crate) output: Output,
}

impl Global {
    pub(crate) fn paths(&self) -> Paths {
        Paths {
            data: self.data_dir.clone(),
            run: self.run_dir.clone(),
        }
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
    /// Save the cluster on this machine, running or stopped, in one file: objects, keys, settings
    Backup {
        /// The file; it has every key of the cluster [default: keelson-TIME.backup]
        file: Option<PathBuf>,
        /// Replace a file that is there
        #[arg(long)]
        force: bool,
    },
    /// Make this machine have the cluster of a backup; `up` starts it
    Restore {
        /// What `keelson backup` made
        file: PathBuf,
        /// Replace a cluster that is there and is stopped
        #[arg(long)]
        force: bool,
        /// Where its objects go [default: where they were]
        #[arg(long, value_enum, value_name = "STORE")]
        to: Option<StoreKind>,
        #[command(flatten)]
        etcd: EtcdArgs,
    },
    /// Where the cluster's objects are
    Store {
        #[command(subcommand)]
        command: StoreCommand,
    },
    /// The images of this machine's runtime
    Image {
        #[command(subcommand)]
        command: ImageCommand,
    },
    /// Run the API server alone
    KubeApiserver(Box<ApiserverArgs>),
    /// Run the scheduler alone
    KubeScheduler(SchedulerArgs),
    /// Run the controller manager alone
    KubeControllerManager(Box<ControllerManagerArgs>),
    /// Run the kubelet alone, against any CRI runtime
    Kubelet(Box<KubeletArgs>),
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

/// `up` and `server`. The cluster keeps what it was told: flags that are not given again stay as they were.
#[derive(Clone, Debug, Args)]
pub(crate) struct UpArgs {
    /// How many nodes: this machine and N-1 sandboxed ones on it [default: as many as there are, 1 in a new cluster]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=100), value_name = "N")]
    pub(crate) nodes: Option<u16>,
    /// Name of this machine's node [default: the host name]
    #[arg(long, value_name = "NAME")]
    pub(crate) node_name: Option<String>,
    /// Address of this machine in the cluster [default: the address of the default route, else the underlay's first]
    #[arg(long, value_name = "IP")]
    pub(crate) node_ip: Option<IpAddr>,
    /// Port of the API server [default: 6443]
    #[arg(long, value_name = "PORT")]
    pub(crate) api_port: Option<u16>,
    /// Addresses of pods; each node gets a /24 [default: 10.244.0.0/16]
    #[arg(long, value_name = "CIDR")]
    pub(crate) cluster_cidr: Option<Ipv4Net>,
    /// Addresses of Services [default: 10.96.0.0/12]
    #[arg(long, value_name = "CIDR")]
    pub(crate) service_cidr: Option<Ipv4Net>,
    /// Addresses of Services of type LoadBalancer [default: 10.112.0.0/16]
    #[arg(long, value_name = "CIDR")]
    pub(crate) load_balancer_cidr: Option<Ipv4Net>,
    /// Network between this machine and its sandboxed nodes [default: 172.31.240.0/24]
    #[arg(long, value_name = "CIDR")]
    pub(crate) underlay_cidr: Option<Ipv4Net>,
    /// The cluster's DNS domain [default: cluster.local]
    #[arg(long, value_name = "DOMAIN")]
    pub(crate) cluster_domain: Option<String>,
    /// Registries configuration: mirrors, credentials, plain HTTP
    #[arg(long, value_name = "FILE")]
    pub(crate) registries: Option<PathBuf>,
    /// Further names and addresses for the API server's certificate
    #[arg(long = "tls-san", value_name = "HOST")]
    pub(crate) tls_sans: Vec<String>,
    #[command(flatten)]
    pub(crate) etcd: EtcdArgs,
    /// Do not touch ~/.kube/config
    #[arg(long)]
    pub(crate) no_kubeconfig: bool,
    /// Seconds to wait until all nodes are Ready
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    pub(crate) timeout: u64,
}

/// `store`.
#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Move the objects of a stopped cluster into another store, with all their revisions
    Migrate {
        /// The other store
        #[arg(long, value_enum, value_name = "STORE")]
        to: StoreKind,
        #[command(flatten)]
        etcd: EtcdArgs,
    },
}

/// A kind of store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum StoreKind {
    /// Files in the data directory.
    Embedded,
    /// An etcd of one or several members.
    Etcd,
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
