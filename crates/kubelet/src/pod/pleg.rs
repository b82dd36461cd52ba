//! Pod lifecycle events: the runtime's event stream wakes the pods' workers. A slow relist backs it up, and stands in for it
//! with runtimes that have no events. Pods that run without being known are ended here.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use keelson_cri::v1 as cri;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, sleep_until};

use super::runtime_status;
use super::spec::DEFAULT_GRACE_PERIOD;
use crate::kubelet::Kubelet;
use crate::labels;

/// How often everything is listed while events flow.
const SLOW_RELIST: Duration = Duration::from_secs(300);
/// How often everything is listed when the runtime has no events; upstream's generic PLEG.
const FAST_RELIST: Duration = Duration::from_secs(1);

/// IDs and states of all sandboxes and containers of a pod.
type Fingerprint = BTreeSet<(String, i32)>;

/// What the last relist saw, by pod UID.
#[derive(Default)]
pub(crate) struct Pleg {
    seen: Mutex<HashMap<String, Fingerprint>>,
    orphans: Mutex<BTreeSet<String>>,
}

/// Follows the runtime until shutdown.
pub(crate) async fn run(kubelet: Arc<Kubelet>) {
    loop {
        let subscription = kubelet
            .config
            .cri
            .runtime()
            .get_container_events(cri::GetEventsRequest {})
            .await;
        let period = match subscription {
            Ok(stream) => match follow(&kubelet, stream.into_inner()).await {
                Some(()) => FAST_RELIST,
                None => return,
            },
            Err(status) if status.code() == tonic::Code::Unimplemented => {
                tracing::info!("the runtime has no container events; listing it every second");
                return relist_forever(&kubelet).await;
            }
            Err(status) => {
                tracing::warn!(%status, "no container events; trying again");
                FAST_RELIST
            }
        };
        tokio::select! {
            () = kubelet.shutdown.cancelled() => return,
            () = sleep(period) => {}
        }
    }
}

async fn relist_forever(kubelet: &Arc<Kubelet>) {
    loop {
        relist_or_warn(kubelet).await;
        tokio::select! {
            () = kubelet.shutdown.cancelled() => return,
            () = sleep(FAST_RELIST) => {}
        }
    }
}

/// Handles events until the stream ends (`Some`) or shutdown (`None`).
async fn follow(
    kubelet: &Arc<Kubelet>,
    mut events: tonic::Streaming<cri::ContainerEventResponse>,
) -> Option<()> {
    // What happened before the subscription.
    relist_or_warn(kubelet).await;
    let mut next = Instant::now() + SLOW_RELIST;
    loop {
        tokio::select! {
            () = kubelet.shutdown.cancelled() => return None,
            () = sleep_until(next) => {
                relist_or_warn(kubelet).await;
                next = Instant::now() + SLOW_RELIST;
            }
            event = events.message() => match event {
                Ok(Some(event)) => handle(kubelet, event).await,
                Ok(None) => return Some(()),
                Err(status) => {
                    tracing::warn!(%status, "container events ended; subscribing again");
                    return Some(());
                }
            }
        }
    }
}

async fn handle(kubelet: &Arc<Kubelet>, event: cri::ContainerEventResponse) {
    let from_sandbox = event
        .pod_sandbox_status
        .and_then(|status| status.metadata)
        .map(|metadata| metadata.uid);
    let from_container = || {
        event
            .containers_statuses
            .iter()
            .find_map(|status| status.labels.get(labels::POD_UID))
            .cloned()
    };
    match from_sandbox.or_else(from_container) {
        Some(uid) => {
            kubelet.pods.wake(&uid);
        }
        // A deleted sandbox has no status any more; whose it was, only a list can tell.
        None => relist_or_warn(kubelet).await,
    }
}

async fn relist_or_warn(kubelet: &Arc<Kubelet>) {
    if let Err(status) = relist(kubelet).await {
        tracing::warn!(%status, "cannot list the runtime's containers");
    }
}

