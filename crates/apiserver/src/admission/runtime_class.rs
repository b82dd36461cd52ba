//! RuntimeClass: a pod gets the overhead and the scheduling rules of its runtime class.

use async_trait::async_trait;
use keelson_api::status::Status;
use serde_json::Value;

use super::object::{forbidden, list, list_mut, map, present, text, writes};
use super::{Attributes, MutatingPlugin};
use crate::resources::{Reader, Resources};

/// See the module.
pub(super) struct RuntimeClass {
    classes: Reader,
}

impl RuntimeClass {
    pub(super) fn new(resources: &Resources) -> Self {
        Self {
            classes: resources.resource("node.k8s.io", "runtimeclasses"),
        }
    }
}

fn apply(pod: &mut Value, class: Option<&Value>) -> Result<(), String> {
    let overhead = class
        .and_then(|class| class.pointer("/overhead/podFixed"))
        .filter(|v| !v.is_null());
    let given = pod.pointer("/spec/overhead").filter(|v| !v.is_null());
    match (given, overhead) {
        (Some(_), None) => {
            return Err(
                "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"
                    .to_owned(),
            );
        }
        (Some(given), Some(overhead)) if given != overhead => {
            return Err(
                "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead".to_owned(),
            );
        }
        (None, Some(overhead)) => pod["spec"]["overhead"] = overhead.clone(),
        _ => {}
    }
    let Some(class) = class else { return Ok(()) };
    for (key, value) in map(class, "/scheduling/nodeSelector").into_iter().flatten() {
        let own = map(pod, "/spec/nodeSelector").and_then(|selector| selector.get(key));
        if let Some(own) = own.filter(|own| *own != value) {
            return Err(format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; pod.spec.nodeSelector[{key}] = {}",
                value.as_str().unwrap_or_default(),
                own.as_str().unwrap_or_default()
            ));
        }
        pod["spec"]["nodeSelector"][key] = value.clone();
    }
    for toleration in list(class, "/scheduling/tolerations") {
        let own = list_mut(&mut pod["spec"], "tolerations");
        if !own.contains(toleration) {
            own.push(toleration.clone());
        }
    }
    Ok(())
}

#[async_trait]
impl MutatingPlugin for RuntimeClass {
    fn name(&self) -> &'static str {
        "RuntimeClass"
    }

    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        writes(attributes, "", "pods", false)
    }

    async fn admit(&self, attributes: &Attributes<'_>, object: Option<&mut Value>) -> Result<(), Status> {
        let Some(pod) = object else { return Ok(()) };
        let name = text(pod, "/spec/runtimeClassName").to_owned();
        let class = match name.as_str() {
            "" if !present(pod, "/spec/overhead") => return Ok(()),
            "" => None,
            name => match self.classes.get_latest("", name).await.ok().flatten() {
                Some(class) => Some(class.parse()),
                None => {
                    let why = format!("pod rejected: RuntimeClass {name:?} not found");
                    return Err(forbidden(attributes, Some(pod), why));
                }
            },
        };
        apply(pod, class.as_ref()).map_err(|why| forbidden(attributes, Some(pod), why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn applied() {
        let class = json!({"overhead": {"podFixed": {"cpu": "10m"}},
            "scheduling": {"nodeSelector": {"a": "b"}, "tolerations": [{"key": "k", "operator": "Exists"}]}});
        let mut pod = json!({"spec": {}});
        apply(&mut pod, Some(&class)).unwrap();
        assert_eq!(pod["spec"]["overhead"]["cpu"], "10m");
        assert_eq!(pod["spec"]["nodeSelector"]["a"], "b");
        apply(&mut pod, Some(&class)).unwrap();
        assert_eq!(pod["spec"]["tolerations"].as_array().unwrap().len(), 1);
        assert!(apply(&mut pod, None).is_err());
        let mut other = json!({"spec": {"nodeSelector": {"a": "c"}}});
        let refused = apply(&mut other, Some(&class)).unwrap_err();
        assert_eq!(
            refused,
            "conflict: runtimeClass.scheduling.nodeSelector[a] = b; pod.spec.nodeSelector[a] = c"
        );
    }
}
