//! What an authorizer is.

use async_trait::async_trait;

use crate::request_info::RequestInfo;
use crate::user::UserInfo;

/// An authorizer's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The request may go on.
    Allow,
    /// The request is refused, whatever later authorizers say.
    Deny,
    /// Ask the next authorizer; when none is left the request is refused.
    NoOpinion,
}

/// An authorizer's whole answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What it decided.
    pub decision: Decision,
    /// Why, in upstream's words; empty where there is nothing to say.
    pub reason: String,
    /// What could not be found out: somebody who had to be asked did not answer.
    pub error: Option<String>,
}

impl From<(Decision, String)> for Verdict {
    fn from((decision, reason): (Decision, String)) -> Self {
        Self {
            decision,
            reason,
            error: None,
        }
    }
}

/// Decides whether a user may do something.
#[async_trait]
pub trait Authorizer: Send + Sync + 'static {
    /// The decision and, where there is something to say, the reason in upstream's words.
    async fn authorize(&self, user: &UserInfo, request: &RequestInfo) -> (Decision, String);

    /// As [`Self::authorize`], with what could not be found out.
    async fn review(&self, user: &UserInfo, request: &RequestInfo) -> Verdict {
        self.authorize(user, request).await.into()
    }
}
