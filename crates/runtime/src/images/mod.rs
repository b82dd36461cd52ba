//! The image side of the built-in container runtime: references, registries, archives, layers and root file systems.
//!
//! [`ImageStore`] is the one entry point. Images come from a registry ([`ImageStore::pull`]) or an archive
//! ([`ImageStore::import`]); each layer streams from its source through digest checks and decompression straight into
//! a directory, which is published by rename once both its blob digest and its diff id are right. Layers are shared by
//! content (diff id) and mounted together with overlayfs ([`ImageStore::prepare_rootfs`], [`OverlayMount::mount`]).
//!
//! Layout of the store's directory:
//!
//! ```text
//! lock                      held by the process that uses the store
//! index.json                images: id, names, layers; replaced atomically and synced
//! blobs/<digest>            manifests and configurations
//! layers/<key>/{fs,layer.json}   unpacked layers
//! l/<short>                 symlinks to layers/<key>/fs that keep mount options short
//! containers/<id>/{diff,work,snapshot.json}   writable layers
//! ingest/                   what is being made or deleted; emptied at open
//! ```
//!
//! Invariants: whatever stands outside `ingest/` is complete; an image in the index has all of its blobs and layers on
//! disk; a layer is removed only when no image, container or running pull refers to it.
//!
//! Left out on purpose: docker manifest schema 1, encrypted layers, lazily pulled layers, pushing beyond what
//! [`build::push_archive`] does for tests and tools.

mod blocking;
pub mod build;
mod config;
mod digest;
mod error;
mod fixup;
mod import;
mod index;
mod layers;
mod overlay;
mod pull;
mod reference;
mod registry;
mod rootfs;
mod spec;
mod store;
mod unpack;

pub use config::{AuthConfig, HostConfig, ImageConfig, Mirror, Platform, RegistriesConfig, TlsFiles};
pub use digest::{Algorithm, Digest, Hasher};
pub use error::{ErrorKind, ImageError};
pub use import::ImportSource;
pub use overlay::OverlayMount;
pub use pull::{PullPhase, PullProgress};
pub use reference::{Reference, Selector};
pub use rootfs::Rootfs;
pub use spec::RunConfig;
pub use store::{FsInfo, FsUsage, ImageRecord, ImageStore};
