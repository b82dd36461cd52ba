//! RBAC: rules held through bindings. Everything comes from the watch caches; an index is brought up to date when its
//! kind has changed since it was last asked, parsing only what changed.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;

use super::index::{Binding, BySubject, Roles};
use super::{Authorizer, Decision, PolicyRule};
use crate::request_info::RequestInfo;
use crate::resources::{Reader, Resources};
use crate::user::UserInfo;

const GROUP: &str = "rbac.authorization.k8s.io";

/// Where a rule comes from.
#[derive(Clone, Debug)]
pub struct RuleSource {
    binding: Arc<Binding>,
    subject: String,
}

impl RuleSource {
    /// `RoleBinding "b/ns" of Role "r" to User "u"`.
    pub fn describe(&self) -> String {
        let Binding {
            namespace,
            name,
            role_kind,
            role_name,
            ..
        } = &*self.binding;
        let subject = &self.subject;
        if namespace.is_empty() {
            format!("ClusterRoleBinding {name:?} of {role_kind} {role_name:?} to {subject}")
        } else {
            format!("RoleBinding \"{name}/{namespace}\" of {role_kind} {role_name:?} to {subject}")
        }
    }
}

/// The RBAC authorizer. Cheap to clone.
#[derive(Clone)]
pub struct Rbac {
    roles: Cached<Roles, Arc<[PolicyRule]>>,
    cluster_roles: Cached<Roles, Arc<[PolicyRule]>>,
    bindings: Cached<HashMap<String, BySubject>, Arc<Binding>>,
    cluster_bindings: Cached<BySubject, Arc<Binding>>,
}

impl Rbac {
    /// Reads roles and bindings through `resources`.
    pub fn new(resources: &Resources) -> Self {
        Self {
            roles: Cached::new(resources.resource(GROUP, "roles")),
            cluster_roles: Cached::new(resources.resource(GROUP, "clusterroles")),
            bindings: Cached::new(resources.resource(GROUP, "rolebindings")),
            cluster_bindings: Cached::new(resources.resource(GROUP, "clusterrolebindings")),
        }
    }

    fn parse_role(object: &crate::watch_cache::CachedObject) -> Arc<[PolicyRule]> {
        PolicyRule::of_role(&object.parse()).into()
    }

    fn parse_binding(object: &crate::watch_cache::CachedObject) -> Arc<Binding> {
        Arc::new(Binding::parse(&object.parse(), object.namespace(), object.name()))
    }

    fn collect_roles(items: &Items<Arc<[PolicyRule]>>) -> Roles {
        items
            .iter()
            .map(|(key, (_, rules))| (key.clone(), rules.clone()))
            .collect()
    }

    fn current_cluster_bindings(&self) -> Arc<BySubject> {
        self.cluster_bindings.current(Self::parse_binding, |items| {
            let mut index = BySubject::default();
            sorted(items).for_each(|binding| index.add(binding));
            index
        })
    }

    fn current_bindings(&self) -> Arc<HashMap<String, BySubject>> {
        self.bindings.current(Self::parse_binding, |items| {
            let mut index: HashMap<String, BySubject> = HashMap::new();
            sorted(items).for_each(|b| index.entry(b.namespace.clone()).or_default().add(b));
            index
        })
    }

    /// The rules of a role; `namespace` is empty for a ClusterRole. `None` when there is no such role.
    pub fn rules_of(&self, kind: &str, namespace: &str, name: &str) -> Option<Arc<[PolicyRule]>> {
        if kind == "Role" {
            let roles = self.roles.current(Self::parse_role, Self::collect_roles);
            return roles.get(&(namespace.to_owned(), name.to_owned())).cloned();
        }
        let roles = self.cluster_roles.current(Self::parse_role, Self::collect_roles);
        roles.get(&(String::new(), name.to_owned())).cloned()
    }

