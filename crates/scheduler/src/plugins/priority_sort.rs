//! PrioritySort: higher priority first, then who waits longer.

use std::sync::Arc;

use crate::framework::{Framework, Plugin, QueueSortPlugin, SortKey};
use crate::queue::QueuedPod;

struct PrioritySort;

pub(super) fn register(framework: &mut Framework) {
    framework.queue_sort(&Arc::new(PrioritySort));
}

impl Plugin for PrioritySort {
    fn name(&self) -> &'static str {
        "PrioritySort"
    }
}

impl QueueSortPlugin for PrioritySort {
    fn key(&self, pod: &QueuedPod) -> SortKey {
        (-i64::from(pod.info.priority), pod.timestamp)
    }
}
