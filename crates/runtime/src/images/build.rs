//! Builds an image from directories and brings archives to registries, for tests and tools.
//!
//! The reverse of unpacking: overlay whiteouts become `.wh.` entries, hard links, devices, ownership, times and
//! extended attributes are kept, entries are sorted. The same directories give the same image.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::config::{AuthConfig, ImageConfig, Platform};
use super::digest::{Algorithm, Digest, Hasher};
use super::error::ImageError;
use super::import::{Archive, ImportSource};
use super::reference::Reference;
use super::registry::Registry;
use super::spec::{
    self, Compression, Descriptor, DescriptorPlatform, Document, ImageDocument, Index, Manifest, OCI_CONFIG,
    OCI_INDEX, OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, OCI_MANIFEST, RootFs, RunConfig,
};

/// Compression of the layers of a built image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LayerCompression {
    /// Plain tar.
    None,
    /// What most images have.
    #[default]
    Gzip,
    /// Zstandard.
    Zstd,
}

/// What a built image is called and how it runs.
#[derive(Debug, Clone, Default)]
pub struct BuildConfig {
    /// Name in the archive, for example `example.com/app:v1`; none leaves the image without a name.
    pub reference: Option<String>,
    /// How containers run.
    pub run: RunConfig,
    /// Platform; this machine's when none is given.
    pub platform: Option<Platform>,
    /// Compression of the layers.
    pub compression: LayerCompression,
}

/// Writes an OCI image-layout archive at `output` with one layer for each of `layers`, lowest first. Blocking.
/// Returns the digest of the manifest.
pub fn build_image(layers: &[PathBuf], config: &BuildConfig, output: &Path) -> Result<Digest, ImageError> {
    let dir = output
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let scratch = tempfile::tempdir_in(dir).map_err(|e| ImageError::io("create in", dir, e))?;
    let mut blobs: BTreeMap<Digest, PathBuf> = BTreeMap::new();
    let mut descriptors = Vec::new();
    let mut diff_ids = Vec::new();
    for (number, layer) in layers.iter().enumerate() {
        let path = scratch.path().join(format!("layer-{number}"));
        let (digest, diff_id, size) =
            write_layer(layer, &path, config.compression).map_err(|e| ImageError::io("pack", layer, e))?;
        let media_type = match compression(config.compression) {
            Compression::None => OCI_LAYER,
            Compression::Gzip => OCI_LAYER_GZIP,
            Compression::Zstd => OCI_LAYER_ZSTD,
        };
        descriptors.push(descriptor(media_type, digest.clone(), size));
        diff_ids.push(diff_id);
        blobs.insert(digest, path);
    }
    let platform = config.platform.clone().unwrap_or_else(Platform::host);
    let mut add = |name: &str, bytes: &[u8]| -> Result<Digest, ImageError> {
        let path = scratch.path().join(name);
        std::fs::write(&path, bytes).map_err(|e| ImageError::io("write", &path, e))?;
        let digest = Digest::sha256(bytes);
        blobs.insert(digest.clone(), path);
        Ok(digest)
    };
    let document = spec::encode(&ImageDocument {
        architecture: platform.architecture.clone(),
        os: platform.os.clone(),
        variant: platform.variant.clone(),
        config: config.run.clone(),
        rootfs: RootFs {
            kind: "layers".into(),
            diff_ids,
        },
    });
    let id = add("config", &document)?;
    let manifest = spec::encode(&Manifest {
        schema_version: 2,
        media_type: OCI_MANIFEST.into(),
        config: descriptor(OCI_CONFIG, id, document.len() as u64),
        layers: descriptors,
    });
    let manifest_digest = add("manifest", &manifest)?;
    let mut entry = descriptor(OCI_MANIFEST, manifest_digest.clone(), manifest.len() as u64);
    entry.platform = Some(DescriptorPlatform {
        os: platform.os,
        architecture: platform.architecture,
        variant: platform.variant,
    });
    if let Some(reference) = &config.reference {
        let reference = Reference::parse(reference)?;
        entry
            .annotations
            .insert("io.containerd.image.name".into(), reference.to_string());
        entry.annotations.insert(
            "org.opencontainers.image.ref.name".into(),
            reference.selector_text(),
        );
    }
    let index = spec::encode(&Index {
        schema_version: 2,
        media_type: OCI_INDEX.into(),
        manifests: vec![entry],
    });
    write_archive(&index, &blobs, output).map_err(|e| ImageError::io("write", output, e))?;
    Ok(manifest_digest)
}

fn compression(wanted: LayerCompression) -> Compression {
    match wanted {
        LayerCompression::None => Compression::None,
        LayerCompression::Gzip => Compression::Gzip,
        LayerCompression::Zstd => Compression::Zstd,
    }
}

