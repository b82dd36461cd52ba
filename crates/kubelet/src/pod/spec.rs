//! Short questions to a pod's spec.

use k8s_openapi::api::core::v1::{Container, ContainerRestartRule, Pod, PodSpec};
use k8s_openapi::jiff::Timestamp;
use sha2::{Digest, Sha256};

use crate::labels;

/// The grace period of a pod that names none, in seconds.
pub(crate) const DEFAULT_GRACE_PERIOD: i64 = 30;

/// What happens when a container ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

/// The pod's UID; empty when it has none.
pub(crate) fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

/// The pod's name.
pub(crate) fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

/// The pod's namespace.
pub(crate) fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or("default")
}

/// `name_namespace(uid)`, as events and messages show a pod.
pub(crate) fn format(pod: &Pod) -> String {
    format!("{}_{}({})", name(pod), namespace(pod), uid(pod))
}

/// The spec; the API server does not admit pods without one.
pub(crate) fn spec(pod: &Pod) -> &PodSpec {
    static EMPTY: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);
    pod.spec.as_ref().unwrap_or(&EMPTY)
}

/// The init containers in their order.
pub(crate) fn init_containers(pod: &Pod) -> &[Container] {
    spec(pod).init_containers.as_deref().unwrap_or_default()
}

/// The main containers.
pub(crate) fn containers(pod: &Pod) -> &[Container] {
    &spec(pod).containers
}

/// The ephemeral containers, with the fields they share with all containers.
pub(crate) fn ephemeral_containers(pod: &Pod) -> Vec<Container> {
    let ephemeral = spec(pod).ephemeral_containers.as_deref().unwrap_or_default();
    ephemeral
        .iter()
        .map(|c| Container {
            name: c.name.clone(),
            args: c.args.clone(),
            command: c.command.clone(),
            env: c.env.clone(),
            env_from: c.env_from.clone(),
            image: c.image.clone(),
            image_pull_policy: c.image_pull_policy.clone(),
            security_context: c.security_context.clone(),
            stdin: c.stdin,
            stdin_once: c.stdin_once,
            termination_message_path: c.termination_message_path.clone(),
            termination_message_policy: c.termination_message_policy.clone(),
            tty: c.tty,
            volume_mounts: c.volume_mounts.clone(),
            working_dir: c.working_dir.clone(),
            ..Container::default()
        })
        .collect()
}

/// Any container of the pod by name.
pub(crate) fn container(pod: &Pod, name: &str) -> Option<Container> {
    let mut all = init_containers(pod).iter().chain(containers(pod));
    all.find(|c| c.name == name)
        .cloned()
        .or_else(|| ephemeral_containers(pod).into_iter().find(|c| c.name == name))
}

/// `spec.containers{name}`, `spec.initContainers{name}` or `spec.ephemeralContainers{name}`, for events.
pub(crate) fn field_path(pod: &Pod, container: &str) -> String {
    let list = if init_containers(pod).iter().any(|c| c.name == container) {
        "initContainers"
    } else if containers(pod).iter().any(|c| c.name == container) {
        "containers"
    } else {
        "ephemeralContainers"
    };
    format!("spec.{list}{{{container}}}")
}

/// The pod's restart policy; `Always` when it names none.
pub(crate) fn restart_policy(pod: &Pod) -> RestartPolicy {
    policy(spec(pod).restart_policy.as_deref())
}

fn policy(text: Option<&str>) -> RestartPolicy {
    match text {
        Some("Never") => RestartPolicy::Never,
        Some("OnFailure") => RestartPolicy::OnFailure,
        _ => RestartPolicy::Always,
    }
}

/// Whether an init container is a sidecar, restarted as long as the pod lives.
pub(crate) fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// Whether `container` is to run again after it ended with `exit_code`; `None` is an unknown end, which is a failure.
/// A container's own rules come first, then its own policy, then the pod's.
pub(crate) fn restarts_after(pod: &Pod, container: &Container, exit_code: Option<i32>) -> bool {
    if let Some(code) = exit_code
        && let Some(rules) = &container.restart_policy_rules
        && rules.iter().any(|rule| rule_matches(rule, code))
    {
        return true;
    }
    let policy = match container.restart_policy.as_deref() {
        Some(own) => policy(Some(own)),
        None => restart_policy(pod),
    };
    match policy {
        RestartPolicy::Always => true,
        RestartPolicy::OnFailure => exit_code != Some(0),
        RestartPolicy::Never => false,
    }
}

fn rule_matches(rule: &ContainerRestartRule, code: i32) -> bool {
    let Some(codes) = rule.exit_codes.as_ref().filter(|_| rule.action == "Restart") else {
        return false;
    };
    let contains = codes.values.as_deref().unwrap_or_default().contains(&code);
    match codes.operator.as_str() {
        "In" => contains,
        "NotIn" => !contains,
        _ => false,
    }
}

/// Whether the pod shares the node's network.
pub(crate) fn host_network(pod: &Pod) -> bool {
    spec(pod).host_network.unwrap_or_default()
}

/// The pod's own grace period in seconds.
pub(crate) fn grace_period(pod: &Pod) -> i64 {
    spec(pod)
        .termination_grace_period_seconds
        .unwrap_or(DEFAULT_GRACE_PERIOD)
}

/// When the deletion was asked for.
pub(crate) fn deletion_timestamp(pod: &Pod) -> Option<Timestamp> {
    pod.metadata.deletion_timestamp.as_ref().map(|time| time.0)
}

/// An annotation of the pod.
pub(crate) fn annotation<'a>(pod: &'a Pod, key: &str) -> Option<&'a str> {
    pod.metadata
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get(key))
        .map(String::as_str)
}

/// Whether the pod comes from a manifest on this node.
pub(crate) fn is_static(pod: &Pod) -> bool {
    annotation(pod, labels::CONFIG_SOURCE).is_some_and(|source| source != "api")
}

/// Whether the pod only shows a static pod in the API.
pub(crate) fn is_mirror(pod: &Pod) -> bool {
    annotation(pod, labels::CONFIG_MIRROR).is_some()
}

/// Whether the pod may displace others: static, or of a system priority.
pub(crate) fn is_critical(pod: &Pod) -> bool {
    is_static(pod)
        || is_mirror(pod)
        || spec(pod)
            .priority
            .is_some_and(|priority| priority >= 2_000_000_000)
}

/// The pod's phase as the API has it.
pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        .unwrap_or_default()
}

/// Hash of what a container cannot change in place: its name and image.
pub(crate) fn container_hash(container: &Container) -> String {
    let mut hasher = Sha256::new();
    hasher.update(container.name.as_bytes());
    hasher.update([0]);
    hasher.update(container.image.as_deref().unwrap_or_default().as_bytes());
    hex::encode(&hasher.finalize()[..4])
}
