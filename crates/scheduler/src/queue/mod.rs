//! Pods that wait for a node: the active queue (by priority, then time), the backoff queue (by deadline) and the unschedulable
//! ones, which wait for an event that may help them.

mod scheduling_queue;
#[cfg(test)]
mod tests;

pub(crate) use scheduling_queue::{QueuedPod, SchedulingQueue};
