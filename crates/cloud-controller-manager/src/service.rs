//! The service controller: a load balancer for every Service of type LoadBalancer without a class.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{LoadBalancerIngress, Service};
use keelson_client::{
    EventRecorder, EventType, Informer, NamespacedName, RateLimit, Reconciled, WorkQueue, object_reference,
    run_workers,
};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::{Provider, ProviderError};

/// Keeps a Service until its load balancer is gone.
const FINALIZER: &str = "service.kubernetes.io/load-balancer-cleanup";
/// Upstream's limits for failing Services: 5 s to 5 min.
const RATE_LIMIT: RateLimit = RateLimit {
    base: std::time::Duration::from_secs(5),
    max: std::time::Duration::from_secs(300),
};

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("error syncing load balancer: {0}")]
    Provider(#[from] ProviderError),
    #[error("cannot update the Service: {0}")]
    Api(#[from] kube::Error),
}

/// What a Service needs, from what it is.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    /// Not ours, and never was.
    Nothing,
    /// A load balancer.
    LoadBalancer,
    /// It had one that must go.
    Cleanup,
}

fn wanted(service: &Service) -> Wanted {
    let has_finalizer = service
        .metadata
        .finalizers
        .iter()
        .flatten()
        .any(|f| f == FINALIZER);
    let spec = service.spec.as_ref();
    let is_load_balancer = spec.and_then(|s| s.type_.as_deref()) == Some("LoadBalancer");
    let classless = spec.is_none_or(|s| s.load_balancer_class.is_none());
    let deleting = service.metadata.deletion_timestamp.is_some();
    if is_load_balancer && classless && !deleting {
        Wanted::LoadBalancer
    } else if has_finalizer {
        Wanted::Cleanup
    } else {
        Wanted::Nothing
    }
}

fn ingress(service: &Service) -> &[LoadBalancerIngress] {
    let status = service.status.as_ref().and_then(|s| s.load_balancer.as_ref());
    status.and_then(|l| l.ingress.as_deref()).unwrap_or_default()
}

struct Controller {
    provider: Arc<dyn Provider>,
    client: Client,
    services: Informer<Service>,
    recorder: EventRecorder,
}

/// Runs until `shutdown`.
pub(crate) async fn run(
    provider: Arc<dyn Provider>,
    client: Client,
    services: Informer<Service>,
    recorder: EventRecorder,
    shutdown: CancellationToken,
) {
    let queue = WorkQueue::new(RATE_LIMIT);
    let sink = queue.clone();
    services.on_change(move |change| {
        if wanted(change.object()) != Wanted::Nothing {
            sink.add(NamespacedName::of(change.object().as_ref()));
        }
    });
    let controller = Arc::new(Controller {
        provider,
        client,
        services,
        recorder,
    });
    run_workers(
        "service-lb-controller",
        queue,
        1,
        shutdown,
        move |key: NamespacedName| {
            let controller = controller.clone();
            async move { controller.reconcile(&key).await }
        },
    )
    .await;
}

impl Controller {
    async fn reconcile(&self, key: &NamespacedName) -> Result<Reconciled, Error> {
        let Some(service) = self.services.get(key) else {
            return Ok(Reconciled::Done);
        };
        let api = Api::<Service>::namespaced(self.client.clone(), &key.namespace);
        let result = match wanted(&service) {
            Wanted::Nothing => Ok(()),
            Wanted::LoadBalancer => self.ensure(&api, &service).await,
            Wanted::Cleanup => self.clean_up(&api, &service).await,
        };
        if let Err(error) = &result {
            let reference = object_reference(service.as_ref());
            self.recorder.event(
                &reference,
                EventType::Warning,
                "SyncLoadBalancerFailed",
                error.to_string(),
            );
        }
        result.map(|()| Reconciled::Done)
    }

    async fn ensure(&self, api: &Api<Service>, service: &Service) -> Result<(), Error> {
        let name = service.metadata.name.as_deref().unwrap_or_default();
        let reference = object_reference(service);
        let mut finalizers = service.metadata.finalizers.clone().unwrap_or_default();
        if !finalizers.iter().any(|f| f == FINALIZER) {
            finalizers.push(FINALIZER.into());
            self.patch_finalizers(api, service, &finalizers).await?;
        }
        let had = ingress(service);
        if had.is_empty() {
            self.recorder.event(
                &reference,
                EventType::Normal,
                "EnsuringLoadBalancer",
                "Ensuring load balancer",
            );
        }
        let addresses = self.provider.ensure_load_balancer(service).await?;
        if addresses != had {
            let patch = json!({"status": {"loadBalancer": {"ingress": addresses}}});
            api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch))
                .await?;
            self.recorder.event(
                &reference,
                EventType::Normal,
                "EnsuredLoadBalancer",
                "Ensured load balancer",
            );
        }
        Ok(())
    }

    async fn clean_up(&self, api: &Api<Service>, service: &Service) -> Result<(), Error> {
        let name = service.metadata.name.as_deref().unwrap_or_default();
        let reference = object_reference(service);
        self.recorder.event(
            &reference,
            EventType::Normal,
            "DeletingLoadBalancer",
            "Deleting load balancer",
        );
        self.provider.delete_load_balancer(service).await?;
        if !ingress(service).is_empty() {
            let patch = json!({"status": {"loadBalancer": {"ingress": null}}});
            api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch))
                .await?;
        }
        let mut finalizers = service.metadata.finalizers.clone().unwrap_or_default();
        finalizers.retain(|f| f != FINALIZER);
        self.patch_finalizers(api, service, &finalizers).await?;
        self.recorder.event(
            &reference,
            EventType::Normal,
            "DeletedLoadBalancer",
            "Deleted load balancer",
        );
        Ok(())
    }

    async fn patch_finalizers(
        &self,
        api: &Api<Service>,
        service: &Service,
        finalizers: &[String],
    ) -> Result<(), kube::Error> {
        let name = service.metadata.name.as_deref().unwrap_or_default();
        // The list is replaced as a whole: only on top of the version that it was read from, except when it goes away
        // with the object anyway.
        let version = service.metadata.resource_version.as_deref();
        let deleting = service.metadata.deletion_timestamp.is_some();
        let patch = if deleting {
            json!({"metadata": {"finalizers": finalizers}})
        } else {
            json!({"metadata": {"finalizers": finalizers, "resourceVersion": version}})
        };
        match api
            .patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await
        {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            other => other.map(|_| ()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(type_: &str, class: Option<&str>, finalizer: bool) -> Service {
        serde_json::from_value(json!({
            "metadata": {"name": "s", "finalizers": if finalizer { vec![FINALIZER] } else { vec![] }},
            "spec": {"type": type_, "loadBalancerClass": class},
        }))
        .unwrap()
    }

    #[test]
    fn what_a_service_needs() {
        for (type_, class, finalizer, expected) in [
            ("LoadBalancer", None, false, Wanted::LoadBalancer),
            ("LoadBalancer", None, true, Wanted::LoadBalancer),
            ("LoadBalancer", Some("other.example/lb"), false, Wanted::Nothing),
            ("ClusterIP", None, false, Wanted::Nothing),
            ("ClusterIP", None, true, Wanted::Cleanup),
        ] {
            assert_eq!(
                wanted(&service(type_, class, finalizer)),
                expected,
                "{type_} {class:?} {finalizer}"
            );
        }
        let mut deleted = service("LoadBalancer", None, true);
        deleted.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
            jiff::Timestamp::UNIX_EPOCH,
        ));
        assert_eq!(wanted(&deleted), Wanted::Cleanup);
    }
}
