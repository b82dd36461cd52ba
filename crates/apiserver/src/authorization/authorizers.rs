//! The authorizers that are configured, asked in their order, and exchanged when the file changes.

use std::collections::HashSet;
use std::sync::Arc;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::configuration::{Configured, of_modes, parse};
use super::webhook::WebhookAuthorizer;
use super::{
    AuthorizationConfig, AuthorizationConfigError, AuthorizationMode, Authorizer, Decision, NodeAuthorizer,
    PolicyRule, Rbac, Verdict, node_of,
};
use crate::admission::Connections;
use crate::reload::Watched;
use crate::request_info::RequestInfo;
use crate::resources::Resources;
use crate::user::{SYSTEM_MASTERS, UserInfo};

/// What is configured, read and judged before the server starts.
pub(crate) struct Plan {
    entries: Vec<Entry>,
    file: Option<Watched>,
    connections: Connections,
}

#[derive(Clone)]
enum Entry {
    Node,
    Rbac,
    AlwaysAllow,
    AlwaysDeny,
    Webhook(Arc<WebhookAuthorizer>),
}

/// `system:masters` first, then each authorizer in turn until one has an opinion.
pub(crate) struct Authorizers {
    node: NodeAuthorizer,
    rbac: Rbac,
    entries: ArcSwap<Vec<Entry>>,
    /// Authorizers that the file had at the start; it may not lose them.
    required: HashSet<AuthorizationMode>,
    connections: Connections,
}

fn entries(configured: Vec<Configured>, connections: &Connections) -> Result<Vec<Entry>, String> {
    let entry = |configured| {
        Ok(match configured {
            Configured::Plain(AuthorizationMode::Node) => Entry::Node,
            Configured::Plain(AuthorizationMode::Rbac) => Entry::Rbac,
            Configured::Plain(AuthorizationMode::AlwaysAllow) => Entry::AlwaysAllow,
            Configured::Plain(AuthorizationMode::AlwaysDeny) => Entry::AlwaysDeny,
            Configured::Plain(AuthorizationMode::Webhook) => {
                return Err("a webhook without settings".to_owned());
            }
            Configured::Webhook(settings) => {
                Entry::Webhook(Arc::new(WebhookAuthorizer::open(*settings, connections)?))
            }
        })
    };
    configured.into_iter().map(entry).collect()
}

impl Plan {
    /// Reads the files that are configured.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(crate) fn open(
        config: &AuthorizationConfig,
        connections: &Connections,
    ) -> Result<Self, AuthorizationConfigError> {
        let (configured, file) = match config {
            AuthorizationConfig::Modes { modes, webhook } => (of_modes(modes, webhook.as_ref()), None),
            AuthorizationConfig::File(path) => {
                let failed = |why: String| AuthorizationConfigError(format!("{}: {why}", path.display()));
                let file = Watched::open(path).map_err(|e| failed(e.to_string()))?;
                (Ok(parse(file.text()).map_err(failed)?), Some(file))
            }
        };
        let configured = configured.map_err(AuthorizationConfigError)?;
        Ok(Self {
            entries: entries(configured, connections).map_err(AuthorizationConfigError)?,
            file,
            connections: connections.clone(),
        })
    }

    /// The authorizers; where a file says which, a task follows it until `shutdown`.
    pub(crate) fn start(
        self,
        resources: &Resources,
        shutdown: &CancellationToken,
    ) -> (Arc<Authorizers>, Option<JoinHandle<()>>) {
        let modes = self.entries.iter().map(Entry::mode);
        let authorizers = Arc::new(Authorizers {
            node: NodeAuthorizer::new(resources),
            rbac: Rbac::new(resources),
            required: modes.filter(|mode| *mode != AuthorizationMode::Webhook).collect(),
            entries: ArcSwap::from_pointee(self.entries),
            connections: self.connections,
        });
        let following = self.file.map(|file| {
            let (authorizers, shutdown) = (authorizers.clone(), shutdown.clone());
            tokio::spawn(async move { file.follow(shutdown, |text| authorizers.reload(text)).await })
        });
        (authorizers, following)
    }
}

