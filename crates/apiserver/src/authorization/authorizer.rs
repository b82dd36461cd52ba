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

/// Decides whether a user may do something.
#[async_trait]
pub trait Authorizer: Send + Sync + 'static {
    /// The decision and, where there is something to say, the reason in upstream's words.
    async fn authorize(&self, user: &UserInfo, request: &RequestInfo) -> (Decision, String);
}