/// Every pod in the runtime, by UID.
pub(crate) async fn snapshot(kubelet: &Kubelet) -> Result<HashMap<String, Fingerprint>, tonic::Status> {
    let runtime = &kubelet.config.cri;
    let sandboxes = runtime
        .runtime()
        .list_pod_sandbox(cri::ListPodSandboxRequest { filter: None })
        .await?
        .into_inner();
    let containers = runtime
        .runtime()
        .list_containers(cri::ListContainersRequest { filter: None })
        .await?
        .into_inner();
    let mut pods: HashMap<String, Fingerprint> = HashMap::new();
    for sandbox in sandboxes.items {
        if let Some(uid) = sandbox.labels.get(labels::POD_UID) {
            pods.entry(uid.clone())
                .or_default()
                .insert((sandbox.id, sandbox.state));
        }
    }
    for container in containers.containers {
        if let Some(uid) = container.labels.get(labels::POD_UID) {
            pods.entry(uid.clone())
                .or_default()
                .insert((container.id, container.state));
        }
    }
    Ok(pods)
}

/// Lists the runtime, wakes the pods that changed and ends those that nobody knows.
pub(crate) async fn relist(kubelet: &Arc<Kubelet>) -> Result<(), tonic::Status> {
    let now = snapshot(kubelet).await?;
    let before = std::mem::replace(&mut *kubelet.pleg.seen.lock(), now.clone());
    for (uid, fingerprint) in &now {
        if before.get(uid) != Some(fingerprint) {
            kubelet.pods.wake(uid);
        }
        if kubelet.sources_ready() && kubelet.pods.get(uid).is_none() {
            end_orphan(kubelet, uid);
        }
    }
    for uid in before.keys().filter(|uid| !now.contains_key(*uid)) {
        kubelet.pods.wake(uid);
    }
    Ok(())
}

/// Whether the last list showed the pod.
pub(crate) fn was_seen(kubelet: &Kubelet, uid: &str) -> bool {
    kubelet.pleg.seen.lock().contains_key(uid)
}

fn end_orphan(kubelet: &Arc<Kubelet>, uid: &str) {
    if !kubelet.pleg.orphans.lock().insert(uid.to_owned()) {
        return;
    }
    let (kubelet_, uid) = (kubelet.clone(), uid.to_owned());
    kubelet.tracker.spawn(async move {
        tracing::info!(uid, "ending a pod that is not known any more");
        let ended = tokio::select! {
            () = kubelet_.shutdown.cancelled() => Ok(()),
            ended = remove_orphan(&kubelet_, &uid) => ended,
        };
        if let Err(status) = ended {
            tracing::warn!(uid, %status, "orphaned pod not ended; trying again at the next list");
        }
        kubelet_.pleg.orphans.lock().remove(&uid);
    });
}

async fn remove_orphan(kubelet: &Kubelet, uid: &str) -> Result<(), tonic::Status> {
    let runtime = &kubelet.config.cri;
    let pod = runtime_status::read(runtime, uid).await?;
    for container in pod.running() {
        let timeout = container.grace_period.unwrap_or(DEFAULT_GRACE_PERIOD);
        let request = cri::StopContainerRequest {
            container_id: container.id.clone(),
            timeout,
        };
        runtime.runtime().stop_container(request).await?;
    }
    crate::container::gc::remove_all(runtime, &pod).await?;
    if let Err(error) = kubelet.volumes.unmount(kubelet, uid).await {
        tracing::warn!(uid, %error, "volumes of an orphaned pod not removed");
        return Ok(());
    }
    if let Err(error) = kubelet.cgroups.remove_orphan(uid) {
        tracing::warn!(uid, %error, "group of an orphaned pod not removed");
    }
    for dir in [
        kubelet.config.pod_log_dir(&pod.namespace, &pod.name, uid),
        kubelet.config.pod_dir(uid),
    ] {
        if let Err(error) = tokio::fs::remove_dir_all(&dir).await
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %dir.display(), %error, "directory of an orphaned pod not removed");
        }
    }
    Ok(())
}
