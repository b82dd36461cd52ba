//! Volumes of pods: one file per kind, all with the same shape, listed in `manager`.

mod atomic_writer;
mod downward_api;
mod empty_dir;
mod host_path;
mod image;
mod keyed;
mod manager;
mod mount_table;
mod ownership;
mod persistent_claim;
mod projected;
pub(crate) mod subpath;
mod token;

pub(crate) use manager::{Error, PodVolumes, VolumeManager};
