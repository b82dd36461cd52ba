//! The scheduling framework: extension points as traits, and what runs them in upstream's order.

mod cluster_event;
mod cycle_state;
mod fit_error;
mod handle;
mod lister;
mod profiles;
mod runtime;
mod status;
mod traits;

pub(crate) use cluster_event::{ClusterEvent, NodeChange, QueueingHint};
pub(crate) use cycle_state::CycleState;
pub(crate) use fit_error::{Diagnosis, FitError};
pub(crate) use handle::{Handle, Nominator};
pub(crate) use lister::{ByNamespace, Lister, Listers};
pub(crate) use profiles::Profiles;
pub(crate) use runtime::{Framework, NO_NODES};
pub(crate) use status::{Code, Outcome, Status};
pub(crate) use traits::{
    BindPlugin, FilterPlugin, MAX_NODE_SCORE, NodeNames, PermitPlugin, Plugin, PostBindPlugin,
    PostFilterPlugin, PostFilterResult, PreBindPlugin, PreEnqueuePlugin, PreFilter, PreFilterPlugin,
    PreScorePlugin, QueueSortPlugin, ReservePlugin, ScorePlugin, SortKey,
};
