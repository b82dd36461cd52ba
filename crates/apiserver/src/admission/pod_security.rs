//! PodSecurity: the pod security standards, by the labels `pod-security.kubernetes.io/*` of the namespace.
//!
//! `enforce` refuses pods; `warn` and `audit` speak of pods and of what makes pods. Versions are accepted and shown; the
//! rules are those of the newest version.

use async_trait::async_trait;
use keelson_api::status::Status;
use serde_json::Value;

use super::object::{forbidden, map, text};
use super::pod_security_checks::{Level, violations};
use super::{Attributes, Operation, ValidatingPlugin};
use crate::resources::{Reader, Resources};

const LABEL: &str = "/metadata/labels/pod-security.kubernetes.io~1";

/// See the module.
pub(super) struct PodSecurity {
    namespaces: Reader,
}

impl PodSecurity {
    pub(super) fn new(resources: &Resources) -> Self {
        Self {
            namespaces: resources.resource("", "namespaces"),
        }
    }
}

/// Where the pod is in an object of this kind.
fn pod_pointer(group: &str, resource: &str) -> Option<&'static str> {
    Some(match (group, resource) {
        ("", "pods") => "",
        ("", "podtemplates") => "/template",
        ("batch", "cronjobs") => "/spec/jobTemplate/spec/template",
        ("", "replicationcontrollers")
        | ("apps", "replicasets" | "deployments" | "statefulsets" | "daemonsets")
        | ("batch", "jobs") => "/spec/template",
        _ => return None,
    })
}

/// Level and version of a mode, as the namespace's labels say.
fn policy(namespace: &Value, mode: &str) -> (Level, String) {
    let level = match text(namespace, &format!("{LABEL}{mode}")) {
        "" | "privileged" => Level::Privileged,
        "baseline" => Level::Baseline,
        // What cannot be understood is the strictest.
        _ => Level::Restricted,
    };
    let version = text(namespace, &format!("{LABEL}{mode}-version"));
    (
        level,
        if version.is_empty() { "latest" } else { version }.to_owned(),
    )
}

/// What of a pod the standards look at: changes elsewhere are not judged again.
fn judged_part(pod: &Value) -> Value {
    let mut part = pod["spec"].clone();
    if let Some(spec) = part.as_object_mut() {
        spec.remove("tolerations");
        spec.remove("activeDeadlineSeconds");
        for kind in ["containers", "initContainers", "ephemeralContainers"] {
            for container in spec
                .get_mut(kind)
                .and_then(Value::as_array_mut)
                .into_iter()
                .flatten()
            {
                container["image"] = Value::Null;
            }
        }
    }
    let annotations = map(pod, "/metadata/annotations").into_iter().flatten();
    let profiles: Vec<_> = annotations
        .filter(|(k, _)| k.contains("apparmor") || k.contains("seccomp"))
        .collect();
    serde_json::json!([part, profiles])
}

