//! ComponentStatus: what upstream still serves of it, judged by what this server can see.

use http::Response;
use keelson_api::status::Status;
use serde_json::{Value, json};

use super::read::reply_value;
use super::request::Incoming;
use crate::http::Body;

fn store_component(incoming: &Incoming<'_>) -> Value {
    let caches = incoming.server.registry.resources().caches();
    let healthy = caches.revision() > 0;
    let condition = if healthy {
        json!({"type": "Healthy", "status": "True", "message": "ok"})
    } else {
        json!({"type": "Healthy", "status": "False", "message": "the store has not been read"})
    };
    json!({"metadata": {"name": "etcd-0"}, "conditions": [condition]})
}

/// The list of components.
pub(super) fn component_statuses(incoming: &Incoming<'_>) -> Result<Response<Body>, Status> {
    let list = json!({
        "kind": "ComponentStatusList",
        "apiVersion": "v1",
        "metadata": {},
        "items": [store_component(incoming)],
    });
    reply_value(incoming, &list)
}

/// One component.
pub(super) fn component_status(incoming: &Incoming<'_>, name: &str) -> Result<Response<Body>, Status> {
    if name != "etcd-0" {
        return Err(Status::not_found(
            &keelson_api::gvk::GroupResource::new("", "componentstatuses"),
            name,
        ));
    }
    let mut component = store_component(incoming);
    component["kind"] = json!("ComponentStatus");
    component["apiVersion"] = json!("v1");
    reply_value(incoming, &component)
}
