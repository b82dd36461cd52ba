//! Mounts of a container: volumes with sub-paths, the hosts file and the termination message.

use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod, VolumeMount};
use keelson_cri::v1 as cri;

use super::env::Environment;
use super::{expansion, hosts};
use crate::kubelet::Kubelet;
use crate::pod::spec;
use crate::volume::{PodVolumes, subpath};

/// Where the termination message goes unless the container says otherwise.
const TERMINATION_LOG: &str = "/dev/termination-log";

/// A mount cannot be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot find volume {volume:?} to mount into container {container:?}")]
    NoVolume { volume: String, container: String },
    #[error("cannot use subPath {path:?}: variable expansion leaves references that are not defined")]
    Expansion { path: String },
    #[error(transparent)]
    SubPath(#[from] subpath::Error),
    #[error("cannot write {}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("volumeDevices are not supported by this kubelet (container {0:?})")]
    Devices(String),
}

/// Everything to mount into `container`.
pub(crate) async fn mounts(
    kubelet: &Kubelet,
    pod: &Pod,
    container: &Container,
    volumes: &PodVolumes,
    environment: &Environment,
    pod_ips: &[String],
) -> Result<Vec<cri::Mount>, Error> {
    if container
        .volume_devices
        .as_ref()
        .is_some_and(|devices| !devices.is_empty())
    {
        return Err(Error::Devices(container.name.clone()));
    }
    let mut result = Vec::new();
    for (index, mount) in container
        .volume_mounts
        .as_deref()
        .unwrap_or_default()
        .iter()
        .enumerate()
    {
        result.push(volume_mount(
            kubelet,
            pod,
            container,
            index,
            mount,
            volumes,
            environment,
        )?);
    }
    let taken = |path: &str| {
        result
            .iter()
            .any(|mount: &cri::Mount| mount.container_path == path)
    };
    let hosts = !taken("/etc/hosts") && !pod_ips.is_empty();
    let termination = container
        .termination_message_path
        .clone()
        .unwrap_or_else(|| TERMINATION_LOG.into());
    let termination = Some(termination).filter(|path| !path.is_empty() && !taken(path));
    let dir = kubelet.config.pod_dir(spec::uid(pod));
    if hosts {
        let path = dir.join("etc-hosts");
        let own = if spec::host_network(pod) {
            tokio::fs::read_to_string("/etc/hosts").await.unwrap_or_default()
        } else {
            String::new()
        };
        let text = hosts::content(pod, pod_ips, &kubelet.config.cluster_domain, &own);
        write(&path, &text).await?;
        result.push(cri::Mount {
            container_path: "/etc/hosts".into(),
            host_path: path.display().to_string(),
            readonly: container
                .security_context
                .as_ref()
                .and_then(|c| c.read_only_root_filesystem)
                .unwrap_or_default(),
            ..cri::Mount::default()
        });
    }
    if let Some(container_path) = termination {
        let dir = dir.join("containers").join(&container.name);
        tokio::fs::create_dir_all(&dir)
            .await
            .map_err(|source| Error::Io {
                path: dir.clone(),
                source,
            })?;
        let path = dir.join(format!("{:08x}", rand::random::<u32>()));
        write(&path, "").await?;
        // Whoever the container runs as may write it.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        tokio::fs::set_permissions(&path, mode)
            .await
            .map_err(|source| Error::Io {
                path: path.clone(),
                source,
            })?;
        result.push(cri::Mount {
            container_path,
            host_path: path.display().to_string(),
            ..cri::Mount::default()
        });
    }
    Ok(result)
}

async fn write(path: &Path, text: &str) -> Result<(), Error> {
    tokio::fs::write(path, text).await.map_err(|source| Error::Io {
        path: path.to_path_buf(),
        source,
    })
}

fn volume_mount(
    kubelet: &Kubelet,
    pod: &Pod,
    container: &Container,
    index: usize,
    mount: &VolumeMount,
    volumes: &PodVolumes,
    environment: &Environment,
) -> Result<cri::Mount, Error> {
    let volume = volumes.mounted.get(&mount.name).ok_or_else(|| Error::NoVolume {
        volume: mount.name.clone(),
        container: container.name.clone(),
    })?;
    let sub_path = match (&mount.sub_path, &mount.sub_path_expr) {
        (Some(path), _) if !path.is_empty() => Some(path.clone()),
        (_, Some(template)) if !template.is_empty() => Some(expand(template, environment)?),
        _ => None,
    };
    let readonly = mount.read_only.unwrap_or_default() || volume.read_only;
    let propagation = match mount.mount_propagation.as_deref() {
        Some("HostToContainer") => cri::MountPropagation::PropagationHostToContainer,
        Some("Bidirectional") => cri::MountPropagation::PropagationBidirectional,
        _ => cri::MountPropagation::PropagationPrivate,
    };
    let mut result = cri::Mount {
        container_path: absolute(&mount.mount_path),
        readonly,
        propagation: propagation as i32,
        recursive_read_only: readonly && mount.recursive_read_only.as_deref() == Some("Enabled"),
        ..cri::Mount::default()
    };
    if let Some(image) = &volume.image {
        result.image = Some(cri::ImageSpec {
            image: image.clone(),
            user_specified_image: image.clone(),
            ..Default::default()
        });
        result.image_sub_path = sub_path.unwrap_or_default();
        result.readonly = true;
        return Ok(result);
    }
    let host_path = match sub_path {
        None => volume.host_path.clone(),
        Some(sub_path) => {
            let place = kubelet
                .config
                .pod_dir(spec::uid(pod))
                .join("volume-subpaths")
                .join(&mount.name)
                .join(&container.name)
                .join(index.to_string());
            subpath::prepare(&volume.host_path, Path::new(&sub_path), &place)?
        }
    };
    result.host_path = host_path.display().to_string();
    Ok(result)
}

fn expand(template: &str, environment: &Environment) -> Result<String, Error> {
    let missing = std::cell::Cell::new(false);
    let expanded = expansion::expand(template, |name| {
        let found = environment
            .iter()
            .find(|(other, _)| other == name)
            .map(|(_, value)| value.clone());
        missing.set(missing.get() || found.is_none());
        found
    });
    if missing.get() {
        Err(Error::Expansion {
            path: template.to_owned(),
        })
    } else {
        Ok(expanded)
    }
}

fn absolute(path: &str) -> String {
    if Path::new(path).components().next() == Some(Component::RootDir) {
        path.to_owned()
    } else {
        format!("/{path}")
    }
}
