//! secret volumes, and the files of a Secret for projected ones.

use k8s_openapi::api::core::v1::{KeyToPath, SecretVolumeSource};

use super::atomic_writer::Payload;
use super::manager::{Context, Mounted, PluginError};
use super::{config_map, projected};

pub(super) async fn set_up(
    context: &Context<'_>,
    source: &SecretVolumeSource,
) -> Result<Mounted, PluginError> {
    let name = source.secret_name.as_deref().unwrap_or_default();
    let mode = projected::mode(source.default_mode);
    let mut payload = Payload::new();
    add(
        context,
        name,
        source.items.as_deref(),
        source.optional,
        mode,
        &mut payload,
    )
    .await?;
    projected::write_in_memory(context, "secret", payload).await
}

/// Adds the files of a Secret.
pub(super) async fn add(
    context: &Context<'_>,
    name: &str,
    items: Option<&[KeyToPath]>,
    optional: Option<bool>,
    mode: u32,
    payload: &mut Payload,
) -> Result<(), PluginError> {
    let optional = optional.unwrap_or_default();
    let object = match context
        .kubelet
        .objects
        .secret(context.uid(), context.namespace(), name)
        .await
    {
        Ok(object) => object,
        Err(error) if optional && error.is_not_found() => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let get = |key: &str| object.data.as_ref()?.get(key).map(|bytes| bytes.0.clone());
    let keys = object.data.iter().flat_map(|data| data.keys());
    config_map::select("secret", name, keys, get, items, optional, mode, payload)
}
