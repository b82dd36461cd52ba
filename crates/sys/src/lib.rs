//! System calls behind safe interfaces: the only crate with `unsafe`. One module per topic.

pub mod cgroup_device;
pub mod netdev;
pub mod netlink;
pub mod netns;
pub mod process;
pub mod seccomp;
