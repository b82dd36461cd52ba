//! A node as a process tree in namespaces: more nodes on one machine, each with its own network, mount, UTS, IPC, PID and
//! cgroup namespaces, joined over TLS like any other machine.
//!
//! Three processes make a node. The *holder* joins the node's cgroups and unshares; it is what the host sees and kills.
//! The *init* is PID 1 of the node: it mounts the node's file systems, sets up its network, runs the agent and reaps.
//! The *agent* is `keelson agent`, the same as on a real machine. When the holder or init dies, the kernel ends the node.

mod cgroup;
mod holder;
mod init;
mod node;

pub use cgroup::{CgroupTree, remove_tree};
pub use holder::hold;
pub use init::init;
pub use node::{Error, NodeSpec, SandboxNode, ask_to_stop, start, stop};
