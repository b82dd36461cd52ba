//! Images from archives: `docker save` and OCI image layouts.
//!
//! An archive is a tar file, possibly compressed. A plain file is read in place; anything else is first decompressed
//! to a nameless temporary file in the store, so that members can be read in any order.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::digest::{Digest, HashingReader};
use super::error::ImageError;
use super::fixup;
use super::layers::{buffered, decompress};
use super::pull::{check_layer_count, image_size};
use super::reference::Reference;
use super::spec::{
    self, Descriptor, Document, ImageDocument, Index, Manifest, OCI_CONFIG, OCI_LAYER, OCI_MANIFEST,
    check_layer_media_type,
};
use super::store::{ImageRecord, Inner, NewImage};

/// Manifests and configurations are small; more is not read into memory.
const MAX_DOCUMENT: u64 = 32 * 1024 * 1024;
const MAX_SYMLINKS: usize = 8;
/// containerd's annotation with the full name of an image.
const CONTAINERD_NAME: &str = "io.containerd.image.name";
const OCI_REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Where an archive comes from.
pub enum ImportSource {
    /// A file.
    Path(PathBuf),
    /// A stream, read on a blocking thread.
    Reader(Box<dyn Read + Send>),
}

impl std::fmt::Debug for ImportSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Path(path) => f.debug_tuple("Path").field(path).finish(),
            Self::Reader(_) => f.write_str("Reader"),
        }
    }
}

/// Adds all images of the archive that fit this platform. Blocking.
pub(crate) fn import(inner: &Inner, source: ImportSource) -> Result<Vec<ImageRecord>, ImageError> {
    let result = import_archive(inner, source);
    if result.is_err() {
        inner.collect_garbage()?;
    }
    result
}

fn import_archive(inner: &Inner, source: ImportSource) -> Result<Vec<ImageRecord>, ImageError> {
    let archive = Archive::open(&inner.config.root, source)?;
    if archive.contains("index.json") {
        return import_layout(inner, &archive);
    }
    if archive.contains("manifest.json") {
        return import_docker(inner, &archive);
    }
    Err(ImageError::InvalidArchive(
        "neither index.json (OCI image layout) nor manifest.json (docker save) is in it".into(),
    ))
}

/// The members of a tar file, readable in any order.
pub(crate) struct Archive {
    file: File,
    members: HashMap<PathBuf, Member>,
}

enum Member {
    Data { offset: u64, len: u64 },
    Link(PathBuf),
}

fn invalid(reason: impl std::fmt::Display) -> ImageError {
    ImageError::InvalidArchive(reason.to_string())
}

impl Archive {
    /// `spool` is a store's root; decompressed archives go there.
    pub(crate) fn open(spool: &Path, source: ImportSource) -> Result<Self, ImageError> {
        let file = match source {
            ImportSource::Path(path) => {
                let file = File::open(&path).map_err(|e| ImageError::io("open", &path, e))?;
                let mut magic = [0_u8; 262];
                let is_tar = file.read_exact_at(&mut magic, 0).is_ok() && &magic[257..262] == b"ustar";
                if is_tar { file } else { spool_file(spool, file)? }
            }
            ImportSource::Reader(reader) => spool_file(spool, reader)?,
        };
        Self::index(file)
    }

    fn index(mut file: File) -> Result<Self, ImageError> {
        let length = file.seek(SeekFrom::End(0)).map_err(invalid)?;
        file.rewind().map_err(invalid)?;
        let mut members = HashMap::new();
        {
            let mut tar = tar::Archive::new(BufReader::new(&file));
            for entry in tar.entries_with_seek().map_err(invalid)? {
                let entry = entry.map_err(|e| invalid(format!("truncated or not a tar file: {e}")))?;
                let path = normal(&entry.path().map_err(invalid)?);
                let member = match entry.header().entry_type() {
                    tar::EntryType::Regular | tar::EntryType::Continuous => {
                        let (offset, len) = (entry.raw_file_position(), entry.size());
                        if offset + len > length {
                            return Err(invalid(format!(
                                "truncated: {} ends beyond the file",
                                path.display()
                            )));
                        }
                        Member::Data { offset, len }
                    }
                    tar::EntryType::Symlink | tar::EntryType::Link => {
                        let target = entry.link_name().map_err(invalid)?.unwrap_or_default();
                        let base = match entry.header().entry_type() {
                            tar::EntryType::Symlink => path.parent().unwrap_or(Path::new("")),
                            _ => Path::new(""),
                        };
                        Member::Link(normal(&base.join(target)))
                    }
                    _ => continue,
                };
                members.insert(path, member);
            }
        }
        if members.is_empty() {
            return Err(invalid("no files in it"));
        }
        Ok(Self { file, members })
    }

    fn contains(&self, path: &str) -> bool {
        self.find(Path::new(path)).is_some()
    }

