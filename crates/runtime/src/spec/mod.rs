//! From CRI's container configuration and the image's to an OCI runtime specification, as containerd makes it.
//!
//! Network, IPC and UTS namespaces are not in the specification: the shim lives in the pod's. Resources are not either:
//! [`cgroup`](crate::cgroup) applies them. SELinux labels are refused where
//! the host has SELinux, and mean nothing elsewhere.

mod capabilities;
mod devices;
mod mounts;
mod process;
mod seccomp;
mod seccomp_default;
mod user;

use std::path::{Path, PathBuf};

use keelson_cri::v1;
use serde_json::{Value, json};

use crate::images::{OverlayMount, RunConfig};
use crate::protocol::{Launch, RootfsMount};

pub(crate) use process::stop_signal;

/// The device rules of a container's group. Blocking.
pub(crate) fn device_rules(
    devices: &[v1::Device],
    privileged: bool,
) -> Result<Vec<keelson_sys::cgroup_device::DeviceRule>, SpecError> {
    devices::generate(devices, privileged).map(|(_, rules)| rules)
}
pub(crate) use user::User;

/// Why no specification can be made; the text goes to the user.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpecError {
    /// The request contradicts itself or asks for what is not there.
    #[error("{0}")]
    Invalid(String),
    /// The request asks for what this runtime does not do.
    #[error("{0}")]
    Unsupported(String),
    /// Something on the host failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl SpecError {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

/// What a specification is made from.
#[derive(Debug)]
pub(crate) struct Input<'a> {
    pub(crate) id: &'a str,
    pub(crate) bundle: &'a Path,
    pub(crate) config: &'a v1::ContainerConfig,
    pub(crate) sandbox_config: &'a v1::PodSandboxConfig,
    /// Files and shared memory of the sandbox.
    pub(crate) sandbox_files: &'a SandboxFiles,
    pub(crate) image: &'a RunConfig,
    pub(crate) rootfs: OverlayMount,
    /// Process id whose PID namespace is joined: the pause process, or the target container's.
    pub(crate) join_pid: Option<i32>,
    /// Root file systems of image volumes, in the order of the mounts that have an image.
    pub(crate) image_volumes: Vec<OverlayMount>,
    pub(crate) log_path: Option<PathBuf>,
    pub(crate) seccomp_root: &'a Path,
}

/// Files that all containers of a sandbox see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SandboxFiles {
    pub(crate) hostname: PathBuf,
    pub(crate) hosts: PathBuf,
    pub(crate) resolv_conf: PathBuf,
    pub(crate) shm: PathBuf,
    /// The host name that containers see.
    pub(crate) name: String,
}

/// A finished specification.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) spec: Value,
    pub(crate) launch: Launch,
    pub(crate) user: User,
}