    /// Visits the rules that hold for the user at cluster scope and, unless empty, in `namespace`, until `visit` says no.
    /// Returns the roles that bindings name and that do not exist.
    pub fn visit_rules(
        &self,
        user: &UserInfo,
        namespace: &str,
        mut visit: impl FnMut(&RuleSource, &PolicyRule) -> bool,
    ) -> Vec<String> {
        let mut missing = Vec::new();
        let mut each = |binding: &Arc<Binding>| -> bool {
            let Some(rules) = self.rules_of(&binding.role_kind, &binding.namespace, &binding.role_name)
            else {
                let kind = if binding.role_kind == "Role" {
                    "role"
                } else {
                    "clusterrole"
                };
                missing.push(format!("{kind}.{GROUP} {:?} not found", binding.role_name));
                return true;
            };
            let subject = binding.subject_of(user).map(|s| s.describe()).unwrap_or_default();
            let source = RuleSource {
                binding: binding.clone(),
                subject,
            };
            rules.iter().all(|rule| visit(&source, rule))
        };
        if !self
            .current_cluster_bindings()
            .of(user)
            .into_iter()
            .all(&mut each)
            || namespace.is_empty()
        {
            return missing;
        }
        if let Some(bindings) = self.current_bindings().get(namespace) {
            // Ends early when the visitor has seen enough; there is nothing left to do then.
            let _all = bindings.of(user).into_iter().all(&mut each);
        }
        missing
    }

    /// All rules that hold for the user, and what could not be resolved.
    pub fn rules_for(&self, user: &UserInfo, namespace: &str) -> (Vec<PolicyRule>, Vec<String>) {
        let mut rules = Vec::new();
        let missing = self.visit_rules(user, namespace, |_, rule| {
            rules.push(rule.clone());
            true
        });
        (rules, missing)
    }
}

fn sorted(items: &Items<Arc<Binding>>) -> impl Iterator<Item = Arc<Binding>> {
    let mut all: Vec<_> = items
        .iter()
        .map(|(key, (_, binding))| (key.clone(), binding.clone()))
        .collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all.into_iter().map(|(_, binding)| binding)
}

#[async_trait]
impl Authorizer for Rbac {
    async fn authorize(&self, user: &UserInfo, request: &RequestInfo) -> (Decision, String) {
        let mut reason = None;
        let missing = self.visit_rules(user, &request.namespace, |source, rule| {
            if rule.allows(request) {
                reason = Some(format!("RBAC: allowed by {}", source.describe()));
            }
            reason.is_none()
        });
        match (reason, missing.as_slice()) {
            (Some(reason), _) => (Decision::Allow, reason),
            (None, []) => (Decision::NoOpinion, String::new()),
            (None, [one]) => (Decision::NoOpinion, format!("RBAC: {one}")),
            (None, many) => (Decision::NoOpinion, format!("RBAC: [{}]", many.join(", "))),
        }
    }
}

/// What was parsed of each object, with its revision.
type Items<P> = HashMap<(String, String), (u64, P)>;

/// An index of one kind, valid for one version of its cache.
struct Cached<T, P> {
    reader: Reader,
    state: Arc<Mutex<Option<State<T, P>>>>,
}

struct State<T, P> {
    version: u64,
    items: Items<P>,
    index: Arc<T>,
}

impl<T, P> Clone for Cached<T, P> {
    fn clone(&self) -> Self {
        Self {
            reader: self.reader.clone(),
            state: self.state.clone(),
        }
    }
}

impl<T, P: Clone> Cached<T, P> {
    fn new(reader: Reader) -> Self {
        Self {
            reader,
            state: Arc::default(),
        }
    }

    fn current(
        &self,
        parse: impl Fn(&crate::watch_cache::CachedObject) -> P,
        build: impl Fn(&Items<P>) -> T,
    ) -> Arc<T> {
        let mut state = self.state.lock();
        // Before listing: a change between the two makes the index older than it says, and it is built again.
        let version = self.reader.version();
        if let Some(state) = state.as_ref()
            && state.version == version
        {
            return state.index.clone();
        }
        let old = state.take().map(|s| s.items).unwrap_or_default();
        let mut items = Items::with_capacity(old.len());
        for object in self.reader.list(None) {
            let key = (object.namespace().to_owned(), object.name().to_owned());
            let parsed = match old.get(&key) {
                Some((revision, parsed)) if *revision == object.revision() => parsed.clone(),
                _ => parse(&object),
            };
            items.insert(key, (object.revision(), parsed));
        }
        let index = Arc::new(build(&items));
        *state = Some(State {
            version,
            items,
            index: index.clone(),
        });
        index
    }
}
