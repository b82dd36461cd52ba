//! Security contexts: what the pod's and the container's contexts together come to.

use k8s_openapi::api::core::v1::{Container, Pod, PodSecurityContext, SeccompProfile};
use keelson_cri::v1 as cri;

use crate::config::KubeletConfig;
use crate::pod::spec;

/// Paths of /proc and /sys that containers do not see.
const MASKED_PATHS: [&str; 11] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
/// Paths of /proc that containers cannot write.
const READONLY_PATHS: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Who an image runs as.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ImageUser {
    pub(crate) uid: Option<i64>,
    pub(crate) username: String,
}

fn pod_context(pod: &Pod) -> PodSecurityContext {
    spec::spec(pod).security_context.clone().unwrap_or_default()
}

/// Refuses a container that would run as root although it must not.
pub(crate) fn verify_run_as_non_root(
    pod: &Pod,
    container: &Container,
    image: &ImageUser,
) -> Result<(), String> {
    let own = container.security_context.clone().unwrap_or_default();
    let outer = pod_context(pod);
    if !own.run_as_non_root.or(outer.run_as_non_root).unwrap_or_default() {
        return Ok(());
    }
    let shown = format!("(pod: {:?}, container: {})", spec::format(pod), container.name);
    match (own.run_as_user.or(outer.run_as_user), image.uid) {
        (Some(0), _) => Err(format!("container's runAsUser breaks non-root policy {shown}")),
        (Some(_), _) => Ok(()),
        (None, Some(0)) => Err(format!(
            "container has runAsNonRoot and image will run as root {shown}"
        )),
        (None, Some(_)) => Ok(()),
        (None, None) if !image.username.is_empty() => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({}), cannot verify user is non-root {shown}",
            image.username
        )),
        (None, None) => Err(format!(
            "container has runAsNonRoot and image will run as root {shown}"
        )),
    }
}

/// The seccomp profile for CRI.
fn seccomp(
    profile: Option<&SeccompProfile>,
    config: &KubeletConfig,
    privileged: bool,
) -> cri::SecurityProfile {
    use cri::security_profile::ProfileType;
    let (kind, reference) = match profile.map(|profile| profile.type_.as_str()) {
        _ if privileged => (ProfileType::Unconfined, String::new()),
        Some("RuntimeDefault") => (ProfileType::RuntimeDefault, String::new()),
        Some("Localhost") => {
            let file = profile
                .and_then(|profile| profile.localhost_profile.clone())
                .unwrap_or_default();
            (
                ProfileType::Localhost,
                config.root_dir.join("seccomp").join(file).display().to_string(),
            )
        }
        Some(_) => (ProfileType::Unconfined, String::new()),
        None if config.seccomp_default => (ProfileType::RuntimeDefault, String::new()),
        None => (ProfileType::Unconfined, String::new()),
    };
    cri::SecurityProfile {
        profile_type: kind as i32,
        localhost_ref: reference,
    }
}

/// Which namespaces the pod shares with the node, and its containers with each other.
pub(crate) fn namespace_options(pod: &Pod) -> cri::NamespaceOption {
    let pod_spec = spec::spec(pod);
    let node_or = |host: Option<bool>, otherwise: cri::NamespaceMode| {
        if host.unwrap_or_default() {
            cri::NamespaceMode::Node
        } else {
            otherwise
        }
    };
    let shared = pod_spec.share_process_namespace.unwrap_or_default();
    let pid = if shared {
        cri::NamespaceMode::Pod
    } else {
        cri::NamespaceMode::Container
    };
    cri::NamespaceOption {
        network: node_or(pod_spec.host_network, cri::NamespaceMode::Pod) as i32,
        ipc: node_or(pod_spec.host_ipc, cri::NamespaceMode::Pod) as i32,
        pid: node_or(pod_spec.host_pid, pid) as i32,
        ..cri::NamespaceOption::default()
    }
}

fn supplemental_policy(context: &PodSecurityContext) -> i32 {
    let strict = context.supplemental_groups_policy.as_deref() == Some("Strict");
    (if strict {
        cri::SupplementalGroupsPolicy::Strict
    } else {
        cri::SupplementalGroupsPolicy::Merge
    }) as i32
}

fn groups(context: &PodSecurityContext) -> Vec<i64> {
    let own = context.supplemental_groups.iter().flatten().copied();
    let mut groups: Vec<i64> = context.fs_group.into_iter().chain(own).collect();
    groups.dedup();
    groups
}

/// The context of the sandbox itself.
pub(crate) fn sandbox_context(pod: &Pod, config: &KubeletConfig) -> cri::LinuxSandboxSecurityContext {
    let context = pod_context(pod);
    let privileged = spec::init_containers(pod)
        .iter()
        .chain(spec::containers(pod))
        .any(|container| {
            container
                .security_context
                .as_ref()
                .and_then(|context| context.privileged)
                .unwrap_or_default()
        });
    let value = |id: i64| cri::Int64Value { value: id };
    cri::LinuxSandboxSecurityContext {
        namespace_options: Some(namespace_options(pod)),
        run_as_user: context.run_as_user.map(value),
        // A group needs a user.
        run_as_group: context
            .run_as_group
            .filter(|_| context.run_as_user.is_some())
            .map(value),
        supplemental_groups: groups(&context),
        supplemental_groups_policy: supplemental_policy(&context),
        privileged,
        seccomp: Some(seccomp(context.seccomp_profile.as_ref(), config, false)),
        ..cri::LinuxSandboxSecurityContext::default()
    }
}

