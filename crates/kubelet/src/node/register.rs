//! Making the Node object, or taking over the one that is there.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, NodeSpec, NodeStatus, Taint};
use kube::Api;
use kube::api::{ObjectMeta, Patch, PostParams};
use serde_json::json;

use crate::config::KubeletConfig;
use crate::machine;

/// Labels that every kubelet sets.
fn labels(config: &KubeletConfig) -> BTreeMap<String, String> {
    let arch = machine::architecture();
    let own = [
        ("beta.kubernetes.io/arch", arch),
        ("beta.kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", arch),
        ("kubernetes.io/hostname", config.hostname.as_str()),
        ("kubernetes.io/os", "linux"),
    ];
    let own = own
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()));
    own.chain(config.node_labels.clone()).collect()
}

fn annotations(config: &KubeletConfig) -> BTreeMap<String, String> {
    let mut annotations = BTreeMap::from([(
        "volumes.kubernetes.io/controller-managed-attach-detach".to_owned(),
        "true".to_owned(),
    )]);
    if config.external_cloud_provider && !config.node_ips.is_empty() {
        let ips: Vec<String> = config.node_ips.iter().map(ToString::to_string).collect();
        annotations.insert("alpha.kubernetes.io/provided-node-ip".to_owned(), ips.join(","));
    }
    annotations
}

/// Creates the Node with its first status; one that exists gets the labels of this kubelet and is returned as it was.
pub(super) async fn register(
    api: &Api<Node>,
    config: &KubeletConfig,
    status: NodeStatus,
) -> Result<Option<Node>, kube::Error> {
    let mut taints = config.register_with_taints.clone();
    if config.external_cloud_provider {
        taints.push(Taint {
            key: "node.cloudprovider.kubernetes.io/uninitialized".into(),
            value: Some("true".into()),
            effect: "NoSchedule".into(),
            time_added: None,
        });
    }
    let node = Node {
        metadata: ObjectMeta {
            name: Some(config.node_name.clone()),
            labels: Some(labels(config)),
            annotations: Some(annotations(config)),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec {
            provider_id: config.provider_id.clone(),
            taints: Some(taints).filter(|taints| !taints.is_empty()),
            ..NodeSpec::default()
        }),
        status: Some(status),
    };
    match api.create(&PostParams::default(), &node).await {
        Ok(_) => {
            tracing::info!(node = config.node_name, "registered node");
            return Ok(None);
        }
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        Err(error) => return Err(error),
    }
    let known = api.get(&config.node_name).await?;
    let missing = |wanted: &BTreeMap<String, String>, present: Option<&BTreeMap<String, String>>| {
        wanted
            .iter()
            .any(|(key, value)| present.and_then(|present| present.get(key)) != Some(value))
    };
    let (labels, annotations) = (labels(config), annotations(config));
    if missing(&labels, known.metadata.labels.as_ref())
        || missing(&annotations, known.metadata.annotations.as_ref())
    {
        let patch = json!({"metadata": {"labels": labels, "annotations": annotations}});
        api.patch(
            &config.node_name,
            &crate::kubelet::patch_params(),
            &Patch::Strategic(patch),
        )
        .await?;
    }
    Ok(Some(known))
}
