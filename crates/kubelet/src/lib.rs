//! The kubelet: makes the pods that are bound to this node run, through CRI and nothing else, and reports on them.
//!
//! One worker per pod follows a pure decision ([upstream's kuberuntime] in shape): read the runtime, report the status,
//! compute the next actions, carry them out, until there is nothing left to do. Changes come from watches, the runtime's
//! event stream, inotify and probe timers; lists are only a slow fallback. All state is in the API, in the runtime (labels
//! and annotations of sandboxes and containers) and in the pods' directories, so that a restart picks up what runs.
//!
//! Left out on purpose: device plugins, CSI, swap, user namespaces, checkpoints, dynamic resources.
//!
//! [upstream's kuberuntime]: https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/

mod config;
mod container;
mod cri;
mod eviction;
mod kubelet;
mod labels;
mod machine;
mod node;
mod objects;
mod pod;
mod probe;
mod quantity;
mod server;
mod stats;
mod volume;

pub use config::{CgroupDriver, EvictionHard, KubeletConfig, ServerConfig, Threshold};
pub use cri::{Cri, Error as CriError};
pub use kubelet::{Error, run};
pub use machine::Error as MachineError;
pub use server::Error as ServerError;
