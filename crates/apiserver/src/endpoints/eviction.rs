//! `pods/eviction`: deletion as far as PodDisruptionBudgets allow.

use http::{Response, StatusCode};
use keelson_api::selector::LabelSelector;
use keelson_api::status::{Status, StatusCause};
use serde_json::{Value, json};

use super::request::Incoming;
use crate::admission::{Attributes, Operation};
use crate::http::{Body, Reply};
use crate::registry::options::{DeleteOptions, Preconditions};
use crate::registry::{Context, Deleted, Update, metadata};

/// A budget's record of evictions it has allowed is not allowed to grow beyond this, as upstream's.
const MAX_DISRUPTED_PODS: usize = 2000;

/// Evicts the pod, or answers 429.
pub(super) async fn evict(
    incoming: &Incoming<'_>,
    cx: &Context<'_>,
    mut eviction: Value,
) -> Result<Response<Body>, Status> {
    let registry = &incoming.server.registry;
    let Some(pods) = registry.kind("", "v1", "pods") else {
        return Err(Status::path_not_found());
    };
    let (namespace, name) = (incoming.info.namespace.as_str(), incoming.info.name.as_str());
    let given = metadata::text(&eviction, "name");
    if !given.is_empty() && given != name {
        return Err(Status::bad_request(
            "name in URL does not match name in Eviction object",
        ));
    }
    let gvk = keelson_api::gvk::GroupVersionKind::new("policy", "v1", "Eviction");
    let attributes = Attributes {
        operation: Operation::Create,
        resource: &pods.gvr,
        kind: &gvk,
        subresource: "eviction",
        namespace,
        name,
        user: incoming.user,
        old_object: None,
        options: &cx.options_value,
        dry_run: cx.options.dry_run,
        notes: incoming.notes,
    };
    registry.admit_connect(cx, &attributes, &mut eviction).await?;
    let mut options: DeleteOptions = match eviction.get("deleteOptions") {
        Some(options) if !options.is_null() => serde_json::from_value(options.clone())
            .map_err(|e| Status::bad_request(format!("deleteOptions: {e}")))?,
        _ => DeleteOptions::default(),
    };
    if cx.options.dry_run && options.dry_run.is_empty() {
        options.dry_run.push("All".to_owned());
    }
    let dry_run = options.is_dry_run();
    let pod = registry.get(&pods, namespace, name, None).await?;
    let value = pod.parse();
    if !ignores_budgets(&value) {
        take_from_budget(incoming, cx, &value, dry_run).await?;
    }
    if options.preconditions.is_none() {
        let uid = metadata::text(&value, "uid").to_owned();
        options.preconditions = Some(Preconditions {
            uid: Some(uid),
            resource_version: None,
        });
    }
    let inner = internal(cx, dry_run);
    match registry.delete(&inner, &pods, namespace, name, &options).await? {
        Deleted::Gone(_) | Deleted::Pending(_) => {}
    }
    let mut status = serde_json::to_value(Status::success(None)).map_err(Status::internal)?;
    status["code"] = json!(201);
    let json = serde_json::to_vec(&status).map_err(Status::internal)?;
    Ok(Reply {
        code: StatusCode::CREATED,
        json,
    }
    .into_response(incoming.form, incoming.headers))
}

fn internal<'a>(cx: &Context<'a>, dry_run: bool) -> Context<'a> {
    let mut options = cx.options.clone();
    options.dry_run = dry_run;
    Context {
        user: cx.user,
        notes: cx.notes,
        options,
        options_value: Value::Null,
        manager: cx.manager.clone(),
        admission: false,
    }
}

/// Pods that have ended or have not begun, or are being deleted, do not count.
fn ignores_budgets(pod: &Value) -> bool {
    matches!(
        pod["status"]["phase"].as_str(),
        Some("Succeeded" | "Failed" | "Pending")
    ) || metadata::is_deleting(pod)
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.is_some_and(|c| c.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"))
}

async fn take_from_budget(
    incoming: &Incoming<'_>,
    cx: &Context<'_>,
    pod: &Value,
    dry_run: bool,
) -> Result<(), Status> {
    let registry = &incoming.server.registry;
    let namespace = metadata::text(pod, "namespace");
    let name = metadata::text(pod, "name").to_owned();
    let Some(budgets) = registry.kind("policy", "v1", "poddisruptionbudgets") else {
        return Ok(());
    };
    let labels = pod["metadata"]["labels"].as_object().cloned().unwrap_or_default();
    let mut matching = Vec::new();
    for budget in registry
        .resources()
        .resource("policy", "poddisruptionbudgets")
        .list(Some(namespace))
    {
        let budget = budget.parse();
        let selector = LabelSelector::from_label_selector_value(&budget["spec"]["selector"]);
        let selects = selector.is_ok_and(|s| s.matches(&labels));
        if selects {
            matching.push(budget);
        }
    }
    let [budget] = matching.as_slice() else {
        if matching.is_empty() {
            return Ok(());
        }
        return Err(Status::failure(
            500,
            keelson_api::status::Reason::InternalError,
            "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
        ));
    };
    let policy = budget["spec"]["unhealthyPodEvictionPolicy"]
        .as_str()
        .unwrap_or("IfHealthyBudget");
    let healthy = budget["status"]["currentHealthy"].as_i64().unwrap_or(0);
    let desired = budget["status"]["desiredHealthy"].as_i64().unwrap_or(0);
    if !is_ready(pod) && (policy == "AlwaysAllow" || (healthy >= desired && desired > 0)) {
        return Ok(());
    }
    let budget_name = metadata::text(budget, "name").to_owned();
    let update = Update {
        namespace,
        name: &budget_name,
        subresource: "status",
        may_create: false,
        apply: false,
    };
    let now = crate::registry::model::now();
    registry
        .update(&internal(cx, dry_run), &budgets, &update, |budget| {
            let mut budget = budget.cloned().unwrap_or_default();
            allow(&mut budget, &name, &now)?;
            Ok(budget)
        })
        .await
        .map(drop)
}

/// Takes one disruption from the budget.
fn allow(budget: &mut Value, pod: &str, now: &str) -> Result<(), Status> {
    let budget_name = metadata::text(budget, "name").to_owned();
    let number = |field: &str| budget["status"][field].as_i64().unwrap_or(0);
    let generation = metadata::number(budget, "generation").unwrap_or(0);
    if number("observedGeneration") < generation {
        let message = format!("The disruption budget {budget_name} is still being processed by the server.");
        return Err(refuse(message, 10));
    }
    let allowed = number("disruptionsAllowed");
    let disrupted = budget["status"]["disruptedPods"]
        .as_object()
        .map_or(0, serde_json::Map::len);
    if allowed < 0 || disrupted > MAX_DISRUPTED_PODS {
        return Err(Status::internal(format!(
            "the disruption budget {budget_name} cannot be used"
        )));
    }
    if allowed == 0 {
        let message = format!(
            "The disruption budget {budget_name} needs {} healthy pods and has {} currently",
            number("desiredHealthy"),
            number("currentHealthy")
        );
        return Err(refuse(message, 0));
    }
    budget["status"]["disruptionsAllowed"] = json!(allowed - 1);
    budget["status"]["disruptedPods"][pod] = json!(now);
    Ok(())
}

fn refuse(message: String, retry: u32) -> Status {
    let mut status = Status::too_many_requests(
        "Cannot evict pod as it would violate the pod's disruption budget.",
        retry,
    );
    status.details.get_or_insert_default().causes.push(StatusCause {
        reason: "DisruptionBudget".to_owned(),
        message,
        field: String::new(),
    });
    status
}