impl Entry {
    fn mode(&self) -> AuthorizationMode {
        match self {
            Self::Node => AuthorizationMode::Node,
            Self::Rbac => AuthorizationMode::Rbac,
            Self::AlwaysAllow => AuthorizationMode::AlwaysAllow,
            Self::AlwaysDeny => AuthorizationMode::AlwaysDeny,
            Self::Webhook(_) => AuthorizationMode::Webhook,
        }
    }
}

impl Authorizers {
    /// Takes what the file says now; what cannot be used is logged and changes nothing.
    fn reload(&self, text: &str) {
        match self.replacement(text) {
            Ok(entries) => {
                self.entries.store(Arc::new(entries));
                tracing::info!("reloaded authz config");
            }
            Err(error) => tracing::error!(error, "reloading authorization config failed; the old one stays"),
        }
    }

    fn replacement(&self, text: &str) -> Result<Vec<Entry>, String> {
        let configured = parse(text)?;
        let modes: HashSet<AuthorizationMode> = configured.iter().map(Configured::mode).collect();
        let mut missing: Vec<&str> = self.required.difference(&modes).map(|mode| mode.name()).collect();
        if !missing.is_empty() {
            missing.sort_unstable();
            let missing = missing.join(", ");
            return Err(format!(
                "authorizers of type {missing} cannot be removed while the server runs"
            ));
        }
        entries(configured, &self.connections)
    }

    async fn ask(&self, entry: &Entry, user: &UserInfo, request: &RequestInfo) -> Verdict {
        match entry {
            Entry::Node => self.node.authorize(user, request).await.into(),
            Entry::Rbac => self.rbac.authorize(user, request).await.into(),
            Entry::AlwaysAllow => (Decision::Allow, String::new()).into(),
            Entry::AlwaysDeny => (Decision::NoOpinion, "Everything is forbidden.".to_owned()).into(),
            Entry::Webhook(webhook) => webhook.decide(user, request).await,
        }
    }

    /// The rules that hold for a user in a namespace, and why there may be more.
    pub(super) fn rules_for(&self, user: &UserInfo, namespace: &str) -> (Vec<PolicyRule>, Vec<String>) {
        let (mut rules, mut problems) = (Vec::new(), Vec::new());
        for entry in self.entries.load().iter() {
            match entry {
                Entry::Node if node_of(user).is_some() => {
                    problems.push("node authorizer does not support user rule resolution".to_owned());
                }
                Entry::Node | Entry::AlwaysDeny => {}
                Entry::Rbac => {
                    let (held, missing) = self.rbac.rules_for(user, namespace);
                    rules.extend(held);
                    problems.extend(missing);
                }
                Entry::AlwaysAllow => rules.extend(PolicyRule::everything()),
                Entry::Webhook(_) => {
                    problems.push("webhook authorizer does not support user rule resolution".to_owned());
                }
            }
        }
        (rules, problems)
    }
}

#[async_trait]
impl Authorizer for Authorizers {
    async fn authorize(&self, user: &UserInfo, request: &RequestInfo) -> (Decision, String) {
        let Verdict { decision, reason, .. } = self.review(user, request).await;
        (decision, reason)
    }

    async fn review(&self, user: &UserInfo, request: &RequestInfo) -> Verdict {
        if user.in_group(SYSTEM_MASTERS) {
            return (Decision::Allow, String::new()).into();
        }
        let (mut reasons, mut errors) = (Vec::new(), Vec::new());
        let entries = self.entries.load_full();
        for entry in entries.iter() {
            let verdict = self.ask(entry, user, request).await;
            if verdict.decision != Decision::NoOpinion {
                return verdict;
            }
            reasons.extend(Some(verdict.reason).filter(|reason| !reason.is_empty()));
            errors.extend(verdict.error);
        }
        Verdict {
            decision: Decision::NoOpinion,
            reason: reasons.join("\n"),
            error: match errors.as_slice() {
                [] => None,
                [one] => Some(one.clone()),
                many => Some(format!("[{}]", many.join(", "))),
            },
        }
    }
}
