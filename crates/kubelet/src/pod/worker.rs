//! One task per pod, from its first appearance until nothing of it is left on the node.

use std::sync::Arc;
use std::time::Duration;

use super::handle::{PodHandle, Stage};
use super::sync::{self, Outcome};
use super::terminate;
use crate::kubelet::Kubelet;

/// First and longest wait after a failed attempt, unless something changes before.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

/// Runs the pod of `handle` through its stages; returns at shutdown or when the pod is gone.
pub(crate) async fn run(kubelet: Arc<Kubelet>, handle: Arc<PodHandle>) {
    // A pod of a manifest that changed starts when the one before it has ended.
    while let Some(before) = kubelet
        .pods
        .predecessor(&handle)
        .filter(|_| super::spec::is_static(&handle.pod()))
    {
        tokio::select! {
            () = kubelet.shutdown.cancelled() => return,
            () = before.finished.cancelled() => {}
        }
    }
    if !keep_running(&kubelet, &handle).await {
        return;
    }
    if !stop(&kubelet, &handle).await {
        return;
    }
    if finish(&kubelet, &handle).await {
        kubelet.pods.forget(&handle.uid);
        kubelet.status.forget(&handle.uid);
    }
}

/// Returns `true` when the pod is to end, `false` at shutdown.
async fn keep_running(kubelet: &Arc<Kubelet>, handle: &Arc<PodHandle>) -> bool {
    let mut retry = RETRY.0;
    while handle.stage() == Stage::Syncing {
        let after = tokio::select! {
            () = kubelet.shutdown.cancelled() => return false,
            result = sync::sync_pod(kubelet, handle) => match result {
                Ok(Outcome::Terminal) => {
                    handle.end(None, None);
                    continue;
                }
                Ok(Outcome::Settled(after)) => {
                    retry = RETRY.0;
                    after
                }
                Err(error) => {
                    tracing::warn!(pod = %super::spec::format(&handle.pod()), %error, "pod not synced; trying again");
                    let wait = retry;
                    retry = (retry * 2).min(RETRY.1);
                    Some(wait)
                }
            },
        };
        if !wait(kubelet, handle, after).await {
            return false;
        }
    }
    true
}

async fn stop(kubelet: &Arc<Kubelet>, handle: &Arc<PodHandle>) -> bool {
    let mut retry = RETRY.0;
    loop {
        let result = tokio::select! {
            () = kubelet.shutdown.cancelled() => return false,
            result = terminate::stop(kubelet, handle) => result,
        };
        let Err(error) = result else { return true };
        tracing::warn!(pod = %super::spec::format(&handle.pod()), %error, "pod not stopped; trying again");
        if !wait(kubelet, handle, Some(retry)).await {
            return false;
        }
        retry = (retry * 2).min(RETRY.1);
    }
}

async fn finish(kubelet: &Arc<Kubelet>, handle: &Arc<PodHandle>) -> bool {
    let mut retry = RETRY.0;
    handle.set_terminated();
    kubelet.pods.retry_deferred();
    loop {
        let result = tokio::select! {
            () = kubelet.shutdown.cancelled() => return false,
            result = terminate::clean_up(kubelet, handle) => result,
        };
        let after = match result {
            Ok(terminate::Remains::Nothing) => return true,
            Ok(terminate::Remains::ApiObject) => None,
            Err(error) => {
                tracing::warn!(pod = %super::spec::format(&handle.pod()), %error, "pod not cleaned up; trying again");
                let wait = retry;
                retry = (retry * 2).min(RETRY.1);
                Some(wait)
            }
        };
        if !wait(kubelet, handle, after).await {
            return false;
        }
    }
}

/// Waits for a change, the deadline or shutdown; `false` at shutdown.
async fn wait(kubelet: &Kubelet, handle: &PodHandle, after: Option<Duration>) -> bool {
    let deadline = async {
        match after {
            Some(after) => tokio::time::sleep(after).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = kubelet.shutdown.cancelled() => false,
        () = handle.woken() => true,
        () = deadline => true,
    }
}
