//! The built-in container runtime: images, snapshots, sandboxes, containers, shims. Serves CRI v1 in process and on a
//! unix socket.
//!
//! [`Runtime`] implements the generated `RuntimeService` and `ImageService`; the kubelet calls it directly,
//! [`serve`] puts it on a socket for `crictl`. Containers belong to one [`shim`] process per pod, which this process
//! starts, finds again after a restart, and talks to by [`protocol`].

mod config;
mod container;
mod describe;
mod exec;
mod image_service;
mod network;
mod records;
mod recover;
mod runtime;
mod sandbox;
mod seccomp;
mod server;
mod service;
mod shim_client;
mod shim_launcher;
mod spec;
mod state;
mod stats;
mod streaming;

pub mod cgroup;
pub mod images;
pub mod protocol;
pub mod shim;

pub use config::Config;
pub use network::{NetworkError, NoNetwork, PodIps, PodNetwork, PodNetworkRequest, PortMapping};
pub use runtime::{OpenError, Runtime};
pub use server::{ServeError, serve};
