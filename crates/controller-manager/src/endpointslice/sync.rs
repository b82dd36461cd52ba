//! One service.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use keelson_client::{
    EventRecorder, EventType, Index, Informer, NamespacedName, Reconciled, object_reference,
};
use parking_lot::Mutex;

use super::build::{groups, is_headless, is_selectorless};
use super::plan::{Common, MANAGED_BY, SERVICE_NAME, TRIGGER_TIME, plan};
use super::service_of_pod::selects;
use super::writer::Writer;
use crate::shared::ReconcileError;
use crate::shared::owner::{controller_reference, is_deleting, name, namespace};
use crate::shared::pod::condition;

/// `--max-endpoints-per-slice`.
const MAX: usize = 100;
/// Label of slices of headless services.
pub(crate) const HEADLESS: &str = "service.kubernetes.io/headless";

/// When the service was created, and when each pod's readiness changed.
type Seen = (Option<Timestamp>, HashMap<String, Timestamp>);

/// When the things that services depend on changed last, as far as earlier reconciliations saw (upstream's
/// TriggerTimeTracker).
#[derive(Default)]
pub(crate) struct Triggers {
    seen: Mutex<HashMap<NamespacedName, Seen>>,
}

impl Triggers {
    /// The first of the changes since the last call.
    pub(crate) fn first_change(
        &self,
        key: &NamespacedName,
        service: &Service,
        pods: &[Arc<Pod>],
    ) -> Option<Timestamp> {
        let created = service.metadata.creation_timestamp.as_ref().map(|time| time.0);
        let now: HashMap<String, Timestamp> = pods
            .iter()
            .filter_map(|pod| {
                let ready = condition(pod, "Ready")?.last_transition_time.as_ref()?.0;
                Some((name(pod.as_ref()).to_owned(), ready))
            })
            .collect();
        let mut seen = self.seen.lock();
        let first = match seen.get(key) {
            None => now.values().copied().chain(created).max(),
            Some((before, pods)) => {
                let later = now
                    .iter()
                    .filter(|(name, time)| pods.get(*name).is_none_or(|old| old < *time));
                later
                    .map(|(_, time)| *time)
                    .chain(created.filter(|created| Some(*created) > *before))
                    .min()
            }
        };
        seen.insert(key.clone(), (created, now));
        first
    }

    fn forget(&self, key: &NamespacedName) {
        self.seen.lock().remove(key);
    }
}

pub(super) struct Syncer {
    pub(super) services: Informer<Service>,
    pub(super) pods_by_namespace: Index<String, Pod>,
    pub(super) nodes: Informer<Node>,
    pub(super) writer: Arc<Writer>,
    pub(super) recorder: EventRecorder,
    pub(super) triggers: Triggers,
}

impl Syncer {
    pub(super) async fn sync(&self, key: &NamespacedName) -> Result<Reconciled, ReconcileError> {
        let Some(service) = self.services.get(key) else {
            // Its slices go with it: they are owned.
            self.writer.forget(key);
            self.triggers.forget(key);
            return Ok(Reconciled::Done);
        };
        if is_selectorless(&service) || is_deleting(service.as_ref()) {
            return Ok(Reconciled::Done);
        }
        let Some(slices) = self.writer.slices(key) else {
            return Ok(Reconciled::Done);
        };
        let mut pods = self.pods_by_namespace.get(namespace(service.as_ref()));
        pods.retain(|pod| selects(&service, pod));
        pods.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        let node = |name: &str| self.nodes.get(&NamespacedName::new("", name));
        let groups = groups(&service, &pods, node);
        let since = self.triggers.first_change(key, &service, &pods);
        let plan = plan(
            &slices,
            groups,
            &common(&service, since, self.writer.controller()),
        );
        self.writer.write(key, plan).await.inspect_err(|error| {
            self.recorder.event(
                &object_reference(service.as_ref()),
                EventType::Warning,
                "FailedToUpdateEndpointSlices",
                format!("Error updating Endpoint Slices for Service {key}: {error}"),
            );
        })?;
        Ok(Reconciled::Done)
    }
}

fn common(service: &Service, since: Option<Timestamp>, controller: &str) -> Common {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if is_headless(service) {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels.insert(SERVICE_NAME.into(), name(service).into());
    labels.insert(MANAGED_BY.into(), controller.into());
    let time = since.map(|since| (TRIGGER_TIME.to_owned(), format!("{since:.0}")));
    Common {
        namespace: namespace(service).to_owned(),
        name: name(service).to_owned(),
        labels,
        annotations: time.into_iter().collect::<BTreeMap<_, _>>(),
        only_these_annotations: false,
        owner: controller_reference(service),
        max: MAX,
    }
}
