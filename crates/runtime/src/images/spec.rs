//! The documents of an image: index, manifest, configuration. OCI and docker schema 2 in one lenient model.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use super::config::Platform;
use super::digest::Digest;
use super::error::ImageError;

pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub(crate) const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub(crate) const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
pub(crate) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

/// What a manifest request accepts, best first.
pub(crate) const ACCEPT: &str = "application/vnd.docker.distribution.manifest.v2+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, */*";

/// A pointer to content.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) platform: Option<DescriptorPlatform>,
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "null_default"
    )]
    pub(crate) annotations: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct DescriptorPlatform {
    #[serde(default)]
    pub(crate) os: String,
    #[serde(default)]
    pub(crate) architecture: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) variant: String,
}

impl std::fmt::Display for DescriptorPlatform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (os, architecture, variant) = (self.os.clone(), self.architecture.clone(), self.variant.clone());
        Platform {
            os,
            architecture,
            variant,
        }
        .fmt(f)
    }
}

/// An index (manifest list).
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Index {
    pub(crate) schema_version: u32,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) media_type: String,
    pub(crate) manifests: Vec<Descriptor>,
}

/// An image manifest.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    pub(crate) schema_version: u32,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) media_type: String,
    pub(crate) config: Descriptor,
    #[serde(default, deserialize_with = "null_default")]
    pub(crate) layers: Vec<Descriptor>,
}

/// Either document that a manifest request can answer with.
#[derive(Debug)]
pub(crate) enum Document {
    Index(Index),
    Manifest(Manifest),
}

impl Document {
    /// Tells the documents apart by their own fields first; a registry's content type is only a hint.
    pub(crate) fn parse(bytes: &[u8], content_type: &str) -> Result<Self, ImageError> {
        let value: serde_json::Value =
            serde_json::from_slice(bytes).map_err(|e| ImageError::manifest("manifest", e))?;
        if value.get("schemaVersion").and_then(serde_json::Value::as_u64) == Some(1) {
            return Err(ImageError::Unsupported("docker manifest schema 1".into()));
        }
        let media_type = value
            .get("mediaType")
            .and_then(|v| v.as_str())
            .unwrap_or(content_type);
        let is_index = value.get("manifests").is_some();
        if is_index && value.get("layers").is_some() {
            return Err(ImageError::manifest(
                "manifest",
                "both \"manifests\" and \"layers\" are set",
            ));
        }
        match media_type {
            OCI_INDEX | DOCKER_LIST if !is_index => {
                Err(ImageError::manifest("index", "\"manifests\" is missing"))
            }
            OCI_MANIFEST | DOCKER_MANIFEST if is_index => Err(ImageError::manifest(
                "manifest",
                "media type says manifest, content is an index",
            )),
            _ if is_index => serde_json::from_value(value)
                .map(Self::Index)
                .map_err(|e| ImageError::manifest("index", e)),
            _ if value.get("config").is_some() => serde_json::from_value(value)
                .map(Self::Manifest)
                .map_err(|e| ImageError::manifest("manifest", e)),
            other => Err(ImageError::Unsupported(format!("manifest media type {other:?}"))),
        }
    }
}

impl Index {
    /// The manifest for `platform`; an exact variant wins over none, and attestations are passed over.
    pub(crate) fn select(&self, digest: &Digest, platform: &Platform) -> Result<&Descriptor, ImageError> {
        let rank = |d: &Descriptor| -> Option<u32> {
            if d.annotations.contains_key("vnd.docker.reference.type") {
                return None;
            }
            let Some(p) = &d.platform else { return Some(1) };
            if p.os != platform.os || p.architecture != platform.architecture {
                return None;
            }
            match (p.variant.as_str(), platform.variant.as_str()) {
                (a, b) if a == b => Some(3),
                ("", _) => Some(2),
                (_, "") => None,
                (a, b) => (a < b).then_some(1),
            }
        };
        let mut best: Option<(u32, &Descriptor)> = None;
        for descriptor in &self.manifests {
            if let Some(rank) = rank(descriptor)
                && best.is_none_or(|(r, _)| rank > r)
            {
                best = Some((rank, descriptor));
            }
        }
        best.map(|(_, d)| d)
            .ok_or_else(|| ImageError::NoMatchForPlatform {
                digest: digest.clone(),
                wanted: platform.to_string(),
                found: self
                    .manifests
                    .iter()
                    .filter_map(|d| d.platform.as_ref().map(ToString::to_string))
                    .collect::<Vec<_>>()
                    .join(", "),
            })
    }
}

