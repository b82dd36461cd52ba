//! The shim: one small single-threaded process per pod sandbox that owns the pod's containers.
//!
//! It is a copy of the launcher (`launcher.rs`), which is this program run again with the hidden subcommand `shim` (see
//! [`main`]). It lives in the pod's network,
//! IPC and UTS namespaces and thereby holds them; there is no pause process unless the pod shares one PID namespace.
//! It creates containers with libcontainer in a short-lived copy of itself each ("creator"), whose children the
//! kernel makes children of the shim; so the shim itself stays small, libcontainer's changes of working directory and
//! dumpable flag do not reach it, and creations do not disturb each other. It reaps every process of the pod, writes
//! exit codes to files before it tells anybody, and writes the containers' output to CRI log files.
//!
//! It goes on when the runtime goes away; a restarted runtime finds its socket and connects again.
//!
//! Left out on purpose: pumping of exec sessions. Their pipes and terminals belong to the runtime; a session ends
//! with the runtime, as it does upstream.

mod attach;
mod complain;
mod container;
mod creator;
mod event_loop;
mod exec;
mod executor;
mod launcher;
mod log;
mod main;
mod pause;
mod requests;
mod rootfs;
mod setup;

pub use main::{SUBCOMMAND, main};
pub use setup::ShimConfig;
