//! What a cluster was asked to be; kept in `cluster.json` so that every later command knows it.

mod error;

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

pub use self::error::Error;
use crate::backend::EtcdSettings;
use crate::paths::{Paths, write_atomically};
use crate::preflight;
use crate::published::ClusterNetwork;
use crate::sandbox::NodeSpec;
use crate::underlay::Underlay;

/// Version of the layout of the data directory. A directory of a newer version is refused.
pub const LAYOUT_VERSION: u32 = 1;

/// Everything about a cluster that outlives its processes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterSettings {
    /// [`LAYOUT_VERSION`] of the writer.
    pub layout_version: u32,
    /// Name of this machine's node.
    pub node_name: String,
    /// Address of this machine in the cluster.
    pub node_ip: IpAddr,
    /// Port of the API server.
    pub api_port: u16,
    /// Addresses of pods.
    pub cluster_cidr: Ipv4Net,
    /// Addresses of Services.
    pub service_cidr: Ipv4Net,
    /// Addresses of Services of type LoadBalancer.
    pub load_balancer_cidr: Ipv4Net,
    /// Network of sandboxed nodes.
    pub underlay_cidr: Ipv4Net,
    /// The cluster's DNS domain.
    #[serde(default = "default_domain")]
    pub cluster_domain: String,
    /// Nodes on this machine: its own and the sandboxed ones. 0 was written by versions that did not keep it.
    #[serde(default)]
    pub nodes: u16,
    /// Further names of the API server.
    pub tls_sans: Vec<String>,
    /// Registries configuration.
    pub registries: Option<PathBuf>,
    /// The kubeconfig that the cluster's context was merged into.
    pub merged_into: Option<PathBuf>,
    /// The etcd that has the cluster's objects; without one they are in the embedded store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etcd: Option<EtcdSettings>,
}

fn default_domain() -> String {
    "cluster.local".into()
}

/// What a command line asks a cluster to be. What it does not mention stays as it is, or is the default in a new cluster.
#[derive(Clone, Debug, Default)]
pub struct Requested {
    /// Name of this machine's node.
    pub node_name: Option<String>,
    /// Address of this machine in the cluster.
    pub node_ip: Option<IpAddr>,
    /// Port of the API server.
    pub api_port: Option<u16>,
    /// Addresses of pods.
    pub cluster_cidr: Option<Ipv4Net>,
    /// Addresses of Services.
    pub service_cidr: Option<Ipv4Net>,
    /// Addresses of Services of type LoadBalancer.
    pub load_balancer_cidr: Option<Ipv4Net>,
    /// Network of sandboxed nodes.
    pub underlay_cidr: Option<Ipv4Net>,
    /// The cluster's DNS domain.
    pub cluster_domain: Option<String>,
    /// Nodes on this machine.
    pub nodes: Option<u16>,
    /// Further names of the API server; replaces those of before.
    pub tls_sans: Option<Vec<String>>,
    /// Registries configuration.
    pub registries: Option<PathBuf>,
    /// The etcd for the cluster's objects. One that has them there already may be told other URLs and files.
    pub etcd: Option<EtcdSettings>,
}

impl Requested {
    /// The settings of the cluster in `paths`, which has `existing`.
    ///
    /// Networks, names and the API's port of a cluster that has a store cannot change; asking for others is an error.
    pub fn resolve(
        &self,
        existing: Option<&ClusterSettings>,
        paths: &Paths,
    ) -> Result<ClusterSettings, Error> {
        // Without a store nothing depends on the settings of a start that failed.
        let existing = existing.filter(|existing| existing.etcd.is_some() || paths.store().exists());
        let settings = match existing {
            Some(existing) => self.change(existing, paths)?,
            None => self.make()?,
        };
        settings.check()?;
        Ok(settings)
    }

