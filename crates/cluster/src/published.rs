//! What joined nodes must know of their cluster, published as kubeadm publishes it: the ConfigMaps `kubeadm-config` and
//! `kubelet-config` in `kube-system`, readable by `system:nodes` and by whoever joins with a token.
//!
//! The server writes them at each start; an agent reads them at each start and keeps a copy, so that it can start while
//! the server cannot be reached.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use serde::{Deserialize, Serialize};

const NAMESPACE: &str = "kube-system";
/// Name of the ConfigMap with `ClusterConfiguration`.
pub(crate) const KUBEADM_CONFIG: &str = "kubeadm-config";
const KUBELET_CONFIG: &str = "kubelet-config";
const CLUSTER_KEY: &str = "ClusterConfiguration";
/// Beside kubeadm's key: what kubeadm knows nothing of.
const KEELSON_KEY: &str = "KeelsonConfiguration";
const KUBELET_KEY: &str = "kubelet";

/// The addresses and names that every node of a cluster has to agree on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterNetwork {
    /// Addresses of pods.
    pub cluster_cidr: Ipv4Net,
    /// Addresses of Services.
    pub service_cidr: Ipv4Net,
    /// Addresses of load balancers.
    pub load_balancer_cidr: Ipv4Net,
    /// The cluster's DNS.
    pub dns: Ipv4Addr,
    /// Its domain.
    pub domain: String,
}

