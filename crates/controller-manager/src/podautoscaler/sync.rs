//! The reconciliation of one HorizontalPodAutoscaler.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v1::Scale;
use k8s_openapi::api::autoscaling::v2::{
    ContainerResourceMetricStatus, HorizontalPodAutoscaler, HorizontalPodAutoscalerCondition, MetricSpec,
    MetricStatus, MetricTarget, MetricValueStatus, ResourceMetricStatus,
};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use keelson_api::quantity::{Format, Quantity};
use keelson_api::selector::LabelSelector;
use keelson_client::{EventRecorder, EventType, Informer, NamespacedName, Reconciled, object_reference};
use kube::api::{DynamicObject, PostParams};
use kube::core::GroupVersionKind;
use kube::{Api, Client, discovery};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::limits::{Decision, History, Limits, decide};
use super::metrics;
use super::replicas::{Input, Proposal, Target, Tolerance, compute};
use crate::shared::owner::{name, namespace};
use crate::shared::selector::matches;
use crate::shared::{ReconcileError, api_error};

pub(super) struct Syncer {
    pub(super) client: Client,
    pub(super) recorder: EventRecorder,
    pub(super) autoscalers: Informer<HorizontalPodAutoscaler>,
    pub(super) pods: Informer<Pod>,
    pub(super) period: Duration,
    pub(super) tolerance: f64,
    pub(super) downscale_stabilization: Duration,
    pub(super) histories: Mutex<HashMap<NamespacedName, History>>,
}

/// Why there is no number: reason and message of the condition.
struct Failure {
    reason: &'static str,
    message: String,
}

/// What a metric proposes.
struct Measured {
    proposal: Proposal,
    status: MetricStatus,
    what: String,
}

impl Syncer {
    pub(super) fn forget(&self, key: &NamespacedName) {
        self.histories.lock().remove(key);
    }

    pub(super) async fn sync(&self, key: &NamespacedName) -> Result<Reconciled, ReconcileError> {
        let Some(cached) = self.autoscalers.get(key) else {
            return Ok(Reconciled::Done);
        };
        let mut hpa = HorizontalPodAutoscaler::clone(&cached);
        let outcome = self.reconcile(key, &mut hpa).await;
        if hpa.status != cached.status {
            let api = Api::<HorizontalPodAutoscaler>::namespaced(self.client.clone(), namespace(&hpa));
            match api.replace_status(name(&hpa), &PostParams::default(), &hpa).await {
                Err(error) if api_error::is_conflict(&error) || api_error::is_not_found(&error) => {}
                other => drop(other?),
            }
        }
        if let Err(error) = outcome {
            tracing::debug!(%key, %error, "autoscaler not reconciled");
        }
        // Usage changes without an event: it is asked for in every period.
        Ok(Reconciled::After(self.period))
    }

    async fn reconcile(
        &self,
        key: &NamespacedName,
        hpa: &mut HorizontalPodAutoscaler,
    ) -> Result<(), ReconcileError> {
        let spec = hpa.spec.clone();
        let api = match self.target(hpa).await {
            Ok(api) => api,
            Err(error) => return self.no_scale(hpa, error),
        };
        let scale = match api.get_scale(&spec.scale_target_ref.name).await {
            Ok(scale) => scale,
            Err(error) => return self.no_scale(hpa, error),
        };
        let message = "the HPA controller was able to get the target's current scale";
        set_condition(hpa, "AbleToScale", true, "SucceededGetScale", message);
        let current = scale.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
        let min = spec.min_replicas.unwrap_or(1);
        let status = hpa.status.get_or_insert_default();
        status.observed_generation = hpa.metadata.generation;
        status.current_replicas = Some(current);
        let (desired, reason) = if current == 0 && min != 0 {
            let message = "scaling is disabled since the replica count of the target is zero";
            set_condition(hpa, "ScalingActive", false, "ScalingDisabled", message);
            (0, String::new())
        } else if current > spec.max_replicas {
            (
                spec.max_replicas,
                "Current number of replicas above Spec.MaxReplicas".into(),
            )
        } else if current < min {
            (min, "Current number of replicas below Spec.MinReplicas".into())
        } else {
            match self.measure(hpa, &scale, current).await {
                Ok(measured) => self.limit(key, hpa, &measured, current),
                Err(failure) => {
                    hpa.status.get_or_insert_default().desired_replicas = current;
                    self.event(hpa, EventType::Warning, failure.reason, failure.message.clone());
                    let message = format!(
                        "the HPA was unable to compute the replica count: {}",
                        failure.message
                    );
                    set_condition(hpa, "ScalingActive", false, failure.reason, &message);
                    return Ok(());
                }
            }
        };
        hpa.status.get_or_insert_default().desired_replicas = desired;
        if desired == current {
            return Ok(());
        }
        self.rescale(key, hpa, &api, scale, desired, &reason).await
    }

