//! Static pods: manifests in a directory of this node, followed by inotify, and shown in the API as mirror pods.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::StreamExt;
use inotify::{Inotify, WatchMask};
use k8s_openapi::api::core::v1::{Node, Pod, PodStatus, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::jiff::Timestamp;
use keelson_api::gvk::GroupVersionKind;
use kube::Api;
use kube::api::{DeleteParams, PostParams, Preconditions};
use sha2::{Digest, Sha256};

use super::manager;
use super::spec;
use crate::kubelet::Kubelet;
use crate::labels;

/// A manifest that is no pod.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot read manifest {}", .0.display())]
    Read(PathBuf, #[source] std::io::Error),
    #[error("manifest {} is not a valid Pod", .0.display())]
    Parse(PathBuf, #[source] serde_yaml_ng::Error),
    #[error("manifest {} is not a valid Pod: {reason}", path.display())]
    Invalid { path: PathBuf, reason: String },
    #[error("manifest {} is a {kind:?}, not a Pod of v1 with a name and containers", path.display())]
    NotAPod { path: PathBuf, kind: String },
}

/// Follows the manifest directory until shutdown.
pub(crate) async fn run(kubelet: Arc<Kubelet>, dir: PathBuf) {
    let mut known: HashMap<PathBuf, Arc<Pod>> = HashMap::new();
    let watch = || -> std::io::Result<_> {
        std::fs::create_dir_all(&dir)?;
        let inotify = Inotify::init()?;
        let mask = WatchMask::CLOSE_WRITE
            | WatchMask::MOVED_TO
            | WatchMask::MOVED_FROM
            | WatchMask::DELETE
            | WatchMask::ONLYDIR;
        inotify.watches().add(&dir, mask)?;
        inotify.into_event_stream(vec![0; 4096])
    };
    let mut events = match watch() {
        Ok(events) => events,
        Err(error) => {
            tracing::error!(path = %dir.display(), %error, "static pods are not followed: the directory cannot be watched");
            return;
        }
    };
    loop {
        sync(&kubelet, &dir, &mut known);
        tokio::select! {
            () = kubelet.shutdown.cancelled() => return,
            event = events.next() => if event.is_none() { return },
        }
    }
}

/// Brings the pods of the directory to the manager; a manifest that is broken keeps the pod that it had.
fn sync(kubelet: &Arc<Kubelet>, dir: &Path, known: &mut HashMap<PathBuf, Arc<Pod>>) {
    let mut present = HashMap::new();
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) => {
            tracing::error!(path = %dir.display(), %error, "cannot list static pods");
            return;
        }
    };
    for path in entries.filter_map(Result::ok).map(|entry| entry.path()) {
        let hidden = path
            .file_name()
            .is_none_or(|name| name.to_string_lossy().starts_with('.'));
        if hidden || !path.is_file() {
            continue;
        }
        match read(&path, &kubelet.config.node_name) {
            Ok(pod) => {
                present.insert(path, Arc::new(pod));
            }
            Err(error) => {
                tracing::error!(%error, cause = std::error::Error::source(&error).map(ToString::to_string), "static pod ignored");
                if let Some(before) = known.get(&path) {
                    present.insert(path, before.clone());
                }
            }
        }
    }
    for (path, before) in known.iter() {
        let same = present
            .get(path)
            .is_some_and(|pod| spec::uid(pod) == spec::uid(before));
        if !same && let Some(handle) = kubelet.pods.get(spec::uid(before)) {
            handle.remove();
        }
    }
    for (path, pod) in &present {
        let new = known
            .get(path)
            .is_none_or(|before| spec::uid(before) != spec::uid(pod));
        if new {
            manager::add_or_update(kubelet, pod.clone());
        }
    }
    *known = present;
}

/// What the API server would fill in.
fn with_defaults(pod: &mut serde_json::Value) -> Result<(), keelson_api::normalize::TypeError> {
    let kind = GroupVersionKind {
        group: "".into(),
        version: "v1".into(),
        kind: "Pod".into(),
    };
    if let Some(schema) = keelson_api::schema::registry().by_gvk(&kind.group, &kind.version, &kind.kind) {
        keelson_api::normalize::normalize(schema, pod)?;
    }
    keelson_api::defaults::apply(&kind, pod);
    Ok(())
}

