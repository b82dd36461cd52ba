//! Deletion of a namespace's objects, resource by resource.

use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::{DeleteParams, ListParams};

use super::conditions::Outcome;
use crate::served::{Served, ServedResource};
use crate::shared::api_error;

/// Resources that are deleted at once.
const PARALLEL: usize = 8;

/// A resource that has objects left, and how many.
pub(super) type Left = (Arc<ServedResource>, usize);

struct Swept {
    resource: Arc<ServedResource>,
    left: Vec<ObjectMeta>,
    error: Option<kube::Error>,
}

/// Deletes what is in `namespace`: pods first, and the rest only when they are gone.
pub(super) async fn delete_all(client: &Client, served: &Served, namespace: &str) -> (Outcome, Vec<Left>) {
    let mut outcome = Outcome {
        undiscovered: served.stale.clone(),
        ..Outcome::default()
    };
    let mut left = Vec::new();
    let deletable =
        |resource: &&Arc<ServedResource>| resource.namespaced && resource.can(&["list", "delete"]);
    let is_pods = |resource: &ServedResource| resource.api.group.is_empty() && resource.api.plural == "pods";
    let (pods, rest): (Vec<_>, Vec<_>) = served
        .preferred
        .iter()
        .filter(deletable)
        .cloned()
        .partition(|resource| is_pods(resource));
    for stage in [pods, rest] {
        let swept: Vec<Swept> = futures::stream::iter(stage)
            .map(|resource| sweep(client, resource, namespace))
            .buffer_unordered(PARALLEL)
            .collect()
            .await;
        for swept in swept {
            note(&mut outcome, &mut left, swept);
        }
        if !outcome.remaining.is_empty() || !outcome.failed.is_empty() {
            break;
        }
    }
    (outcome, left)
}

fn note(outcome: &mut Outcome, left: &mut Vec<Left>, swept: Swept) {
    let api = &swept.resource.api;
    let name = format!("{}.{}", api.plural, api.group);
    if let Some(error) = swept.error {
        outcome.failed.insert(name.clone(), api_error::message(&error));
    }
    if swept.left.is_empty() {
        return;
    }
    outcome.remaining.insert(name, swept.left.len());
    for finalizer in swept
        .left
        .iter()
        .flat_map(|meta| meta.finalizers.iter().flatten())
    {
        *outcome.finalizers.entry(finalizer.clone()).or_default() += 1;
    }
    left.push((swept.resource, swept.left.len()));
}

async fn sweep(client: &Client, resource: Arc<ServedResource>, namespace: &str) -> Swept {
    let result = try_sweep(client, &resource, namespace).await;
    match result {
        Ok(left) => Swept {
            resource,
            left,
            error: None,
        },
        // The resource went away after discovery.
        Err(error) if api_error::is_not_found(&error) => Swept {
            resource,
            left: Vec::new(),
            error: None,
        },
        Err(error) => Swept {
            resource,
            left: Vec::new(),
            error: Some(error),
        },
    }
}

async fn try_sweep(
    client: &Client,
    resource: &ServedResource,
    namespace: &str,
) -> Result<Vec<ObjectMeta>, kube::Error> {
    let api = resource.objects(client, namespace);
    let all = ListParams::default();
    let objects = api.list_metadata(&all).await?.items;
    if objects.is_empty() {
        return Ok(Vec::new());
    }
    let params = DeleteParams::background();
    if resource.can(&["deletecollection"]) {
        api.delete_collection(&params, &all).await?;
    } else {
        for object in &objects {
            let name = object.metadata.name.as_deref().unwrap_or_default();
            api_error::ignore_not_found(api.delete(name, &params).await)?;
        }
    }
    let left = api.list_metadata(&all).await?.items;
    Ok(left.into_iter().map(|object| object.metadata).collect())
}
