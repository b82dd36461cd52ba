//! What the API server serves, from aggregated discovery: the resources that the garbage collector, the namespace
//! controller and others walk over.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use kube::Client;
use kube::core::discovery::v2::APIGroupDiscoveryList;
use kube::core::{ApiResource, DynamicObject};

/// A resource in one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServedResource {
    /// Group, version, kind and plural.
    pub(crate) api: ApiResource,
    /// Whether its objects live in namespaces.
    pub(crate) namespaced: bool,
    /// What can be done with it.
    verbs: Vec<String>,
}

impl ServedResource {
    /// A resource with some verbs.
    #[cfg(test)]
    pub(crate) fn new(api: ApiResource, namespaced: bool, verbs: &[&str]) -> Self {
        let verbs = verbs.iter().map(|verb| (*verb).to_owned()).collect();
        Self {
            api,
            namespaced,
            verbs,
        }
    }

    /// Whether all of `verbs` are served.
    pub(crate) fn can(&self, verbs: &[&str]) -> bool {
        verbs
            .iter()
            .all(|verb| self.verbs.iter().any(|served| served == verb))
    }

    /// `plural.group`, upstream's `GroupResource` as text; a trailing dot for the core group as upstream's messages
    /// about resources with a version have it is not part of this.
    pub(crate) fn group_resource(&self) -> String {
        if self.api.group.is_empty() {
            self.api.plural.clone()
        } else {
            format!("{}.{}", self.api.plural, self.api.group)
        }
    }

    /// The objects of a namespace, or all of them when `namespace` is empty.
    pub(crate) fn objects(&self, client: &Client, namespace: &str) -> kube::Api<DynamicObject> {
        if namespace.is_empty() {
            kube::Api::all_with(client.clone(), &self.api)
        } else {
            kube::Api::namespaced_with(client.clone(), namespace, &self.api)
        }
    }
}

/// The result of one discovery.
#[derive(Debug, Default)]
pub(crate) struct Served {
    /// Every resource once, in its group's most preferred version that has it.
    pub(crate) preferred: Vec<Arc<ServedResource>>,
    /// Every kind in every version, by apiVersion and kind.
    kinds: HashMap<(String, String), Arc<ServedResource>>,
    /// Group versions whose server did not answer lately.
    pub(crate) stale: Vec<String>,
}

impl Served {
    /// Asks the server.
    pub(crate) async fn discover(client: &Client) -> Result<Self, kube::Error> {
        let core = client.list_core_api_versions_aggregated().await?;
        let groups = client.list_api_groups_aggregated().await?;
        Ok(Self::from_documents(core, groups))
    }

    /// The resource of a kind.
    pub(crate) fn of_kind(&self, api_version: &str, kind: &str) -> Option<&Arc<ServedResource>> {
        self.kinds.get(&(api_version.to_owned(), kind.to_owned()))
    }

    fn from_documents(core: APIGroupDiscoveryList, groups: APIGroupDiscoveryList) -> Self {
        let mut served = Self::default();
        for group in core.items.into_iter().chain(groups.items) {
            let name = group.metadata.and_then(|meta| meta.name).unwrap_or_default();
            let mut seen = HashSet::new();
            for version in group.versions {
                let text = version.version.unwrap_or_default();
                let api_version = if name.is_empty() {
                    text.clone()
                } else {
                    format!("{name}/{text}")
                };
                if version.freshness.as_deref() == Some("Stale") {
                    served.stale.push(api_version.clone());
                }
                for resource in version.resources {
                    let plural = resource.resource.unwrap_or_default();
                    let kind = resource
                        .response_kind
                        .and_then(|kind| kind.kind)
                        .unwrap_or_default();
                    let api = ApiResource {
                        group: name.clone(),
                        version: text.clone(),
                        api_version: api_version.clone(),
                        kind: kind.clone(),
                        plural: plural.clone(),
                    };
                    let namespaced = resource.scope.as_deref() == Some("Namespaced");
                    let resource = Arc::new(ServedResource {
                        api,
                        namespaced,
                        verbs: resource.verbs,
                    });
                    if seen.insert(plural) {
                        served.preferred.push(resource.clone());
                    }
                    served.kinds.insert((api_version.clone(), kind), resource);
                }
            }
        }
        served
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_most_preferred_version_of_each_resource() {
        let resource = |plural: &str, kind: &str, scope: &str| {
            json!({"resource": plural, "responseKind": {"group": "", "version": "", "kind": kind}, "scope": scope,
                   "verbs": ["list", "watch"]})
        };
        let core = serde_json::from_value(json!({"items": [{"versions": [
            {"version": "v1", "resources": [resource("pods", "Pod", "Namespaced"), resource("nodes", "Node", "Cluster")]}
        ]}]}));
        let groups = serde_json::from_value(json!({"items": [{"metadata": {"name": "g.io"}, "versions": [
            {"version": "v2", "freshness": "Current", "resources": [resource("as", "A", "Cluster")]},
            {"version": "v1", "freshness": "Stale",
             "resources": [resource("as", "A", "Cluster"), resource("bs", "B", "Cluster")]},
        ]}]}));
        let served = Served::from_documents(core.unwrap(), groups.unwrap());
        let preferred: Vec<_> = served
            .preferred
            .iter()
            .map(|found| {
                format!(
                    "{} {} {}",
                    found.api.api_version,
                    found.group_resource(),
                    found.namespaced
                )
            })
            .collect();
        assert_eq!(
            preferred,
            [
                "v1 pods true",
                "v1 nodes false",
                "g.io/v2 as.g.io false",
                "g.io/v1 bs.g.io false"
            ]
        );
        assert_eq!(served.stale, ["g.io/v1"]);
        assert!(
            served
                .of_kind("g.io/v1", "A")
                .is_some_and(|found| found.can(&["list"]) && !found.can(&["delete"]))
        );
        assert!(served.of_kind("v2", "A").is_none());
    }
}
