//! Ending a pod: stop what runs within the grace period, report, remove what it used, and let the API object go.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, ContainerStatus, PodStatus};

use super::handle::PodHandle;
use super::sync::{self, SyncError};
use super::{spec, static_pods};
use crate::container::{gc, kill};
use crate::kubelet::Kubelet;

/// What is left after a clean-up.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Remains {
    /// Nothing; the worker can end.
    Nothing,
    /// The API still has the pod, and with it its dead containers and logs stay.
    ApiObject,
}

/// Stops all containers and sandboxes; returns when none runs. A shorter grace period that comes meanwhile counts.
pub(crate) async fn stop(kubelet: &Arc<Kubelet>, handle: &Arc<PodHandle>) -> Result<(), SyncError> {
    loop {
        let runtime = sync::refresh(kubelet, handle).await?;
        sync::publish(kubelet, handle, true);
        if !runtime.is_running() {
            kubelet.probes.remove_pod(&handle.uid);
            return Ok(());
        }
        kubelet.probes.pod_is_ending(&handle.uid);
        let grace = handle.grace_period();
        let (kubelet_, handle_, runtime_) = (kubelet.clone(), handle.clone(), runtime.clone());
        // Not cancelled when the grace period shrinks: the runtime ends the slower stop by itself.
        let killing = kubelet
            .tracker
            .spawn(async move { kill::kill_pod(&kubelet_, &handle_, &runtime_, grace).await });
        tokio::select! {
            result = killing => {
                result.unwrap_or(Ok(()))?;
                let after = sync::refresh(kubelet, handle).await?;
                sync::publish(kubelet, handle, true);
                if after.is_running() {
                    return Err(SyncError::Runtime(tonic::Status::unknown("containers still run after they were stopped")));
                }
            }
            () = handle.grace_shorter_than(grace) => {}
        }
    }
}

/// Removes volumes and groups, reports the final status, and lets the API delete a pod that was to be deleted.
pub(crate) async fn clean_up(kubelet: &Arc<Kubelet>, handle: &Arc<PodHandle>) -> Result<Remains, SyncError> {
    kubelet.probes.remove_pod(&handle.uid);
    let pod = handle.pod();
    kubelet.volumes.unmount(kubelet, &handle.uid).await?;
    kubelet.cgroups.remove_pod(&pod).await?;
    kubelet.objects.release(&handle.uid);
    sync::publish(kubelet, handle, true);
    if let Some(status) = handle.status() {
        let ended = Arc::new(terminated(&status));
        handle.set_status(ended.clone());
        kubelet.status.set(&pod, ended);
    }
    if handle.is_removed() {
        gc::remove_pod(kubelet, handle).await?;
        if spec::is_static(&pod) {
            static_pods::delete_mirror(kubelet, &pod)
                .await
                .map_err(|error| SyncError::Mirror(Box::new(error)))?;
        }
        return Ok(Remains::Nothing);
    }
    if spec::deletion_timestamp(&pod).is_some() {
        kubelet.status.allow_deletion(&pod);
    }
    Ok(Remains::ApiObject)
}

/// The status of a pod of which nothing runs: no container is waiting or running, and the phase is final.
fn terminated(status: &PodStatus) -> PodStatus {
    let mut status = status.clone();
    let lists = [
        &mut status.init_container_statuses,
        &mut status.container_statuses,
        &mut status.ephemeral_container_statuses,
    ];
    for (index, list) in lists.into_iter().enumerate() {
        for container in list.iter_mut().flatten() {
            // An init container that never ran because an earlier one failed stays as it is.
            if index != 0 {
                terminate_container(container);
            }
        }
    }
    if !matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        status.phase = Some("Failed".into());
    }
    status
}

fn terminate_container(container: &mut ContainerStatus) {
    let state = container.state.clone().unwrap_or_default();
    container.ready = false;
    container.started = Some(false);
    if state.terminated.is_some() {
        return;
    }
    if state.waiting.is_some()
        && container
            .last_state
            .as_ref()
            .is_some_and(|last| last.terminated.is_some())
    {
        container.state = container.last_state.take();
        return;
    }
    container.state = Some(ContainerState {
        terminated: Some(ContainerStateTerminated {
            exit_code: 137,
            reason: Some("ContainerStatusUnknown".into()),
            message: Some("The container could not be located when the pod was terminated".into()),
            ..ContainerStateTerminated::default()
        }),
        ..ContainerState::default()
    });
}
