//! Sets up the volumes of a pod and takes them down again.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, Volume};
use parking_lot::Mutex;

use super::{
    downward_api, empty_dir, host_path, image, keyed, mount_table, persistent_claim, projected, token,
};
use crate::kubelet::Kubelet;
use crate::objects;
use crate::pod::spec;

/// A volume that containers can mount.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mounted {
    pub(crate) host_path: PathBuf,
    pub(crate) read_only: bool,
    /// The image to mount, where the volume is one.
    pub(crate) image: Option<String>,
    /// When the content has to be made anew.
    pub(crate) refresh_after: Option<Duration>,
}

/// All volumes of a pod.
#[derive(Clone, Debug, Default)]
pub(crate) struct PodVolumes {
    pub(crate) mounted: Arc<HashMap<String, Mounted>>,
    pub(crate) refresh_after: Option<Duration>,
}

/// A volume cannot be set up or taken down. The text is the FailedMount event's.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("MountVolume.SetUp failed for volume {volume:?} : {source}")]
    SetUp {
        volume: String,
        #[source]
        source: Box<PluginError>,
    },
    #[error("cannot remove volumes in {}", path.display())]
    TearDown {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

/// What went wrong within one kind of volume.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PluginError {
    #[error(transparent)]
    Object(#[from] objects::Error),
    #[error(transparent)]
    Token(#[from] token::Error),
    #[error("{}: {source}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{0}")]
    Invalid(String),
    #[error("volumes of type {0} are not supported by this kubelet")]
    Unsupported(&'static str),
    #[error("{0}")]
    Claim(String),
}

impl PluginError {
    pub(super) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + use<> {
        let path = path.to_path_buf();
        move |source| Self::Io { path, source }
    }
}

/// What a plugin gets to work with.
pub(crate) struct Context<'a> {
    pub(crate) kubelet: &'a Kubelet,
    pub(crate) pod: &'a Pod,
    pub(crate) volume: &'a Volume,
}

impl Context<'_> {
    /// `pods/<uid>/volumes/kubernetes.io~<plugin>/<volume>`
    pub(crate) fn dir(&self, plugin: &str) -> PathBuf {
        let volumes = self.kubelet.config.pod_dir(spec::uid(self.pod)).join("volumes");
        volumes
            .join(format!("kubernetes.io~{plugin}"))
            .join(&self.volume.name)
    }

    /// The group that owns the files of volumes that the kubelet fills.
    pub(crate) fn fs_group(&self) -> Option<u32> {
        let context = spec::spec(self.pod).security_context.as_ref()?;
        context.fs_group.and_then(|group| u32::try_from(group).ok())
    }

    pub(crate) fn namespace(&self) -> &str {
        spec::namespace(self.pod)
    }

    pub(crate) fn uid(&self) -> &str {
        spec::uid(self.pod)
    }
}

/// Sets up volumes. Stateless but for tokens: everything else is in the pods' directories.
#[derive(Default)]
pub(crate) struct VolumeManager {
    tokens: Mutex<HashMap<String, HashMap<token::Key, token::Token>>>,
}

impl VolumeManager {
    /// Sets up every volume of the pod, or brings it up to date.
    pub(crate) async fn mount(&self, kubelet: &Kubelet, pod: &Pod) -> Result<PodVolumes, Error> {
        let mut mounted = HashMap::new();
        let mut refresh_after: Option<Duration> = None;
        for volume in spec::spec(pod).volumes.as_deref().unwrap_or_default() {
            let context = Context { kubelet, pod, volume };
            let result = set_up(&context).await;
            let done = result.map_err(|source| Error::SetUp {
                volume: volume.name.clone(),
                source: Box::new(source),
            })?;
            if let Some(after) = done.refresh_after {
                refresh_after = Some(refresh_after.map_or(after, |known| known.min(after)));
            }
            mounted.insert(volume.name.clone(), done);
        }
        Ok(PodVolumes {
            mounted: Arc::new(mounted),
            refresh_after,
        })
    }

    /// Takes down every volume of the pod: unmounts what is mounted below its directory, then removes the files.
    pub(crate) async fn unmount(&self, kubelet: &Kubelet, uid: &str) -> Result<(), Error> {
        self.tokens.lock().remove(uid);
        let dir = kubelet.config.pod_dir(uid);
        let removal = tokio::task::spawn_blocking(move || {
            mount_table::unmount_below(&dir).map_err(|source| Error::TearDown {
                path: dir.clone(),
                source,
            })?;
            for part in ["volumes", "volume-subpaths"] {
                let path = dir.join(part);
                match std::fs::remove_dir_all(&path) {
                    Ok(()) => {}
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    Err(source) => return Err(Error::TearDown { path, source }),
                }
            }
            Ok(())
        });
        removal.await.unwrap_or(Ok(()))
    }

    pub(super) fn token(&self, uid: &str, key: &token::Key) -> Option<token::Token> {
        self.tokens.lock().get(uid)?.get(key).cloned()
    }

    pub(super) fn keep_token(&self, uid: &str, key: token::Key, token: token::Token) {
        self.tokens
            .lock()
            .entry(uid.to_owned())
            .or_default()
            .insert(key, token);
    }
}

async fn set_up(context: &Context<'_>) -> Result<Mounted, PluginError> {
    let volume = context.volume;
    if let Some(source) = &volume.empty_dir {
        empty_dir::set_up(context, source).await
    } else if let Some(source) = &volume.host_path {
        host_path::set_up(source).await
    } else if let Some(source) = &volume.config_map {
        keyed::config_map(context, source).await
    } else if let Some(source) = &volume.secret {
        keyed::secret(context, source).await
    } else if let Some(source) = &volume.projected {
        projected::set_up(context, source).await
    } else if let Some(source) = &volume.downward_api {
        downward_api::set_up(context, source).await
    } else if let Some(source) = &volume.persistent_volume_claim {
        persistent_claim::set_up(context, &source.claim_name, source.read_only.unwrap_or_default()).await
    } else if volume.ephemeral.is_some() {
        let claim = format!("{}-{}", spec::name(context.pod), volume.name);
        persistent_claim::set_up(context, &claim, false).await
    } else if let Some(source) = &volume.image {
        image::set_up(context, source).await
    } else {
        Err(PluginError::Unsupported(kind(volume)))
    }
}

fn kind(volume: &Volume) -> &'static str {
    [
        (volume.csi.is_some(), "csi"),
        (volume.nfs.is_some(), "nfs"),
        (volume.iscsi.is_some(), "iscsi"),
        (volume.fc.is_some(), "fc"),
        (volume.flex_volume.is_some(), "flexVolume"),
        (volume.git_repo.is_some(), "gitRepo"),
        (volume.rbd.is_some(), "rbd"),
        (volume.cephfs.is_some(), "cephfs"),
    ]
    .into_iter()
    .find_map(|(present, name)| present.then_some(name))
    .unwrap_or("that cloud provider")
}