/// How a layer blob is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
}

/// Refuses layers that cannot be unpacked. The compression itself is told by the content's first bytes.
pub(crate) fn check_layer_media_type(media_type: &str) -> Result<(), ImageError> {
    match media_type {
        "" | OCI_LAYER | OCI_LAYER_GZIP | OCI_LAYER_ZSTD | DOCKER_LAYER | DOCKER_LAYER_GZIP => Ok(()),
        "application/vnd.docker.image.rootfs.diff.tar.zstd" => Ok(()),
        // Content that may not be redistributed, but has the same form.
        "application/vnd.oci.image.layer.nondistributable.v1.tar"
        | "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
        | "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"
        | "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip" => Ok(()),
        other => Err(ImageError::Unsupported(format!("layer media type {other:?}"))),
    }
}

/// An image configuration (`config.json` of an image).
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct ImageDocument {
    #[serde(default)]
    pub(crate) architecture: String,
    #[serde(default)]
    pub(crate) os: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) variant: String,
    #[serde(default, deserialize_with = "null_default")]
    pub(crate) config: RunConfig,
    pub(crate) rootfs: RootFs,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct RootFs {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    #[serde(default, deserialize_with = "null_default")]
    pub(crate) diff_ids: Vec<Digest>,
}

impl ImageDocument {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, ImageError> {
        serde_json::from_slice(bytes).map_err(|e| ImageError::manifest("image configuration", e))
    }

    /// Fails unless the image runs on `platform`. Images that do not say are taken.
    pub(crate) fn check_platform(&self, digest: &Digest, platform: &Platform) -> Result<(), ImageError> {
        let fits = |have: &str, want: &str| have.is_empty() || have == want;
        if fits(&self.os, &platform.os) && fits(&self.architecture, &platform.architecture) {
            return Ok(());
        }
        let found = DescriptorPlatform {
            os: self.os.clone(),
            architecture: self.architecture.clone(),
            variant: self.variant.clone(),
        };
        Err(ImageError::NoMatchForPlatform {
            digest: digest.clone(),
            wanted: platform.to_string(),
            found: found.to_string(),
        })
    }
}

/// How a container of the image runs unless its spec says otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RunConfig {
    /// `user[:group]`, by name or number; empty is root.
    #[serde(
        default,
        skip_serializing_if = "String::is_empty",
        deserialize_with = "null_default"
    )]
    pub user: String,
    /// `NAME=value`, in order.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_default"
    )]
    pub env: Vec<String>,
    /// Program and first arguments.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_default"
    )]
    pub entrypoint: Vec<String>,
    /// Arguments after the entrypoint.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_default"
    )]
    pub cmd: Vec<String>,
    /// Working directory; empty is `/`.
    #[serde(
        default,
        skip_serializing_if = "String::is_empty",
        deserialize_with = "null_default"
    )]
    pub working_dir: String,
    /// Signal that asks the program to end, by name or number; empty is SIGTERM.
    #[serde(
        default,
        skip_serializing_if = "String::is_empty",
        deserialize_with = "null_default"
    )]
    pub stop_signal: String,
    /// Paths declared as volumes.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "null_default"
    )]
    pub volumes: BTreeMap<String, serde_json::Value>,
    /// `port/protocol`.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "null_default"
    )]
    pub exposed_ports: BTreeMap<String, serde_json::Value>,
    /// Labels.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "null_default"
    )]
    pub labels: BTreeMap<String, String>,
}

impl RunConfig {
    /// CRI's `Image.uid` and `Image.username`: a numeric user is a uid, anything else a name; the group is dropped.
    pub fn cri_user(&self) -> (Option<i64>, String) {
        let user = self.user.split(':').next().unwrap_or_default();
        match user.parse::<i64>() {
            Ok(uid) => (Some(uid), String::new()),
            Err(_) => (None, user.to_owned()),
        }
    }
}

fn null_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(d: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

/// The JSON of a document made here.
pub(crate) fn encode<T: Serialize>(document: &T) -> Vec<u8> {
    serde_json::to_vec(document).expect("invariant: image documents are plain data")
}