    fn find(&self, path: &Path) -> Option<(u64, u64)> {
        let mut path = normal(path);
        for _ in 0..MAX_SYMLINKS {
            match self.members.get(&path)? {
                Member::Data { offset, len } => return Some((*offset, *len)),
                Member::Link(target) => path = target.clone(),
            }
        }
        None
    }

    pub(crate) fn reader(&self, path: &Path) -> Result<SectionReader<'_>, ImageError> {
        let (offset, len) = self
            .find(path)
            .ok_or_else(|| invalid(format!("{} is missing", path.display())))?;
        Ok(SectionReader {
            file: &self.file,
            offset,
            rest: len,
        })
    }

    pub(crate) fn read(&self, path: &Path) -> Result<Vec<u8>, ImageError> {
        let mut reader = self.reader(path)?;
        if reader.rest > MAX_DOCUMENT {
            return Err(invalid(format!("{} is too large for a document", path.display())));
        }
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).map_err(invalid)?;
        Ok(bytes)
    }

    pub(crate) fn blob_path(digest: &Digest) -> PathBuf {
        let text = digest.to_string();
        let (algorithm, hex) = text
            .split_once(':')
            .expect("invariant: a digest has an algorithm");
        Path::new("blobs").join(algorithm).join(hex)
    }

    /// A verified small blob.
    pub(crate) fn document(&self, digest: &Digest, what: &str) -> Result<Vec<u8>, ImageError> {
        let bytes = self.read(&Self::blob_path(digest))?;
        digest.verify(&bytes, what)?;
        Ok(bytes)
    }
}

/// A member of an archive.
pub(crate) struct SectionReader<'a> {
    file: &'a File,
    offset: u64,
    rest: u64,
}

impl Read for SectionReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let len = buf.len().min(usize::try_from(self.rest).unwrap_or(usize::MAX));
        let n = self.file.read_at(&mut buf[..len], self.offset)?;
        if n == 0 && len > 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        self.offset += n as u64;
        self.rest -= n as u64;
        Ok(n)
    }
}

fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            std::path::Component::Normal(name) => out.push(name),
            std::path::Component::ParentDir => {
                out.pop();
            }
            _ => {}
        }
    }
    out
}

/// Decompresses (or copies) `source` to a nameless file.
fn spool_file(root: &Path, source: impl Read) -> Result<File, ImageError> {
    let dir = root.join("ingest");
    let mut file = tempfile::tempfile_in(&dir).map_err(|e| ImageError::io("create", &dir, e))?;
    let mut source = buffered(source).map_err(invalid)?;
    let mut plain = decompress(&mut source).map_err(invalid)?;
    let mut buf = vec![0_u8; 128 * 1024];
    loop {
        // Told apart by hand: reading fails for a damaged archive, writing for a full disk.
        let n = match plain.read(&mut buf) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(invalid(format!("truncated or damaged: {e}"))),
        };
        std::io::Write::write_all(&mut file, &buf[..n])
            .map_err(|e| ImageError::io("write archive below", &dir, e))?;
    }
    Ok(file)
}

fn import_layout(inner: &Inner, archive: &Archive) -> Result<Vec<ImageRecord>, ImageError> {
    let index: Index = serde_json::from_slice(&archive.read(Path::new("index.json"))?)
        .map_err(|e| ImageError::manifest("index.json", e))?;
    let mut records: Vec<ImageRecord> = Vec::new();
    let mut wrong_platform = None;
    for descriptor in &index.manifests {
        let names = layout_names(descriptor)?;
        match import_descriptor(inner, archive, descriptor, &names) {
            Ok(record) => {
                records.retain(|r| r.id != record.id);
                records.push(record);
            }
            Err(e @ ImageError::NoMatchForPlatform { .. }) => wrong_platform = Some(e),
            Err(e) => return Err(e),
        }
    }
    match (records.is_empty(), wrong_platform) {
        (false, _) => Ok(records),
        (true, Some(e)) => Err(e),
        (true, None) => Err(invalid("index.json lists no image")),
    }
}

/// The names an archive gives to an image. A bare tag without a repository names nothing.
fn layout_names(descriptor: &Descriptor) -> Result<Vec<Reference>, ImageError> {
    if let Some(name) = descriptor.annotations.get(CONTAINERD_NAME) {
        return Ok(vec![Reference::parse(name)?]);
    }
    match descriptor.annotations.get(OCI_REF_NAME) {
        Some(name) if name.contains(['/', ':']) => Ok(vec![Reference::parse(name)?]),
        _ => Ok(Vec::new()),
    }
}

