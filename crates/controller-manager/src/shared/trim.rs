//! What caches do not keep of the kinds that are many: fields that no controller reads. No controller writes an object of
//! these kinds back as a whole; they are changed by patches.

use std::any::Any;

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Node, Pod, PodSpec};

/// Written by `kubectl apply`; as large as the rest of the object.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Takes out of an object of any kind what is not kept of it.
pub(crate) fn trim<K: Any>(object: &mut K) {
    let object: &mut dyn Any = object;
    if let Some(pod) = object.downcast_mut::<Pod>() {
        trim_pod(pod);
    } else if let Some(node) = object.downcast_mut::<Node>()
        && let Some(status) = &mut node.status
    {
        status.images = None;
    }
}

fn trim_pod(pod: &mut Pod) {
    if let Some(annotations) = &mut pod.metadata.annotations {
        annotations.remove(LAST_APPLIED);
    }
    if let Some(spec) = &mut pod.spec {
        trim_spec(spec);
    }
    if let Some(status) = &mut pod.status {
        for statuses in [
            &mut status.container_statuses,
            &mut status.init_container_statuses,
            &mut status.ephemeral_container_statuses,
        ] {
            statuses.iter_mut().flatten().for_each(trim_status);
        }
    }
}

fn trim_spec(spec: &mut PodSpec) {
    spec.ephemeral_containers = None;
    spec.security_context = None;
    spec.image_pull_secrets = None;
    spec.host_aliases = None;
    spec.dns_config = None;
    spec.topology_spread_constraints = None;
    if let Some(volumes) = &mut spec.volumes {
        volumes.retain(|volume| volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some());
        volumes.shrink_to_fit();
    }
    let init = spec.init_containers.iter_mut().flatten();
    spec.containers.iter_mut().chain(init).for_each(trim_container);
}

/// Name, ports, resources and restart policy stay.
fn trim_container(container: &mut Container) {
    *container = Container {
        name: std::mem::take(&mut container.name),
        ports: container.ports.take(),
        resources: container.resources.take(),
        restart_policy: container.restart_policy.take(),
        ..Container::default()
    };
}

fn trim_status(status: &mut ContainerStatus) {
    status.image = String::new();
    status.image_id = String::new();
    status.container_id = None;
    status.volume_mounts = None;
    status.user = None;
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn what_controllers_read_stays() {
        let probe = json!({"httpGet": {"port": 80}});
        let container = json!({"name": "c", "image": "i", "env": [{"name": "A", "value": "b"}], "readinessProbe": probe,
            "ports": [{"containerPort": 80, "name": "http"}], "resources": {"requests": {"cpu": "1"}}});
        let volumes = json!([{"name": "t", "emptyDir": {}}, {"name": "d", "persistentVolumeClaim": {"claimName": "x"}}]);
        let status = json!({"name": "c", "image": "i", "imageID": "id", "ready": true, "restartCount": 2});
        let mut pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "annotations": {LAST_APPLIED: "{}", "a": "b"}},
            "spec": {"nodeName": "n", "containers": [container], "volumes": volumes, "tolerations": [{"operator": "Exists"}]},
            "status": {"phase": "Running", "containerStatuses": [status]}
        }))
        .unwrap();
        trim(&mut pod);
        let pod: Value = serde_json::to_value(pod).unwrap();
        assert_eq!(pod["metadata"]["annotations"], json!({"a": "b"}));
        let spec = &pod["spec"];
        assert_eq!(
            spec["containers"],
            json!([{"name": "c", "ports": [{"containerPort": 80, "name": "http"}], "resources": {"requests": {"cpu": "1"}}}])
        );
        assert_eq!(
            spec["volumes"],
            json!([{"name": "d", "persistentVolumeClaim": {"claimName": "x"}}])
        );
        assert_eq!(spec["tolerations"], json!([{"operator": "Exists"}]));
        assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 2);

        let mut other = k8s_openapi::api::core::v1::ConfigMap::default();
        trim(&mut other);
        assert_eq!(other, k8s_openapi::api::core::v1::ConfigMap::default());
    }
}
