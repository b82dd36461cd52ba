//! One budget.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use keelson_client::{
    EventRecorder, EventType, Index, Informer, NamespacedName, Reconciled, object_reference,
};
use kube::api::PostParams;
use kube::{Api, Client};

use super::budget::{current_healthy, desired_healthy, needs_scale, pending_evictions};
use super::scale::Scales;
use crate::shared::selector::{matches, parse};
use crate::shared::{ReconcileError, api_error};

pub(super) struct Syncer {
    pub(super) client: Client,
    pub(super) budgets: Informer<PodDisruptionBudget>,
    pub(super) pods: Index<String, Pod>,
    pub(super) recorder: EventRecorder,
    pub(super) scales: Scales,
}

impl Syncer {
    pub(super) async fn sync(&self, key: &NamespacedName) -> Result<Reconciled, ReconcileError> {
        let Some(budget) = self.budgets.get(key) else {
            return Ok(Reconciled::Done);
        };
        match self.try_sync(&budget).await {
            // An outdated version comes again by itself; it says nothing about the budget.
            Err(ReconcileError::Api(error)) if api_error::is_conflict(&error) => Err(error.into()),
            Err(error) => {
                // Fail safe: nothing may be evicted while nobody knows.
                let message = error.to_string();
                self.warn(
                    &budget,
                    "CalculateExpectedPodCountFailed",
                    &format!("Failed to calculate the number of expected pods: {message}"),
                );
                let mut status = budget.status.clone().unwrap_or_default();
                status.disruptions_allowed = Some(0);
                set_condition(
                    &mut status,
                    budget.metadata.generation,
                    "False",
                    "SyncFailed",
                    &message,
                );
                self.write(&budget, status).await?;
                Err(error)
            }
            result => result,
        }
    }

    async fn try_sync(&self, budget: &PodDisruptionBudget) -> Result<Reconciled, ReconcileError> {
        let spec = budget.spec.clone().unwrap_or_default();
        let selector = spec.selector.as_ref().map(parse).transpose()?;
        let mut pods = self
            .pods
            .get(budget.metadata.namespace.as_deref().unwrap_or_default());
        pods.retain(|pod| {
            selector
                .as_ref()
                .is_some_and(|selector| matches(selector, pod.metadata.labels.as_ref()))
        });
        let pods: Vec<&Pod> = pods.iter().map(AsRef::as_ref).collect();
        if pods.is_empty() {
            self.recorder.event(
                &object_reference(budget),
                EventType::Normal,
                "NoPods",
                "No matching pods found",
            );
        }
        let expected = match needs_scale(&spec) {
            true => self.scales.expected(&pods).await?,
            false => i32::try_from(pods.len()).unwrap_or(i32::MAX),
        };
        let desired = desired_healthy(&spec, expected).ok_or_else(|| {
            ReconcileError::Invalid(
                "invalid value for IntOrString: invalid type: string is not a percentage".into(),
            )
        })?;
        let granted = budget
            .status
            .as_ref()
            .and_then(|status| status.disrupted_pods.clone())
            .unwrap_or_default();
        let (pending, recheck) = pending_evictions(&granted, &pods, Timestamp::now());
        let healthy = current_healthy(&pods, &pending);
        let allowed = if expected <= 0 {
            0
        } else {
            (healthy - desired).max(0)
        };
        let mut status = PodDisruptionBudgetStatus {
            conditions: budget
                .status
                .as_ref()
                .and_then(|status| status.conditions.clone()),
            current_healthy: Some(healthy),
            desired_healthy: Some(desired),
            disrupted_pods: (!pending.is_empty()).then_some(pending),
            disruptions_allowed: Some(allowed),
            expected_pods: Some(expected),
            observed_generation: budget.metadata.generation,
        };
        let (is_allowed, reason) = if allowed > 0 {
            ("True", "SufficientPods")
        } else {
            ("False", "InsufficientPods")
        };
        set_condition(&mut status, budget.metadata.generation, is_allowed, reason, "");
        self.write(budget, status).await?;
        Ok(recheck.map_or(Reconciled::Done, Reconciled::After))
    }

    fn warn(&self, budget: &PodDisruptionBudget, reason: &str, message: &str) {
        self.recorder
            .event(&object_reference(budget), EventType::Warning, reason, message);
    }

    async fn write(
        &self,
        budget: &PodDisruptionBudget,
        status: PodDisruptionBudgetStatus,
    ) -> Result<(), ReconcileError> {
        if budget.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let mut budget = budget.clone();
        budget.status = Some(status);
        let namespace = budget.metadata.namespace.clone().unwrap_or_default();
        let api: Api<PodDisruptionBudget> = Api::namespaced(self.client.clone(), &namespace);
        let name = budget.metadata.name.clone().unwrap_or_default();
        api_error::ignore_not_found(api.replace_status(&name, &PostParams::default(), &budget).await)?;
        Ok(())
    }
}

fn set_condition(
    status: &mut PodDisruptionBudgetStatus,
    generation: Option<i64>,
    value: &str,
    reason: &str,
    message: &str,
) {
    let conditions = status.conditions.get_or_insert_default();
    let before = conditions
        .iter()
        .position(|condition| condition.type_ == "DisruptionAllowed");
    let since = before
        .map(|index| &conditions[index])
        .filter(|condition| condition.status == value)
        .map_or_else(
            || Time(Timestamp::now()),
            |condition| condition.last_transition_time.clone(),
        );
    let condition = Condition {
        type_: "DisruptionAllowed".into(),
        status: value.into(),
        reason: reason.into(),
        message: message.into(),
        observed_generation: generation,
        last_transition_time: since,
    };
    match before {
        Some(index) => conditions[index] = condition,
        None => conditions.push(condition),
    }
}
