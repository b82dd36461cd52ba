//! root-ca-certificate-publisher-controller: every namespace has the ConfigMap `kube-root-ca.crt`, by which pods verify the
//! API server.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use keelson_client::{Informer, NamespacedName, Reconciled, WorkQueue, run_workers};
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};

use crate::Context;
use crate::serviceaccount::is_active;

const NAME: &str = "kube-root-ca.crt";
const KEY: &str = "ca.crt";
const DESCRIPTION: &str = "kubernetes.io/description";
/// Upstream's text.
const TEXT: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as \
     the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes \
     clusters.";
const WORKERS: usize = 1;

struct State {
    client: Client,
    namespaces: Informer<Namespace>,
    maps: Informer<ConfigMap>,
    data: BTreeMap<String, String>,
}

/// Starts the controller; without a root CA in the configuration there is nothing to publish.
pub(crate) async fn start(context: Context) {
    let Some(pem) = context.config().root_ca_pem.clone() else {
        return;
    };
    let queue: WorkQueue<NamespacedName> = WorkQueue::default();
    let namespaces = context.informer::<Namespace>();
    let maps = context.informer::<ConfigMap>();
    let sink = queue.clone();
    namespaces.on_change(move |change| sink.add(NamespacedName::of(change.object().as_ref())));
    let sink = queue.clone();
    maps.on_change(move |change| {
        let meta = &change.object().metadata;
        if meta.name.as_deref() == Some(NAME) {
            sink.add(NamespacedName::new(
                "",
                meta.namespace.as_deref().unwrap_or_default(),
            ));
        }
    });
    if !context
        .before_shutdown(async {
            tokio::join!(namespaces.synced(), maps.synced());
        })
        .await
    {
        return;
    }
    let data = BTreeMap::from([(KEY.to_owned(), pem)]);
    let state = Arc::new(State {
        client: context.client(),
        namespaces,
        maps,
        data,
    });
    run_workers(
        context.name(),
        queue,
        WORKERS,
        context.shutdown(),
        move |key: NamespacedName| {
            let state = state.clone();
            async move { reconcile(&state, &key).await }
        },
    )
    .await;
}

async fn reconcile(state: &State, key: &NamespacedName) -> Result<Reconciled, kube::Error> {
    if !state
        .namespaces
        .get(key)
        .is_some_and(|namespace| is_active(&namespace))
    {
        return Ok(Reconciled::Done);
    }
    let api = Api::<ConfigMap>::namespaced(state.client.clone(), &key.name);
    let existing = state.maps.get(&NamespacedName::new(&key.name, NAME));
    let result = match existing {
        None => {
            api.create(&PostParams::default(), &wanted(state, ObjectMeta::default()))
                .await
        }
        Some(map) if map.data.as_ref() == Some(&state.data) => return Ok(Reconciled::Done),
        Some(map) => {
            api.replace(NAME, &PostParams::default(), &wanted(state, map.metadata.clone()))
                .await
        }
    };
    match result {
        Ok(_) => Ok(Reconciled::Done),
        // The change that got in between brings the key back; or the namespace goes away.
        Err(kube::Error::Api(status)) if matches!(status.code, 403 | 404 | 409) => Ok(Reconciled::Done),
        Err(error) => Err(error),
    }
}

fn wanted(state: &State, mut metadata: ObjectMeta) -> ConfigMap {
    metadata.name = Some(NAME.into());
    metadata
        .annotations
        .get_or_insert_default()
        .insert(DESCRIPTION.into(), TEXT.into());
    ConfigMap {
        metadata,
        data: Some(state.data.clone()),
        ..ConfigMap::default()
    }
}
