//! The built-in container runtime: images, snapshots, sandboxes, containers, shims. Serves CRI v1 in process and on a
//! unix socket.
//!
//! [`Runtime`] implements the generated `RuntimeService` and `ImageService`; the kubelet calls it directly,
//! [`serve`](server::serve) puts it on a socket for `crictl`. Containers belong to one [`shim`] process per pod, which
//! this process starts, finds again after a restart, and talks to by [`protocol`].

pub mod cgroup;
pub mod images;
pub mod protocol;
pub mod shim;
