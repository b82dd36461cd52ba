//! DynamicResources: device claims (resource.k8s.io) are not allocated by this scheduler. A pod that has some waits and says so;
//! for all others there is nothing to do.

use std::sync::Arc;

use crate::cache::{PodInfo, Snapshot};
use crate::framework::{
    CycleState, Diagnosis, Framework, Outcome, Plugin, PostFilterPlugin, PostFilterResult, PreFilter,
    PreFilterPlugin, Status,
};

struct DynamicResources;

pub(super) fn register(framework: &mut Framework) {
    let plugin = Arc::new(DynamicResources);
    framework.pre_filter(&plugin).post_filter(&plugin);
}

fn has_claims(pod: &PodInfo) -> bool {
    pod.spec()
        .and_then(|spec| spec.resource_claims.as_ref())
        .is_some_and(|claims| !claims.is_empty())
}

impl Plugin for DynamicResources {
    fn name(&self) -> &'static str {
        "DynamicResources"
    }
}

impl PreFilterPlugin for DynamicResources {
    fn pre_filter(
        &self,
        _state: &mut CycleState,
        pod: &PodInfo,
        _snapshot: &Snapshot,
    ) -> Result<PreFilter, Status> {
        if has_claims(pod) {
            return Err(Status::unresolvable(
                "pod has resource claims, which this scheduler does not allocate",
            ));
        }
        Err(Status::skip())
    }
}

impl PostFilterPlugin for DynamicResources {
    fn post_filter(
        &self,
        _framework: &Framework,
        _state: &CycleState,
        _pod: &Arc<PodInfo>,
        _snapshot: &Snapshot,
        _diagnosis: &Diagnosis,
    ) -> (Option<PostFilterResult>, Outcome) {
        (None, Err(Status::unschedulable("no new claims to deallocate")))
    }
}
