//! The authorizer of expressions, over the server's, which may have to wait.

use futures::FutureExt;
use keelson_cel::{Decision as CelDecision, Request};
use parking_lot::Mutex;

use crate::authorization::{Authorizer, Decision};
use crate::request_info::RequestInfo;
use crate::user::UserInfo;

/// Answers what the expressions of one request ask, each question once.
pub(in crate::admission) struct Authority<'r> {
    authorizer: &'r dyn Authorizer,
    user: &'r UserInfo,
    decided: Mutex<Vec<(Request, CelDecision)>>,
    open: Mutex<Vec<Request>>,
}

impl<'r> Authority<'r> {
    /// For the user of a request.
    pub(in crate::admission) fn new(authorizer: &'r dyn Authorizer, user: &'r UserInfo) -> Self {
        Self {
            authorizer,
            user,
            decided: Mutex::default(),
            open: Mutex::default(),
        }
    }

    /// Answers the questions that could not be answered at once. If there were any, the evaluation that asked them is worth
    /// nothing and has to be repeated.
    pub(in crate::admission) async fn settle(&self) -> bool {
        let open = std::mem::take(&mut *self.open.lock());
        for request in &open {
            let decision = self.ask(request).await;
            self.decided.lock().push((request.clone(), decision));
        }
        !open.is_empty()
    }

    async fn ask(&self, request: &Request) -> CelDecision {
        let account = request.service_account.as_ref().map(|(namespace, name)| {
            let groups = format!("system:serviceaccounts:{namespace}");
            let name = format!("system:serviceaccount:{namespace}:{name}");
            UserInfo::new(name, &["system:serviceaccounts", &groups])
        });
        let user = account.as_ref().unwrap_or(self.user);
        let (decision, reason) = self.authorizer.authorize(user, &info(request)).await;
        CelDecision {
            allowed: decision == Decision::Allow,
            reason,
            error: None,
        }
    }
}

impl keelson_cel::Authorizer for Authority<'_> {
    fn decide(&self, request: &Request) -> CelDecision {
        let known = |decided: &[(Request, CelDecision)]| {
            let found = decided.iter().find(|(asked, _)| asked == request);
            found.map(|(_, decision)| decision.clone())
        };
        if let Some(decision) = known(&self.decided.lock()) {
            return decision;
        }
        if let Some(decision) = self.ask(request).now_or_never() {
            self.decided.lock().push((request.clone(), decision.clone()));
            return decision;
        }
        self.open.lock().push(request.clone());
        CelDecision::default()
    }
}

fn info(request: &Request) -> RequestInfo {
    let verb = request.verb.clone();
    match &request.path {
        Some(path) => RequestInfo {
            path: path.clone(),
            verb,
            ..RequestInfo::default()
        },
        None => RequestInfo {
            is_resource: true,
            verb,
            api_prefix: if request.group.is_empty() { "api" } else { "apis" }.to_owned(),
            api_group: request.group.clone(),
            api_version: "*".to_owned(),
            namespace: request.namespace.clone(),
            resource: request.resource.clone(),
            subresource: request.subresource.clone(),
            name: request.name.clone(),
            field_selector: request.field_selector.clone(),
            label_selector: request.label_selector.clone(),
            ..RequestInfo::default()
        },
    }
}
