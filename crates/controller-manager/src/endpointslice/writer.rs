//! Writes slices and remembers which of its writes the cache has not shown yet.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::EndpointSlice;
use keelson_client::{Change, Index, Informer, NamespacedName};
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client};
use parking_lot::Mutex;

use super::plan::{MANAGED_BY, Plan, SERVICE_NAME};
use crate::shared::owner::{is_deleting, name, namespace};
use crate::shared::pod::label;
use crate::shared::{ReconcileError, api_error};

#[derive(Default)]
struct Written {
    /// Last version that was written, by name of the slice; taken out when the cache has it.
    pending: HashMap<String, u64>,
    /// A reconciliation was put off until the cache has all.
    waiting: bool,
}

/// The slices of one controller.
pub(crate) struct Writer {
    client: Client,
    by_service: Index<NamespacedName, EndpointSlice>,
    controller: &'static str,
    written: Mutex<HashMap<NamespacedName, Written>>,
}

fn version(slice: &EndpointSlice) -> u64 {
    slice
        .metadata
        .resource_version
        .as_deref()
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

fn service_of(slice: &EndpointSlice) -> Option<NamespacedName> {
    label(slice, SERVICE_NAME).map(|service| NamespacedName::new(namespace(slice), service))
}

impl Writer {
    /// For slices whose label names `controller`.
    pub(crate) fn new(client: Client, slices: &Informer<EndpointSlice>, controller: &'static str) -> Self {
        let by_service = slices.index(move |slice: &EndpointSlice| {
            let ours = label(slice, MANAGED_BY) == Some(controller);
            service_of(slice).filter(|_| ours).into_iter().collect()
        });
        Self {
            client,
            by_service,
            controller,
            written: Mutex::default(),
        }
    }

    /// The value of the label.
    pub(crate) fn controller(&self) -> &'static str {
        self.controller
    }

    /// Takes in what the cache shows; the service, if it must be looked at because of it.
    pub(crate) fn observe(&self, change: &Change<EndpointSlice>) -> Option<NamespacedName> {
        let slice = change.object().as_ref();
        if label(slice, MANAGED_BY) != Some(self.controller) {
            // Somebody may have taken the label away.
            let Change::Updated(old, _) = change else {
                return None;
            };
            let ours = label(old.as_ref(), MANAGED_BY) == Some(self.controller);
            return service_of(old).filter(|_| ours);
        }
        let service = service_of(slice)?;
        let mut all = self.written.lock();
        let Some(written) = all.get_mut(&service) else {
            return Some(service);
        };
        let pending = written.pending.get(name(slice)).copied();
        let is_foreign = match (change, pending) {
            (Change::Deleted(_), _) => true,
            (_, None) => true,
            (_, Some(pending)) if version(slice) < pending => return None,
            (_, Some(pending)) => version(slice) > pending,
        };
        written.pending.remove(name(slice));
        let was_waiting = written.waiting && written.pending.is_empty();
        if written.pending.is_empty() {
            all.remove(&service);
        }
        (is_foreign || was_waiting).then_some(service)
    }

    /// The service's slices; `None` while the cache lacks some of what was written: the service comes again then.
    pub(crate) fn slices(&self, service: &NamespacedName) -> Option<Vec<Arc<EndpointSlice>>> {
        let mut all = self.written.lock();
        if let Some(written) = all.get_mut(service)
            && !written.pending.is_empty()
        {
            written.waiting = true;
            return None;
        }
        drop(all);
        let mut slices = self.by_service.get(service);
        slices.retain(|slice| !is_deleting(slice.as_ref()));
        slices.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        Some(slices)
    }

    /// Carries out `plan`.
    pub(crate) async fn write(&self, service: &NamespacedName, plan: Plan) -> Result<(), ReconcileError> {
        let api: Api<EndpointSlice> = Api::namespaced(self.client.clone(), &service.namespace);
        let params = PostParams::default();
        for slice in plan.create {
            match api.create(&params, &slice).await {
                Ok(created) => self.note(service, &created),
                Err(error) if api_error::is_namespace_terminating(&error) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        for slice in plan.update {
            let updated = api.replace(name(&slice), &params, &slice).await?;
            // A write that changes nothing makes no version, and shows nothing.
            if version(&updated) != version(&slice) {
                self.note(service, &updated);
            }
        }
        for name in plan.delete {
            api_error::ignore_not_found(api.delete(&name, &DeleteParams::default()).await)?;
        }
        Ok(())
    }

    fn note(&self, service: &NamespacedName, slice: &EndpointSlice) {
        // The cache may have been faster.
        let shown = self.by_service.get(service);
        if shown
            .iter()
            .any(|found| name(found.as_ref()) == name(slice) && version(found) >= version(slice))
        {
            return;
        }
        let mut all = self.written.lock();
        all.entry(service.clone())
            .or_default()
            .pending
            .insert(name(slice).to_owned(), version(slice));
        let shown = self.by_service.get(service);
        if shown
            .iter()
            .any(|found| name(found.as_ref()) == name(slice) && version(found) >= version(slice))
        {
            let written = all.entry(service.clone()).or_default();
            written.pending.remove(name(slice));
            if written.pending.is_empty() {
                all.remove(service);
            }
        }
    }

    /// Forgets a service that is gone.
    pub(crate) fn forget(&self, service: &NamespacedName) {
        self.written.lock().remove(service);
    }
}
