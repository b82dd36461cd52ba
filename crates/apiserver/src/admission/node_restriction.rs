//! NodeRestriction: a kubelet changes its own node, the pods on it, and nothing else.

use std::collections::BTreeSet;

use async_trait::async_trait;
use keelson_api::gvk::GroupResource;
use keelson_api::status::Status;
use serde_json::{Map, Value};

use super::object::{MIRROR_POD, forbidden, list, map, present, text};
use super::service_account::{containers, secrets_of};
use super::{Attributes, Operation, ValidatingPlugin};
use crate::authorization::node_of;
use crate::registry::status_of;
use crate::resources::{Reader, Resources};

/// Labels that a kubelet may set on its node, besides `*.kubelet.kubernetes.io/*` and `*.node.kubernetes.io/*`.
const KUBELET_LABELS: [&str; 14] = [
    "kubernetes.io/hostname",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "failure-domain.kubernetes.io/zone",
    "failure-domain.kubernetes.io/region",
    "kubernetes.io/instance-type",
];

/// See the module.
pub(super) struct NodeRestriction {
    pods: Reader,
    nodes: Reader,
}

impl NodeRestriction {
    pub(super) fn new(resources: &Resources) -> Self {
        Self {
            pods: resources.resource("", "pods"),
            nodes: resources.resource("", "nodes"),
        }
    }

    async fn pod(&self, namespace: &str, name: &str) -> Result<Value, Status> {
        let pod = self
            .pods
            .get_latest(namespace, name)
            .await
            .map_err(|e| status_of(&e))?;
        pod.map(|pod| pod.parse())
            .ok_or_else(|| Status::not_found(&GroupResource::new("", "pods"), name))
    }

    async fn check(
        &self,
        node: &str,
        a: &Attributes<'_>,
        object: Option<&Value>,
    ) -> Result<Result<(), String>, Status> {
        let nothing = Value::Null;
        let new = object.unwrap_or(&nothing);
        let old = a.old_object.unwrap_or(&nothing);
        let group: &str = &a.resource.group;
        Ok(match (group, &*a.resource.resource, a.subresource) {
            ("", "pods", "") => match a.operation {
                Operation::Create => {
                    let uid = self
                        .nodes
                        .get("", node)
                        .map(|n| text(&n.parse(), "/metadata/uid").to_owned());
                    create_pod(node, uid.as_deref(), new)
                }
                Operation::Delete if text(old, "/spec/nodeName") == node => Ok(()),
                Operation::Delete => Err(format!(
                    "node {node:?} can only delete pods with spec.nodeName set to itself"
                )),
                other => Err(format!(
                    "unexpected operation {:?}, node {node:?} can only create and delete mirror pods",
                    other.as_str()
                )),
            },
            ("", "pods", "status") => pod_status(node, new, old),
            ("", "pods", "eviction") => {
                let name = if a.name.is_empty() {
                    text(new, "/metadata/name")
                } else {
                    a.name
                };
                let pod = self.pod(a.namespace, name).await?;
                (text(&pod, "/spec/nodeName") == node)
                    .then_some(())
                    .ok_or_else(|| {
                        format!("node {node} can only evict pods with spec.nodeName set to itself")
                    })
            }
            ("", "pods", other) => Err(format!(
                "unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed"
            )),
            ("", "nodes", _) => change_node(node, a, new, old),
            ("", "persistentvolumeclaims", "status") => claim_status(node, new, old),
            ("", "persistentvolumeclaims", _) => Err("may only update PVC status".to_owned()),
            ("", "serviceaccounts", "token") if a.operation == Operation::Create => {
                let reference = &new["spec"]["boundObjectRef"];
                let field = |f: &str| text(reference, f);
                if field("/apiVersion") != "v1" || field("/kind") != "Pod" || field("/name").is_empty() {
                    return Ok(Err("node requested token not bound to a pod".to_owned()));
                }
                let uid = field("/uid");
                if uid.is_empty() {
                    return Ok(Err(
                        "node requested token with a pod binding without a uid".to_owned()
                    ));
                }
                let pod = self.pod(a.namespace, field("/name")).await?;
                if text(&pod, "/metadata/uid") != uid {
                    Err(format!(
                        "the UID in the bound object reference ({uid}) does not match the UID in record. The object might \
                         have been deleted and then recreated"
                    ))
                } else if text(&pod, "/spec/nodeName") != node {
                    Err("node requested token bound to a pod scheduled on a different node".to_owned())
                } else {
                    Ok(())
                }
            }
            ("coordination.k8s.io", "leases", _) => lease(node, a, new),
            ("storage.k8s.io", "csinodes", _) => csi_node(node, a, new),
            ("resource.k8s.io", "resourceslices", _) => {
                let slice = if a.operation == Operation::Delete {
                    old
                } else {
                    new
                };
                let own = text(slice, "/spec/nodeName");
                (own == node).then_some(()).ok_or_else(|| {
                    if own.is_empty() {
                        "can only create, update, or delete ResourceSlices with node name".to_owned()
                    } else {
                        format!("node {node:?} can only modify ResourceSlices with the same node name")
                    }
                })
            }
            _ => Ok(()),
        })
    }
}

