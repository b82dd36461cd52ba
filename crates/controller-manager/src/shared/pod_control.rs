//! Creating and deleting pods for an owner, with upstream's events.

use std::collections::VecDeque;

use futures::future::join_all;
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use keelson_client::{EventRecorder, EventType, object_reference};
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, Client};

use super::api_error;
use super::object::Object;
use super::owner::{name, uid};

/// Creates and deletes pods as one controller.
#[derive(Clone)]
pub struct PodControl {
    client: Client,
    recorder: EventRecorder,
}

impl PodControl {
    /// With the identity of `client`.
    pub fn new(client: Client, recorder: EventRecorder) -> Self {
        Self { client, recorder }
    }

    /// Creates `pod` for `owner` and reports it there.
    pub async fn create<O: Object>(&self, owner: &O, pod: &Pod) -> Result<Pod, kube::Error> {
        let api = self.api(owner);
        let reference = object_reference(owner);
        match api.create(&PostParams::default(), pod).await {
            Ok(pod) => {
                self.event(
                    &reference,
                    EventType::Normal,
                    "SuccessfulCreate",
                    format!("Created pod: {}", name(&pod)),
                );
                Ok(pod)
            }
            Err(error) => {
                // In a namespace that is going away nothing can be created; that is no news.
                if !api_error::is_namespace_terminating(&error) {
                    let message = format!("Error creating: {}", api_error::message(&error));
                    self.event(&reference, EventType::Warning, "FailedCreate", message);
                }
                Err(error)
            }
        }
    }

    /// Deletes `pod` of `owner` and reports it there; a pod that is gone is a success without an event.
    pub async fn delete<O: Object>(&self, owner: &O, pod: &Pod) -> Result<(), kube::Error> {
        let preconditions = Preconditions {
            uid: pod.metadata.uid.clone(),
            resource_version: None,
        };
        let params = DeleteParams {
            preconditions: Some(preconditions),
            ..DeleteParams::default()
        };
        let reference = object_reference(owner);
        match self.api(owner).delete(name(pod), &params).await {
            Ok(_) => {
                let message = format!("Deleted pod: {}", name(pod));
                self.event(&reference, EventType::Normal, "SuccessfulDelete", message);
                Ok(())
            }
            // A conflict is the UID: another pod has that name by now.
            Err(error) if api_error::is_not_found(&error) || api_error::is_conflict(&error) => {
                tracing::debug!(pod = name(pod), uid = uid(pod), "pod was gone already");
                Ok(())
            }
            Err(error) => {
                let message = format!("Error deleting: {}", api_error::message(&error));
                self.event(&reference, EventType::Warning, "FailedDelete", message);
                Err(error)
            }
        }
    }

    /// Reports something about `object`.
    pub fn event(&self, object: &ObjectReference, kind: EventType, reason: &str, message: impl Into<String>) {
        self.recorder.event(object, kind, reason, message);
    }

    /// The client of the controller.
    pub fn client(&self) -> &Client {
        &self.client
    }

    fn api<O: Object>(&self, owner: &O) -> Api<Pod> {
        Api::namespaced(self.client.clone(), super::owner::namespace(owner))
    }
}

/// What came of a batch.
#[derive(Debug)]
pub struct Batch<E> {
    /// How many calls succeeded.
    pub succeeded: usize,
    /// How many were not made after a failure.
    pub skipped: usize,
    /// The first failure.
    pub error: Option<E>,
}

/// Calls `make` for every item, first one, then twice as many at a time, until one fails: so that a quota that is used
/// up costs a few requests and not hundreds.
pub async fn slow_start<T, F, Fut, E>(items: Vec<T>, make: F) -> Batch<E>
where
    F: Fn(T) -> Fut,
    Fut: Future<Output = Result<(), E>>,
{
    let mut items = VecDeque::from(items);
    let mut size = 1;
    let mut batch = Batch {
        succeeded: 0,
        skipped: 0,
        error: None,
    };
    while !items.is_empty() {
        let now: Vec<_> = items.drain(..size.min(items.len())).collect();
        for result in join_all(now.into_iter().map(&make)).await {
            match result {
                Ok(()) => batch.succeeded += 1,
                Err(error) => batch.error = batch.error.or(Some(error)),
            }
        }
        if batch.error.is_some() {
            batch.skipped = items.len();
            break;
        }
        size *= 2;
    }
    batch
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn slow_start_doubles_and_stops() {
        let check = async |count: usize, bad: usize, succeeded, skipped| {
            let batch = slow_start((0..count).collect(), |i| async move {
                if i == bad { Err(i) } else { Ok(()) }
            })
            .await;
            assert_eq!(
                (batch.succeeded, batch.skipped),
                (succeeded, skipped),
                "{count} {bad}"
            );
            assert_eq!(batch.error, (bad < count).then_some(bad));
        };
        check(10, 99, 10, 0).await;
        check(10, 0, 0, 9).await;
        check(10, 1, 2, 7).await;
        check(10, 9, 9, 0).await;
        check(0, 0, 0, 0).await;
    }
}
