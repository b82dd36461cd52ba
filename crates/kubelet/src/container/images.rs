//! Images: whether to pull, with which credentials, how many at once, and backing off after failures.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::jiff::Timestamp;
use keelson_client::EventType;
use keelson_cri::v1 as cri;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::security::ImageUser;
use super::start::StartFailure;
use super::{credentials, rpc_error};
use crate::config::KubeletConfig;
use crate::kubelet::Kubelet;
use crate::pod::backoff::Backoff;
use crate::pod::spec;

/// An image that is there.
pub(crate) struct PresentImage {
    /// What the runtime calls it.
    pub(crate) reference: String,
    pub(crate) user: ImageUser,
}

/// Pulls of this node.
pub(crate) struct ImageManager {
    slots: Option<Semaphore>,
    backoff: Mutex<(Backoff, std::collections::HashMap<String, String>)>,
}

impl ImageManager {
    pub(crate) fn new(config: &KubeletConfig) -> Self {
        let slots = if config.serialize_image_pulls {
            Some(1)
        } else {
            config.max_parallel_image_pulls
        };
        Self {
            slots: slots.map(Semaphore::new),
            backoff: Mutex::default(),
        }
    }
}

/// The pull policy; where the API server has not set one, by the tag.
fn policy(container: &Container) -> &str {
    let image = container.image.as_deref().unwrap_or_default();
    match container
        .image_pull_policy
        .as_deref()
        .filter(|policy| !policy.is_empty())
    {
        Some(policy) => policy,
        None if with_tag(image).ends_with(":latest") => "Always",
        None => "IfNotPresent",
    }
}

/// The name with `:latest` where it has neither tag nor digest.
fn with_tag(image: &str) -> String {
    let name = image.rsplit('/').next().unwrap_or(image);
    if name.contains([':', '@']) {
        image.to_owned()
    } else {
        format!("{image}:latest")
    }
}

async fn status(kubelet: &Kubelet, image: &str) -> Result<Option<cri::Image>, tonic::Status> {
    let spec = cri::ImageSpec {
        image: image.to_owned(),
        ..cri::ImageSpec::default()
    };
    let request = cri::ImageStatusRequest {
        image: Some(spec),
        verbose: false,
    };
    Ok(kubelet
        .config
        .cri
        .image()
        .image_status(request)
        .await?
        .into_inner()
        .image)
}

fn present(image: cri::Image) -> PresentImage {
    PresentImage {
        reference: image.id,
        user: ImageUser {
            uid: image.uid.map(|uid| uid.value),
            username: image.username,
        },
    }
}

/// Makes sure that the container's image is on the node, as its pull policy says.
pub(crate) async fn ensure(
    kubelet: &Kubelet,
    pod: &Pod,
    container: &Container,
    sandbox: &cri::PodSandboxConfig,
) -> Result<PresentImage, StartFailure> {
    let shown = container.image.clone().unwrap_or_default();
    ensure_named(kubelet, pod, &container.name, &shown, policy(container), sandbox).await
}

/// [`ensure`] for any image of a pod, e.g. one that is a volume.
pub(crate) async fn ensure_named(
    kubelet: &Kubelet,
    pod: &Pod,
    name: &str,
    shown: &str,
    policy: &str,
    sandbox: &cri::PodSandboxConfig,
) -> Result<PresentImage, StartFailure> {
    let event = |kind, reason: &str, text: String| kubelet.container_event(pod, name, kind, reason, text);
    if shown.is_empty() || shown.chars().any(|c| c.is_whitespace() || c.is_control()) {
        let message = format!(
            "Failed to apply default image tag {shown:?}: couldn't parse image name {shown:?}: invalid reference format"
        );
        event(EventType::Warning, "InspectFailed", message.clone());
        return Err(StartFailure::new("InvalidImageName", message));
    }
    let image = with_tag(shown);
    let known = status(kubelet, &image).await.map_err(|status| {
        let message = format!("Failed to inspect image {image:?}: {}", rpc_error(&status));
        event(EventType::Warning, "InspectFailed", message.clone());
        StartFailure::new("ImageInspectError", message)
    })?;
    match (known, policy) {
        (Some(found), "IfNotPresent" | "Never") => {
            let text = format!(
                "Container image {shown:?} already present on machine and can be accessed by the pod"
            );
            event(EventType::Normal, "Pulled", text);
            return Ok(present(found));
        }
        (None, "Never") => {
            let text = format!("Container image {shown:?} is not present with pull policy of Never");
            event(EventType::Warning, "ErrImageNeverPull", text.clone());
            return Err(StartFailure::new("ErrImageNeverPull", text));
        }
        _ => {}
    }
    let key = format!("{}_{image}", spec::uid(pod));
    if let Some((message, left)) = backing_off(kubelet, &key, shown) {
        event(
            EventType::Normal,
            "BackOff",
            format!("Back-off pulling image {shown:?}"),
        );
        return Err(StartFailure {
            retry: Some(left),
            ..StartFailure::new("ImagePullBackOff", message)
        });
    }
    event(EventType::Normal, "Pulling", format!("Pulling image {shown:?}"));
    match pull(kubelet, pod, &image, sandbox).await {
        Ok(Pulled { image, took, waited }) => {
            let text = format!(
                "Successfully pulled image {shown:?} in {} ({} including waiting). Image size: {} bytes.",
                shown_duration(took),
                shown_duration(waited),
                image.size
            );
            event(EventType::Normal, "Pulled", text);
            kubelet.images.backoff.lock().0.reset(&key);
            Ok(present(image))
        }
        Err(message) => {
            event(
                EventType::Warning,
                "Failed",
                format!("Failed to pull image {shown:?}: {message}"),
            );
            let now = Timestamp::now();
            let left = {
                let mut guard = kubelet.images.backoff.lock();
                guard.0.next(&key, now, now);
                guard.1.insert(key.clone(), message.clone());
                guard.0.remaining_since_update(&key, now).map(|(_, left)| left)
            };
            // The next attempt reports the back-off, the one after it pulls again.
            let soon = left.map(|left| left.min(Duration::from_millis(500)));
            Err(StartFailure {
                retry: soon,
                ..StartFailure::new("ErrImagePull", message)
            })
        }
    }
}

