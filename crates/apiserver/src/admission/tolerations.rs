//! DefaultTolerationSeconds and TaintNodesByCondition: pods stay five minutes on a node that fails, and a new node is not
//! used before it is ready.

use async_trait::async_trait;
use keelson_api::status::Status;
use serde_json::{Value, json};

use super::object::{list, list_mut, text, writes};
use super::{Attributes, MutatingPlugin};

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const SECONDS: i64 = 300;

/// See the module.
pub(super) struct DefaultTolerationSeconds;

fn add_tolerations(pod: &mut Value) {
    for key in [NOT_READY, UNREACHABLE] {
        let tolerated = list(pod, "/spec/tolerations").iter().any(|t| {
            let (own, effect) = (text(t, "/key"), text(t, "/effect"));
            (own == key || own.is_empty()) && (effect == "NoExecute" || effect.is_empty())
        });
        if !tolerated {
            list_mut(&mut pod["spec"], "tolerations").push(json!({
                "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": SECONDS,
            }));
        }
    }
}

#[async_trait]
impl MutatingPlugin for DefaultTolerationSeconds {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
    }

    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        writes(attributes, "", "pods", true)
    }

    async fn admit(&self, _: &Attributes<'_>, object: Option<&mut Value>) -> Result<(), Status> {
        if let Some(pod) = object {
            add_tolerations(pod);
        }
        Ok(())
    }
}

/// See the module.
pub(super) struct TaintNodesByCondition;

fn taint(node: &mut Value) {
    let there = list(node, "/spec/taints")
        .iter()
        .any(|t| text(t, "/key") == NOT_READY && text(t, "/effect") == "NoSchedule");
    if !there {
        list_mut(&mut node["spec"], "taints").push(json!({"key": NOT_READY, "effect": "NoSchedule"}));
    }
}

#[async_trait]
impl MutatingPlugin for TaintNodesByCondition {
    fn name(&self) -> &'static str {
        "TaintNodesByCondition"
    }

    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        writes(attributes, "", "nodes", false)
    }

    async fn admit(&self, _: &Attributes<'_>, object: Option<&mut Value>) -> Result<(), Status> {
        if let Some(node) = object {
            taint(node);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn added_once() {
        let mut pod = json!({"spec": {"tolerations": [{"key": NOT_READY, "operator": "Exists"}]}});
        add_tolerations(&mut pod);
        add_tolerations(&mut pod);
        let tolerations = pod["spec"]["tolerations"].as_array().unwrap();
        assert_eq!(tolerations.len(), 2);
        assert_eq!(tolerations[1]["key"], UNREACHABLE);
        let mut all = json!({"spec": {"tolerations": [{"operator": "Exists"}]}});
        add_tolerations(&mut all);
        assert_eq!(all["spec"]["tolerations"].as_array().unwrap().len(), 1);
        let mut node = json!({"metadata": {"name": "n"}});
        taint(&mut node);
        taint(&mut node);
        assert_eq!(
            node["spec"]["taints"],
            json!([{"key": NOT_READY, "effect": "NoSchedule"}])
        );
    }
}
