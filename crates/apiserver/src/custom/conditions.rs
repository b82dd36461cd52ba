//! Conditions of definitions.

use serde_json::{Value, json};

/// The finalizer that keeps a definition until its objects are gone.
pub(super) const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

/// A condition by its type.
pub(super) fn find<'a>(crd: &'a Value, kind: &str) -> Option<&'a Value> {
    crd["status"]["conditions"]
        .as_array()?
        .iter()
        .find(|c| c["type"] == kind)
}

/// Whether a condition is `True`.
pub(super) fn is_true(crd: &Value, kind: &str) -> bool {
    find(crd, kind).is_some_and(|c| c["status"] == "True")
}

/// Sets a condition (status, reason, message). Its time changes with its status only.
pub(super) fn set(crd: &mut Value, kind: &str, [status, reason, message]: [&str; 3], now: &str) {
    let time = find(crd, kind)
        .filter(|c| c["status"] == status)
        .map_or_else(|| json!(now), |c| c["lastTransitionTime"].clone());
    let condition = json!({"type": kind, "status": status, "lastTransitionTime": time, "reason": reason, "message": message});
    if !crd["status"].is_object() {
        crd["status"] = json!({});
    }
    if !crd["status"]["conditions"].is_array() {
        crd["status"]["conditions"] = json!([]);
    }
    if let Some(conditions) = crd["status"]["conditions"].as_array_mut() {
        match conditions.iter_mut().find(|c| c["type"] == kind) {
            Some(known) => *known = condition,
            None => conditions.push(condition),
        }
    }
}

/// A definition that somebody wants to delete: it stays until its objects are gone.
pub(crate) fn marked_for_deletion(crd: &Value, now: &str) -> Value {
    let mut crd = crd.clone();
    let mut finalizers: Vec<String> = crate::registry::metadata::finalizers(&crd)
        .into_iter()
        .map(str::to_owned)
        .collect();
    if !finalizers.iter().any(|f| f == FINALIZER) {
        finalizers.push(FINALIZER.to_owned());
        crate::registry::metadata::set_finalizers(&mut crd, &finalizers);
    }
    let why = "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon";
    set(
        &mut crd,
        "Terminating",
        ["True", "InstanceDeletionPending", why],
        now,
    );
    crd
}
