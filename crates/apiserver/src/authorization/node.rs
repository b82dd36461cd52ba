//! The Node authorizer: a kubelet reads what the pods of its node refer to, and writes what is its own.

use async_trait::async_trait;
use parking_lot::Mutex;

use super::node_graph::{FollowingGraph, Vertex};
use super::{Authorizer, Decision, PolicyRule};
use crate::request_info::RequestInfo;
use crate::resources::Resources;
use crate::user::UserInfo;

/// Group of all nodes.
pub const NODES_GROUP: &str = "system:nodes";
const NODE_USER_PREFIX: &str = "system:node:";

/// The node that a user is: `system:node:<name>` in the group `system:nodes`.
pub fn node_of(user: &UserInfo) -> Option<&str> {
    let name = user.name.strip_prefix(NODE_USER_PREFIX)?;
    user.in_group(NODES_GROUP).then_some(name)
}

type Answer = Result<(), String>;

/// See the module.
pub struct NodeAuthorizer {
    graph: Mutex<FollowingGraph>,
    rules: Vec<PolicyRule>,
}

impl NodeAuthorizer {
    /// Follows pods, volumes, attachments and slices through `resources`.
    pub fn new(resources: &Resources) -> Self {
        Self {
            graph: Mutex::new(FollowingGraph::new(resources)),
            rules: crate::bootstrap::node_rules(),
        }
    }

    fn judge(&self, node: &str, request: &RequestInfo) -> Answer {
        let related = |vertex, request: &RequestInfo| -> Answer {
            if request.name.is_empty() {
                return Err("No Object name found".to_owned());
            }
            let reaches =
                self.graph
                    .lock()
                    .catch_up()
                    .reaches(vertex, &request.namespace, &request.name, node);
            reaches
                .then_some(())
                .ok_or_else(|| format!("no relationship found between node '{node}' and this object"))
        };
        if !request.is_resource {
            return self.by_rules(request);
        }
        let get = |vertex| match (request.verb.as_str(), request.subresource.as_str()) {
            ("get", "") => related(vertex, request),
            ("get", _) => refuse("cannot get subresource"),
            _ => refuse("can only get individual resources of this type"),
        };
        let read = |vertex| match (request.verb.as_str(), request.subresource.as_str()) {
            ("get" | "list" | "watch", "") if request.namespace.is_empty() => {
                refuse("can only read namespaced object of this type")
            }
            ("get" | "list" | "watch", "") => related(vertex, request),
            ("get" | "list" | "watch", _) => refuse("cannot read subresource"),
            _ => refuse("can only read resources of this type"),
        };
        match (request.api_group.as_str(), request.resource.as_str()) {
            ("", "secrets") => read(Vertex::Secret),
            ("", "configmaps") => read(Vertex::ConfigMap),
            ("", "persistentvolumeclaims") if request.subresource == "status" => {
                match request.verb.as_str() {
                    "update" | "patch" => related(Vertex::Claim, request),
                    _ => refuse("can only get/update/patch this type"),
                }
            }
            ("", "persistentvolumeclaims") => get(Vertex::Claim),
            ("", "persistentvolumes") => get(Vertex::Volume),
            ("resource.k8s.io", "resourceclaims") => get(Vertex::ResourceClaim),
            ("storage.k8s.io", "volumeattachments") => get(Vertex::VolumeAttachment),
            ("", "serviceaccounts") => {
                if request.verb != "create" || request.name.is_empty() {
                    return refuse("can only create tokens for individual service accounts");
                }
                if request.subresource != "token" {
                    return refuse("can only create token subresource of serviceaccount");
                }
                related(Vertex::ServiceAccount, request)
            }
            ("coordination.k8s.io", "leases") => lease(node, request),
            ("storage.k8s.io", "csinodes") => csi_node(node, request),
            ("resource.k8s.io", "resourceslices") => slice(node, request, related),
            ("", "nodes") => own_node(node, request),
            ("", "pods") => pods(node, request, get, related),
            _ => self.by_rules(request),
        }
    }

    fn by_rules(&self, request: &RequestInfo) -> Answer {
        self.rules
            .iter()
            .any(|rule| rule.allows(request))
            .then_some(())
            .ok_or_else(String::new)
    }
}

fn refuse(reason: &str) -> Answer {
    Err(reason.to_owned())
}

const WRITE_VERBS: [&str; 5] = ["get", "create", "update", "patch", "delete"];

