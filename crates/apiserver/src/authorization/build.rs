//! The union of all authorizers, in upstream's order.

use std::sync::Arc;

use async_trait::async_trait;

use super::{Authorizer, Decision, NodeAuthorizer, Rbac};
use crate::config::ApiServerConfig;
use crate::request_info::RequestInfo;
use crate::resources::Resources;
use crate::user::{SYSTEM_MASTERS, UserInfo};

/// Builds the authorizers once at start.
pub fn build(_config: &ApiServerConfig, resources: &Resources) -> Arc<dyn Authorizer> {
    Arc::new(Union {
        authorizers: vec![
            Box::new(NodeAuthorizer::new(resources)),
            Box::new(Rbac::new(resources)),
        ],
    })
}

/// `system:masters` first, then each in turn until one has an opinion.
struct Union {
    authorizers: Vec<Box<dyn Authorizer>>,
}

#[async_trait]
impl Authorizer for Union {
    async fn authorize(&self, user: &UserInfo, request: &RequestInfo) -> (Decision, String) {
        if user.in_group(SYSTEM_MASTERS) {
            return (Decision::Allow, String::new());
        }
        let mut reasons = Vec::new();
        for authorizer in &self.authorizers {
            let (decision, reason) = authorizer.authorize(user, request).await;
            if decision != Decision::NoOpinion {
                return (decision, reason);
            }
            if !reason.is_empty() {
                reasons.push(reason);
            }
        }
        (Decision::NoOpinion, reasons.join("\n"))
    }
}
