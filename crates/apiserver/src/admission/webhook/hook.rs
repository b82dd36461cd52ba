//! Hooks, read from their configurations when these change.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use url::Url;

use crate::admission::expressions::Conditions;
use crate::admission::matching::Criteria;
use crate::aggregation::ca_bundle;
use crate::outbound::{Client, Place, ServiceRef, TlsOptions, client_config};
use crate::resources::{Reader, Resources};

/// One hook of a configuration.
pub(super) struct Hook {
    /// Name of the configuration.
    pub(super) configuration: String,
    /// Unique among all hooks, and the same while the configuration is.
    pub(super) uid: String,
    pub(super) name: String,
    pub(super) criteria: Criteria,
    pub(super) conditions: Arc<Conditions>,
    /// `None` or `NoneOnDryRun`, which may be called for a dry run.
    pub(super) dry_run: bool,
    /// `failurePolicy: Ignore`
    pub(super) ignores_failure: bool,
    pub(super) if_needed: bool,
    pub(super) timeout: Duration,
    pub(super) target: Target,
}

/// Where a hook is.
#[derive(Clone)]
pub(super) struct Target {
    config: Value,
    /// As errors name it, with the scheme and without the query.
    pub(super) url: String,
    pub(super) path: String,
    pub(super) client: Result<Client, String>,
}

/// What connections need.
#[derive(Clone)]
pub(crate) struct Connections {
    /// Connection tasks belong to these.
    pub(crate) tasks: TaskTracker,
    /// Ends connections.
    pub(crate) shutdown: CancellationToken,
}

/// The hooks of one kind of configuration.
pub(super) struct Hooks {
    configurations: Reader,
    resources: Resources,
    connections: Connections,
    last: ArcSwap<(u64, Vec<Arc<Hook>>)>,
    reading: Mutex<()>,
}

impl Hooks {
    pub(super) fn new(resources: &Resources, resource: &str, connections: &Connections) -> Self {
        Self {
            configurations: resources.resource("admissionregistration.k8s.io", resource),
            resources: resources.clone(),
            connections: connections.clone(),
            last: ArcSwap::from_pointee((u64::MAX, Vec::new())),
            reading: Mutex::new(()),
        }
    }

    /// All hooks in the order of their configurations' names.
    pub(super) fn all(&self) -> Arc<(u64, Vec<Arc<Hook>>)> {
        let last = self.last.load_full();
        if last.0 == self.configurations.version() {
            return last;
        }
        let _reading = self.reading.lock();
        let last = self.last.load_full();
        let version = self.configurations.version();
        if last.0 == version {
            return last;
        }
        let mut hooks = Vec::new();
        for object in self.configurations.list(None) {
            let configuration = object.value();
            let list = configuration["webhooks"].as_array().into_iter().flatten();
            for (at, hook) in list.enumerate() {
                hooks.push(Arc::new(self.hook(object.name(), at, hook, &last.1)));
            }
        }
        let hooks = Arc::new((version, hooks));
        self.last.store(hooks.clone());
        hooks
    }

    fn hook(&self, configuration: &str, at: usize, hook: &Value, before: &[Arc<Hook>]) -> Hook {
        let text = |field: &str| hook[field].as_str().unwrap_or_default();
        let config = &hook["clientConfig"];
        // Connections are kept while the hook's address stays.
        let target = before
            .iter()
            .find(|h| h.target.config == *config)
            .map(|h| h.target.clone());
        let conditions = before
            .iter()
            .find(|h| h.conditions.are_of(&hook["matchConditions"]))
            .map(|h| h.conditions.clone());
        Hook {
            configuration: configuration.to_owned(),
            uid: format!("{configuration}/{}/{at}", text("name")),
            name: text("name").to_owned(),
            criteria: Criteria::of_hook(hook),
            conditions: conditions
                .unwrap_or_else(|| Arc::new(Conditions::of(&hook["matchConditions"], false))),
            dry_run: matches!(text("sideEffects"), "None" | "NoneOnDryRun"),
            ignores_failure: text("failurePolicy") == "Ignore",
            if_needed: text("reinvocationPolicy") == "IfNeeded",
            timeout: Duration::from_secs(hook["timeoutSeconds"].as_u64().unwrap_or(10)),
            target: target.unwrap_or_else(|| self.target(config)),
        }
    }

    fn target(&self, config: &Value) -> Target {
        let bundle = ca_bundle(&config["caBundle"]);
        let connect = |place: Place, server_name: &str| {
            let tls = client_config(&TlsOptions {
                ca_bundle: &bundle,
                ..TlsOptions::default()
            })?;
            Client::new(
                place,
                server_name,
                tls,
                &self.connections.tasks,
                &self.connections.shutdown,
            )
        };
        if let Some(service) = ServiceRef::of(&config["service"]) {
            let path = config["service"]["path"].as_str().unwrap_or_default();
            let path = format!("/{}", path.trim_start_matches('/'));
            let name = service.server_name();
            return Target {
                config: config.clone(),
                url: format!("https://{name}:{}{path}", service.port),
                path,
                client: connect(Place::Service(service, self.resources.clone()), &name),
            };
        }
        let text = config["url"].as_str().unwrap_or_default();
        let (path, client) = match Url::parse(text) {
            Ok(url) => {
                let host = url.host_str().unwrap_or_default().to_owned();
                let bare = host.trim_matches(['[', ']']).to_owned();
                let port = url.port_or_known_default().unwrap_or(443);
                (url.path().to_owned(), connect(Place::Host(bare, port), &host))
            }
            Err(error) => ("/".to_owned(), Err(format!("parse {text:?}: {error}"))),
        };
        Target {
            config: config.clone(),
            url: text.to_owned(),
            path,
            client,
        }
    }
}