/// Makes the specification. Blocking: reads the image's files and the host's devices, and makes mount targets in the
/// bundle.
pub(crate) fn generate(input: Input<'_>) -> Result<Output, SpecError> {
    let linux = input.config.linux.clone().unwrap_or_default();
    let security = linux.security_context.clone().unwrap_or_default();
    let sandbox_linux = input.sandbox_config.linux.clone().unwrap_or_default();
    let sandbox_privileged = sandbox_linux
        .security_context
        .as_ref()
        .is_some_and(|context| context.privileged);
    if security.privileged && !sandbox_privileged {
        return Err(SpecError::Invalid(
            "no privileged container allowed in sandbox".to_owned(),
        ));
    }
    refuse_unsupported(input.config, &security, Path::new(SELINUX).exists())?;
    let namespaces = security.namespace_options.clone().unwrap_or_default();
    let pid_mode = v1::NamespaceMode::try_from(namespaces.pid).unwrap_or(v1::NamespaceMode::Pod);

    let user = user::resolve(&security, input.image, &input.rootfs.lowerdirs)?;
    let process = process::generate(&input, &security, &user)?;
    let cwd = process["cwd"].as_str().map(PathBuf::from).unwrap_or_default();
    let mounts = mounts::generate(&input, security.privileged, &namespaces)?;
    let (devices, _) = devices::generate(&input.config.devices, security.privileged)?;

    let mut oci_namespaces = vec![json!({"type": "mount"}), json!({"type": "cgroup"})];
    match (pid_mode, input.join_pid) {
        (v1::NamespaceMode::Node, _) => {}
        (_, Some(pid)) => oci_namespaces.push(json!({"type": "pid", "path": format!("/proc/{pid}/ns/pid")})),
        (_, None) => oci_namespaces.push(json!({"type": "pid"})),
    }
    let cgroup = Path::new("/")
        .join(sandbox_linux.cgroup_parent.trim_matches('/'))
        .join(input.id);
    let mut oci_linux = json!({
        "namespaces": oci_namespaces,
        "cgroupsPath": cgroup,
        "devices": devices,
    });
    if mounts.bidirectional {
        oci_linux["rootfsPropagation"] = json!("shared");
    }
    if !security.privileged {
        oci_linux["maskedPaths"] = json!(security.masked_paths);
        oci_linux["readonlyPaths"] = json!(security.readonly_paths);
        if let Some(profile) = seccomp::profile(&security, &process, input.seccomp_root)? {
            oci_linux["seccomp"] = profile;
        }
    }
    let spec = json!({
        "ociVersion": "1.2.0",
        "root": {"path": "rootfs", "readonly": security.readonly_rootfs},
        "mounts": mounts.oci,
        "process": process,
        "linux": oci_linux,
    });
    let cri_resources = linux.resources.unwrap_or_default();
    let mut directories = vec![cwd];
    directories.extend(input.image.volumes.keys().map(PathBuf::from));
    let launch = Launch {
        rootfs: RootfsMount::Overlay(input.rootfs),
        log_path: input.log_path,
        tty: input.config.tty,
        stdin: input.config.stdin,
        cgroup,
        uid: user.uid,
        oom_score_adj: Some(i32::try_from(cri_resources.oom_score_adj).unwrap_or(0)),
        directories,
        image_mounts: mounts.images,
        staged: mounts.staged,
        own_pid_namespace: pid_mode != v1::NamespaceMode::Node && input.join_pid.is_none(),
        seccomp: None,
    };
    Ok(Output { spec, launch, user })
}

/// There where the kernel enforces SELinux policies.
const SELINUX: &str = "/sys/fs/selinux/enforce";

/// What cannot be done is an error, not ignored.
fn refuse_unsupported(
    config: &v1::ContainerConfig,
    security: &v1::LinuxContainerSecurityContext,
    selinux: bool,
) -> Result<(), SpecError> {
    if let Some(apparmor) = &security.apparmor
        && apparmor.profile_type == v1::security_profile::ProfileType::Localhost as i32
    {
        return Err(SpecError::Unsupported("apparmor is not supported".to_owned()));
    }
    if security.selinux_options.is_some() && selinux {
        return Err(SpecError::Unsupported(
            "SELinux options are not supported by this runtime".to_owned(),
        ));
    }
    if !config.cdi_devices.is_empty() {
        return Err(SpecError::Unsupported("CDI devices are not supported".to_owned()));
    }
    if user_namespace_requested(security.namespace_options.as_ref()) {
        return Err(SpecError::Unsupported(
            "user namespaces are not supported by this runtime yet".to_owned(),
        ));
    }
    Ok(())
}

/// Whether a pod or container asks for a user namespace of its own.
pub(crate) fn user_namespace_requested(options: Option<&v1::NamespaceOption>) -> bool {
    options
        .and_then(|options| options.userns_options.as_ref())
        .is_some_and(|userns| userns.mode == v1::NamespaceMode::Pod as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_refused_where_they_would_mean_something() {
        let mut security = v1::LinuxContainerSecurityContext::default();
        let config = v1::ContainerConfig::default();
        assert!(refuse_unsupported(&config, &security, true).is_ok());
        security.selinux_options = Some(v1::SeLinuxOption::default());
        assert!(refuse_unsupported(&config, &security, false).is_ok());
        let error = refuse_unsupported(&config, &security, true).unwrap_err();
        assert!(error.to_string().contains("SELinux"), "{error}");
    }
}
