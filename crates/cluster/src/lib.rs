//! Lifecycle of a cluster on this machine: where its files are, how its processes start, join, stop and leave nothing behind.

pub mod down;
pub mod join;
pub mod kubeconfig;
pub mod leftovers;
pub mod paths;
pub mod preflight;
pub mod process;
pub mod progress;
pub mod sandbox;
pub mod settings;
pub mod token;
pub mod underlay;
pub mod up;
