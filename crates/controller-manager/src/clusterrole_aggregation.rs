//! clusterrole-aggregation-controller: the rules of ClusterRoles with an `aggregationRule` are those of all ClusterRoles that
//! it selects.

use std::sync::Arc;

use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use keelson_client::{Informer, NamespacedName, Reconciled, WorkQueue};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;

use crate::Context;
use crate::shared::owner::name;
use crate::shared::selector::{matches, parse};
use crate::shared::{ReconcileError, api_error};

/// `--concurrent-...` of upstream is fixed, too.
const WORKERS: usize = 5;

/// The rules that `role` should have.
fn aggregate(role: &ClusterRole, all: &[Arc<ClusterRole>]) -> Result<Vec<PolicyRule>, ReconcileError> {
    let selectors = role
        .aggregation_rule
        .iter()
        .flat_map(|rule| rule.cluster_role_selectors.iter().flatten());
    let mut rules: Vec<PolicyRule> = Vec::new();
    for selector in selectors {
        let selector = parse(selector)?;
        let fits = |other: &&Arc<ClusterRole>| {
            name(other.as_ref()) != name(role) && matches(&selector, other.metadata.labels.as_ref())
        };
        let mut selected: Vec<_> = all.iter().filter(fits).collect();
        selected.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        for rule in selected
            .into_iter()
            .flat_map(|other| other.rules.iter().flatten())
        {
            if !rules.contains(rule) {
                rules.push(rule.clone());
            }
        }
    }
    Ok(rules)
}

/// Runs the controller.
pub(crate) async fn start(context: Context) {
    let roles = context.informer::<ClusterRole>();
    let queue: WorkQueue<NamespacedName> = WorkQueue::default();
    let (sink, all) = (queue.clone(), roles.clone());
    roles.on_change(move |_| {
        for role in all.list_where(|role| role.aggregation_rule.is_some()) {
            sink.add(NamespacedName::of(role.as_ref()));
        }
    });
    if !context.before_shutdown(roles.synced()).await {
        return;
    }
    let state = Arc::new((context.client(), roles));
    context
        .work(queue, WORKERS, state, |state, key| async move {
            reconcile(&state.0, &state.1, &key).await
        })
        .await;
}

async fn reconcile(
    client: &Client,
    roles: &Informer<ClusterRole>,
    key: &NamespacedName,
) -> Result<Reconciled, ReconcileError> {
    let Some(role) = roles.get(key).filter(|role| role.aggregation_rule.is_some()) else {
        return Ok(Reconciled::Done);
    };
    let rules = aggregate(&role, &roles.list())?;
    if role.rules.clone().unwrap_or_default() == rules {
        return Ok(Reconciled::Done);
    }
    let patch = json!({"metadata": {"resourceVersion": role.metadata.resource_version}, "rules": rules});
    let api: Api<ClusterRole> = Api::all(client.clone());
    api_error::ignore_not_found(
        api.patch(&key.name, &PatchParams::default(), &Patch::Merge(patch))
            .await,
    )?;
    Ok(Reconciled::Done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn rules_of_the_selected_each_once() {
        let role = |name: &str, labels: Value, verbs: &[&str]| {
            let rules: Vec<Value> = verbs.iter().map(|verb| json!({"verbs": [verb]})).collect();
            let role = json!({"metadata": {"name": name, "labels": labels}, "rules": rules});
            Arc::new(serde_json::from_value::<ClusterRole>(role).unwrap())
        };
        let all = [
            role("b", json!({"to": "view"}), &["get", "list"]),
            role("a", json!({"to": "view"}), &["watch", "get"]),
            role("c", json!({"to": "edit"}), &["delete"]),
            role("view", json!({"to": "view"}), &["patch"]),
        ];
        let view: ClusterRole = serde_json::from_value(json!({
            "metadata": {"name": "view"},
            "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"to": "view"}}]}
        }))
        .unwrap();
        let rules = aggregate(&view, &all).unwrap();
        let verbs: Vec<_> = rules.iter().flat_map(|rule| rule.verbs.clone()).collect();
        assert_eq!(verbs, ["watch", "get", "list"]);
    }
}