fn import_descriptor(
    inner: &Inner,
    archive: &Archive,
    descriptor: &Descriptor,
    names: &[Reference],
) -> Result<ImageRecord, ImageError> {
    let mut digest = descriptor.digest.clone();
    let mut bytes = archive.document(&digest, "manifest")?;
    let manifest = match Document::parse(&bytes, &descriptor.media_type)? {
        Document::Manifest(manifest) => manifest,
        Document::Index(index) => {
            digest = index.select(&digest, &inner.config.platform)?.digest.clone();
            bytes = archive.document(&digest, "manifest")?;
            match Document::parse(&bytes, "")? {
                Document::Manifest(manifest) => manifest,
                Document::Index(_) => {
                    return Err(ImageError::Unsupported(format!("index {digest} inside an index")));
                }
            }
        }
    };
    let config = archive.document(&manifest.config.digest, "image configuration")?;
    let document = ImageDocument::parse(&config)?;
    document.check_platform(&digest, &inner.config.platform)?;
    let diff_ids = check_layer_count(&manifest, &document)?;
    let _lease = inner
        .layers
        .lease(diff_ids.iter().map(Digest::file_name).collect());
    for (layer, diff_id) in manifest.layers.iter().zip(diff_ids) {
        check_layer_media_type(&layer.media_type)?;
        if inner.layers.contains(&diff_id.file_name()) {
            continue;
        }
        let label = layer.digest.to_string();
        let section = archive.reader(&Archive::blob_path(&layer.digest))?;
        let mut blob = HashingReader::new(section, layer.digest.algorithm());
        let unpacked = inner.layers.unpack(&mut blob, diff_id, &label);
        let (actual, size) = blob.drain().map_err(invalid)?;
        if size != layer.size {
            let what = format!("layer {label}");
            return Err(ImageError::SizeMismatch {
                what,
                expected: layer.size,
                actual: size,
            });
        }
        if actual != layer.digest {
            let what = format!("layer {label}");
            return Err(ImageError::DigestMismatch {
                what,
                expected: layer.digest.clone(),
                actual,
            });
        }
        unpacked?;
    }
    record(inner, (&digest, &bytes), &manifest, &config, &document, names)
}

fn record(
    inner: &Inner,
    (digest, bytes): (&Digest, &[u8]),
    manifest: &Manifest,
    config: &[u8],
    document: &ImageDocument,
    names: &[Reference],
) -> Result<ImageRecord, ImageError> {
    let chain: Vec<_> = document.rootfs.diff_ids.iter().map(Digest::file_name).collect();
    let (layers, _leases) = fixup::complete(&inner.config.root, &inner.layers, &chain)?;
    let image = NewImage {
        manifest_digest: digest,
        manifest: bytes,
        config_digest: &manifest.config.digest,
        config,
        document,
        layers,
        size: image_size(bytes.len(), manifest),
    };
    inner.record(image, names)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: PathBuf,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<PathBuf>>,
}

/// `docker save`: layers carry no blob digest, the diff ids of the configuration say whether they are right.
fn import_docker(inner: &Inner, archive: &Archive) -> Result<Vec<ImageRecord>, ImageError> {
    let images: Vec<DockerImage> = serde_json::from_slice(&archive.read(Path::new("manifest.json"))?)
        .map_err(|e| ImageError::manifest("manifest.json", e))?;
    let mut records = Vec::new();
    for image in images {
        let names = image
            .repo_tags
            .unwrap_or_default()
            .iter()
            .map(|name| Reference::parse(name))
            .collect::<Result<Vec<_>, _>>()?;
        let config = archive.read(&image.config)?;
        let id = Digest::sha256(&config);
        let document = ImageDocument::parse(&config)?;
        document.check_platform(&id, &inner.config.platform)?;
        let paths = image.layers.unwrap_or_default();
        let diff_ids = &document.rootfs.diff_ids;
        if paths.len() != diff_ids.len() {
            let reason = format!("{} layers, {} diff ids", paths.len(), diff_ids.len());
            return Err(ImageError::manifest("manifest.json", reason));
        }
        let _lease = inner
            .layers
            .lease(diff_ids.iter().map(Digest::file_name).collect());
        let mut layers = Vec::new();
        for (path, diff_id) in paths.iter().zip(diff_ids) {
            let mut reader = archive.reader(path)?;
            let size = reader.rest;
            if !inner.layers.contains(&diff_id.file_name()) {
                inner
                    .layers
                    .unpack(&mut reader, diff_id, &path.display().to_string())?;
            }
            layers.push(Descriptor {
                media_type: OCI_LAYER.into(),
                digest: diff_id.clone(),
                size,
                platform: None,
                annotations: Default::default(),
            });
        }
        let manifest = Manifest {
            schema_version: 2,
            media_type: OCI_MANIFEST.into(),
            config: Descriptor {
                media_type: OCI_CONFIG.into(),
                digest: id,
                size: config.len() as u64,
                platform: None,
                annotations: Default::default(),
            },
            layers,
        };
        let bytes = spec::encode(&manifest);
        let digest = Digest::sha256(&bytes);
        records.push(record(
            inner,
            (&digest, &bytes),
            &manifest,
            &config,
            &document,
            &names,
        )?);
    }
    if records.is_empty() {
        return Err(invalid("manifest.json lists no image"));
    }
    Ok(records)
}