#[async_trait]
impl ValidatingPlugin for PodSecurity {
    fn name(&self) -> &'static str {
        "PodSecurity"
    }

    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        matches!(attributes.operation, Operation::Create | Operation::Update)
            && matches!(attributes.subresource, "" | "ephemeralcontainers")
            && pod_pointer(&attributes.resource.group, &attributes.resource.resource).is_some()
    }

    async fn validate(&self, attributes: &Attributes<'_>, object: Option<&Value>) -> Result<(), Status> {
        let (group, resource) = (&*attributes.resource.group, &*attributes.resource.resource);
        let (Some(value), Some(pointer)) = (object, pod_pointer(group, resource)) else {
            return Ok(());
        };
        let Some(namespace) = self.namespaces.get("", attributes.namespace) else {
            return Ok(());
        };
        if !namespace
            .labels()
            .iter()
            .any(|(key, _)| key.starts_with("pod-security.kubernetes.io/"))
        {
            return Ok(());
        }
        let namespace = namespace.parse();
        let Some(pod) = value.pointer(pointer) else {
            return Ok(());
        };
        let is_pod = group.is_empty() && resource == "pods";
        if let (true, Operation::Update, Some(old)) = (is_pod, attributes.operation, attributes.old_object)
            && judged_part(old) == judged_part(pod)
        {
            return Ok(());
        }
        let mut refused = None;
        if is_pod {
            let (level, version) = policy(&namespace, "enforce");
            attributes.notes.annotate(
                "pod-security.kubernetes.io/enforce-policy",
                format!("{level}:{version}"),
            );
            let problems = violations(pod, level);
            if !problems.is_empty() {
                refused = Some(format!(
                    "violates PodSecurity \"{level}:{version}\": {}",
                    problems.join(", ")
                ));
            }
        }
        let (level, version) = policy(&namespace, "audit");
        let problems = violations(pod, level);
        if !problems.is_empty() {
            let note = format!(
                "would violate PodSecurity \"{level}:{version}\": {}",
                problems.join(", ")
            );
            attributes
                .notes
                .annotate("pod-security.kubernetes.io/audit-violations", note);
        }
        if let Some(why) = refused {
            return Err(forbidden(attributes, object, why));
        }
        let (level, version) = policy(&namespace, "warn");
        let problems = violations(pod, level);
        if !problems.is_empty() {
            attributes.notes.warn(format!(
                "would violate PodSecurity \"{level}:{version}\": {}",
                problems.join(", ")
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::pod_security_checks::{Level, violations};
    use serde_json::Value;
    use serde_json::json;

    fn check(level: Level, spec: Value, wanted: &str) {
        assert_eq!(
            violations(&json!({"metadata": {}, "spec": spec}), level).join(", "),
            wanted
        );
    }

    #[test]
    fn baseline() {
        let one = |security: Value| json!({"containers": [{"name": "a", "securityContext": security}]});
        check(Level::Baseline, one(json!({})), "");
        check(
            Level::Baseline,
            one(json!({"privileged": true})),
            "privileged (container \"a\" must not set securityContext.privileged=true)",
        );
        check(Level::Privileged, one(json!({"privileged": true})), "");
        check(
            Level::Baseline,
            one(json!({"capabilities": {"add": ["SYS_ADMIN", "CHOWN"]}})),
            "non-default capabilities (container \"a\" must not include \"SYS_ADMIN\" in securityContext.capabilities.add)",
        );
        check(
            Level::Baseline,
            json!({"hostNetwork": true, "hostPID": true, "volumes": [{"name": "h", "hostPath": {"path": "/"}}],
                "containers": [{"name": "a", "ports": [{"hostPort": 80}]}, {"name": "b", "ports": [{"hostPort": 81}]}]}),
            "host namespaces (hostNetwork=true, hostPID=true), hostPath volumes (volume \"h\"), hostPort (containers \"a\", \
             \"b\" use hostPorts 80, 81)",
        );
    }

    #[test]
    fn restricted() {
        check(
            Level::Restricted,
            json!({"containers": [{"name": "nginx"}]}),
            "allowPrivilegeEscalation != false (container \"nginx\" must set securityContext.allowPrivilegeEscalation=false), \
             unrestricted capabilities (container \"nginx\" must set securityContext.capabilities.drop=[\"ALL\"]), \
             runAsNonRoot != true (pod or container \"nginx\" must set securityContext.runAsNonRoot=true), \
             seccompProfile (pod or container \"nginx\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \
             \"Localhost\")",
        );
        let hardened = json!({
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "volumes": [{"name": "e", "emptyDir": {}}],
            "containers": [{"name": "a", "securityContext":
                {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}],
        });
        check(Level::Restricted, hardened.clone(), "");
        let mut changed = hardened;
        changed["volumes"][0] = json!({"name": "n", "nfs": {}});
        check(
            Level::Restricted,
            changed,
            "restricted volume types (volume \"n\" uses restricted volume type \"nfs\")",
        );
    }
}