/// The pod of a manifest, with the name, UID and annotations of a static pod on `node`.
pub(crate) fn read(path: &Path, node: &str) -> Result<Pod, Error> {
    let text = std::fs::read(path).map_err(|source| Error::Read(path.to_path_buf(), source))?;
    let mut value: serde_json::Value =
        serde_yaml_ng::from_slice(&text).map_err(|source| Error::Parse(path.to_path_buf(), source))?;
    let kind = value
        .get("kind")
        .and_then(serde_json::Value::as_str)
        .unwrap_or_default()
        .to_owned();
    if kind != "Pod" {
        return Err(Error::NotAPod {
            path: path.to_path_buf(),
            kind,
        });
    }
    let invalid = |reason: String| Error::Invalid {
        path: path.to_path_buf(),
        reason,
    };
    with_defaults(&mut value).map_err(|error| invalid(error.to_string()))?;
    let mut pod: Pod = serde_json::from_value(value).map_err(|error| invalid(error.to_string()))?;
    let named = pod.metadata.name.as_deref().is_some_and(|name| !name.is_empty());
    let Some(spec) = pod
        .spec
        .as_mut()
        .filter(|spec| named && !spec.containers.is_empty())
    else {
        return Err(Error::NotAPod {
            path: path.to_path_buf(),
            kind,
        });
    };
    let mut hasher = Sha256::new();
    hasher.update(node.as_bytes());
    hasher.update(path.as_os_str().as_encoded_bytes());
    hasher.update(&text);
    let hash = hex::encode(&hasher.finalize()[..16]);

    spec.node_name = Some(node.to_owned());
    let tolerations = spec.tolerations.get_or_insert_default();
    tolerations.push(Toleration {
        operator: Some("Exists".into()),
        effect: Some("NoExecute".into()),
        ..Toleration::default()
    });
    let meta = &mut pod.metadata;
    meta.name = meta.name.take().map(|name| format!("{name}-{node}"));
    meta.namespace.get_or_insert_with(|| "default".into());
    meta.uid.get_or_insert_with(|| hash.clone());
    let annotations = meta.annotations.get_or_insert_default();
    annotations.insert(labels::CONFIG_SOURCE.into(), "file".into());
    annotations.insert(labels::CONFIG_SEEN.into(), Timestamp::now().to_string());
    annotations.insert(labels::CONFIG_HASH.into(), hash);
    pod.status = Some(PodStatus {
        phase: Some("Pending".into()),
        ..PodStatus::default()
    });
    Ok(pod)
}

/// Makes the mirror pod of a static pod, replacing one of an older manifest. Failures are logged: the pod runs without.
pub(crate) async fn ensure_mirror(kubelet: &Kubelet, pod: &Pod) {
    let Some(node) = kubelet.node() else { return };
    let api = Api::<Pod>::namespaced(kubelet.client.clone(), spec::namespace(pod));
    let hash = spec::annotation(pod, labels::CONFIG_HASH).unwrap_or_default();
    let key = keelson_client::NamespacedName::of(pod);
    if let Some(known) = kubelet.api_pods.get(&key) {
        if spec::annotation(&known, labels::CONFIG_MIRROR) == Some(hash)
            && spec::deletion_timestamp(&known).is_none()
        {
            return;
        }
        let parameters = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: known.metadata.uid.clone().map(|uid| Preconditions {
                uid: Some(uid),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        if let Err(error) = api.delete(spec::name(pod), &parameters).await {
            tracing::debug!(%error, "outdated mirror pod not deleted");
        }
    }
    match api.create(&PostParams::default(), &mirror(pod, &node)).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        Err(error) => tracing::warn!(pod = %spec::format(pod), %error, "mirror pod not created"),
    }
}

/// Deletes the mirror pod of a static pod that is gone, unless it mirrors another manifest by now.
pub(crate) async fn delete_mirror(kubelet: &Kubelet, pod: &Pod) -> Result<(), kube::Error> {
    let key = keelson_client::NamespacedName::of(pod);
    let Some(known) = kubelet.api_pods.get(&key) else {
        return Ok(());
    };
    if spec::annotation(&known, labels::CONFIG_MIRROR) != spec::annotation(pod, labels::CONFIG_HASH) {
        return Ok(());
    }
    let api = Api::<Pod>::namespaced(kubelet.client.clone(), spec::namespace(pod));
    let parameters = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: known.metadata.uid.clone().map(|uid| Preconditions {
            uid: Some(uid),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    match api.delete(spec::name(pod), &parameters).await {
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        result => result.map(|_| ()),
    }
}

fn mirror(pod: &Pod, node: &Node) -> Pod {
    let mut mirror = pod.clone();
    mirror.status = None;
    mirror.metadata.uid = None;
    let annotations = mirror.metadata.annotations.get_or_insert_default();
    if let Some(hash) = annotations.get(labels::CONFIG_HASH).cloned() {
        annotations.insert(labels::CONFIG_MIRROR.into(), hash);
    }
    mirror.metadata.owner_references = Some(vec![OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: node.metadata.name.clone().unwrap_or_default(),
        uid: node.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: None,
    }]);
    mirror
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_becomes_a_pod_of_this_node() {
        let dir = std::env::temp_dir().join(format!("keelson-static-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("web.yaml");
        std::fs::write(
            &path,
            "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: c, image: i}]}\n",
        )
        .unwrap();
        let pod = read(&path, "n1").unwrap();
        assert_eq!((spec::name(&pod), spec::namespace(&pod)), ("web-n1", "default"));
        assert!(spec::is_static(&pod) && !spec::is_mirror(&pod));
        assert_eq!(spec::annotation(&pod, labels::CONFIG_HASH), Some(spec::uid(&pod)));
        let filled = spec::spec(&pod);
        assert_eq!(
            (filled.restart_policy.as_deref(), filled.dns_policy.as_deref()),
            (Some("Always"), Some("ClusterFirst"))
        );
        assert_eq!(filled.containers[0].image_pull_policy.as_deref(), Some("Always"));
        assert_eq!(filled.termination_grace_period_seconds, Some(30));
        let uid = spec::uid(&pod).to_owned();
        std::fs::write(
            &path,
            "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: c, image: j}]}\n",
        )
        .unwrap();
        assert_ne!(
            spec::uid(&read(&path, "n1").unwrap()),
            uid,
            "another manifest is another pod"
        );
        std::fs::write(&path, "apiVersion: v1\nkind: Service\nmetadata: {name: web}\n").unwrap();
        assert!(
            matches!(read(&path, "n1"), Err(Error::NotAPod { .. })),
            "{:?}",
            read(&path, "n1")
        );
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