    fn make(&self) -> Result<ClusterSettings, Error> {
        let net = |address: [u8; 4], prefix| {
            Ipv4Net::new(address.into(), prefix).expect("invariant: a literal prefix is valid")
        };
        let underlay_cidr = self.underlay_cidr.unwrap_or_else(|| net([172, 31, 240, 0], 24));
        let node_name = match &self.node_name {
            Some(name) => name.clone(),
            None => preflight::host_name()?,
        };
        Ok(ClusterSettings {
            layout_version: LAYOUT_VERSION,
            node_name,
            node_ip: self.node_ip.unwrap_or_else(|| default_node_ip(underlay_cidr)),
            api_port: self.api_port.unwrap_or(6443),
            cluster_cidr: self.cluster_cidr.unwrap_or_else(|| net([10, 244, 0, 0], 16)),
            service_cidr: self.service_cidr.unwrap_or_else(|| net([10, 96, 0, 0], 12)),
            load_balancer_cidr: self
                .load_balancer_cidr
                .unwrap_or_else(|| net([10, 112, 0, 0], 16)),
            underlay_cidr,
            cluster_domain: self.cluster_domain.clone().unwrap_or_else(default_domain),
            nodes: self.nodes.unwrap_or(1),
            tls_sans: self.tls_sans.clone().unwrap_or_default(),
            registries: self.registries.clone(),
            merged_into: None,
            etcd: self.etcd.clone(),
        })
    }

    fn change(&self, existing: &ClusterSettings, paths: &Paths) -> Result<ClusterSettings, Error> {
        let fixed = [
            (
                "--node-name",
                text(self.node_name.as_ref()),
                existing.node_name.clone(),
            ),
            ("--api-port", text(self.api_port), existing.api_port.to_string()),
            (
                "--cluster-cidr",
                text(self.cluster_cidr),
                existing.cluster_cidr.to_string(),
            ),
            (
                "--service-cidr",
                text(self.service_cidr),
                existing.service_cidr.to_string(),
            ),
            (
                "--load-balancer-cidr",
                text(self.load_balancer_cidr),
                existing.load_balancer_cidr.to_string(),
            ),
            (
                "--underlay-cidr",
                text(self.underlay_cidr),
                existing.underlay_cidr.to_string(),
            ),
            (
                "--cluster-domain",
                self.cluster_domain.clone(),
                existing.cluster_domain.clone(),
            ),
        ];
        for (name, wanted, existing) in fixed {
            if let Some(wanted) = wanted.filter(|wanted| *wanted != existing) {
                let data = paths.data.clone();
                return Err(Error::Different {
                    data,
                    name,
                    existing,
                    wanted,
                });
            }
        }
        if existing.etcd.is_none() && self.etcd.is_some() {
            let data = paths.data.clone();
            return Err(Error::NotInEtcd { data });
        }
        let before = match existing.nodes {
            0 => u16::try_from(sandboxed_nodes(paths).len() + 1).unwrap_or(u16::MAX),
            known => known,
        };
        let nodes = self.nodes.unwrap_or(before);
        if nodes < before {
            let data = paths.data.clone();
            return Err(Error::FewerNodes {
                data,
                existing: before,
                wanted: nodes,
            });
        }
        // A machine that has moved to another network has another address.
        let gone = existing.node_ip != existing.underlay(paths).gateway()
            && !preflight::is_own_address(existing.node_ip);
        let node_ip = match self.node_ip {
            Some(ip) => ip,
            None if gone => default_node_ip(existing.underlay_cidr),
            None => existing.node_ip,
        };
        Ok(ClusterSettings {
            node_ip,
            nodes,
            tls_sans: self.tls_sans.clone().unwrap_or_else(|| existing.tls_sans.clone()),
            registries: self.registries.clone().or_else(|| existing.registries.clone()),
            etcd: self.etcd.clone().or_else(|| existing.etcd.clone()),
            ..existing.clone()
        })
    }
}

fn text(value: Option<impl ToString>) -> Option<String> {
    value.map(|value| value.to_string())
}

/// The address of this machine's node: the default route's, else the underlay's first.
fn default_node_ip(underlay: Ipv4Net) -> IpAddr {
    preflight::default_route_address()
        .unwrap_or_else(|| underlay.hosts().next().unwrap_or(underlay.addr()).into())
}

