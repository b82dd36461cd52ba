//! Kinds that are only created and never stored: reviews and token requests. The handlers come from authentication and
//! authorization.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use keelson_api::status::Status;
use serde_json::Value;

use crate::request_info::RequestInfo;
use crate::user::UserInfo;

/// Answers the creation of a kind that is not stored.
#[async_trait]
pub trait ReviewHandler: Send + Sync + 'static {
    /// `object` is decoded, normalized, defaulted and admitted; the answer is the object with its status filled in
    /// (`apiVersion` and `kind` included). Runs after authorization and admission.
    async fn create(&self, user: &UserInfo, request: &RequestInfo, object: Value) -> Result<Value, Status>;
}

/// Handlers by group and `resource` or `resource/subresource`, e.g. `("authentication.k8s.io", "tokenreviews")` or
/// `("", "serviceaccounts/token")`.
#[derive(Default, Clone)]
pub struct ReviewHandlers {
    handlers: HashMap<(&'static str, &'static str), Arc<dyn ReviewHandler>>,
}

impl ReviewHandlers {
    /// Adds a handler.
    pub fn insert(&mut self, group: &'static str, resource: &'static str, handler: Arc<dyn ReviewHandler>) {
        self.handlers.insert((group, resource), handler);
    }

    /// The handler of this resource.
    pub fn get<'a>(&'a self, group: &'a str, resource: &'a str) -> Option<&'a Arc<dyn ReviewHandler>> {
        // The map's key type is covariant in its lifetime, so a shorter-lived key can be looked up.
        let handlers: &'a HashMap<(&'a str, &'a str), Arc<dyn ReviewHandler>> = &self.handlers;
        handlers.get(&(group, resource))
    }
}
