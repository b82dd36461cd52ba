//! Labels and annotations by which sandboxes and containers are recognised after a restart; the ones upstream uses.

/// Pod name, on sandboxes and containers.
pub(crate) const POD_NAME: &str = "io.kubernetes.pod.name";
/// Pod namespace, on sandboxes and containers.
pub(crate) const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// Pod UID, on sandboxes and containers.
pub(crate) const POD_UID: &str = "io.kubernetes.pod.uid";
/// Container name, on containers.
pub(crate) const CONTAINER_NAME: &str = "io.kubernetes.container.name";
/// Annotation: hash of the parts of the spec that need a new container when they change.
pub(crate) const CONTAINER_HASH: &str = "io.kubernetes.container.hash";
/// Annotation: how often the container was restarted before this one.
pub(crate) const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
/// Annotation: path of the termination message in the container.
pub(crate) const TERMINATION_MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
/// Annotation: `File` or `FallbackToLogsOnError`.
pub(crate) const TERMINATION_MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
/// Annotation: the pod's grace period, in seconds.
pub(crate) const TERMINATION_GRACE_PERIOD: &str = "io.kubernetes.pod.terminationGracePeriod";
/// Annotation: the grace period of the deletion, in seconds.
pub(crate) const DELETION_GRACE_PERIOD: &str = "io.kubernetes.pod.deletionGracePeriod";
/// Annotation: the container's ports as JSON.
pub(crate) const CONTAINER_PORTS: &str = "io.kubernetes.container.ports";
/// Annotation: the preStop handler as JSON.
pub(crate) const PRE_STOP: &str = "io.kubernetes.container.preStopHandler";

/// Annotation on pods: where the pod comes from (`api`, `file`).
pub(crate) const CONFIG_SOURCE: &str = "kubernetes.io/config.source";
/// Annotation on pods: when the kubelet first saw it.
pub(crate) const CONFIG_SEEN: &str = "kubernetes.io/config.seen";
/// Annotation on static pods: hash of the manifest.
pub(crate) const CONFIG_HASH: &str = "kubernetes.io/config.hash";
/// Annotation on mirror pods: hash of the static pod they mirror.
pub(crate) const CONFIG_MIRROR: &str = "kubernetes.io/config.mirror";