fn lease(node: &str, request: &RequestInfo) -> Answer {
    if !WRITE_VERBS.contains(&request.verb.as_str()) {
        return refuse("can only get, create, update, patch, or delete a node lease");
    }
    if request.namespace != "kube-node-lease" {
        return refuse("can only access leases in the \"kube-node-lease\" system namespace");
    }
    // On create the name is in the body: NodeRestriction looks there.
    if request.verb != "create" && request.name != node {
        return refuse("can only access node lease with the same name as the requesting node");
    }
    Ok(())
}

fn csi_node(node: &str, request: &RequestInfo) -> Answer {
    if !WRITE_VERBS.contains(&request.verb.as_str()) {
        return refuse("can only get, create, update, patch, or delete a CSINode");
    }
    if !request.subresource.is_empty() {
        return refuse("cannot authorize CSINode subresources");
    }
    if request.verb != "create" && request.name != node {
        return refuse("can only access CSINode with the same name as the requesting node");
    }
    Ok(())
}

fn slice(node: &str, request: &RequestInfo, related: impl Fn(Vertex, &RequestInfo) -> Answer) -> Answer {
    if !request.subresource.is_empty() {
        return refuse("cannot authorize ResourceSlice subresources");
    }
    match request.verb.as_str() {
        "create" => Ok(()),
        "get" | "update" | "patch" | "delete" => related(Vertex::ResourceSlice, request),
        "watch" | "list" | "deletecollection"
            if ["spec.nodeName", "nodeName"]
                .iter()
                .any(|f| selects(&request.field_selector, f, node)) =>
        {
            Ok(())
        }
        "watch" | "list" | "deletecollection" => {
            refuse("can only list/watch/deletecollection resourceslices with nodeName field selector")
        }
        _ => refuse(
            "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, \
             deletecollection",
        ),
    }
}

fn own_node(node: &str, request: &RequestInfo) -> Answer {
    match (request.subresource.as_str(), request.verb.as_str()) {
        ("", "create" | "update" | "patch") | ("status", "update" | "patch") => Ok(()),
        ("", "get" | "list" | "watch") => match request.name.as_str() {
            name if name == node => Ok(()),
            "" => Err(format!(
                "node '{node}' cannot read all nodes, only its own Node object"
            )),
            name => Err(format!(
                "node '{node}' cannot read '{name}', only its own Node object"
            )),
        },
        _ => refuse(""),
    }
}

fn pods(
    node: &str,
    request: &RequestInfo,
    get: impl Fn(Vertex) -> Answer,
    related: impl Fn(Vertex, &RequestInfo) -> Answer,
) -> Answer {
    match (request.subresource.as_str(), request.verb.as_str()) {
        ("", "get") => get(Vertex::Pod),
        ("", "list" | "watch") if selects(&request.field_selector, "spec.nodeName", node) => Ok(()),
        ("", "list" | "watch") if !request.name.is_empty() => related(Vertex::Pod, request),
        ("", "list" | "watch") => refuse("can only list/watch pods with spec.nodeName field selector"),
        // Bounded to the node's own pods by NodeRestriction.
        ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => Ok(()),
        _ => refuse(""),
    }
}

/// Whether a field selector demands `field=value`.
fn selects(selector: &str, field: &str, value: &str) -> bool {
    selector.split(',').any(|term| {
        let Some(rest) = term.trim().strip_prefix(field) else {
            return false;
        };
        let Some(rest) = rest.strip_prefix("==").or_else(|| rest.strip_prefix('=')) else {
            return false;
        };
        rest == value
    })
}

#[async_trait]
impl Authorizer for NodeAuthorizer {
    async fn authorize(&self, user: &UserInfo, request: &RequestInfo) -> (Decision, String) {
        let Some(node) = node_of(user) else {
            return (Decision::NoOpinion, String::new());
        };
        if node.is_empty() {
            return (
                Decision::NoOpinion,
                format!("unknown node for user {:?}", user.name),
            );
        }
        match self.judge(node, request) {
            Ok(()) => (Decision::Allow, String::new()),
            Err(reason) => (Decision::NoOpinion, reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors() {
        for (selector, want) in [
            ("spec.nodeName=n1", true),
            ("status.phase!=Failed,spec.nodeName==n1", true),
            ("spec.nodeName!=n1", false),
            ("spec.nodeName=n11", false),
            ("", false),
        ] {
            assert_eq!(selects(selector, "spec.nodeName", "n1"), want, "{selector}");
        }
    }

    #[test]
    fn who_is_a_node() {
        assert_eq!(
            node_of(&UserInfo::new("system:node:n1", &["system:nodes"])),
            Some("n1")
        );
        assert_eq!(node_of(&UserInfo::new("system:node:n1", &[])), None);
        assert_eq!(node_of(&UserInfo::new("jane", &["system:nodes"])), None);
    }
}
