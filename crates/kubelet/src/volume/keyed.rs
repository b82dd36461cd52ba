//! configMap and secret volumes, and the files of both for projected ones: objects that are keys with contents.

use std::collections::BTreeMap;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::{ConfigMapVolumeSource, KeyToPath, SecretVolumeSource};

use super::atomic_writer::{File, Payload, is_valid_path};
use super::manager::{Context, Mounted, PluginError};
use super::projected;
use crate::objects;

/// A kind of object with keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    ConfigMap,
    Secret,
}

/// What a volume takes of an object.
pub(super) struct Selection<'a> {
    pub(super) kind: Kind,
    pub(super) name: &'a str,
    /// All keys when it is empty.
    pub(super) items: Option<&'a [KeyToPath]>,
    /// The object and the named keys may be missing.
    pub(super) optional: Option<bool>,
    pub(super) mode: u32,
}

pub(super) async fn config_map(
    context: &Context<'_>,
    source: &ConfigMapVolumeSource,
) -> Result<Mounted, PluginError> {
    let selection = Selection {
        kind: Kind::ConfigMap,
        name: &source.name,
        items: source.items.as_deref(),
        optional: source.optional,
        mode: projected::mode(source.default_mode),
    };
    let mut payload = Payload::new();
    add(context, &selection, &mut payload).await?;
    projected::write(context, "configmap", payload).await
}

pub(super) async fn secret(
    context: &Context<'_>,
    source: &SecretVolumeSource,
) -> Result<Mounted, PluginError> {
    let selection = Selection {
        kind: Kind::Secret,
        name: source.secret_name.as_deref().unwrap_or_default(),
        items: source.items.as_deref(),
        optional: source.optional,
        mode: projected::mode(source.default_mode),
    };
    let mut payload = Payload::new();
    add(context, &selection, &mut payload).await?;
    projected::write_in_memory(context, "secret", payload).await
}

/// Adds the files of an object.
pub(super) async fn add(
    context: &Context<'_>,
    selection: &Selection<'_>,
    payload: &mut Payload,
) -> Result<(), PluginError> {
    match contents(context, selection).await {
        Ok(contents) => select(&contents, selection, payload),
        Err(error) if selection.optional == Some(true) && error.is_not_found() => Ok(()),
        Err(error) => Err(error.into()),
    }
}

async fn contents(
    context: &Context<'_>,
    selection: &Selection<'_>,
) -> Result<BTreeMap<String, Vec<u8>>, objects::Error> {
    let objects = &context.kubelet.objects;
    let (uid, namespace, name) = (context.uid(), context.namespace(), selection.name);
    let mut contents = BTreeMap::new();
    match selection.kind {
        Kind::Secret => {
            let secret = objects.secret(uid, namespace, name).await?;
            for (key, bytes) in secret.data.iter().flatten() {
                contents.insert(key.clone(), bytes.0.clone());
            }
        }
        Kind::ConfigMap => {
            let map = objects.config_map(uid, namespace, name).await?;
            for (key, bytes) in map.binary_data.iter().flatten() {
                contents.insert(key.clone(), bytes.0.clone());
            }
            for (key, text) in map.data.iter().flatten() {
                contents.insert(key.clone(), text.clone().into_bytes());
            }
        }
    }
    Ok(contents)
}

/// Adds all keys, or those that the selection names.
fn select(
    contents: &BTreeMap<String, Vec<u8>>,
    selection: &Selection<'_>,
    payload: &mut Payload,
) -> Result<(), PluginError> {
    let file = |content: &[u8], mode| File {
        content: content.to_vec(),
        mode,
        owner: None,
    };
    let Some(items) = selection.items.filter(|items| !items.is_empty()) else {
        for (key, content) in contents {
            payload.insert(PathBuf::from(key), file(content, selection.mode));
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
        match contents.get(&item.key) {
            Some(content) => {
                let mode = item.mode.map_or(selection.mode, |own| projected::mode(Some(own)));
                payload.insert(path, file(content, mode));
            }
            None if selection.optional == Some(true) => {}
            None => {
                let kind = match selection.kind {
                    Kind::ConfigMap => "configmap",
                    Kind::Secret => "secret",
                };
                return Err(PluginError::Invalid(format!(
                    "{kind} {:?} references non-existent config key: {}",
                    selection.name, item.key
                )));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// Items and whether they may be missing; the files with their modes, or a part of the error.
    #[test]
    fn keys_become_files() {
        let contents = BTreeMap::from([("a".to_owned(), b"1".to_vec()), ("b".to_owned(), b"2".to_vec())]);
        for (items, optional, expected) in [
            (json!([]), None, Ok(json!({"a": ["1", 0o644], "b": ["2", 0o644]}))),
            (
                json!([{"key": "a", "path": "x/y", "mode": 0o400}]),
                None,
                Ok(json!({"x/y": ["1", 0o400]})),
            ),
            (
                json!([{"key": "none", "path": "x"}]),
                None,
                Err("secret \"s\" references non-existent config key: none"),
            ),
            (json!([{"key": "none", "path": "x"}]), Some(true), Ok(json!({}))),
            (json!([{"key": "a", "path": "../x"}]), None, Err("invalid path")),
        ] {
            let items: Vec<KeyToPath> = serde_json::from_value(items).unwrap();
            let selection = Selection {
                kind: Kind::Secret,
                name: "s",
                items: Some(&items),
                optional,
                mode: 0o644,
            };
            let mut payload = Payload::new();
            let result = select(&contents, &selection, &mut payload);
            match expected {
                Ok(expected) => {
                    result.unwrap();
                    let files: serde_json::Map<String, Value> = payload
                        .iter()
                        .map(|(path, file)| {
                            let text = String::from_utf8(file.content.clone()).unwrap();
                            (path.display().to_string(), json!([text, file.mode]))
                        })
                        .collect();
                    assert_eq!(Value::Object(files), expected);
                }
                Err(part) => {
                    let error = result.unwrap_err().to_string();
                    assert!(error.contains(part), "{error}");
                }
            }
        }
    }
}
