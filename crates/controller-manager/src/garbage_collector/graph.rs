//! The graph of owners and dependents over all objects, from their metadata; pure.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::served::ServedResource;

/// `metadata.uid`.
pub(super) type Uid = Arc<str>;

/// Finalizer of deletion in the foreground.
pub(super) const FOREGROUND: &str = "foregroundDeletion";
/// Finalizer of deletion that leaves dependents alone.
pub(super) const ORPHAN: &str = "orphan";

/// What is to be done about an object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Task {
    /// See whether it should be there still.
    Check(Uid),
    /// Take it out of its dependents' references, then let it go.
    Orphan(Uid),
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Check(uid) => write!(f, "check {uid}"),
            Self::Orphan(uid) => write!(f, "orphan dependents of {uid}"),
        }
    }
}

/// A reference to an owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    uid: Uid,
    api_version: Box<str>,
    kind: Box<str>,
    name: Box<str>,
    blocking: bool,
}

impl Owner {
    fn of(reference: &OwnerReference) -> Self {
        Self {
            uid: reference.uid.as_str().into(),
            api_version: reference.api_version.as_str().into(),
            kind: reference.kind.as_str().into(),
            name: reference.name.as_str().into(),
            blocking: reference.block_owner_deletion == Some(true),
        }
    }

    fn group(&self) -> &str {
        self.api_version.split_once('/').map_or("", |(group, _)| group)
    }
}

/// An object.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) resource: Arc<ServedResource>,
    pub(super) namespace: Box<str>,
    pub(super) name: Box<str>,
    owners: Box<[Owner]>,
    pub(super) deleting: bool,
    foreground: bool,
    orphan: bool,
}

impl Node {
    fn new(resource: Arc<ServedResource>, meta: &ObjectMeta) -> Self {
        let has = |finalizer: &str| meta.finalizers.iter().flatten().any(|found| found == finalizer);
        Self {
            resource,
            namespace: meta.namespace.as_deref().unwrap_or_default().into(),
            name: meta.name.as_deref().unwrap_or_default().into(),
            owners: meta.owner_references.iter().flatten().map(Owner::of).collect(),
            deleting: meta.deletion_timestamp.is_some(),
            foreground: has(FOREGROUND),
            orphan: has(ORPHAN),
        }
    }

    /// Whether it waits for its dependents to be deleted.
    pub(super) fn waits_for_dependents(&self) -> bool {
        self.deleting && self.foreground
    }

    fn orphans_dependents(&self) -> bool {
        self.deleting && self.orphan
    }

    /// Whether `owner`, in a reference from namespace `from`, means this object.
    fn is_meant_by(&self, owner: &Owner, from: &str) -> bool {
        let api = &self.resource.api;
        *owner.kind == *api.kind
            && owner.group() == api.group
            && owner.name == self.name
            && (!self.resource.namespaced || *self.namespace == *from)
    }
}

/// All objects, and who refers to whom.
#[derive(Debug, Default)]
pub(super) struct Graph {
    nodes: HashMap<Uid, Arc<Node>>,
    /// Who refers to an owner, also to one that is not known.
    dependents: HashMap<Uid, HashSet<Uid>>,
}

impl Graph {
    /// The object of a UID.
    pub(super) fn get(&self, uid: &str) -> Option<Arc<Node>> {
        self.nodes.get(uid).cloned()
    }

