//! root-ca-certificate-publisher-controller: every namespace has the ConfigMap `kube-root-ca.crt`, by which pods verify the
//! API server.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::ObjectMeta;

use crate::Context;
use crate::shared::every_namespace::keep_in_every_namespace;

const NAME: &str = "kube-root-ca.crt";
const KEY: &str = "ca.crt";
const DESCRIPTION: &str = "kubernetes.io/description";
/// Upstream's text.
const TEXT: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as \
     the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes \
     clusters.";

/// Starts the controller; without a root CA in the configuration there is nothing to publish.
pub(crate) async fn start(context: Context) {
    let Some(pem) = context.config().root_ca_pem.clone() else {
        return;
    };
    let data = BTreeMap::from([(KEY.to_owned(), pem)]);
    // Of all config maps these alone: others can be large.
    let maps = context.informer_of::<ConfigMap>(format!("metadata.name={NAME}"));
    keep_in_every_namespace(context, maps, NAME, move |existing: Option<&ConfigMap>| {
        if existing.is_some_and(|map| map.data.as_ref() == Some(&data)) {
            return None;
        }
        let metadata = existing.map(|map| map.metadata.clone());
        Some(wanted(&data, metadata.unwrap_or_default()))
    })
    .await;
}

fn wanted(data: &BTreeMap<String, String>, mut metadata: ObjectMeta) -> ConfigMap {
    metadata.name = Some(NAME.into());
    metadata
        .annotations
        .get_or_insert_default()
        .insert(DESCRIPTION.into(), TEXT.into());
    ConfigMap {
        metadata,
        data: Some(data.clone()),
        ..ConfigMap::default()
    }
}