impl ClusterSettings {
    /// The settings in `paths`; `None` when there is no cluster.
    pub fn read(paths: &Paths) -> Result<Option<Self>, Error> {
        let path = paths.cluster_record();
        match std::fs::read(&path) {
            Ok(bytes) => Self::parse(&bytes, &path).map(Some),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::Io { path, source }),
        }
    }

    /// The settings in what was read from `path`.
    pub(crate) fn parse(bytes: &[u8], path: &Path) -> Result<Self, Error> {
        #[derive(Deserialize)]
        struct Version {
            layout_version: u32,
        }
        let damaged = |source| Error::Damaged {
            path: path.into(),
            source,
        };
        let version: Version = serde_json::from_slice(bytes).map_err(damaged)?;
        if version.layout_version > LAYOUT_VERSION {
            return Err(Error::Newer {
                path: path.into(),
                found: version.layout_version,
                known: LAYOUT_VERSION,
            });
        }
        serde_json::from_slice(bytes).map_err(damaged)
    }

    /// As it stands in its file.
    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec_pretty(self)
    }

    /// Writes the settings.
    pub fn write(&self, paths: &Paths) -> Result<(), Error> {
        let path = paths.cluster_record();
        let write = |path: &Path| write_atomically(path, &self.to_bytes()?);
        write(&path).map_err(|source| Error::Io { path, source })
    }

    /// Whether the ranges are apart and the domain is a name.
    fn check(&self) -> Result<(), Error> {
        let ranges = [
            ("--cluster-cidr", self.cluster_cidr),
            ("--service-cidr", self.service_cidr),
            ("--load-balancer-cidr", self.load_balancer_cidr),
            ("--underlay-cidr", self.underlay_cidr),
        ];
        for (index, (first_flag, first)) in ranges.into_iter().enumerate() {
            for (second_flag, second) in ranges.into_iter().skip(index + 1) {
                if first.contains(&second.network()) || second.contains(&first.network()) {
                    return Err(Error::Overlap {
                        first_flag,
                        first,
                        second_flag,
                        second,
                    });
                }
            }
        }
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if !self.cluster_domain.split('.').all(label) {
            return Err(Error::Domain(self.cluster_domain.clone()));
        }
        Ok(())
    }

    /// What other nodes must know.
    pub fn network(&self) -> ClusterNetwork {
        ClusterNetwork {
            cluster_cidr: self.cluster_cidr,
            service_cidr: self.service_cidr,
            load_balancer_cidr: self.load_balancer_cidr,
            dns: self.dns_address(),
            domain: self.cluster_domain.clone(),
        }
    }

    /// Address of the cluster's DNS: the tenth of the Service range, as kubeadm has it.
    pub fn dns_address(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.service_cidr.network()).saturating_add(10))
    }

    /// The network of sandboxed nodes.
    pub fn underlay(&self, paths: &Paths) -> Underlay {
        Underlay {
            bridge: format!("kl-{}", paths.id()),
            network: self.underlay_cidr,
        }
    }

    /// URL for this machine.
    pub fn local_url(&self) -> String {
        format!("https://127.0.0.1:{}", self.api_port)
    }

    /// URL for other machines.
    pub fn advertised_url(&self) -> String {
        match self.node_ip {
            IpAddr::V4(ip) => format!("https://{ip}:{}", self.api_port),
            IpAddr::V6(ip) => format!("https://[{ip}]:{}", self.api_port),
        }
    }
}

