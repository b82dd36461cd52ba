//! What `kubectl explain` says about the fields that every object has. Other built-in fields have no descriptions here.

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";

/// Of `apiVersion` in any object.
pub(super) const API_VERSION: &str =
    "APIVersion defines the group and version of the schema that this object is written in.";
/// Of `kind` in any object.
pub(super) const KIND: &str = "Kind names what this object is, in CamelCase. It cannot be changed.";
/// Of `metadata` in any object.
pub(super) const METADATA: &str = "Standard object's metadata: its name, namespace, labels, annotations and what the server notes about it.";
/// Of `metadata` in any list.
pub(super) const LIST_METADATA: &str =
    "Standard list metadata: the version of the list, and where to go on if it is one page of several.";

/// (field of ObjectMeta, description)
const OBJECT_META: &[(&str, &str)] = &[
    (
        "annotations",
        "Annotations is an unstructured map that tools keep data in. It is not queryable and is preserved when objects are modified.",
    ),
    (
        "creationTimestamp",
        "CreationTimestamp is a timestamp that says when the server created this object. It is in UTC and read-only.",
    ),
    (
        "deletionGracePeriodSeconds",
        "Number of seconds that the object has to end gracefully before it is removed. Set only together with deletionTimestamp; read-only.",
    ),
    (
        "deletionTimestamp",
        "DeletionTimestamp is the time at which the object will be removed. The server sets it when deletion is asked for; once set it cannot be taken back.",
    ),
    (
        "finalizers",
        "Names of those who have to finish their part before the object can be removed. An object that is being deleted stays until the list is empty.",
    ),
    (
        "generateName",
        "GenerateName is a prefix from which the server makes a unique name if no name is given.",
    ),
    (
        "generation",
        "A number that grows with each change of the desired state. Read-only.",
    ),
    (
        "labels",
        "Map of keys and values that organize and select objects, as selectors of controllers and services do.",
    ),
    (
        "managedFields",
        "ManagedFields says which manager set which field, and when. Server-side apply maintains it; most people need not look at it.",
    ),
    (
        "name",
        "Name is unique within a namespace for objects of one resource. It cannot be changed.",
    ),
    (
        "namespace",
        "Namespace is the space that the name is unique in. Objects of cluster-scoped resources have none. It cannot be changed.",
    ),
    (
        "ownerReferences",
        "List of objects that this object depends on. When all of them are gone, this object is collected as garbage.",
    ),
    (
        "resourceVersion",
        "An opaque version of this object, for optimistic concurrency and for watches. Read-only.",
    ),
    ("selfLink", "Deprecated: a field that the server no longer fills."),
    (
        "uid",
        "UID tells this object from all others of the same name that were or will be there. The server sets it; read-only.",
    ),
];

/// The description of a field of a definition.
pub(super) fn of(definition: &str, field: &str) -> Option<&'static str> {
    if definition.strip_prefix(META)? != "ObjectMeta" {
        return None;
    }
    let at = OBJECT_META.iter().find(|(name, _)| *name == field)?;
    Some(at.1)
}
