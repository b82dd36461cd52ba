//! projected volumes: service account tokens, ConfigMaps, Secrets and the downward API in one directory.

use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::core::v1::ProjectedVolumeSource;
use rustix::mount::{MountFlags, mount};

use super::atomic_writer::{self, File, Payload, is_valid_path};
use super::keyed::{self, Kind, Selection};
use super::manager::{Context, Mounted, PluginError};
use super::{downward_api, mount_table, token};
use crate::pod::spec;

/// The mode of files for which none is given.
const DEFAULT_MODE: u32 = 0o644;

/// A mode of the API.
pub(super) fn mode(mode: Option<i32>) -> u32 {
    mode.and_then(|mode| u32::try_from(mode).ok())
        .unwrap_or(DEFAULT_MODE)
        & 0o777
}

pub(super) async fn set_up(
    context: &Context<'_>,
    source: &ProjectedVolumeSource,
) -> Result<Mounted, PluginError> {
    let mode = mode(source.default_mode);
    let mut payload = Payload::new();
    let mut refresh_after: Option<Duration> = None;
    for part in source.sources.as_deref().unwrap_or_default() {
        if let Some(part) = &part.service_account_token {
            let path = PathBuf::from(&part.path);
            if !is_valid_path(&path) {
                return Err(PluginError::Invalid(format!("invalid path {:?}", part.path)));
            }
            let (token, after) = token::get(context, part).await?;
            refresh_after = Some(refresh_after.map_or(after, |known| known.min(after)));
            // Readable by the one user the pod runs as, or by its group; else by all as upstream does.
            let owner = run_as_user(context);
            let mode = if owner.is_some() || context.fs_group().is_some() {
                0o600
            } else {
                mode
            };
            payload.insert(
                path,
                File {
                    content: token.into_bytes(),
                    mode,
                    owner,
                },
            );
        } else if let Some(part) = &part.config_map {
            let selection = Selection {
                kind: Kind::ConfigMap,
                name: &part.name,
                items: part.items.as_deref(),
                optional: part.optional,
                mode,
            };
            keyed::add(context, &selection, &mut payload).await?;
        } else if let Some(part) = &part.secret {
            let selection = Selection {
                kind: Kind::Secret,
                name: &part.name,
                items: part.items.as_deref(),
                optional: part.optional,
                mode,
            };
            keyed::add(context, &selection, &mut payload).await?;
        } else if let Some(part) = &part.downward_api {
            downward_api::add(
                context,
                part.items.as_deref().unwrap_or_default(),
                mode,
                &mut payload,
            )?;
        } else if part.cluster_trust_bundle.is_some() {
            return Err(PluginError::Unsupported("projected clusterTrustBundle"));
        } else {
            return Err(PluginError::Unsupported("projected podCertificate"));
        }
    }
    let mounted = write_in_memory(context, "projected", payload).await?;
    Ok(Mounted {
        refresh_after,
        ..mounted
    })
}

/// The one user that all containers run as, if there is one.
fn run_as_user(context: &Context<'_>) -> Option<u32> {
    let pod = spec::spec(context.pod)
        .security_context
        .as_ref()
        .and_then(|context| context.run_as_user);
    let containers = spec::init_containers(context.pod)
        .iter()
        .chain(spec::containers(context.pod));
    let mut users = containers.map(|c| c.security_context.as_ref().and_then(|c| c.run_as_user).or(pod));
    let first = users.next().flatten()?;
    users
        .all(|user| user == Some(first))
        .then(|| u32::try_from(first).ok())
        .flatten()
}

/// Writes the files into a directory on disk.
pub(super) async fn write(
    context: &Context<'_>,
    plugin: &str,
    payload: Payload,
) -> Result<Mounted, PluginError> {
    write_to(context, plugin, payload, false).await
}

/// Writes the files into a tmpfs, so that they never reach the disk.
pub(super) async fn write_in_memory(
    context: &Context<'_>,
    plugin: &str,
    payload: Payload,
) -> Result<Mounted, PluginError> {
    write_to(context, plugin, payload, true).await
}

async fn write_to(
    context: &Context<'_>,
    plugin: &str,
    payload: Payload,
    in_memory: bool,
) -> Result<Mounted, PluginError> {
    let dir = context.dir(plugin);
    let group = context.fs_group();
    let dir_ = dir.clone();
    let work = tokio::task::spawn_blocking(move || -> std::io::Result<()> {
        std::fs::create_dir_all(&dir_)?;
        if in_memory && !mount_table::is_mount_point(&dir_)? {
            mount(
                "tmpfs",
                &dir_,
                "tmpfs",
                MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC,
                Some(c"mode=0755"),
            )?;
        }
        atomic_writer::write(&dir_, &payload, group)?;
        Ok(())
    });
    work.await.unwrap_or(Ok(())).map_err(PluginError::io(&dir))?;
    Ok(Mounted {
        host_path: dir,
        ..Mounted::default()
    })
}
