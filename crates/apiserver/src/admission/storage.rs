//! DefaultStorageClass, StorageObjectInUseProtection and PersistentVolumeClaimResize.

use async_trait::async_trait;
use keelson_api::quantity::Quantity;
use keelson_api::status::Status;
use serde_json::Value;

use super::object::{forbidden, list_mut, present, text, writes};
use super::{Attributes, MutatingPlugin, Operation, ValidatingPlugin};
use crate::resources::{Reader, Resources};

const DEFAULT_CLASS: &str = "/metadata/annotations/storageclass.kubernetes.io~1is-default-class";
const BETA_DEFAULT_CLASS: &str = "/metadata/annotations/storageclass.beta.kubernetes.io~1is-default-class";
const BETA_CLASS: &str = "/metadata/annotations/volume.beta.kubernetes.io~1storage-class";

/// Claims that name no class get the default one.
pub(super) struct DefaultStorageClass {
    classes: Reader,
}

impl DefaultStorageClass {
    pub(super) fn new(resources: &Resources) -> Self {
        Self {
            classes: resources.resource("storage.k8s.io", "storageclasses"),
        }
    }
}

/// The newest of the default classes; of the same age, the first by name.
fn default_class(classes: impl Iterator<Item = Value>) -> Option<String> {
    let is_default =
        |class: &Value| text(class, DEFAULT_CLASS) == "true" || text(class, BETA_DEFAULT_CLASS) == "true";
    let mut found: Vec<(String, String)> = classes
        .filter(is_default)
        .map(|c| {
            (
                text(&c, "/metadata/creationTimestamp").to_owned(),
                text(&c, "/metadata/name").to_owned(),
            )
        })
        .collect();
    found.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    found.into_iter().next().map(|(_, name)| name)
}

#[async_trait]
impl MutatingPlugin for DefaultStorageClass {
    fn name(&self) -> &'static str {
        "DefaultStorageClass"
    }

    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        writes(attributes, "", "persistentvolumeclaims", false)
    }

    async fn admit(&self, _: &Attributes<'_>, object: Option<&mut Value>) -> Result<(), Status> {
        let Some(claim) = object else { return Ok(()) };
        if present(claim, "/spec/storageClassName") || claim.pointer(BETA_CLASS).is_some() {
            return Ok(());
        }
        if let Some(name) = default_class(self.classes.list(None).iter().map(|c| c.parse())) {
            claim["spec"]["storageClassName"] = name.into();
        }
        Ok(())
    }
}

/// Claims and volumes get the finalizers that keep them while they are used.
pub(super) struct StorageObjectInUseProtection;

fn finalizer(attributes: &Attributes<'_>) -> Option<&'static str> {
    if !attributes.subresource.is_empty() {
        return None;
    }
    match (&*attributes.resource.group, &*attributes.resource.resource) {
        ("", "persistentvolumeclaims") => Some("kubernetes.io/pvc-protection"),
        ("", "persistentvolumes") => Some("kubernetes.io/pv-protection"),
        ("storage.k8s.io", "volumeattributesclasses") => Some("kubernetes.io/vac-protection"),
        _ => None,
    }
}

#[async_trait]
impl MutatingPlugin for StorageObjectInUseProtection {
    fn name(&self) -> &'static str {
        "StorageObjectInUseProtection"
    }

    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        attributes.operation == Operation::Create && finalizer(attributes).is_some()
    }

    async fn admit(&self, attributes: &Attributes<'_>, object: Option<&mut Value>) -> Result<(), Status> {
        if let (Some(object), Some(finalizer)) = (object, finalizer(attributes)) {
            let finalizers = list_mut(&mut object["metadata"], "finalizers");
            if !finalizers.iter().any(|f| f == finalizer) {
                finalizers.push(finalizer.into());
            }
        }
        Ok(())
    }
}

/// Claims grow only where their class allows it.
pub(super) struct PersistentVolumeClaimResize {
    classes: Reader,
}

impl PersistentVolumeClaimResize {
    pub(super) fn new(resources: &Resources) -> Self {
        Self {
            classes: resources.resource("storage.k8s.io", "storageclasses"),
        }
    }
}

/// Whether a bound claim asks for more than before.
fn grows(new: &Value, old: &Value) -> bool {
    let size = |claim| Quantity::parse(text(claim, "/spec/resources/requests/storage")).ok();
    match (size(new), size(old)) {
        (Some(new), Some(old)) => new.nanos() > old.nanos(),
        _ => false,
    }
}

#[async_trait]
impl ValidatingPlugin for PersistentVolumeClaimResize {
    fn name(&self) -> &'static str {
        "PersistentVolumeClaimResize"
    }

    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        attributes.operation == Operation::Update && attributes.is("", "persistentvolumeclaims")
    }

    async fn validate(&self, attributes: &Attributes<'_>, object: Option<&Value>) -> Result<(), Status> {
        let (Some(new), Some(old)) = (object, attributes.old_object) else {
            return Ok(());
        };
        if !grows(new, old) {
            return Ok(());
        }
        if text(old, "/status/phase") != "Bound" {
            return Err(forbidden(
                attributes,
                object,
                "Only bound persistent volume claims can be expanded",
            ));
        }
        let beta = text(new, BETA_CLASS);
        let name = if beta.is_empty() {
            text(new, "/spec/storageClassName")
        } else {
            beta
        };
        let class = self
            .classes
            .get_latest("", name)
            .await
            .ok()
            .flatten()
            .map(|class| class.parse());
        if class.is_some_and(|class| class["allowVolumeExpansion"] == true) {
            return Ok(());
        }
        Err(forbidden(
            attributes,
            object,
            "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn newest_default() {
        let class = |name: &str, at: &str, default: &str| {
            json!({"metadata": {"name": name, "creationTimestamp": at,
                "annotations": {"storageclass.kubernetes.io/is-default-class": default}}})
        };
        let all = [
            class("a", "2026-01-01T00:00:00Z", "true"),
            class("c", "2026-02-01T00:00:00Z", "true"),
            class("b", "2026-02-01T00:00:00Z", "true"),
            class("d", "2026-03-01T00:00:00Z", "false"),
        ];
        assert_eq!(default_class(all.into_iter()), Some("b".into()));
        assert_eq!(default_class(std::iter::empty()), None);
    }

    #[test]
    fn growth() {
        let claim = |size: &str| json!({"spec": {"resources": {"requests": {"storage": size}}}});
        assert!(grows(&claim("2Gi"), &claim("1Gi")));
        assert!(!grows(&claim("1024Mi"), &claim("1Gi")));
        assert!(!grows(&claim("1Gi"), &claim("2Gi")));
    }
}