/// The context of a container.
pub(crate) fn container_context(
    pod: &Pod,
    container: &Container,
    config: &KubeletConfig,
    image: &ImageUser,
    target_id: Option<String>,
) -> cri::LinuxContainerSecurityContext {
    let outer = pod_context(pod);
    let own = container.security_context.clone().unwrap_or_default();
    let privileged = own.privileged.unwrap_or_default();
    let value = |id: i64| cri::Int64Value { value: id };
    let run_as_user = own.run_as_user.or(outer.run_as_user).or(image.uid);
    let mut namespaces = namespace_options(pod);
    if let Some(target) = target_id {
        namespaces.pid = cri::NamespaceMode::Target as i32;
        namespaces.target_id = target;
    }
    let strings = |list: &[&str]| list.iter().map(|&path| path.to_owned()).collect();
    let default_proc = !privileged && own.proc_mount.as_deref() != Some("Unmasked");
    let profile = own.seccomp_profile.as_ref().or(outer.seccomp_profile.as_ref());
    let apparmor = own
        .app_armor_profile
        .as_ref()
        .or(outer.app_armor_profile.as_ref())
        .map(|profile| {
            use cri::security_profile::ProfileType;
            let kind = match profile.type_.as_str() {
                "Localhost" => ProfileType::Localhost,
                "Unconfined" => ProfileType::Unconfined,
                _ => ProfileType::RuntimeDefault,
            };
            cri::SecurityProfile {
                profile_type: kind as i32,
                localhost_ref: profile.localhost_profile.clone().unwrap_or_default(),
            }
        });
    cri::LinuxContainerSecurityContext {
        capabilities: own.capabilities.map(|capabilities| cri::Capability {
            add_capabilities: capabilities.add.unwrap_or_default(),
            drop_capabilities: capabilities.drop.unwrap_or_default(),
            add_ambient_capabilities: Vec::new(),
        }),
        privileged,
        namespace_options: Some(namespaces),
        run_as_username: if run_as_user.is_none() {
            image.username.clone()
        } else {
            String::new()
        },
        run_as_group: own.run_as_group.or(outer.run_as_group).map(value),
        run_as_user: run_as_user.map(value),
        readonly_rootfs: own.read_only_root_filesystem.unwrap_or_default(),
        supplemental_groups: groups(&outer),
        supplemental_groups_policy: supplemental_policy(&outer),
        no_new_privs: own.allow_privilege_escalation == Some(false),
        masked_paths: if default_proc {
            strings(&MASKED_PATHS)
        } else {
            Vec::new()
        },
        readonly_paths: if default_proc {
            strings(&READONLY_PATHS)
        } else {
            Vec::new()
        },
        seccomp: Some(seccomp(profile, config, privileged)),
        apparmor,
        selinux_options: own
            .se_linux_options
            .or(outer.se_linux_options)
            .map(|options| cri::SeLinuxOption {
                user: options.user.unwrap_or_default(),
                role: options.role.unwrap_or_default(),
                r#type: options.type_.unwrap_or_default(),
                level: options.level.unwrap_or_default(),
            }),
        ..cri::LinuxContainerSecurityContext::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn non_root_is_verified_against_spec_and_image() {
        let image = |uid, username: &str| ImageUser {
            uid,
            username: username.into(),
        };
        for (pod_context, own, image, expected) in [
            (json!({}), json!({}), image(Some(0), ""), None),
            (
                json!({"runAsNonRoot": true}),
                json!({}),
                image(Some(0), ""),
                Some("image will run as root"),
            ),
            (
                json!({"runAsNonRoot": true}),
                json!({"runAsNonRoot": false}),
                image(Some(0), ""),
                None,
            ),
            (
                json!({"runAsNonRoot": true}),
                json!({"runAsUser": 5}),
                image(Some(0), ""),
                None,
            ),
            (
                json!({"runAsNonRoot": true, "runAsUser": 0}),
                json!({}),
                image(None, "web"),
                Some("breaks non-root policy"),
            ),
            (
                json!({}),
                json!({"runAsNonRoot": true}),
                image(None, "web"),
                Some("non-numeric user (web)"),
            ),
            (
                json!({}),
                json!({"runAsNonRoot": true}),
                image(Some(101), ""),
                None,
            ),
        ] {
            let container = json!({"name": "c", "securityContext": own});
            let pod = serde_json::from_value(json!({"metadata": {"name": "p"},
                "spec": {"securityContext": pod_context, "containers": [container]}}))
            .unwrap();
            let container = serde_json::from_value(container).unwrap();
            let result = verify_run_as_non_root(&pod, &container, &image);
            match expected {
                None => assert_eq!(result, Ok(())),
                Some(part) => assert!(
                    result.as_ref().is_err_and(|text| text.contains(part)),
                    "{result:?}"
                ),
            }
        }
    }
}
