//! From changes of dependents to the keys of their owners.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use keelson_api::selector::LabelSelector;
use keelson_client::{Change, Informer, NamespacedName, WorkQueue};

use super::expectations::Expectations;
use super::object::Object;
use super::owner::{controller_of, is_deleting, namespace, uid};
use super::selector::matches;

/// Queues the owner of every dependent of kind `K` that changes, and tells `expectations` what was seen. A change of an
/// orphan queues every owner of its namespace whose selector fits: it may adopt it.
pub fn watch_owned<K: Object, O: Object>(
    dependents: &Informer<K>,
    owners: &Informer<O>,
    queue: &WorkQueue<NamespacedName>,
    expectations: Option<Arc<Expectations>>,
    selector: impl Fn(&O) -> Option<LabelSelector> + Send + Sync + 'static,
) {
    let (owners, queue) = (owners.clone(), queue.clone());
    let resolve = {
        let owners = owners.clone();
        move |namespace: &str, reference: &OwnerReference| {
            if reference.kind != O::kind(&()) {
                return None;
            }
            let key = NamespacedName::new(namespace, &reference.name);
            owners
                .get(&key)
                .filter(|owner| uid(owner.as_ref()) == reference.uid)
                .map(|_| key)
        }
    };
    dependents.on_change(move |change| {
        let object = change.object().as_ref();
        let reference = controller_of(object.meta());
        if let (Some(expectations), Some(reference)) = (&expectations, reference) {
            match change {
                Change::Added(_) if !is_deleting(object) => expectations.creation_observed(&reference.uid),
                Change::Added(_) | Change::Deleted(_) => {
                    expectations.deletion_observed(&reference.uid, uid(object));
                }
                Change::Updated(..) if is_deleting(object) => {
                    expectations.deletion_observed(&reference.uid, uid(object));
                }
                Change::Updated(..) => {}
            }
        }
        if let Change::Updated(old, _) = change {
            let before = controller_of(old.meta());
            if before.map(|owner| &owner.uid) != reference.map(|owner| &owner.uid)
                && let Some(key) = before.and_then(|owner| resolve(namespace(object), owner))
            {
                queue.add(key);
            }
        }
        if let Some(reference) = reference {
            if let Some(key) = resolve(namespace(object), reference) {
                queue.add(key);
            }
            return;
        }
        if matches!(change, Change::Deleted(_)) || is_deleting(object) {
            return;
        }
        let fits = |owner: &O| {
            namespace(owner) == namespace(object)
                && selector(owner).is_some_and(|selector| matches(&selector, object.meta().labels.as_ref()))
        };
        for owner in owners.list_where(fits) {
            queue.add(NamespacedName::of(owner.as_ref()));
        }
    });
}

/// Queues every object of kind `O` that is added, changed or deleted; `gone` gets the UID of deleted ones.
pub fn watch_self<O: Object>(
    owners: &Informer<O>,
    queue: &WorkQueue<NamespacedName>,
    gone: impl Fn(&str) + Send + Sync + 'static,
) {
    let queue = queue.clone();
    owners.on_change(move |change| {
        let object = change.object().as_ref();
        if matches!(change, Change::Deleted(_)) {
            gone(uid(object));
        }
        queue.add(NamespacedName::of(object));
    });
}