fn create_pod(node: &str, node_uid: Option<&str>, pod: &Value) -> Result<(), String> {
    let says = |what: &str| Err(format!("node {node:?} {what}"));
    if pod.pointer(MIRROR_POD).is_none() {
        return Err(format!(
            "pod does not have \"kubernetes.io/config.mirror\" annotation, node {node:?} can only create mirror pods"
        ));
    }
    if text(pod, "/spec/nodeName") != node {
        return says("can only create pods with spec.nodeName set to itself");
    }
    let owner = match list(pod, "/metadata/ownerReferences") {
        [] => return says("can only create pods with an owner reference set to itself"),
        [owner] => owner,
        _ => return says("can only create pods with a single owner reference set to itself"),
    };
    if text(owner, "/apiVersion") != "v1" || text(owner, "/kind") != "Node" || text(owner, "/name") != node {
        return says("can only create pods with an owner reference set to itself");
    }
    if owner["controller"] != true {
        return says("can only create pods with a controller owner reference set to itself");
    }
    if owner["blockOwnerDeletion"] == true {
        return says("must not set blockOwnerDeletion on an owner reference");
    }
    match node_uid {
        None => {
            return Err(format!(
                "error looking up node {node} to verify uid: node {node:?} not found"
            ));
        }
        Some(uid) if uid != text(owner, "/uid") => {
            return Err(format!(
                "node {node} UID mismatch: expected {} got {uid}",
                text(owner, "/uid")
            ));
        }
        _ => {}
    }
    let volumes = list(pod, "/spec/volumes");
    let projects = |field: &str| {
        volumes.iter().any(|v| {
            list(v, "/projected/sources")
                .iter()
                .any(|source| present(source, field))
        })
    };
    if !text(pod, "/spec/serviceAccountName").is_empty() {
        return says("can not create pods that reference a service account");
    }
    if !secrets_of(pod).is_empty() {
        return says("can not create pods that reference secrets");
    }
    let from_map = |container: &Value| {
        list(container, "/env")
            .iter()
            .any(|e| present(e, "/valueFrom/configMapKeyRef"))
            || list(container, "/envFrom")
                .iter()
                .any(|e| present(e, "/configMapRef"))
    };
    if containers(pod).any(from_map)
        || volumes.iter().any(|v| present(v, "/configMap"))
        || projects("/configMap")
    {
        return says("can not create pods that reference configmaps");
    }
    if projects("/clusterTrustBundle") {
        return says("can not create pods that reference clustertrustbundles");
    }
    if volumes.iter().any(|v| present(v, "/persistentVolumeClaim")) {
        return says("can not create pods that reference persistentvolumeclaims");
    }
    if !list(pod, "/spec/resourceClaims").is_empty() {
        return says("can not create pods that reference resourceclaims");
    }
    Ok(())
}

fn pod_status(node: &str, new: &Value, old: &Value) -> Result<(), String> {
    if text(old, "/spec/nodeName") != node {
        return Err(format!(
            "node {node:?} can only update pod status for pods with spec.nodeName set to itself"
        ));
    }
    if !changed_keys(map(new, "/metadata/labels"), map(old, "/metadata/labels")).is_empty() {
        return Err(format!("node {node:?} cannot update labels through pod status"));
    }
    if list(new, "/status/resourceClaimStatuses") != list(old, "/status/resourceClaimStatuses") {
        return Err(format!("node {node:?} cannot update resource claim statues"));
    }
    Ok(())
}

fn change_node(node: &str, a: &Attributes<'_>, new: &Value, old: &Value) -> Result<(), String> {
    if a.name != node {
        return Err(format!(
            "node {node:?} is not allowed to modify node {:?}",
            a.name
        ));
    }
    let labels = |object| map(object, "/metadata/labels");
    match a.operation {
        Operation::Create => {
            let refused = refused_labels(&changed_keys(labels(new), None));
            if !refused.is_empty() {
                return Err(format!(
                    "node {node:?} is not allowed to set the following labels: {refused}"
                ));
            }
        }
        Operation::Update => {
            if list(new, "/spec/taints") != list(old, "/spec/taints") {
                return Err(format!("node {node:?} is not allowed to modify taints"));
            }
            let refused = refused_labels(&changed_keys(labels(new), labels(old)));
            if !refused.is_empty() {
                return Err(format!("is not allowed to modify labels: {refused}"));
            }
            if new.pointer("/metadata/ownerReferences") != old.pointer("/metadata/ownerReferences") {
                return Err(format!("node {node:?} is not allowed to modify ownerReferences"));
            }
        }
        _ => {}
    }
    Ok(())
}

fn changed_keys(a: Option<&Map<String, Value>>, b: Option<&Map<String, Value>>) -> BTreeSet<String> {
    let get = |m: Option<&Map<String, Value>>, key: &str| m.and_then(|m| m.get(key)).cloned();
    let keys = a.into_iter().chain(b).flat_map(|m| m.keys());
    keys.filter(|key| get(a, key) != get(b, key)).cloned().collect()
}

