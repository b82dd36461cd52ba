//! TokenReview and SelfSubjectReview.

use std::sync::Arc;

use async_trait::async_trait;
use keelson_api::status::Status;
use serde_json::{Value, json};

use super::token::BearerAuthenticator;
use crate::endpoints::reviews::{ReviewHandler, ReviewHandlers};
use crate::request_info::RequestInfo;
use crate::user::UserInfo;

const GROUP: &str = "authentication.k8s.io";

/// Adds both handlers.
pub(super) fn handlers(handlers: &mut ReviewHandlers, tokens: Arc<BearerAuthenticator>) {
    handlers.insert(GROUP, "tokenreviews", Arc::new(TokenReview { tokens }));
    handlers.insert(GROUP, "selfsubjectreviews", Arc::new(SelfSubjectReview));
}

/// `authentication.k8s.io` UserInfo.
fn user_info(user: &UserInfo) -> Value {
    let mut info = json!({"username": user.name, "groups": user.groups});
    if !user.uid.is_empty() {
        info["uid"] = user.uid.as_str().into();
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    info
}

struct TokenReview {
    tokens: Arc<BearerAuthenticator>,
}

#[async_trait]
impl ReviewHandler for TokenReview {
    async fn create(&self, _: &UserInfo, _: &RequestInfo, mut object: Value) -> Result<Value, Status> {
        let token = object
            .pointer("/spec/token")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        if token.is_empty() {
            return Err(Status::bad_request(
                "token is required for TokenReview in authentication",
            ));
        }
        let audiences: Vec<String> = object
            .pointer("/spec/audiences")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(|a| a.as_str().map(str::to_owned))
            .collect();
        let asked = if audiences.is_empty() {
            self.tokens.api_audiences()
        } else {
            &audiences[..]
        };
        object["status"] = match self.tokens.authenticate_token(&token, asked).await {
            Ok(Some((user, accepted))) => {
                let mut status = json!({"authenticated": true, "user": user_info(&user)});
                if !accepted.is_empty() {
                    status["audiences"] = json!(accepted);
                }
                status
            }
            Ok(None) => json!({"user": {}, "error": "invalid bearer token"}),
            Err(error) => json!({"user": {}, "error": format!("[invalid bearer token, {error}]")}),
        };
        Ok(object)
    }
}

struct SelfSubjectReview;

#[async_trait]
impl ReviewHandler for SelfSubjectReview {
    async fn create(&self, user: &UserInfo, _: &RequestInfo, mut object: Value) -> Result<Value, Status> {
        object["status"] = json!({"userInfo": user_info(user)});
        Ok(object)
    }
}
