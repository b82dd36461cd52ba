//! Lifecycle of a cluster on this machine: where its files are, how its processes start, join, stop and leave nothing behind.

pub mod addons;
pub mod agent;
pub mod backend;
pub mod control;
mod control_plane;
pub mod down;
mod identities;
pub mod join;
pub mod kubeconfig;
pub mod leftovers;
pub mod node;
pub mod paths;
pub mod preflight;
pub mod process;
pub mod progress;
pub mod published;
mod renewal;
mod rotation;
pub mod sandbox;
pub mod server;
pub mod settings;
pub mod status;
pub mod token;
pub mod underlay;
pub mod up;
