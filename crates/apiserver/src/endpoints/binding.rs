//! `pods/binding`: the scheduler's decision.

use http::{Response, StatusCode};
use keelson_api::status::Status;
use serde_json::{Value, json};

use super::request::Incoming;
use crate::admission::{Attributes, Operation};
use crate::http::{Body, Reply};
use crate::registry::{Context, Update, metadata};

/// Sets the pod's node and condition `PodScheduled`, once.
pub(super) async fn bind(
    incoming: &Incoming<'_>,
    cx: &Context<'_>,
    name: &str,
    mut binding: Value,
) -> Result<Response<Body>, Status> {
    let registry = &incoming.server.registry;
    let Some(pods) = registry.kind("", "v1", "pods") else {
        return Err(Status::path_not_found());
    };
    let namespace = incoming.info.namespace.as_str();
    let gvk = keelson_api::gvk::GroupVersionKind::new("", "v1", "Binding");
    let attributes = Attributes {
        operation: Operation::Create,
        resource: &pods.gvr,
        kind: &gvk,
        subresource: "binding",
        namespace,
        name,
        user: incoming.user,
        old_object: None,
        options: &cx.options_value,
        dry_run: cx.options.dry_run,
        notes: incoming.notes,
    };
    registry.admit_connect(cx, &attributes, &mut binding).await?;
    let node = check(&binding, name)?.to_owned();
    let uid = metadata::text(&binding, "uid").to_owned();
    let version = metadata::text(&binding, "resourceVersion").to_owned();
    let annotations = binding["metadata"]["annotations"]
        .as_object()
        .cloned()
        .unwrap_or_default();
    let labels = binding["metadata"]["labels"]
        .as_object()
        .cloned()
        .unwrap_or_default();
    let update = Update {
        namespace,
        name,
        subresource: "binding",
        may_create: false,
        apply: false,
    };
    let inner = Context {
        user: cx.user,
        notes: cx.notes,
        options: cx.options.clone(),
        options_value: cx.options_value.clone(),
        manager: cx.manager.clone(),
        admission: false,
    };
    let gr = pods.gr.clone();
    registry
        .update(&inner, &pods, &update, |pod| {
            let mut pod = pod.ok_or_else(|| Status::not_found(&gr, name))?.clone();
            let refuse = |why: String| Status::conflict(&gr_binding(), name, why);
            if !uid.is_empty() {
                metadata::set_text(&mut pod, "uid", &uid);
            }
            if !version.is_empty() {
                metadata::set_text(&mut pod, "resourceVersion", &version);
            }
            if metadata::is_deleting(&pod) {
                return Err(refuse(format!(
                    "pod {name} is being deleted, cannot be assigned to a host"
                )));
            }
            let assigned = pod["spec"]["nodeName"].as_str().unwrap_or_default();
            if !assigned.is_empty() {
                return Err(refuse(format!(
                    "pod {name} is already assigned to node {assigned:?}"
                )));
            }
            if pod["spec"]["schedulingGates"]
                .as_array()
                .is_some_and(|g| !g.is_empty())
            {
                return Err(refuse(format!("pod {name} has non-empty .spec.schedulingGates")));
            }
            pod["spec"]["nodeName"] = json!(node);
            for (field, entries) in [("annotations", &annotations), ("labels", &labels)] {
                for (key, value) in entries {
                    pod["metadata"][field][key] = value.clone();
                }
            }
            set_scheduled(&mut pod);
            Ok(pod)
        })
        .await?;
    let mut status = serde_json::to_value(Status::success(None)).map_err(Status::internal)?;
    status["code"] = json!(201);
    let json = serde_json::to_vec(&status).map_err(Status::internal)?;
    Ok(Reply {
        code: StatusCode::CREATED,
        json,
    }
    .into_response(incoming.form, incoming.headers))
}

fn gr_binding() -> keelson_api::gvk::GroupResource {
    keelson_api::gvk::GroupResource::new("", "pods/binding")
}

fn check<'a>(binding: &'a Value, name: &str) -> Result<&'a str, Status> {
    use keelson_api::field::{Error, Path};
    let path = Path::new("target");
    let mut errors = Vec::new();
    let kind = binding["target"]["kind"].as_str().unwrap_or_default();
    if !matches!(kind, "" | "Node") {
        errors.push(Error::not_supported(
            &path.child("kind"),
            kind,
            &["Node", "<empty>"],
        ));
    }
    let node = binding["target"]["name"].as_str().unwrap_or_default();
    if node.is_empty() {
        errors.push(Error::required(&path.child("name"), ""));
    }
    if errors.is_empty() {
        return Ok(node);
    }
    Err(Status::invalid(
        &keelson_api::gvk::GroupKind::new("", "Binding"),
        name,
        &errors,
    ))
}

fn set_scheduled(pod: &mut Value) {
    let now = crate::registry::model::now();
    let condition = json!({
        "type": "PodScheduled",
        "status": "True",
        "lastProbeTime": null,
        "lastTransitionTime": now,
    });
    let status = &mut pod["status"];
    if status.is_null() {
        *status = json!({"phase": "Pending"});
    }
    match status["conditions"].as_array_mut() {
        Some(conditions) => {
            conditions.retain(|c| c["type"] != "PodScheduled");
            conditions.push(condition);
        }
        None => status["conditions"] = json!([condition]),
    }
}