fn backing_off(kubelet: &Kubelet, key: &str, shown: &str) -> Option<(String, Duration)> {
    let guard = kubelet.images.backoff.lock();
    let (_, left) = guard.0.remaining_since_update(key, Timestamp::now())?;
    let last = guard
        .1
        .get(key)
        .map(|error| format!(": ErrImagePull: {error}"))
        .unwrap_or_default();
    Some((format!("Back-off pulling image {shown:?}{last}"), left))
}

struct Pulled {
    image: cri::Image,
    took: Duration,
    waited: Duration,
}

async fn pull(
    kubelet: &Kubelet,
    pod: &Pod,
    image: &str,
    sandbox: &cri::PodSandboxConfig,
) -> Result<Pulled, String> {
    let queued = Instant::now();
    let _slot = match &kubelet.images.slots {
        Some(slots) => Some(slots.acquire().await.map_err(|error| error.to_string())?),
        None => None,
    };
    let began = Instant::now();
    let mut secrets = Vec::new();
    for reference in spec::spec(pod)
        .image_pull_secrets
        .iter()
        .flatten()
        .filter(|reference| !reference.name.is_empty())
    {
        match kubelet
            .objects
            .secret(spec::uid(pod), spec::namespace(pod), &reference.name)
            .await
        {
            Ok(secret) => secrets.push(secret),
            Err(error) => {
                let text = format!(
                    "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                    reference.name
                );
                tracing::warn!(secret = reference.name, %error, "image pull secret not available");
                kubelet.pod_event(pod, EventType::Warning, "FailedToRetrieveImagePullSecret", text);
            }
        }
    }
    let candidates = credentials::for_image(image, secrets.iter().map(AsRef::as_ref));
    let attempts: Vec<Option<cri::AuthConfig>> = if candidates.is_empty() {
        vec![None]
    } else {
        candidates.into_iter().map(Some).collect()
    };
    let mut last = String::new();
    for auth in attempts {
        let spec = cri::ImageSpec {
            image: image.to_owned(),
            ..cri::ImageSpec::default()
        };
        let request = cri::PullImageRequest {
            image: Some(spec),
            auth,
            sandbox_config: Some(sandbox.clone()),
        };
        match kubelet.config.cri.image().pull_image(request).await {
            Ok(response) => {
                let reference = response.into_inner().image_ref;
                let found = match status(kubelet, image).await {
                    Ok(Some(found)) => found,
                    _ => cri::Image {
                        id: reference,
                        ..cri::Image::default()
                    },
                };
                return Ok(Pulled {
                    image: found,
                    took: began.elapsed(),
                    waited: queued.elapsed(),
                });
            }
            Err(status) => last = rpc_error(&status),
        }
    }
    Err(last)
}

/// As Go prints a duration that is rounded to milliseconds.
fn shown_duration(duration: Duration) -> String {
    if duration < Duration::from_secs(1) {
        return format!("{}ms", duration.as_millis());
    }
    let seconds = format!("{:.3}", duration.as_secs_f64() % 60.0);
    let seconds = seconds.trim_end_matches('0').trim_end_matches('.');
    match duration.as_secs() / 60 {
        0 => format!("{seconds}s"),
        minutes => format!("{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tags_and_policies() {
        for (image, tagged, expected) in [
            ("nginx", "nginx:latest", "Always"),
            ("nginx:1", "nginx:1", "IfNotPresent"),
            ("r:5000/nginx", "r:5000/nginx:latest", "Always"),
            ("r:5000/nginx@sha256:00", "r:5000/nginx@sha256:00", "IfNotPresent"),
        ] {
            assert_eq!(with_tag(image), tagged);
            let container = Container {
                image: Some(image.into()),
                ..Container::default()
            };
            assert_eq!(policy(&container), expected, "{image}");
        }
        for (millis, expected) in [
            (15, "15ms"),
            (1500, "1.5s"),
            (60_000, "1m0s"),
            (61_234, "1m1.234s"),
        ] {
            assert_eq!(shown_duration(Duration::from_millis(millis)), expected);
        }
    }
}