/// What is published cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It could not be read.
    #[error("cannot read ConfigMap {NAMESPACE}/{name}")]
    Get {
        /// Its name.
        name: &'static str,
        /// The cause.
        #[source]
        source: Box<kube::Error>,
    },
    /// A key is missing.
    #[error("ConfigMap {NAMESPACE}/{name} has no {key}; the server writes it again at its next start")]
    Missing {
        /// The ConfigMap.
        name: &'static str,
        /// The key.
        key: &'static str,
    },
    /// A key is not what it should be.
    #[error("{key} in ConfigMap {NAMESPACE}/{name} is damaged; the server writes it again at its next start")]
    Damaged {
        /// The ConfigMap.
        name: &'static str,
        /// The key.
        key: &'static str,
        /// The cause.
        #[source]
        source: serde_yaml_ng::Error,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ClusterConfiguration {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    networking: Networking,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Networking {
    dns_domain: String,
    pod_subnet: Ipv4Net,
    service_subnet: Ipv4Net,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct KeelsonConfiguration {
    load_balancer_subnet: Ipv4Net,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct KubeletConfiguration {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(rename = "clusterDNS")]
    cluster_dns: [Ipv4Addr; 1],
    cluster_domain: String,
}

impl ClusterNetwork {
    fn config_maps(&self) -> Result<[ConfigMap; 2], serde_yaml_ng::Error> {
        let cluster = ClusterConfiguration {
            api_version: "kubeadm.k8s.io/v1beta4".into(),
            kind: CLUSTER_KEY.into(),
            networking: Networking {
                dns_domain: self.domain.clone(),
                pod_subnet: self.cluster_cidr,
                service_subnet: self.service_cidr,
            },
        };
        let ours = KeelsonConfiguration {
            load_balancer_subnet: self.load_balancer_cidr,
        };
        let kubelet = KubeletConfiguration {
            api_version: "kubelet.config.k8s.io/v1beta1".into(),
            kind: "KubeletConfiguration".into(),
            cluster_dns: [self.dns],
            cluster_domain: self.domain.clone(),
        };
        let map = |name: &str, data: Vec<(&str, String)>| ConfigMap {
            metadata: ObjectMeta {
                name: Some(name.into()),
                namespace: Some(NAMESPACE.into()),
                ..ObjectMeta::default()
            },
            data: Some(
                data.into_iter()
                    .map(|(key, text)| (key.to_owned(), text))
                    .collect(),
            ),
            ..ConfigMap::default()
        };
        Ok([
            map(
                KUBEADM_CONFIG,
                vec![
                    (CLUSTER_KEY, serde_yaml_ng::to_string(&cluster)?),
                    (KEELSON_KEY, serde_yaml_ng::to_string(&ours)?),
                ],
            ),
            map(
                KUBELET_CONFIG,
                vec![(KUBELET_KEY, serde_yaml_ng::to_string(&kubelet)?)],
            ),
        ])
    }

    fn of(cluster: &ConfigMap, kubelet: &ConfigMap) -> Result<Self, Error> {
        let networking = parse::<ClusterConfiguration>(KUBEADM_CONFIG, cluster, CLUSTER_KEY)?.networking;
        let ours: KeelsonConfiguration = parse(KUBEADM_CONFIG, cluster, KEELSON_KEY)?;
        let kubelet: KubeletConfiguration = parse(KUBELET_CONFIG, kubelet, KUBELET_KEY)?;
        let [dns] = kubelet.cluster_dns;
        Ok(Self {
            cluster_cidr: networking.pod_subnet,
            service_cidr: networking.service_subnet,
            load_balancer_cidr: ours.load_balancer_subnet,
            dns,
            domain: networking.dns_domain,
        })
    }
}

fn parse<T: serde::de::DeserializeOwned>(
    name: &'static str,
    map: &ConfigMap,
    key: &'static str,
) -> Result<T, Error> {
    let text = map.data.as_ref().and_then(|data| data.get(key));
    let text = text.ok_or(Error::Missing { name, key })?;
    serde_yaml_ng::from_str(text).map_err(|source| Error::Damaged { name, key, source })
}

/// Writes what nodes must know; writes nothing when it stands there already.
pub async fn publish(client: &Client, network: &ClusterNetwork) -> Result<(), kube::Error> {
    let maps = network
        .config_maps()
        .map_err(|error| kube::Error::Service(Box::new(error)))?;
    for map in maps {
        write(client, &map).await?;
    }
    Ok(())
}

/// Makes the ConfigMap, or gives one that is there the values of `map`. Keys that others added stay; one that has all of it
/// is not written.
pub(crate) async fn write(client: &Client, map: &ConfigMap) -> Result<(), kube::Error> {
    let namespace = map.metadata.namespace.as_deref().unwrap_or_default();
    let name = map.metadata.name.as_deref().unwrap_or_default();
    let api = Api::<ConfigMap>::namespaced(client.clone(), namespace);
    let Some(mut there) = api.get_opt(name).await? else {
        api.create(&PostParams::default(), map).await?;
        return Ok(());
    };
    let data: &mut BTreeMap<_, _> = there.data.get_or_insert_default();
    let before = data.clone();
    data.extend(map.data.clone().unwrap_or_default());
    if *data != before {
        api.replace(name, &PostParams::default(), &there).await?;
    }
    Ok(())
}

/// Reads what is published.
pub async fn read(client: &Client) -> Result<ClusterNetwork, Error> {
    let api = Api::<ConfigMap>::namespaced(client.clone(), NAMESPACE);
    let get = async |name: &'static str| {
        api.get(name).await.map_err(|source| Error::Get {
            name,
            source: Box::new(source),
        })
    };
    ClusterNetwork::of(&get(KUBEADM_CONFIG).await?, &get(KUBELET_CONFIG).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network() -> ClusterNetwork {
        ClusterNetwork {
            cluster_cidr: "10.1.0.0/16".parse().unwrap(),
            service_cidr: "10.2.0.0/16".parse().unwrap(),
            load_balancer_cidr: "10.3.0.0/16".parse().unwrap(),
            dns: Ipv4Addr::new(10, 2, 0, 10),
            domain: "shop.example".into(),
        }
    }

    #[test]
    fn what_is_published_is_read_and_is_kubeadms() {
        let [cluster, kubelet] = network().config_maps().unwrap();
        assert_eq!(ClusterNetwork::of(&cluster, &kubelet).unwrap(), network());
        let text = |map: &ConfigMap, key: &str| map.data.as_ref().unwrap()[key].clone();
        let cluster = text(&cluster, "ClusterConfiguration");
        for line in [
            "kind: ClusterConfiguration",
            "  dnsDomain: shop.example",
            "  podSubnet: 10.1.0.0/16",
            "  serviceSubnet: 10.2.0.0/16",
        ] {
            assert!(cluster.lines().any(|l| l == line), "{line}: {cluster}");
        }
        let kubelet = text(&kubelet, "kubelet");
        for line in ["clusterDNS:", "- 10.2.0.10", "clusterDomain: shop.example"] {
            assert!(kubelet.lines().any(|l| l == line), "{line}: {kubelet}");
        }
    }

    #[test]
    fn what_is_missing_or_damaged_is_named() {
        let [mut cluster, kubelet] = network().config_maps().unwrap();
        let data = cluster.data.as_mut().unwrap();
        data.insert(CLUSTER_KEY.into(), "networking: {podSubnet: everywhere}".into());
        let error = ClusterNetwork::of(&cluster, &kubelet).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("ClusterConfiguration in ConfigMap kube-system/kubeadm-config is damaged")
        );
        cluster.data = None;
        let error = ClusterNetwork::of(&cluster, &kubelet).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("ConfigMap kube-system/kubeadm-config has no ClusterConfiguration")
        );
    }
}
