//! What somebody who knows nothing but a token can learn of the cluster: the ConfigMap `cluster-info` in `kube-public`, as
//! kubeadm writes it. Its kubeconfig names the server and its authority and no user. Everybody may read it (the role is of
//! the API server's bootstrap), and the bootstrap-signer-controller signs it with each token that is made for that, so that
//! the holder of such a token can tell that it is the right cluster's.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Client;
use kube::api::ObjectMeta;

use crate::published;

const NAMESPACE: &str = "kube-public";
const NAME: &str = "cluster-info";
const KEY: &str = "kubeconfig";

/// Where the cluster is, and who vouches for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterInfo {
    /// URL of the API server for other machines.
    pub server: String,
    /// The cluster's authority, PEM.
    pub ca_pem: String,
}

impl ClusterInfo {
    /// A kubeconfig with one cluster and nobody to act as.
    fn kubeconfig(&self) -> String {
        let ca = STANDARD.encode(&self.ca_pem);
        let server = &self.server;
        format!(
            "apiVersion: v1\nclusters:\n- cluster:\n    certificate-authority-data: {ca}\n    server: {server}\n  name: \"\"\n\
             contexts: null\ncurrent-context: \"\"\nkind: Config\npreferences: {{}}\nusers: null\n"
        )
    }

    /// Writes the ConfigMap, unless it says so already. Signatures stay until the controller has replaced them.
    pub(crate) async fn publish(&self, client: &Client) -> Result<(), kube::Error> {
        let map = ConfigMap {
            metadata: ObjectMeta {
                name: Some(NAME.into()),
                namespace: Some(NAMESPACE.into()),
                ..ObjectMeta::default()
            },
            data: Some(BTreeMap::from([(KEY.to_owned(), self.kubeconfig())])),
            ..ConfigMap::default()
        };
        published::write(client, &map).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kubeconfig_is_one_that_clients_read() {
        let info = ClusterInfo {
            server: "https://10.0.0.1:6443".into(),
            ca_pem: "-----BEGIN CERTIFICATE-----\n".into(),
        };
        let parsed = kube::config::Kubeconfig::from_yaml(&info.kubeconfig()).unwrap();
        let cluster = parsed.clusters[0].cluster.clone().unwrap();
        assert_eq!(cluster.server.as_deref(), Some("https://10.0.0.1:6443"));
        let data = STANDARD
            .decode(cluster.certificate_authority_data.unwrap())
            .unwrap();
        assert_eq!(data, info.ca_pem.as_bytes());
        assert!(parsed.auth_infos.is_empty() && parsed.contexts.is_empty());
    }
}