fn descriptor(media_type: &str, digest: Digest, size: u64) -> Descriptor {
    Descriptor {
        media_type: media_type.into(),
        digest,
        size,
        platform: None,
        annotations: BTreeMap::new(),
    }
}

fn write_archive(index: &[u8], blobs: &BTreeMap<Digest, PathBuf>, output: &Path) -> io::Result<()> {
    let mut tar = tar::Builder::new(BufWriter::new(File::create(output)?));
    let mut append = |path: &Path, size: u64, data: &mut dyn io::Read| {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(size);
        tar.append_data(&mut header, path, data)
    };
    let layout = br#"{"imageLayoutVersion":"1.0.0"}"#;
    append(
        Path::new("oci-layout"),
        layout.len() as u64,
        &mut layout.as_slice(),
    )?;
    append(Path::new("index.json"), index.len() as u64, &mut &*index)?;
    for (digest, path) in blobs {
        let mut file = File::open(path)?;
        append(&Archive::blob_path(digest), file.metadata()?.len(), &mut file)?;
    }
    tar.into_inner()?
        .into_inner()
        .map_err(io::IntoInnerError::into_error)?
        .sync_all()
}

/// Hashes and counts what is written through it.
struct HashingWriter<W> {
    inner: W,
    hasher: Hasher,
    bytes: u64,
}

impl<W: Write> HashingWriter<W> {
    fn new(inner: W) -> Self {
        Self {
            inner,
            hasher: Hasher::new(Algorithm::Sha256),
            bytes: 0,
        }
    }
}

impl<W: Write> Write for HashingWriter<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(buf)?;
        self.hasher.update(&buf[..n]);
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Returns blob digest, diff id and blob size.
fn write_layer(dir: &Path, output: &Path, wanted: LayerCompression) -> io::Result<(Digest, Digest, u64)> {
    let blob = HashingWriter::new(BufWriter::new(File::create(output)?));
    let (mut blob, diff_id) = match compression(wanted) {
        Compression::None => {
            let plain = write_tar(dir, HashingWriter::new(blob))?;
            (plain.inner, plain.hasher.finish())
        }
        Compression::Gzip => {
            let encoder = flate2::write::GzEncoder::new(blob, flate2::Compression::fast());
            let plain = write_tar(dir, HashingWriter::new(encoder))?;
            (plain.inner.finish()?, plain.hasher.finish())
        }
        Compression::Zstd => {
            let encoder = zstd::stream::write::Encoder::new(blob, 1)?;
            let plain = write_tar(dir, HashingWriter::new(encoder))?;
            (plain.inner.finish()?, plain.hasher.finish())
        }
    };
    blob.flush()?;
    Ok((blob.hasher.finish(), diff_id, blob.bytes))
}

fn write_tar<W: Write>(dir: &Path, output: W) -> io::Result<W> {
    let mut packer = Packer {
        tar: tar::Builder::new(output),
        links: HashMap::new(),
    };
    packer.tar.mode(tar::HeaderMode::Complete);
    let meta = std::fs::symlink_metadata(dir)?;
    packer.entry(dir, Path::new("./"), &meta)?;
    packer.children(dir, Path::new(""))?;
    packer.tar.into_inner()
}

struct Packer<W: Write> {
    tar: tar::Builder<W>,
    /// First name of each file with several.
    links: HashMap<(u64, u64), PathBuf>,
}