    /// The API of the target's kind.
    async fn target(&self, hpa: &HorizontalPodAutoscaler) -> Result<Api<DynamicObject>, kube::Error> {
        let target = hpa.spec.scale_target_ref.clone();
        let version = target.api_version.unwrap_or_default();
        let (group, version) = version.split_once('/').unwrap_or(("", &version));
        let kind = GroupVersionKind::gvk(group, version, &target.kind);
        let (resource, _) = discovery::pinned_kind(&self.client, &kind).await?;
        Ok(Api::namespaced_with(
            self.client.clone(),
            namespace(hpa),
            &resource,
        ))
    }

    fn no_scale(&self, hpa: &mut HorizontalPodAutoscaler, error: kube::Error) -> Result<(), ReconcileError> {
        let message = api_error::message(&error);
        self.event(hpa, EventType::Warning, "FailedGetScale", message.clone());
        let message = format!("the HPA controller was unable to get the target's current scale: {message}");
        set_condition(hpa, "AbleToScale", false, "FailedGetScale", &message);
        Err(error.into())
    }

    /// The highest proposal of all metrics. One that cannot be read forbids to shrink, not to grow.
    async fn measure(
        &self,
        hpa: &mut HorizontalPodAutoscaler,
        scale: &Scale,
        current: i32,
    ) -> Result<Measured, Failure> {
        let text = scale
            .status
            .as_ref()
            .and_then(|status| status.selector.clone())
            .unwrap_or_default();
        let invalid = |message: String| Failure {
            reason: "InvalidSelector",
            message,
        };
        if text.is_empty() {
            return Err(invalid("the HPA target's scale is missing a selector".into()));
        }
        let selector = LabelSelector::parse(&text).map_err(|error| invalid(error.to_string()))?;
        let own = namespace(hpa).to_owned();
        let pods = self
            .pods
            .list_where(|pod| namespace(pod) == own && matches(&selector, pod.metadata.labels.as_ref()));
        let specs = hpa.spec.metrics.clone().unwrap_or_default();
        let tolerance = Tolerance::of(hpa.spec.behavior.as_ref(), self.tolerance);
        let (mut best, mut statuses, mut failure) = (None::<Measured>, Vec::new(), None);
        for spec in &specs {
            match self
                .measure_one(&own, spec, &text, &pods, (current, tolerance))
                .await
            {
                Ok(measured) => {
                    statuses.push(measured.status.clone());
                    if best
                        .as_ref()
                        .is_none_or(|best| measured.proposal.replicas > best.proposal.replicas)
                    {
                        best = Some(measured);
                    }
                }
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        let status = hpa.status.get_or_insert_default();
        status.current_metrics = (!statuses.is_empty()).then_some(statuses);
        match (best, failure) {
            (Some(best), Some(failure)) if best.proposal.replicas < current => Err(failure),
            (Some(best), _) => {
                let message = format!(
                    "the HPA was able to successfully calculate a replica count from {}",
                    best.what
                );
                set_condition(hpa, "ScalingActive", true, "ValidMetricFound", &message);
                Ok(best)
            }
            (None, Some(failure)) => Err(failure),
            (None, None) => Err(Failure {
                reason: "InvalidMetricSourceType",
                message: "no metrics are given".into(),
            }),
        }
    }

    async fn measure_one(
        &self,
        namespace: &str,
        spec: &MetricSpec,
        selector: &str,
        pods: &[Arc<Pod>],
        (current, tolerance): (i32, Tolerance),
    ) -> Result<Measured, Failure> {
        let (resource, container, target, reason) = match (&spec.resource, &spec.container_resource) {
            (Some(source), _) => (&source.name, None, &source.target, "FailedGetResourceMetric"),
            (None, Some(source)) => (
                &source.name,
                Some(source.container.as_str()),
                &source.target,
                "FailedGetContainerResourceMetric",
            ),
            (None, None) => {
                let reason = match spec.type_.as_str() {
                    "Pods" => "FailedGetPodsMetric",
                    "Object" => "FailedGetObjectMetric",
                    "External" => "FailedGetExternalMetric",
                    _ => "InvalidMetricSourceType",
                };
                return Err(Failure {
                    reason,
                    message: format!("metrics of type {} are not supported", spec.type_),
                });
            }
        };
        let fail = |message: String| Failure {
            reason,
            message: format!("failed to get {resource} utilization: {message}"),
        };
        let wanted = target_of(target).ok_or_else(|| fail("the target has no value".into()))?;
        let usage = metrics::usage(&self.client, namespace, selector, resource, container)
            .await
            .map_err(|error| {
                fail(format!(
                    "unable to get metrics for resource {resource}: {}",
                    api_error::message(&error)
                ))
            })?;
        if usage.is_empty() {
            let message = format!(
                "unable to get metrics for resource {resource}: no metrics returned from resource metrics API"
            );
            return Err(fail(message));
        }
        let now = Timestamp::now();
        let input = Input {
            current,
            target: wanted,
            resource,
            container,
            pods,
            usage,
            tolerance,
            now,
        };
        let proposal = compute(input).map_err(fail)?;
        let kind = if matches!(wanted, Target::Utilization(_)) {
            " (percentage of request)"
        } else {
            ""
        };
        let what = format!("{resource} resource utilization{kind}");
        Ok(Measured {
            proposal,
            status: metric_status(resource, container, &proposal),
            what,
        })
    }

    fn limit(
        &self,
        key: &NamespacedName,
        hpa: &mut HorizontalPodAutoscaler,
        measured: &Measured,
        current: i32,
    ) -> (i32, String) {
        let spec = hpa.spec.clone();
        let limits = Limits {
            current,
            min: spec.min_replicas.unwrap_or(1),
            max: spec.max_replicas,
            behavior: spec.behavior.as_ref(),
            downscale_stabilization: self.downscale_stabilization,
        };
        let now = Instant::now();
        let proposed = measured.proposal.replicas;
        let Decision {
            replicas,
            able,
            limited,
        } = {
            let mut histories = self.histories.lock();
            let history = histories.entry(key.clone()).or_default();
            history.recommend(now, proposed);
            decide(&limits, proposed, history, now)
        };
        set_condition(hpa, "AbleToScale", true, able.0, able.1);
        let within = (
            "DesiredWithinRange",
            "the desired count is within the acceptable range",
        );
        let (reason, message) = limited.unwrap_or(within);
        set_condition(hpa, "ScalingLimited", limited.is_some(), reason, message);
        let why = if replicas > current {
            format!("{} above target", measured.what)
        } else {
            "All metrics below target".into()
        };
        (replicas, why)
    }

    async fn rescale(
        &self,
        key: &NamespacedName,
        hpa: &mut HorizontalPodAutoscaler,
        api: &Api<DynamicObject>,
        mut scale: Scale,
        desired: i32,
        reason: &str,
    ) -> Result<(), ReconcileError> {
        let spec = scale.spec.get_or_insert_default();
        let before = spec.replicas.replace(desired).unwrap_or(0);
        let target = hpa.spec.scale_target_ref.name.clone();
        if let Err(error) = api.replace_scale(&target, &PostParams::default(), &scale).await {
            let text = api_error::message(&error);
            let message = format!("New size: {desired}; reason: {reason}; error: {text}");
            self.event(hpa, EventType::Warning, "FailedRescale", message);
            let message = format!("the HPA controller was unable to update the target scale: {text}");
            set_condition(hpa, "AbleToScale", false, "FailedUpdateScale", &message);
            hpa.status.get_or_insert_default().desired_replicas = before;
            return Err(error.into());
        }
        let message = format!("the HPA controller was able to update the target scale to {desired}");
        set_condition(hpa, "AbleToScale", true, "SucceededRescale", &message);
        self.event(
            hpa,
            EventType::Normal,
            "SuccessfulRescale",
            format!("New size: {desired}; reason: {reason}"),
        );
        hpa.status.get_or_insert_default().last_scale_time = Some(Time(Timestamp::now()));
        self.histories
            .lock()
            .entry(key.clone())
            .or_default()
            .changed(Instant::now(), desired - before);
        Ok(())
    }

    fn event(&self, hpa: &HorizontalPodAutoscaler, kind: EventType, reason: &str, message: String) {
        self.recorder.event(&object_reference(hpa), kind, reason, message);
    }
}

fn target_of(target: &MetricTarget) -> Option<Target> {
    if let Some(percent) = target.average_utilization {
        return Some(Target::Utilization(percent));
    }
    let milli = Quantity::parse(&target.average_value.as_ref()?.0)
        .ok()?
        .milli_value();
    Some(Target::Average(milli))
}

fn metric_status(resource: &str, container: Option<&str>, proposal: &Proposal) -> MetricStatus {
    let format = if resource == "cpu" {
        Format::DecimalSI
    } else {
        Format::BinarySI
    };
    let average = if resource == "cpu" {
        Quantity::from_milli(proposal.average, format)
    } else {
        Quantity::from_value(proposal.average / 1000, format)
    };
    let current = MetricValueStatus {
        average_utilization: proposal.utilization,
        average_value: Some(Text(average.to_string())),
        value: None,
    };
    let name = resource.to_owned();
    match container {
        None => MetricStatus {
            type_: "Resource".into(),
            resource: Some(ResourceMetricStatus { current, name }),
            ..MetricStatus::default()
        },
        Some(container) => MetricStatus {
            type_: "ContainerResource".into(),
            container_resource: Some(ContainerResourceMetricStatus {
                container: container.to_owned(),
                current,
                name,
            }),
            ..MetricStatus::default()
        },
    }
}

fn set_condition(hpa: &mut HorizontalPodAutoscaler, type_: &str, value: bool, reason: &str, message: &str) {
    let status = if value { "True" } else { "False" };
    let conditions = hpa
        .status
        .get_or_insert_default()
        .conditions
        .get_or_insert_default();
    let new = HorizontalPodAutoscalerCondition {
        type_: type_.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_transition_time: Some(Time(Timestamp::now())),
    };
    match conditions.iter_mut().find(|condition| condition.type_ == type_) {
        Some(old) => {
            let since = if old.status == status {
                old.last_transition_time.clone()
            } else {
                new.last_transition_time.clone()
            };
            *old = HorizontalPodAutoscalerCondition {
                last_transition_time: since,
                ..new
            };
        }
        None => conditions.push(new),
    }
}
