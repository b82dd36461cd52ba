//! What pods and the node use, read when asked for, and how the kubelet tells it: `/stats/summary` and the metrics endpoints.

mod cadvisor;
mod component;
mod exposition;
mod resource;
mod summary;
mod usage;

pub(crate) use cadvisor::cadvisor_metrics;
pub(crate) use component::kubelet_metrics;
pub(crate) use exposition::{Exposition, Histogram};
pub(crate) use resource::resource_metrics;
pub(crate) use summary::{Detail, summary};
pub(crate) use usage::{UsageCache, image_fs, memory_available, pod_usages};
