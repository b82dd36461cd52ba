//! Whether a node should run a DaemonSet's pod: name, node selector, node affinity and taints.

use k8s_openapi::api::core::v1::{
    Node, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, Taint, Toleration,
};

use crate::shared::owner::name;

/// What a node means to a DaemonSet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fit {
    /// A pod must be there.
    pub(super) should_run: bool,
    /// A pod that is there may stay.
    pub(super) may_stay: bool,
}

impl Fit {
    const NONE: Self = Self {
        should_run: false,
        may_stay: false,
    };
}

/// Judges `node` for `pod`, which is the template with the tolerations that pods of DaemonSets get, but with the
/// template's own affinity.
pub(super) fn fit(pod: &Pod, template: &PodSpec, node: &Node) -> Fit {
    let wanted = template.node_name.as_deref().unwrap_or_default();
    if (!wanted.is_empty() && wanted != name(node)) || !matches_affinity(template, node) {
        return Fit::NONE;
    }
    let tolerations = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.tolerations.as_deref())
        .unwrap_or_default();
    let taints = node
        .spec
        .as_ref()
        .and_then(|spec| spec.taints.as_deref())
        .unwrap_or_default();
    let untolerated = |effects: &[&str]| {
        let effective = taints
            .iter()
            .filter(|taint| effects.contains(&taint.effect.as_str()));
        effective
            .into_iter()
            .any(|taint| !tolerations.iter().any(|toleration| tolerates(toleration, taint)))
    };
    Fit {
        should_run: !untolerated(&["NoSchedule", "NoExecute"]),
        may_stay: !untolerated(&["NoExecute"]),
    }
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let (key, effect) = (text(&toleration.key), text(&toleration.effect));
    if (!effect.is_empty() && effect != taint.effect) || (!key.is_empty() && key != taint.key) {
        return false;
    }
    match toleration.operator.as_deref() {
        None | Some("" | "Equal") => text(&toleration.value) == text(&taint.value),
        Some("Exists") => true,
        _ => false,
    }
}

fn matches_affinity(spec: &PodSpec, node: &Node) -> bool {
    let labels = node.metadata.labels.as_ref();
    let label = |key: &str| labels.and_then(|labels| labels.get(key)).map(String::as_str);
    if !spec
        .node_selector
        .iter()
        .flatten()
        .all(|(key, value)| label(key) == Some(value))
    {
        return false;
    }
    let affinity = spec
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|affinity| {
        affinity
            .required_during_scheduling_ignored_during_execution
            .as_ref()
    });
    required.is_none_or(|required| {
        required
            .node_selector_terms
            .iter()
            .any(|term| matches_term(term, &label, name(node)))
    })
}

/// All requirements must hold; a term without any matches nothing.
fn matches_term<'a>(term: &NodeSelectorTerm, label: &dyn Fn(&str) -> Option<&'a str>, node: &str) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    (!expressions.is_empty() || !fields.is_empty())
        && expressions
            .iter()
            .all(|requirement| matches_requirement(requirement, label(&requirement.key)))
        && fields
            .iter()
            .all(|field| field.key == "metadata.name" && matches_requirement(field, Some(node)))
}

fn matches_requirement(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let contains = || value.is_some_and(|value| values.iter().any(|other| other == value));
    let numbers = || -> Option<(i64, i64)> { Some((value?.parse().ok()?, values.first()?.parse().ok()?)) };
    match requirement.operator.as_str() {
        "In" => contains(),
        "NotIn" => !contains(),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => numbers().is_some_and(|(value, limit)| value > limit),
        "Lt" => numbers().is_some_and(|(value, limit)| value < limit),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn judge(template: Value, node: Value) -> (bool, bool) {
        let mut spec = json!({"containers": []});
        spec.as_object_mut()
            .unwrap()
            .extend(template.as_object().unwrap().clone());
        let spec: PodSpec = serde_json::from_value(spec).unwrap();
        let pod = Pod {
            spec: Some(spec.clone()),
            ..Pod::default()
        };
        let fit = fit(&pod, &spec, &serde_json::from_value(node).unwrap());
        (fit.should_run, fit.may_stay)
    }

    #[test]
    fn fits() {
        let node = |taints: Value| json!({"metadata": {"name": "n1", "labels": {"zone": "a", "cores": "8"}}, "spec": {"taints": taints}});
        let plain = || node(json!([]));
        let terms = |terms: Value| {
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
                {"nodeSelectorTerms": terms}}}})
        };
        let expression = |key: &str, operator: &str, values: Value| json!([{"matchExpressions": [{"key": key, "operator": operator, "values": values}]}]);
        let check = |template: Value, node: Value, expected: (bool, bool)| {
            assert_eq!(
                judge(template.clone(), node.clone()),
                expected,
                "{template} {node}"
            );
        };
        let (yes, no) = ((true, true), (false, false));
        check(json!({}), plain(), yes);
        check(json!({"nodeName": "n2"}), plain(), no);
        check(json!({"nodeSelector": {"zone": "a"}}), plain(), yes);
        check(json!({"nodeSelector": {"zone": "b"}}), plain(), no);
        check(terms(expression("zone", "In", json!(["a", "b"]))), plain(), yes);
        check(terms(expression("zone", "NotIn", json!(["a"]))), plain(), no);
        check(terms(expression("other", "NotIn", json!(["a"]))), plain(), yes);
        check(
            terms(expression("other", "DoesNotExist", json!([]))),
            plain(),
            yes,
        );
        check(terms(expression("cores", "Gt", json!(["7"]))), plain(), yes);
        check(terms(expression("cores", "Lt", json!(["8"]))), plain(), no);
        check(terms(json!([{}])), plain(), no);
        check(terms(json!([])), plain(), no);
        let fields = json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}]);
        check(terms(fields), plain(), yes);
        let taint = |effect: &str| node(json!([{"key": "k", "value": "v", "effect": effect}]));
        check(json!({}), taint("NoSchedule"), (false, true));
        check(json!({}), taint("NoExecute"), no);
        check(json!({}), taint("PreferNoSchedule"), yes);
        let toleration = |toleration: Value| json!({"tolerations": [toleration]});
        check(toleration(json!({"operator": "Exists"})), taint("NoExecute"), yes);
        check(
            toleration(json!({"key": "k", "value": "v"})),
            taint("NoSchedule"),
            yes,
        );
        check(
            toleration(json!({"key": "k", "value": "w"})),
            taint("NoSchedule"),
            (false, true),
        );
        check(
            toleration(json!({"key": "k", "value": "v", "effect": "NoExecute"})),
            taint("NoSchedule"),
            (false, true),
        );
    }
}