impl<W: Write> Packer<W> {
    fn children(&mut self, dir: &Path, name: &Path) -> io::Result<()> {
        let mut entries = std::fs::read_dir(dir)?.collect::<Result<Vec<_>, _>>()?;
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let (path, name) = (entry.path(), name.join(entry.file_name()));
            let meta = std::fs::symlink_metadata(&path)?;
            self.entry(&path, &name, &meta)?;
            if meta.is_dir() {
                self.children(&path, &name)?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, path: &Path, name: &Path, meta: &Metadata) -> io::Result<()> {
        let file_type = meta.file_type();
        if file_type.is_char_device() && meta.rdev() == 0 {
            let mut whiteout = OsString::from(".wh.");
            whiteout.push(name.file_name().unwrap_or_default());
            return self.marker(&name.with_file_name(whiteout));
        }
        if file_type.is_socket() {
            return Ok(());
        }
        let mut header = tar::Header::new_gnu();
        header.set_metadata(meta);
        if !meta.is_dir() && meta.nlink() > 1 {
            if let Some(first) = self.links.get(&(meta.dev(), meta.ino())) {
                header.set_entry_type(tar::EntryType::Link);
                header.set_size(0);
                return self.tar.append_link(&mut header, name, first);
            }
            self.links.insert((meta.dev(), meta.ino()), name.to_path_buf());
        }
        let opaque = self.extended(path, meta)?;
        if file_type.is_file() {
            self.tar.append_data(&mut header, name, File::open(path)?)?;
        } else if file_type.is_symlink() {
            header.set_size(0);
            self.tar
                .append_link(&mut header, name, std::fs::read_link(path)?)?;
        } else {
            header.set_size(0);
            if file_type.is_block_device() || file_type.is_char_device() {
                header.set_device_major(rustix::fs::major(meta.rdev()))?;
                header.set_device_minor(rustix::fs::minor(meta.rdev()))?;
            }
            self.tar.append_data(&mut header, name, io::empty())?;
        }
        if opaque {
            self.marker(&name.join(".wh..wh..opq"))
        } else {
            Ok(())
        }
    }

    /// Extended attributes and nanoseconds as PAX records of the next entry. Tells whether the directory is opaque.
    fn extended(&mut self, path: &Path, meta: &Metadata) -> io::Result<bool> {
        let mut records: Vec<(String, Vec<u8>)> = Vec::new();
        if meta.mtime_nsec() != 0 && meta.mtime() >= 0 {
            records.push((
                "mtime".into(),
                format!("{}.{:09}", meta.mtime(), meta.mtime_nsec()).into_bytes(),
            ));
        }
        let mut opaque = false;
        for (name, value) in attributes(path)? {
            if name.starts_with("trusted.overlay.") {
                opaque |= name == "trusted.overlay.opaque" && value == b"y";
            } else {
                records.push((format!("SCHILY.xattr.{name}"), value));
            }
        }
        if !records.is_empty() {
            self.tar
                .append_pax_extensions(records.iter().map(|(k, v)| (k.as_str(), v.as_slice())))?;
        }
        Ok(opaque)
    }

    fn marker(&mut self, name: &Path) -> io::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Regular);
        header.set_mode(0o600);
        header.set_size(0);
        self.tar.append_data(&mut header, name, io::empty())
    }
}

fn attributes(path: &Path) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut names = vec![0_u8; 64 * 1024];
    let len = match rustix::fs::llistxattr(path, &mut names[..]) {
        Ok(len) => len,
        Err(rustix::io::Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(e) => return Err(e.into()),
    };
    let mut found = Vec::new();
    for name in names[..len].split(|b| *b == 0).filter(|n| !n.is_empty()) {
        let mut value = vec![0_u8; 64 * 1024];
        let len = rustix::fs::lgetxattr(path, std::ffi::OsStr::from_bytes(name), &mut value[..])?;
        value.truncate(len);
        found.push((String::from_utf8_lossy(name).into_owned(), value));
    }
    found.sort();
    Ok(found)
}

/// Uploads the image of an OCI archive as `reference` (a tag) to its registry, reached as `config` says (its root is
/// used for nothing but decompressing and must be a directory with an `ingest` directory when the archive is
/// compressed). Returns the manifest's digest.
pub async fn push_archive(
    archive: &Path,
    reference: &str,
    auth: Option<AuthConfig>,
    config: &ImageConfig,
) -> Result<Digest, ImageError> {
    let reference = Reference::parse(reference)?;
    let registry = Registry::new(config)?;
    let repository = registry.repository(&reference, auth.as_ref(), "pull,push")?;
    let (root, path) = (config.root.clone(), archive.to_path_buf());
    let archive = tokio::task::spawn_blocking(move || Archive::open(&root, ImportSource::Path(path)))
        .await
        .map_err(|e| ImageError::InvalidArchive(e.to_string()))??;
    let index: Index = serde_json::from_slice(&archive.read(Path::new("index.json"))?)
        .map_err(|e| ImageError::manifest("index.json", e))?;
    let entry = index
        .manifests
        .first()
        .ok_or_else(|| ImageError::InvalidArchive("no image in it".into()))?;
    let bytes = archive.document(&entry.digest, "manifest")?;
    let Document::Manifest(manifest) = Document::parse(&bytes, &entry.media_type)? else {
        return Err(ImageError::Unsupported("pushing an index".into()));
    };
    for blob in manifest.layers.iter().chain([&manifest.config]) {
        let mut data = Vec::new();
        io::Read::read_to_end(&mut archive.reader(&Archive::blob_path(&blob.digest))?, &mut data)
            .map_err(|e| ImageError::InvalidArchive(e.to_string()))?;
        repository.push_blob(&blob.digest, data.into()).await?;
    }
    repository
        .push_manifest(&reference.selector_text(), OCI_MANIFEST, bytes.into())
        .await?;
    Ok(entry.digest.clone())
}