    /// Takes in what a watch said of an object; what is to be done because of it.
    pub(super) fn observe(&mut self, resource: &Arc<ServedResource>, meta: &ObjectMeta) -> Vec<Task> {
        let Some(uid) = meta.uid.as_deref().map(Uid::from) else {
            return Vec::new();
        };
        let new = Arc::new(Node::new(resource.clone(), meta));
        let old = self.nodes.insert(uid.clone(), new.clone());
        let before: &[Owner] = old.as_ref().map_or(&[], |old| &old.owners);
        let mut tasks = Vec::new();
        for gone in before
            .iter()
            .filter(|owner| !new.owners.iter().any(|other| other.uid == owner.uid))
        {
            self.unlink(&gone.uid, &uid);
        }
        for owner in &new.owners {
            self.dependents
                .entry(owner.uid.clone())
                .or_default()
                .insert(uid.clone());
        }
        if before != &*new.owners {
            // An owner that waited for this one may go on.
            tasks.extend(
                before
                    .iter()
                    .filter(|owner| self.waits(&owner.uid))
                    .map(|owner| Task::Check(owner.uid.clone())),
            );
            if !self.owners_stay(&new) {
                tasks.push(Task::Check(uid.clone()));
            }
        }
        let was = |state: fn(&Node) -> bool| old.as_deref().is_some_and(state);
        if new.waits_for_dependents() && !was(Node::waits_for_dependents) {
            tasks.push(Task::Check(uid.clone()));
            tasks.extend(self.dependents_of(&uid).into_iter().map(Task::Check));
        }
        if new.orphans_dependents() && !was(Node::orphans_dependents) {
            tasks.push(Task::Orphan(uid.clone()));
        }
        if old.is_none() {
            // References that name this UID but describe another object.
            let wrong = self.dependents_of(&uid).into_iter().filter(|dependent| {
                self.nodes.get(dependent).is_some_and(|node| {
                    node.owners
                        .iter()
                        .any(|owner| owner.uid == uid && !new.is_meant_by(owner, &node.namespace))
                })
            });
            tasks.extend(wrong.map(Task::Check));
        }
        tasks.dedup();
        tasks
    }

    /// Takes out an object that is gone; what is to be done because of it.
    pub(super) fn forget(&mut self, uid: &str) -> Vec<Task> {
        let Some(node) = self.nodes.remove(uid) else {
            return Vec::new();
        };
        let mut tasks: Vec<Task> = self.dependents_of(uid).into_iter().map(Task::Check).collect();
        for owner in &node.owners {
            self.unlink(&owner.uid, uid);
            if self.waits(&owner.uid) {
                tasks.push(Task::Check(owner.uid.clone()));
            }
        }
        tasks
    }

    /// The UIDs of a resource's objects that are not in `listed`.
    pub(super) fn unlisted(&self, resource: &ServedResource, listed: &HashSet<Uid>) -> Vec<Uid> {
        let of = |node: &Node| {
            node.resource.api.group == resource.api.group && node.resource.api.plural == resource.api.plural
        };
        let gone = self
            .nodes
            .iter()
            .filter(|(uid, node)| of(node) && !listed.contains(*uid));
        gone.map(|(uid, _)| uid.clone()).collect()
    }

    /// Whether all owners of `node` are known, are what the references say, and do not wait for dependents.
    pub(super) fn owners_stay(&self, node: &Node) -> bool {
        node.owners.iter().all(|owner| {
            self.nodes.get(&owner.uid).is_some_and(|found| {
                found.is_meant_by(owner, &node.namespace) && !found.waits_for_dependents()
            })
        })
    }

    /// The known objects that refer to `uid`.
    pub(super) fn dependents_of(&self, uid: &str) -> Vec<Uid> {
        let mut found: Vec<Uid> = self.dependents.get(uid).into_iter().flatten().cloned().collect();
        found.sort_unstable();
        found
    }

    /// The dependents that keep `uid` from going away, and whether each waits for its own dependents.
    pub(super) fn blocking_dependents(&self, uid: &str) -> Vec<(Uid, bool)> {
        let dependents = self.dependents_of(uid).into_iter();
        let blocking = dependents.filter_map(|dependent| {
            let node = self.nodes.get(&dependent)?;
            let blocks = node
                .owners
                .iter()
                .any(|owner| *owner.uid == *uid && owner.blocking);
            blocks.then(|| (dependent.clone(), node.waits_for_dependents()))
        });
        blocking.collect()
    }

    /// Whether one of the dependents of `uid` waits for its dependents: then both may wait for each other.
    pub(super) fn has_waiting_dependent(&self, uid: &str) -> bool {
        self.dependents_of(uid)
            .iter()
            .any(|dependent| self.waits(dependent))
    }

    fn waits(&self, uid: &str) -> bool {
        self.nodes
            .get(uid)
            .is_some_and(|node| node.waits_for_dependents())
    }

    fn unlink(&mut self, owner: &str, dependent: &str) {
        if let Some(set) = self.dependents.get_mut(owner) {
            set.remove(dependent);
            if set.is_empty() {
                self.dependents.remove(owner);
            }
        }
    }
}