/// The sandboxed nodes that exist in `paths`, running or not, by name.
pub fn sandboxed_nodes(paths: &Paths) -> Vec<NodeSpec> {
    let Ok(entries) = std::fs::read_dir(paths.nodes()) else {
        return Vec::new();
    };
    let mut nodes: Vec<_> = entries
        .flatten()
        .filter_map(|entry| NodeSpec::read(&entry.path()).ok())
        .collect();
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    nodes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requested() -> Requested {
        Requested {
            node_name: Some("one".into()),
            node_ip: Some([10, 0, 0, 1].into()),
            ..Requested::default()
        }
    }

    /// A cluster with a store, made by `requested`.
    fn cluster(requested: &Requested) -> (tempfile::TempDir, Paths, ClusterSettings) {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths {
            data: dir.path().into(),
            run: dir.path().join("run"),
        };
        let settings = requested.resolve(None, &paths).unwrap();
        std::fs::create_dir_all(paths.store()).unwrap();
        (dir, paths, settings)
    }

    #[test]
    fn what_is_not_asked_for_stays() {
        let mut first = requested();
        first.api_port = Some(7443);
        first.service_cidr = Some("10.20.0.0/16".parse().unwrap());
        first.cluster_domain = Some("shop.example".into());
        first.nodes = Some(3);
        first.tls_sans = Some(vec!["api.example".into()]);
        first.registries = Some("/etc/registries.yaml".into());
        let (_dir, paths, settings) = cluster(&first);
        assert_eq!(settings.dns_address(), Ipv4Addr::new(10, 20, 0, 10));
        // 10.0.0.1 is no address of the machine that tests run on, so it is given again.
        let again = Requested {
            node_ip: first.node_ip,
            ..Requested::default()
        };
        assert_eq!(again.resolve(Some(&settings), &paths).unwrap(), settings);
        assert_eq!(first.resolve(Some(&settings), &paths).unwrap(), settings);
        let more = Requested {
            nodes: Some(4),
            ..again
        };
        assert_eq!(more.resolve(Some(&settings), &paths).unwrap().nodes, 4);
    }

    #[test]
    fn what_cannot_change_is_refused() {
        let (_dir, paths, settings) = cluster(&Requested {
            nodes: Some(3),
            ..requested()
        });
        let net = || Some("10.50.0.0/16".parse().unwrap());
        for (wanted, text) in [
            (
                Requested {
                    node_name: Some("two".into()),
                    ..Requested::default()
                },
                "--node-name one, not two",
            ),
            (
                Requested {
                    api_port: Some(1),
                    ..Requested::default()
                },
                "--api-port 6443, not 1",
            ),
            (
                Requested {
                    cluster_cidr: net(),
                    ..Requested::default()
                },
                "--cluster-cidr 10.244.0.0/16, not 10.50.0.0/16",
            ),
            (
                Requested {
                    service_cidr: net(),
                    ..Requested::default()
                },
                "--service-cidr 10.96.0.0/12, not",
            ),
            (
                Requested {
                    load_balancer_cidr: net(),
                    ..Requested::default()
                },
                "--load-balancer-cidr 10.112.0.0/16, not",
            ),
            (
                Requested {
                    underlay_cidr: net(),
                    ..Requested::default()
                },
                "--underlay-cidr 172.31.240.0/24, not",
            ),
            (
                Requested {
                    cluster_domain: Some("x".into()),
                    ..Requested::default()
                },
                "--cluster-domain cluster.local, not x",
            ),
            (
                Requested {
                    nodes: Some(2),
                    ..Requested::default()
                },
                "has 3 nodes, and --nodes 2",
            ),
        ] {
            let error = wanted.resolve(Some(&settings), &paths).unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
            assert!(error.contains("`keelson down --purge`"), "{error}");
        }
    }

    #[test]
    fn etcd_is_kept_and_is_not_switched_to_by_the_way() {
        let at = |url: &str| {
            Some(EtcdSettings {
                servers: vec![url.into()],
                ca_file: None,
                cert_file: None,
                key_file: None,
            })
        };
        let with = |url: &str| Requested {
            etcd: at(url),
            ..requested()
        };
        let (_dir, paths, embedded) = cluster(&requested());
        let error = with("http://a:2379")
            .resolve(Some(&embedded), &paths)
            .unwrap_err()
            .to_string();
        assert!(error.contains("`keelson store migrate --to etcd"), "{error}");

        let (_dir, paths, settings) = cluster(&with("http://a:2379"));
        std::fs::remove_dir(paths.store()).unwrap();
        assert_eq!(requested().resolve(Some(&settings), &paths).unwrap(), settings);
        let moved = with("http://b:2379").resolve(Some(&settings), &paths).unwrap();
        assert_eq!(moved.etcd, at("http://b:2379"));
    }

    #[test]
    fn settings_of_a_start_that_failed_bind_nobody() {
        let (_dir, paths, settings) = cluster(&requested());
        std::fs::remove_dir(paths.store()).unwrap();
        let other = Requested {
            api_port: Some(1),
            ..requested()
        };
        assert_eq!(other.resolve(Some(&settings), &paths).unwrap().api_port, 1);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let paths = Paths::default();
        let overlap = Requested {
            cluster_cidr: Some("10.100.0.0/16".parse().unwrap()),
            ..requested()
        };
        let error = overlap.resolve(None, &paths).unwrap_err().to_string();
        assert!(
            error.starts_with("--cluster-cidr 10.100.0.0/16 and --service-cidr 10.96.0.0/12 overlap"),
            "{error}"
        );
        for domain in ["", "Cluster.local", "a..b", "-a", "a_b"] {
            let bad = Requested {
                cluster_domain: Some(domain.into()),
                ..requested()
            };
            assert!(
                matches!(bad.resolve(None, &paths), Err(Error::Domain(_))),
                "{domain}"
            );
        }
    }
}
