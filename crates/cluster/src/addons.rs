//! Objects that every cluster of Keelson has beyond those of the API server's own bootstrap.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::rbac::v1::{
    ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};

use crate::discovery::ClusterInfo;
use crate::published::{self, ClusterNetwork};

/// Approves kubelets' serving certificates; upstream leaves that to the administrator.
const SERVING_APPROVER: &str = "keelson:kubelet-serving-approver";
const RBAC: &str = "rbac.authorization.k8s.io";

/// May read what is published for nodes; kubeadm's name and subjects.
const CONFIG_READER: &str = "kubeadm:nodes-kubeadm-config";

/// Creates what is missing; leaves alone what is there, but for what is published about the cluster.
pub async fn ensure(
    client: &Client,
    network: &ClusterNetwork,
    info: &ClusterInfo,
) -> Result<(), (&'static str, kube::Error)> {
    let approver = ClusterRole {
        metadata: named(SERVING_APPROVER, None),
        rules: Some(vec![PolicyRule {
            api_groups: Some(vec!["certificates.k8s.io".into()]),
            resources: Some(vec!["signers".into()]),
            resource_names: Some(vec!["kubernetes.io/kubelet-serving".into()]),
            verbs: vec!["approve".into()],
            ..PolicyRule::default()
        }]),
        aggregation_rule: None,
    };
    create(Api::all(client.clone()), &approver)
        .await
        .map_err(|e| ("ClusterRole", e))?;
    let nodes = Subject {
        kind: "Group".into(),
        name: "system:nodes".into(),
        api_group: Some(RBAC.into()),
        ..Subject::default()
    };
    let certificates = Subject {
        kind: "ServiceAccount".into(),
        name: "certificate-controller".into(),
        namespace: Some("kube-system".into()),
        ..Subject::default()
    };
    // Joined nodes run the proxy, the pod network and DNS with the node's own identity.
    for (name, role, subject) in [
        ("keelson:node-network", "system:keelson-network", &nodes),
        ("keelson:node-proxier", "system:node-proxier", &nodes),
        (SERVING_APPROVER, SERVING_APPROVER, &certificates),
    ] {
        let binding = ClusterRoleBinding {
            metadata: named(name, None),
            role_ref: RoleRef {
                api_group: Some(RBAC.into()),
                kind: "ClusterRole".into(),
                name: role.into(),
            },
            subjects: Some(vec![subject.clone()]),
        };
        create(Api::all(client.clone()), &binding)
            .await
            .map_err(|e| ("ClusterRoleBinding", e))?;
    }
    publish(client, &nodes, network).await?;
    info.publish(client)
        .await
        .map_err(|e| ("ConfigMap kube-public/cluster-info", e))?;
    let api = Api::namespaced(client.clone(), "kube-system");
    create(api, &dns_service(network.dns))
        .await
        .map_err(|e| ("Service kube-dns", e))
}

/// What nodes read when they start. (`kubelet-config` has its role from the API server's bootstrap.)
async fn publish(
    client: &Client,
    nodes: &Subject,
    network: &ClusterNetwork,
) -> Result<(), (&'static str, kube::Error)> {
    let role = Role {
        metadata: named(CONFIG_READER, Some("kube-system")),
        rules: Some(vec![PolicyRule {
            api_groups: Some(vec![String::new()]),
            resources: Some(vec!["configmaps".into()]),
            resource_names: Some(vec![published::KUBEADM_CONFIG.into()]),
            verbs: vec!["get".into()],
            ..PolicyRule::default()
        }]),
    };
    let joining = Subject {
        name: "system:bootstrappers:kubeadm:default-node-token".into(),
        ..nodes.clone()
    };
    let binding = RoleBinding {
        metadata: named(CONFIG_READER, Some("kube-system")),
        role_ref: RoleRef {
            api_group: Some(RBAC.into()),
            kind: "Role".into(),
            name: CONFIG_READER.into(),
        },
        subjects: Some(vec![nodes.clone(), joining]),
    };
    create(Api::namespaced(client.clone(), "kube-system"), &role)
        .await
        .map_err(|e| ("Role", e))?;
    create(Api::namespaced(client.clone(), "kube-system"), &binding)
        .await
        .map_err(|e| ("RoleBinding", e))?;
    published::publish(client, network)
        .await
        .map_err(|e| ("ConfigMap kubeadm-config or kubelet-config", e))
}

/// Every node answers on this address itself, so the proxy is told to leave the Service alone.
fn dns_service(dns: std::net::Ipv4Addr) -> Service {
    let port = |name: &str, protocol: &str| ServicePort {
        name: Some(name.into()),
        protocol: Some(protocol.into()),
        port: 53,
        target_port: Some(IntOrString::Int(53)),
        ..ServicePort::default()
    };
    let mut metadata = named("kube-dns", Some("kube-system"));
    metadata.labels = Some(BTreeMap::from(
        [
            ("k8s-app", "kube-dns"),
            ("kubernetes.io/cluster-service", "true"),
            ("kubernetes.io/name", "CoreDNS"),
            ("service.kubernetes.io/service-proxy-name", "keelson-dns"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned())),
    ));
    Service {
        metadata,
        spec: Some(ServiceSpec {
            cluster_ip: Some(dns.to_string()),
            ports: Some(vec![port("dns", "UDP"), port("dns-tcp", "TCP")]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

fn named(name: &str, namespace: Option<&str>) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.into()),
        namespace: namespace.map(Into::into),
        ..ObjectMeta::default()
    }
}

async fn create<K>(api: Api<K>, object: &K) -> Result<(), kube::Error>
where
    K: kube::Resource + Clone + serde::Serialize + serde::de::DeserializeOwned + std::fmt::Debug,
{
    // Looked for first: an address that is taken by the very object would be refused before its name is.
    let name = object.meta().name.as_deref().unwrap_or_default();
    if api.get_opt(name).await?.is_some() {
        return Ok(());
    }
    match api.create(&PostParams::default(), object).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        Err(error) => Err(error),
    }
}
