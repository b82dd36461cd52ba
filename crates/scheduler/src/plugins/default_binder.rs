//! DefaultBinder: posts the binding to the API server.

use std::sync::Arc;

use async_trait::async_trait;
use http::Request;
use kube::Client;
use serde::de::IgnoredAny;
use serde_json::json;

use crate::cache::PodInfo;
use crate::framework::{BindPlugin, CycleState, Framework, Handle, Outcome, Plugin, Status};

struct DefaultBinder {
    client: Client,
}

pub(super) fn register(framework: &mut Framework, handle: &Handle) {
    framework.bind(&Arc::new(DefaultBinder {
        client: handle.client.clone(),
    }));
}

impl Plugin for DefaultBinder {
    fn name(&self) -> &'static str {
        "DefaultBinder"
    }
}

#[async_trait]
impl BindPlugin for DefaultBinder {
    async fn bind(&self, _state: &CycleState, pod: &PodInfo, node: &str) -> Outcome {
        let (namespace, name) = (&*pod.key.namespace, &*pod.key.name);
        let binding = json!({
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"namespace": namespace, "name": name, "uid": &*pod.uid},
            "target": {"kind": "Node", "name": node},
        });
        let request = Request::post(format!("/api/v1/namespaces/{namespace}/pods/{name}/binding"))
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(binding.to_string().into_bytes())
            .map_err(|error| Status::error(error.to_string()))?;
        // The answer is a Status, whose contents say no more than its code.
        match self.client.request::<IgnoredAny>(request).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) => Err(Status::error(status.message.clone())),
            Err(error) => Err(Status::error(error.to_string())),
        }
    }
}
