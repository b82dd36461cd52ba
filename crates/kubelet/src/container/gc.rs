//! Removal of what is dead: old instances of containers, old sandboxes, whole pods, orphaned directories, unused images.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use keelson_client::EventType;
use keelson_cri::v1 as cri;
use tokio::time::{Instant, sleep};

use crate::cri::Cri;
use crate::kubelet::Kubelet;
use crate::pod::handle::PodHandle;
use crate::pod::runtime_status::{PodRuntimeStatus, State};
use crate::pod::spec;
use crate::pod::sync::SyncError;

/// Dead instances that are kept per container, for `kubectl logs --previous`.
const KEEP_PER_CONTAINER: usize = 1;
/// How often the image file system is looked at; upstream's period.
const IMAGE_GC_PERIOD: Duration = Duration::from_secs(300);
/// An image is not removed before it is known for that long.
const IMAGE_MINIMUM_AGE: Duration = Duration::from_secs(120);

async fn remove_container(cri: &Cri, id: &str) -> Result<(), tonic::Status> {
    let request = cri::RemoveContainerRequest {
        container_id: id.to_owned(),
    };
    match cri.runtime().remove_container(request).await {
        Err(status) if status.code() != tonic::Code::NotFound => Err(status),
        _ => Ok(()),
    }
}

async fn remove_sandbox(cri: &Cri, id: &str) -> Result<(), tonic::Status> {
    let request = cri::StopPodSandboxRequest {
        pod_sandbox_id: id.to_owned(),
    };
    match cri.runtime().stop_pod_sandbox(request).await {
        Err(status) if status.code() == tonic::Code::NotFound => return Ok(()),
        result => result?,
    };
    let request = cri::RemovePodSandboxRequest {
        pod_sandbox_id: id.to_owned(),
    };
    match cri.runtime().remove_pod_sandbox(request).await {
        Err(status) if status.code() != tonic::Code::NotFound => Err(status),
        _ => Ok(()),
    }
}

/// Removes superseded dead containers and sandboxes of a pod that lives. What fails is tried at the next occasion.
pub(crate) async fn prune_pod(kubelet: &Kubelet, handle: &PodHandle, runtime: &PodRuntimeStatus) {
    let cri = &kubelet.config.cri;
    let mut dead: HashMap<&str, usize> = HashMap::new();
    let mut kept_sandboxes: HashSet<&str> = HashSet::new();
    for container in &runtime.containers {
        if container.state == State::Exited {
            let count = dead.entry(&container.name).or_default();
            *count += 1;
            if *count > KEEP_PER_CONTAINER {
                log(remove_container(cri, &container.id).await);
                continue;
            }
        }
        kept_sandboxes.insert(&container.sandbox_id);
    }
    for sandbox in runtime.sandboxes.iter().skip(1).filter(|sandbox| !sandbox.ready) {
        if !kept_sandboxes.contains(sandbox.id.as_str()) {
            log(remove_sandbox(cri, &sandbox.id).await);
        }
    }
    handle.retain_verdicts(|id| runtime.containers.iter().any(|container| container.id == id));
}

fn log(result: Result<(), tonic::Status>) {
    if let Err(status) = result {
        tracing::debug!(%status, "dead container not removed yet");
    }
}

/// Removes every container and sandbox of a pod of which nothing runs.
pub(crate) async fn remove_all(cri: &Cri, runtime: &PodRuntimeStatus) -> Result<(), tonic::Status> {
    for container in &runtime.containers {
        remove_container(cri, &container.id).await?;
    }
    for sandbox in &runtime.sandboxes {
        remove_sandbox(cri, &sandbox.id).await?;
    }
    Ok(())
}

/// Removes everything of a pod that is gone from the API: containers, sandboxes, logs, directory.
pub(crate) async fn remove_pod(kubelet: &Kubelet, handle: &PodHandle) -> Result<(), SyncError> {
    let runtime = crate::pod::sync::refresh(kubelet, handle).await?;
    remove_all(&kubelet.config.cri, &runtime).await?;
    let pod = handle.pod();
    let logs = kubelet
        .config
        .pod_log_dir(spec::namespace(&pod), spec::name(&pod), &handle.uid);
    for dir in [logs, kubelet.config.pod_dir(&handle.uid)] {
        match tokio::fs::remove_dir_all(&dir).await {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => {
                return Err(SyncError::Io {
                    what: "the removal of the directory",
                    source,
                });
            }
        }
    }
    Ok(())
}

