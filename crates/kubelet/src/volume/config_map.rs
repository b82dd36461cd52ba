//! configMap volumes, and the files of a ConfigMap for projected ones.

use std::path::PathBuf;

use k8s_openapi::api::core::v1::{ConfigMap, ConfigMapVolumeSource, KeyToPath};

use super::atomic_writer::{File, Payload, is_valid_path};
use super::manager::{Context, Mounted, PluginError};
use super::projected;

pub(super) async fn set_up(
    context: &Context<'_>,
    source: &ConfigMapVolumeSource,
) -> Result<Mounted, PluginError> {
    let mode = projected::mode(source.default_mode);
    let mut payload = Payload::new();
    add(
        context,
        &source.name,
        source.items.as_deref(),
        source.optional,
        mode,
        &mut payload,
    )
    .await?;
    projected::write(context, "configmap", payload).await
}

/// Adds the files of a ConfigMap.
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
        .config_map(context.uid(), context.namespace(), name)
        .await
    {
        Ok(object) => object,
        Err(error) if optional && error.is_not_found() => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let get = |key: &str| value(&object, key);
    let keys = object.data.iter().flat_map(|data| data.keys());
    let binary = object.binary_data.iter().flat_map(|data| data.keys());
    select(
        "configmap",
        name,
        keys.chain(binary),
        get,
        items,
        optional,
        mode,
        payload,
    )
}

fn value(object: &ConfigMap, key: &str) -> Option<Vec<u8>> {
    let text = object
        .data
        .as_ref()
        .and_then(|data| data.get(key))
        .map(|text| text.clone().into_bytes());
    text.or_else(|| object.binary_data.as_ref()?.get(key).map(|bytes| bytes.0.clone()))
}

/// Adds all keys, or those that `items` name.
#[expect(
    clippy::too_many_arguments,
    reason = "shared by the two kinds of object with keys"
)]
pub(super) fn select<'a>(
    kind: &str,
    name: &str,
    keys: impl Iterator<Item = &'a String>,
    get: impl Fn(&str) -> Option<Vec<u8>>,
    items: Option<&[KeyToPath]>,
    optional: bool,
    mode: u32,
    payload: &mut Payload,
) -> Result<(), PluginError> {
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        for key in keys {
            let content = get(key).unwrap_or_default();
            payload.insert(
                PathBuf::from(key),
                File {
                    content,
                    mode,
                    owner: None,
                },
            );
        }
        return Ok(());
    };
    for item in items {
        let path = PathBuf::from(&item.path);
        if !is_valid_path(&path) {
            return Err(PluginError::Invalid(format!(
                "invalid path {:?} for key {:?}",
                item.path, item.key
            )));
        }
        match get(&item.key) {
            Some(content) => {
                let mode = item.mode.map_or(mode, |own| projected::mode(Some(own)));
                payload.insert(
                    path,
                    File {
                        content,
                        mode,
                        owner: None,
                    },
                );
            }
            None if optional => {}
            None => {
                return Err(PluginError::Invalid(format!(
                    "{kind} {name:?} references non-existent config key: {}",
                    item.key
                )));
            }
        }
    }
    Ok(())
}
