//! Priority: the priority of a pod comes from its class, and there is one default class.

use async_trait::async_trait;
use keelson_api::status::Status;
use serde_json::Value;

use super::object::{forbidden, present, text, writes};
use super::{Attributes, MutatingPlugin, Operation, ValidatingPlugin};
use crate::resources::{Reader, Resources};

/// See the module.
#[derive(Clone)]
pub(super) struct Priority {
    classes: Reader,
}

impl Priority {
    pub(super) fn new(resources: &Resources) -> Self {
        Self {
            classes: resources.resource("scheduling.k8s.io", "priorityclasses"),
        }
    }

    /// The default class with the lowest value, should there be several.
    fn default_class(&self) -> Option<Value> {
        let classes = self.classes.list(None);
        let defaults = classes
            .iter()
            .map(|c| c.value())
            .filter(|c| c["globalDefault"] == true);
        defaults.min_by_key(|c| value_of(c)).map(|c| Value::clone(c))
    }
}

fn value_of(class: &Value) -> i64 {
    class["value"].as_i64().unwrap_or(0)
}

/// Writes priority and preemption policy of `class` (`None`: no class at all) into the pod.
fn set_priority(pod: &mut Value, class: Option<&Value>) -> Result<(), String> {
    let (value, policy) = match class {
        Some(class) => (value_of(class), text(class, "/preemptionPolicy")),
        None => (0, ""),
    };
    let policy = if policy.is_empty() {
        "PreemptLowerPriority"
    } else {
        policy
    };
    if let Some(given) = pod.pointer("/spec/priority").and_then(Value::as_i64)
        && given != value
    {
        return Err(format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller \
             computed {value} from the given PriorityClass name"
        ));
    }
    let given = text(pod, "/spec/preemptionPolicy");
    if !given.is_empty() && given != policy {
        return Err(format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller \
             computed {policy} from the given PriorityClass name"
        ));
    }
    pod["spec"]["priority"] = value.into();
    pod["spec"]["preemptionPolicy"] = policy.into();
    Ok(())
}

#[async_trait]
impl MutatingPlugin for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }

    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        writes(attributes, "", "pods", true)
    }

    async fn admit(&self, attributes: &Attributes<'_>, object: Option<&mut Value>) -> Result<(), Status> {
        let Some(pod) = object else { return Ok(()) };
        if attributes.operation == Operation::Update {
            // Clients that do not know the fields leave them out.
            for field in ["priority", "preemptionPolicy"] {
                let pointer = format!("/spec/{field}");
                let old = attributes
                    .old_object
                    .and_then(|old| old.pointer(&pointer))
                    .filter(|v| !v.is_null());
                if let (false, Some(old)) = (present(pod, &pointer), old) {
                    pod["spec"][field] = old.clone();
                }
            }
            return Ok(());
        }
        let name = text(pod, "/spec/priorityClassName").to_owned();
        let class = if name.is_empty() {
            let class = self.default_class();
            if let Some(class) = &class {
                pod["spec"]["priorityClassName"] = text(class, "/metadata/name").into();
            }
            class
        } else {
            match self.classes.get_latest("", &name).await.ok().flatten() {
                Some(class) => Some(class.parse()),
                None => {
                    let why = format!("no PriorityClass with name {name} was found");
                    return Err(forbidden(attributes, Some(pod), why));
                }
            }
        };
        set_priority(pod, class.as_ref()).map_err(|why| forbidden(attributes, Some(pod), why))
    }
}

#[async_trait]
impl ValidatingPlugin for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }

    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        writes(attributes, "scheduling.k8s.io", "priorityclasses", true)
    }

    async fn validate(&self, attributes: &Attributes<'_>, object: Option<&Value>) -> Result<(), Status> {
        let Some(class) = object.filter(|class| class["globalDefault"] == true) else {
            return Ok(());
        };
        let Some(existing) = self.default_class() else {
            return Ok(());
        };
        let (existing, own) = (text(&existing, "/metadata/name"), text(class, "/metadata/name"));
        if attributes.operation == Operation::Update && existing == own {
            return Ok(());
        }
        let why =
            format!("PriorityClass {existing} is already marked as default. Only one default can exist");
        Err(forbidden(attributes, object, why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn computed() {
        let class = json!({"metadata": {"name": "high"}, "value": 7, "preemptionPolicy": "Never"});
        let mut pod = json!({"spec": {}});
        set_priority(&mut pod, Some(&class)).unwrap();
        assert_eq!(pod["spec"], json!({"priority": 7, "preemptionPolicy": "Never"}));
        set_priority(&mut pod, Some(&class)).unwrap();
        let refused = set_priority(&mut pod, None).unwrap_err();
        assert_eq!(
            refused,
            "the integer value of priority (7) must not be provided in pod spec; priority admission controller computed 0 \
             from the given PriorityClass name"
        );
    }
}
