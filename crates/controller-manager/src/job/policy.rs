//! `podFailurePolicy` and `successPolicy`: rules that decide about a pod or the Job before the counts do.

use k8s_openapi::api::batch::v1::{
    PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyOnPodConditionsPattern,
    SuccessPolicy,
};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use super::indexes::Indexes;
use crate::shared::owner::{name, namespace};

/// What a failed pod means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Judgement {
    /// One failure more.
    Count,
    /// As if it had not failed.
    Ignore,
    /// Its index has failed for good.
    FailIndex,
    /// The Job has failed, with this message.
    FailJob(String),
}

/// The first rule that fits decides; without one the failure counts.
pub(super) fn judge(policy: Option<&PodFailurePolicy>, pod: &Pod) -> Judgement {
    let rules = policy.map(|policy| policy.rules.as_slice()).unwrap_or_default();
    for (number, rule) in rules.iter().enumerate() {
        let reason = match (&rule.on_exit_codes, &rule.on_pod_conditions) {
            (Some(codes), _) => exit_code(codes, pod).map(|(container, code)| {
                let (namespace, name) = (namespace(pod), name(pod));
                format!("Container {container} for pod {namespace}/{name} failed with exit code {code}")
            }),
            (None, Some(patterns)) => condition(patterns, pod)
                .map(|condition| format!("Pod {}/{} has condition {condition}", namespace(pod), name(pod))),
            (None, None) => None,
        };
        let Some(reason) = reason else { continue };
        return match rule.action.as_str() {
            "Ignore" => Judgement::Ignore,
            "FailIndex" => Judgement::FailIndex,
            "FailJob" => Judgement::FailJob(format!("{reason} matching FailJob rule at index {number}")),
            _ => Judgement::Count,
        };
    }
    Judgement::Count
}

fn exit_code(rule: &PodFailurePolicyOnExitCodesRequirement, pod: &Pod) -> Option<(String, i32)> {
    let status = pod.status.as_ref()?;
    let containers = status
        .container_statuses
        .iter()
        .chain(&status.init_container_statuses)
        .flatten();
    let exit = |container: &ContainerStatus| -> Option<i32> {
        let code = container.state.as_ref()?.terminated.as_ref()?.exit_code;
        let listed = rule.values.contains(&code);
        let fits = match rule.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            _ => false,
        };
        (code != 0 && fits).then_some(code)
    };
    containers
        .filter(|container| {
            rule.container_name
                .as_ref()
                .is_none_or(|wanted| *wanted == container.name)
        })
        .find_map(|container| Some((container.name.clone(), exit(container)?)))
}

fn condition<'a>(patterns: &[PodFailurePolicyOnPodConditionsPattern], pod: &'a Pod) -> Option<&'a str> {
    let conditions = pod.status.as_ref()?.conditions.as_deref()?;
    conditions
        .iter()
        .find(|condition| {
            let status = |pattern: &PodFailurePolicyOnPodConditionsPattern| {
                pattern.status.as_deref().unwrap_or("True") == condition.status
            };
            patterns
                .iter()
                .any(|pattern| pattern.type_ == condition.type_ && status(pattern))
        })
        .map(|condition| condition.type_.as_str())
}

/// The number of the first rule of the success policy that the succeeded indexes satisfy.
pub(super) fn succeeded(policy: &SuccessPolicy, completions: i32, succeeded: &Indexes) -> Option<usize> {
    policy.rules.iter().position(|rule| {
        let wanted = rule
            .succeeded_indexes
            .as_deref()
            .map(|text| Indexes::parse(text, completions));
        let inside = match &wanted {
            Some(wanted) => succeeded.0.intersection(&wanted.0).count(),
            None => succeeded.0.len(),
        };
        match (rule.succeeded_count, wanted) {
            (Some(count), _) => usize::try_from(count).is_ok_and(|count| inside >= count),
            (None, Some(wanted)) => inside == wanted.0.len(),
            (None, None) => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn failure_rules() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n"},
            "status": {"conditions": [{"type": "DisruptionTarget", "status": "True"}], "containerStatuses": [
                {"name": "ok", "ready": false, "restartCount": 0, "image": "", "imageID": "",
                 "state": {"terminated": {"exitCode": 0}}},
                {"name": "main", "ready": false, "restartCount": 0, "image": "", "imageID": "",
                 "state": {"terminated": {"exitCode": 42}}}]}
        }))
        .unwrap();
        let check = |rules: Value, expected: Judgement| {
            let policy: PodFailurePolicy = serde_json::from_value(json!({"rules": rules})).unwrap();
            assert_eq!(judge(Some(&policy), &pod), expected);
        };
        let codes = |action: &str, operator: &str, values: Value| json!([{"action": action, "onExitCodes": {"operator": operator, "values": values}}]);
        check(json!([]), Judgement::Count);
        check(codes("Ignore", "In", json!([42])), Judgement::Ignore);
        check(codes("Ignore", "In", json!([0])), Judgement::Count);
        check(codes("FailIndex", "NotIn", json!([1])), Judgement::FailIndex);
        let message = "Container main for pod n/p failed with exit code 42 matching FailJob rule at index 0";
        check(
            codes("FailJob", "In", json!([1, 42])),
            Judgement::FailJob(message.into()),
        );
        let other = json!([{"action": "Ignore",
            "onExitCodes": {"containerName": "ok", "operator": "NotIn", "values": [7]}}]);
        check(other, Judgement::Count);
        let condition = json!([{"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget"}]}]);
        let message = "Pod n/p has condition DisruptionTarget matching FailJob rule at index 0";
        check(condition, Judgement::FailJob(message.into()));
    }

    #[test]
    fn success_rules() {
        let check = |rules: Value, done: &str, expected| {
            let policy: SuccessPolicy = serde_json::from_value(json!({"rules": rules})).unwrap();
            assert_eq!(succeeded(&policy, 10, &Indexes::parse(done, 10)), expected);
        };
        check(json!([{"succeededIndexes": "0,2-3"}]), "0,2,3,5", Some(0));
        check(json!([{"succeededIndexes": "0,2-3"}]), "0,2", None);
        check(json!([{"succeededCount": 2}]), "4,5", Some(0));
        check(
            json!([{"succeededIndexes": "0-3", "succeededCount": 2}]),
            "3,5,6",
            None,
        );
        check(
            json!([{"succeededCount": 9}, {"succeededIndexes": "1"}]),
            "1",
            Some(1),
        );
    }
}
