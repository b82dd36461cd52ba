//! The condition `DisruptionTarget`: says of a pod that it is about to be deleted because of a disruption, and which.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::shared::api_error;
use crate::shared::owner::{name, namespace};
use crate::shared::pod::condition;

const TYPE: &str = "DisruptionTarget";

/// The patch that adds the condition, with `status` merged in; `None` if the pod has it already.
fn patch(pod: &Pod, reason: &str, message: &str) -> Option<Value> {
    if condition(pod, TYPE)
        .is_some_and(|found| found.status == "True" && found.reason.as_deref() == Some(reason))
    {
        return None;
    }
    Some(json!({
        "metadata": {"uid": pod.metadata.uid},
        "status": {"conditions": [{
            "type": TYPE, "status": "True", "reason": reason, "message": message,
            "lastTransitionTime": Timestamp::now().to_string()
        }]}
    }))
}

/// Sets the condition. A pod that is gone is no failure.
pub(crate) async fn set(client: &Client, pod: &Pod, reason: &str, message: &str) -> Result<(), kube::Error> {
    let Some(patch) = patch(pod, reason, message) else {
        return Ok(());
    };
    write(client, pod, patch).await
}

/// Sets the condition, or not where `disrupted` is `None`, and says that the pod failed: its node is gone and nobody
/// else can.
pub(crate) async fn set_failed(
    client: &Client,
    pod: &Pod,
    disrupted: Option<(&str, &str)>,
) -> Result<(), kube::Error> {
    let condition = disrupted.and_then(|(reason, message)| patch(pod, reason, message));
    let mut patch = condition.unwrap_or_else(|| json!({"metadata": {"uid": pod.metadata.uid}}));
    patch["status"]["phase"] = json!("Failed");
    write(client, pod, patch).await
}

async fn write(client: &Client, pod: &Pod, patch: Value) -> Result<(), kube::Error> {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace(pod));
    let patched = api
        .patch_status(name(pod), &PatchParams::default(), &Patch::Strategic(patch))
        .await;
    api_error::ignore_not_found(patched)?;
    Ok(())
}