fn refused_labels(changed: &BTreeSet<String>) -> String {
    let within = |namespace: &str, domain: &str| {
        namespace == domain
            || namespace
                .strip_suffix(domain)
                .is_some_and(|rest| rest.ends_with('.'))
    };
    let refused = changed.iter().filter(|label| {
        let namespace = label
            .split_once('/')
            .map(|(namespace, _)| namespace)
            .unwrap_or_default();
        let restricted = within(namespace, "node-restriction.kubernetes.io");
        let system = within(namespace, "kubernetes.io") || within(namespace, "k8s.io");
        let kubelets = KUBELET_LABELS.contains(&label.as_str())
            || within(namespace, "kubelet.kubernetes.io")
            || within(namespace, "node.kubernetes.io");
        restricted || (system && !kubelets)
    });
    refused.map(String::as_str).collect::<Vec<_>>().join(", ")
}

fn claim_status(node: &str, new: &Value, old: &Value) -> Result<(), String> {
    let strip = |claim: &Value| {
        let mut claim = claim.clone();
        for field in ["resourceVersion", "managedFields"] {
            claim["metadata"][field] = Value::Null;
        }
        for field in [
            "capacity",
            "conditions",
            "allocatedResources",
            "allocatedResourceStatuses",
        ] {
            claim["status"][field] = Value::Null;
        }
        claim
    };
    if strip(new) != strip(old) {
        return Err(format!(
            "node {node:?} is not allowed to update fields other than status.quantity and status.conditions"
        ));
    }
    Ok(())
}

fn lease(node: &str, a: &Attributes<'_>, new: &Value) -> Result<(), String> {
    if a.namespace != "kube-node-lease" {
        return Err("can only access leases in the \"kube-node-lease\" system namespace".to_owned());
    }
    let name = if a.name.is_empty() {
        text(new, "/metadata/name")
    } else {
        a.name
    };
    (name == node)
        .then_some(())
        .ok_or_else(|| "can only access node lease with the same name as the requesting node".to_owned())
}

fn csi_node(node: &str, a: &Attributes<'_>, new: &Value) -> Result<(), String> {
    let name = if a.name.is_empty() {
        text(new, "/metadata/name")
    } else {
        a.name
    };
    (name == node)
        .then_some(())
        .ok_or_else(|| "can only access CSINode with the same name as the requesting node".to_owned())
}

#[async_trait]
impl ValidatingPlugin for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        attributes.operation != Operation::Connect && node_of(attributes.user).is_some()
    }

    async fn validate(&self, attributes: &Attributes<'_>, object: Option<&Value>) -> Result<(), Status> {
        let Some(node) = node_of(attributes.user) else {
            return Ok(());
        };
        if node.is_empty() {
            let why = format!("could not determine node from user {:?}", attributes.user.name);
            return Err(forbidden(attributes, object, why));
        }
        self.check(node, attributes, object)
            .await?
            .map_err(|why| forbidden(attributes, object, why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn labels() {
        let check = |label: &str, refused: bool| {
            let changed = BTreeSet::from([label.to_owned()]);
            assert_eq!(!refused_labels(&changed).is_empty(), refused, "{label}");
        };
        check("example.com/x", false);
        check("plain", false);
        check("kubernetes.io/hostname", false);
        check("x.node.kubernetes.io/y", false);
        check("node-role.kubernetes.io/control-plane", true);
        check("foo.node-restriction.kubernetes.io/x", true);
        check("something.k8s.io/x", true);
        check("notk8s.io/x", false);
    }

    #[test]
    fn mirror_pods() {
        let owner = json!({"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "u", "controller": true});
        let pod = json!({
            "metadata": {"annotations": {"kubernetes.io/config.mirror": "x"}, "ownerReferences": [owner]},
            "spec": {"nodeName": "n", "containers": [{"name": "c"}]},
        });
        assert_eq!(create_pod("n", Some("u"), &pod), Ok(()));
        assert!(
            create_pod("n", Some("v"), &pod)
                .unwrap_err()
                .contains("UID mismatch")
        );
        assert!(
            create_pod("m", Some("u"), &pod)
                .unwrap_err()
                .contains("spec.nodeName set to itself")
        );
        for (pointer, value, why) in [
            ("metadata", json!({}), "can only create mirror pods"),
            (
                "spec",
                json!({"nodeName": "n", "serviceAccountName": "s"}),
                "service account",
            ),
            (
                "spec",
                json!({"nodeName": "n", "volumes": [{"secret": {"secretName": "s"}}]}),
                "secrets",
            ),
            (
                "spec",
                json!({"nodeName": "n", "volumes": [{"configMap": {"name": "s"}}]}),
                "configmaps",
            ),
            (
                "spec",
                json!({"nodeName": "n", "volumes": [{"persistentVolumeClaim": {}}]}),
                "persistentvolumeclaims",
            ),
        ] {
            let mut changed = pod.clone();
            changed[pointer] = value;
            let refused = create_pod("n", Some("u"), &changed).unwrap_err();
            assert!(refused.contains(why), "{refused}");
        }
    }
}
