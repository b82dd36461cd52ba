//! Roles and bindings, indexed by whom they bind.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;

use super::PolicyRule;
use crate::user::UserInfo;

/// One subject of a binding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Subject {
    User(String),
    Group(String),
    ServiceAccount { namespace: String, name: String },
}

impl Subject {
    fn parse(subject: &Value, namespace: &str) -> Option<Self> {
        let text = |field: &str| {
            subject
                .get(field)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        Some(match text("kind").as_str() {
            "User" => Self::User(text("name")),
            "Group" => Self::Group(text("name")),
            "ServiceAccount" => {
                let own = text("namespace");
                let namespace = if own.is_empty() { namespace.to_owned() } else { own };
                Self::ServiceAccount {
                    namespace,
                    name: text("name"),
                }
            }
            _ => return None,
        })
    }

    /// As the reason of a decision names it.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::User(name) => format!("User {name:?}"),
            Self::Group(name) => format!("Group {name:?}"),
            Self::ServiceAccount { namespace, name } => format!("ServiceAccount \"{name}/{namespace}\""),
        }
    }
}

/// A RoleBinding (with a namespace) or ClusterRoleBinding.
#[derive(Debug)]
pub(super) struct Binding {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) role_kind: String,
    pub(super) role_name: String,
    subjects: Vec<Subject>,
}

impl Binding {
    pub(super) fn parse(binding: &Value, namespace: &str, name: &str) -> Self {
        let role = |field: &str| {
            binding
                .pointer(&format!("/roleRef/{field}"))
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let subjects = binding
            .get("subjects")
            .and_then(Value::as_array)
            .map(Vec::as_slice)
            .unwrap_or_default();
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            role_kind: role("kind"),
            role_name: role("name"),
            subjects: subjects
                .iter()
                .filter_map(|s| Subject::parse(s, namespace))
                .collect(),
        }
    }

    /// The first subject that is this user.
    pub(super) fn subject_of(&self, user: &UserInfo) -> Option<&Subject> {
        self.subjects.iter().find(|subject| match subject {
            Subject::User(name) => *name == user.name,
            Subject::Group(name) => user.in_group(name),
            Subject::ServiceAccount { namespace, name } => {
                user.name
                    .strip_prefix("system:serviceaccount:")
                    .and_then(|rest| rest.split_once(':'))
                    == Some((namespace, name))
            }
        })
    }
}

/// Bindings of one namespace, or of the cluster, by subject.
#[derive(Debug, Default)]
pub(super) struct BySubject {
    bindings: Vec<Arc<Binding>>,
    users: HashMap<String, Vec<usize>>,
    groups: HashMap<String, Vec<usize>>,
}

impl BySubject {
    pub(super) fn add(&mut self, binding: Arc<Binding>) {
        let at = self.bindings.len();
        for subject in &binding.subjects {
            let list = match subject {
                Subject::User(name) => self.users.entry(name.clone()),
                Subject::Group(name) => self.groups.entry(name.clone()),
                Subject::ServiceAccount { namespace, name } => self
                    .users
                    .entry(format!("system:serviceaccount:{namespace}:{name}")),
            }
            .or_default();
            if list.last() != Some(&at) {
                list.push(at);
            }
        }
        self.bindings.push(binding);
    }

    /// The bindings of a user, in their own order, each once.
    pub(super) fn of(&self, user: &UserInfo) -> Vec<&Arc<Binding>> {
        let mut found: Vec<usize> = self
            .users
            .get(&user.name)
            .into_iter()
            .flatten()
            .copied()
            .collect();
        for group in &user.groups {
            found.extend(self.groups.get(group).into_iter().flatten());
        }
        found.sort_unstable();
        found.dedup();
        found.into_iter().map(|at| &self.bindings[at]).collect()
    }
}

/// Rules by namespace (empty for ClusterRoles) and name.
pub(super) type Roles = HashMap<(String, String), Arc<[PolicyRule]>>;
