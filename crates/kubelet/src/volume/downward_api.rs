//! downwardAPI volumes, and their files for projected ones.

use std::path::PathBuf;

use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, DownwardAPIVolumeSource};

use super::atomic_writer::{File, Payload, is_valid_path};
use super::manager::{Context, Mounted, PluginError};
use super::projected;
use crate::container::fields;
use crate::node;
use crate::pod::spec;

pub(super) async fn set_up(
    context: &Context<'_>,
    source: &DownwardAPIVolumeSource,
) -> Result<Mounted, PluginError> {
    let mode = projected::mode(source.default_mode);
    let mut payload = Payload::new();
    add(
        context,
        source.items.as_deref().unwrap_or_default(),
        mode,
        &mut payload,
    )?;
    projected::write_in_memory(context, "downward-api", payload).await
}

/// Adds the files.
pub(super) fn add(
    context: &Context<'_>,
    items: &[DownwardAPIVolumeFile],
    mode: u32,
    payload: &mut Payload,
) -> Result<(), PluginError> {
    let (kubelet, pod) = (context.kubelet, context.pod);
    let invalid = PluginError::Invalid;
    for item in items {
        let path = PathBuf::from(&item.path);
        if !is_valid_path(&path) {
            return Err(invalid(format!("invalid path {:?}", item.path)));
        }
        let content = if let Some(field) = &item.field_ref {
            fields::pod_field(pod, &field.field_path, &[], &kubelet.host_ips())
                .ok_or_else(|| invalid(format!("unsupported fieldPath: {}", field.field_path)))?
        } else if let Some(selector) = &item.resource_field_ref {
            let name = selector.container_name.as_deref().unwrap_or_default();
            let container =
                spec::container(pod, name).ok_or_else(|| invalid(format!("container {name} not found")))?;
            let allocatable = node::capacity::allocatable(&kubelet.config, &kubelet.machine);
            fields::resource_field(&container, selector, &allocatable)
                .ok_or_else(|| invalid(format!("unsupported resource: {}", selector.resource)))?
        } else {
            return Err(invalid(format!(
                "file {:?} has neither fieldRef nor resourceFieldRef",
                item.path
            )));
        };
        let mode = item.mode.map_or(mode, |own| projected::mode(Some(own)));
        payload.insert(
            path,
            File {
                content: content.into_bytes(),
                mode,
                owner: None,
            },
        );
    }
    Ok(())
}
