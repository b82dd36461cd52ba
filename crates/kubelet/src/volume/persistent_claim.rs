//! persistentVolumeClaim volumes whose volume is a path of this node (hostPath or local).

use std::path::PathBuf;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::Api;

use super::manager::{Context, Mounted, PluginError};
use super::{host_path, ownership};
use crate::pod::spec;

pub(super) async fn set_up(
    context: &Context<'_>,
    claim: &str,
    read_only: bool,
) -> Result<Mounted, PluginError> {
    let fails = |text: String| PluginError::Claim(text);
    let client = &context.kubelet.client;
    let claims = Api::<PersistentVolumeClaim>::namespaced(client.clone(), context.namespace());
    let object = claims
        .get(claim)
        .await
        .map_err(|error| fails(format!("error getting PVC {claim:?}: {error}")))?;
    let owned = object
        .metadata
        .owner_references
        .iter()
        .flatten()
        .any(|owner| owner.uid == spec::uid(context.pod));
    if context.volume.ephemeral.is_some() && !owned {
        return Err(fails(format!(
            "PVC {claim:?} was not created for this pod (pod is not owner)"
        )));
    }
    if object.metadata.deletion_timestamp.is_some() {
        return Err(fails("PVC is being deleted".into()));
    }
    let bound = object.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
    let volume = object
        .spec
        .as_ref()
        .and_then(|spec| spec.volume_name.clone())
        .filter(|name| bound && !name.is_empty());
    let volume = volume.ok_or_else(|| fails("PVC is not bound".into()))?;
    let volumes = Api::<PersistentVolume>::all(client.clone());
    let object = volumes
        .get(&volume)
        .await
        .map_err(|error| fails(format!("error getting PV {volume:?}: {error}")))?;
    let source = object.spec.unwrap_or_default();
    if source.volume_mode.as_deref() == Some("Block") {
        return Err(PluginError::Unsupported(
            "persistentVolumeClaim with volumeMode Block",
        ));
    }
    let mounted = if let Some(source) = &source.host_path {
        host_path::set_up(source).await?
    } else if let Some(source) = &source.local {
        let path = PathBuf::from(&source.path);
        if !path.exists() {
            return Err(fails(format!("path {:?} does not exist", source.path)));
        }
        if let Some(group) = context.fs_group() {
            ownership::set(&path, group, read_only).map_err(PluginError::io(&path))?;
        }
        Mounted {
            host_path: path,
            ..Mounted::default()
        }
    } else if source.csi.is_some() {
        return Err(PluginError::Unsupported("csi"));
    } else {
        return Err(PluginError::Unsupported(
            "persistentVolumeClaim (only hostPath and local volumes are)",
        ));
    };
    Ok(Mounted { read_only, ..mounted })
}
