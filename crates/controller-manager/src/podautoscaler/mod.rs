//! HorizontalPodAutoscaler: as many replicas as the pods' use of resources asks for.
//!
//! [`metrics`] reads usage from `metrics.k8s.io`, [`replicas`] turns it into a number, [`limits`] keeps that number calm and
//! within its bounds. Metrics of type Pods, Object and External need `custom.metrics.k8s.io` and `external.metrics.k8s.io`;
//! they are not read here, and an autoscaler that asks for them says so in its ScalingActive condition.

mod limits;
mod metrics;
mod replicas;
mod sync;

use std::sync::Arc;

use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::Pod;
use keelson_client::{Change, NamespacedName, WorkQueue};

use crate::Context;
use sync::Syncer;

/// `--concurrent-horizontal-pod-autoscaler-syncs`.
const WORKERS: usize = 5;

/// Runs the controller.
pub(crate) async fn start(context: Context) {
    let autoscalers = context.informer::<HorizontalPodAutoscaler>();
    let pods = context.informer::<Pod>();
    let queue = WorkQueue::default();
    let syncer = Arc::new(Syncer {
        client: context.client(),
        recorder: context.recorder("horizontal-pod-autoscaler"),
        autoscalers: autoscalers.clone(),
        pods: pods.clone(),
        period: context.config().hpa_sync_period,
        tolerance: context.config().hpa_tolerance,
        downscale_stabilization: context.config().hpa_downscale_stabilization,
        histories: parking_lot::Mutex::default(),
    });
    {
        let (queue, syncer) = (queue.clone(), syncer.clone());
        autoscalers.on_change(move |change| {
            let key = NamespacedName::of(change.object().as_ref());
            match change {
                // The status is this controller's own.
                Change::Updated(old, new) if old.spec == new.spec => {}
                Change::Deleted(_) => syncer.forget(&key),
                Change::Added(_) | Change::Updated(..) => queue.add(key),
            }
        });
    }
    let synced = async {
        tokio::join!(autoscalers.synced(), pods.synced());
    };
    context
        .work_after(synced, queue, WORKERS, syncer, |syncer, key| async move {
            syncer.sync(&key).await
        })
        .await;
}