/// Removes orphaned directories once, then looks after images until shutdown.
pub(crate) async fn run(kubelet: Arc<Kubelet>) {
    tokio::select! {
        () = kubelet.shutdown.cancelled() => return,
        () = kubelet.api_pods.synced() => {}
    }
    let mut seen: HashMap<String, Instant> = HashMap::new();
    loop {
        tokio::select! {
            () = kubelet.shutdown.cancelled() => return,
            () = sleep(IMAGE_GC_PERIOD) => {}
        }
        remove_orphaned_dirs(&kubelet).await;
        if let Err(error) = collect_images(&kubelet, &mut seen, false).await {
            tracing::warn!(error, "image garbage collection failed");
        }
    }
}

/// Directories of pods that nobody knows and whose volumes are all unmounted.
async fn remove_orphaned_dirs(kubelet: &Kubelet) {
    let Ok(mut entries) = tokio::fs::read_dir(kubelet.config.root_dir.join("pods")).await else {
        return;
    };
    while let Ok(Some(entry)) = entries.next_entry().await {
        let name = entry.file_name();
        let Some(uid) = name.to_str() else { continue };
        if kubelet.pods.get(uid).is_some() || kubelet.was_running(uid) {
            continue;
        }
        let removed = kubelet
            .volumes
            .unmount(kubelet, uid)
            .await
            .map_err(|error| error.to_string());
        let removed = match removed {
            Ok(()) => tokio::fs::remove_dir_all(entry.path())
                .await
                .map_err(|error| error.to_string()),
            error => error,
        };
        if let Err(error) = removed {
            tracing::warn!(uid, error, "directory of an orphaned pod not removed");
        }
    }
}

/// Removes unused images, the longest unused first, while the image file system is fuller than the thresholds allow;
/// all of them when `force` is set. Returns how many bytes that freed.
pub(crate) async fn collect_images(
    kubelet: &Kubelet,
    seen: &mut HashMap<String, Instant>,
    force: bool,
) -> Result<u64, String> {
    let fs = crate::stats::image_fs(kubelet)
        .await
        .ok_or("the image file system is not known")?;
    let used = fs.capacity.saturating_sub(fs.available);
    let percent = |percent: u8| fs.capacity / 100 * u64::from(percent);
    if !force && used < percent(kubelet.config.image_gc_high_threshold_percent) {
        return Ok(0);
    }
    let wanted = used.saturating_sub(percent(kubelet.config.image_gc_low_threshold_percent));
    let images = kubelet
        .config
        .cri
        .image()
        .list_images(cri::ListImagesRequest { filter: None })
        .await;
    let images = images
        .map_err(|status| super::rpc_error(&status))?
        .into_inner()
        .images;
    let containers = kubelet
        .config
        .cri
        .runtime()
        .list_containers(cri::ListContainersRequest { filter: None })
        .await;
    let containers = containers
        .map_err(|status| super::rpc_error(&status))?
        .into_inner()
        .containers;
    let in_use: HashSet<String> = containers
        .into_iter()
        .flat_map(|container| {
            [
                container.image_ref,
                container.image_id,
                container.image.unwrap_or_default().image,
            ]
        })
        .collect();
    let now = Instant::now();
    let mut used_ids: HashSet<&str> = HashSet::new();
    for image in &images {
        let used = in_use.contains(&image.id)
            || image
                .repo_digests
                .iter()
                .chain(&image.repo_tags)
                .any(|name| in_use.contains(name));
        let entry = seen.entry(image.id.clone()).or_insert(now);
        if used {
            *entry = now;
            used_ids.insert(&image.id);
        }
    }
    seen.retain(|id, _| images.iter().any(|image| image.id == *id));
    let mut unused: Vec<_> = images
        .iter()
        .filter(|image| !image.pinned)
        .filter_map(|image| seen.get(&image.id).map(|since| (*since, image)))
        .filter(|(since, image)| {
            !used_ids.contains(image.id.as_str()) && (force || now - *since >= IMAGE_MINIMUM_AGE)
        })
        .collect();
    unused.sort_by_key(|(since, _)| *since);
    let mut freed = 0;
    for (_, image) in unused {
        if !force && freed >= wanted {
            break;
        }
        let spec = cri::ImageSpec {
            image: image.id.clone(),
            ..cri::ImageSpec::default()
        };
        match kubelet
            .config
            .cri
            .image()
            .remove_image(cri::RemoveImageRequest { image: Some(spec) })
            .await
        {
            Ok(_) => freed += image.size,
            Err(status) => tracing::warn!(image = image.id, %status, "unused image not removed"),
        }
    }
    if !force && freed < wanted {
        let text = format!(
            "Failed to garbage collect required amount of images. Attempted to free {wanted} bytes, but only found {freed} bytes eligible to free."
        );
        kubelet.node_event(EventType::Warning, "FreeDiskSpaceFailed", text.clone());
        return Err(text);
    }
    Ok(freed)
}
