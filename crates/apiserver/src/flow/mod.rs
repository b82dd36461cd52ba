//! API Priority and Fairness: which requests are served when there are more than the server can serve at once.
//!
//! A request belongs to the first FlowSchema, by precedence, that matches it, and so to a PriorityLevelConfiguration. A level
//! has seats; a request takes one, or several when it lists much, until its answer begins. Without a free seat it waits in one
//! of the level's queues, chosen by shuffle sharding of its flow, or is refused with 429. Idle levels lend the seats that
//! they may lend, and have them back as soon as they are free. Every answer names its FlowSchema and its level in
//! `X-Kubernetes-PF-*` headers.
//!
//! Different from upstream: seats are borrowed and returned at once instead of every ten seconds, and the width of writes
//! does not depend on how many watch.

mod config;
mod counts;
mod dump;
mod gate;
mod level;
mod mandatory;

pub(crate) use dump::respond as dump;
pub(crate) use gate::{Flow, Ticket};
pub(crate) use mandatory::mandatory;
