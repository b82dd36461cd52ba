//! DefaultIngressClass: an Ingress that names no class gets the default one.

use async_trait::async_trait;
use keelson_api::status::Status;
use serde_json::Value;

use super::object::{forbidden, present, text, writes};
use super::{Attributes, MutatingPlugin};
use crate::resources::{Reader, Resources};

/// See the module.
pub(super) struct DefaultIngressClass {
    classes: Reader,
}

impl DefaultIngressClass {
    pub(super) fn new(resources: &Resources) -> Self {
        Self {
            classes: resources.resource("networking.k8s.io", "ingressclasses"),
        }
    }
}

#[async_trait]
impl MutatingPlugin for DefaultIngressClass {
    fn name(&self) -> &'static str {
        "DefaultIngressClass"
    }

    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        writes(attributes, "networking.k8s.io", "ingresses", false)
    }

    async fn admit(&self, attributes: &Attributes<'_>, object: Option<&mut Value>) -> Result<(), Status> {
        let Some(ingress) = object else { return Ok(()) };
        let annotated = ingress
            .pointer("/metadata/annotations/kubernetes.io~1ingress.class")
            .is_some();
        if annotated || present(ingress, "/spec/ingressClassName") {
            return Ok(());
        }
        let marker = "/metadata/annotations/ingressclass.kubernetes.io~1is-default-class";
        let classes = self.classes.list(None);
        let mut defaults: Vec<(String, String)> = classes
            .iter()
            .map(|class| class.parse())
            .filter(|class| text(class, marker) == "true")
            .map(|c| {
                (
                    text(&c, "/metadata/creationTimestamp").to_owned(),
                    text(&c, "/metadata/name").to_owned(),
                )
            })
            .collect();
        defaults.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
        match defaults.as_slice() {
            [] => {}
            [(newest, name), rest @ ..] if rest.first().is_none_or(|(at, _)| at != newest) => {
                ingress["spec"]["ingressClassName"] = name.as_str().into();
            }
            many => {
                let why = format!("{} default IngressClasses were found, only 1 allowed", many.len());
                return Err(forbidden(attributes, Some(ingress), why));
            }
        }
        Ok(())
    }
}
