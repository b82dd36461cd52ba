//! One consistent state of all APIServices.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::{ArcSwap, ArcSwapOption};
use base64::Engine;
use bytes::Bytes;
use dashmap::DashMap;
use http::{Request, Response};
use keelson_pki::Leaf;
use parking_lot::Mutex;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::util::BoxCloneSyncService;

use super::priorities;
use crate::outbound::{Client, Place, ServiceRef, TlsOptions, client_config};
use crate::resources::{Reader, Resources};

/// An extension API server inside this process. It is asked what an extension server is asked: paths below
/// `/apis/<group>/<version>`, authenticated and authorized already.
pub type LocalApiService = BoxCloneSyncService<Request<Bytes>, Response<Bytes>, Infallible>;

/// A group version that an extension server inside this process serves, while its APIService has no `spec.service`.
#[derive(Clone)]
pub struct LocalApi {
    /// The group.
    pub group: String,
    /// The version.
    pub version: String,
    /// `groupPriorityMinimum` of the APIService that is made when there is none.
    pub group_priority_minimum: i64,
    /// `versionPriority` of that APIService.
    pub version_priority: i64,
    /// Who answers.
    pub service: LocalApiService,
}

impl LocalApi {
    /// A group version that `service` answers for, behind all others in discovery.
    pub fn new<S>(group: &str, version: &str, service: S) -> Self
    where
        S: tower::Service<Request<Bytes>, Response = Response<Bytes>, Error = Infallible>,
        S: Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
    {
        Self {
            group: group.to_owned(),
            version: version.to_owned(),
            group_priority_minimum: 100,
            version_priority: 100,
            service: BoxCloneSyncService::new(service),
        }
    }
}

/// Where requests for a group version go.
#[expect(clippy::large_enum_variant, reason = "there are few, each behind an Arc")]
pub(crate) enum Destination {
    /// The registry.
    Here,
    /// An extension server in this process.
    Local(LocalApi),
    /// A Service.
    Remote(Remote),
}

/// An extension API server behind a Service.
pub(crate) struct Remote {
    pub(crate) service: ServiceRef,
    /// Condition `Available`.
    pub(crate) available: bool,
    /// What it is reached with; the error is for people.
    pub(crate) client: Result<Client, String>,
    /// The front proxy's certificate that the client shows.
    identity: Option<Arc<Leaf>>,
    spec: Value,
}

impl Remote {
    /// Changes when the APIService, its Service or its endpoints do.
    pub(super) fn fingerprint(&self, resources: &Resources) -> String {
        let (namespace, name) = (self.service.namespace.as_str(), self.service.name.as_str());
        let mut text = self.spec.to_string();
        let service = resources.resource("", "services").get(namespace, name);
        text.push_str(&format!(" {}", service.map_or(0, |s| s.revision())));
        for slice in resources
            .resource("discovery.k8s.io", "endpointslices")
            .list(Some(namespace))
        {
            if slice.label("kubernetes.io/service-name") == Some(name) {
                text.push_str(&format!(" {}@{}", slice.name(), slice.revision()));
            }
        }
        text
    }
}

/// An APIService.
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) group_priority: i64,
    pub(crate) version_priority: i64,
    pub(crate) destination: Destination,
}

/// What an extension server says about its resources.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Document {
    /// APIResourceList.
    pub(crate) resources: Value,
    /// Hash of its OpenAPI v3 document, when it has one.
    pub(crate) openapi_hash: Option<String>,
    /// Whether the last attempt to read it succeeded.
    pub(crate) fresh: bool,
}

/// All APIServices at one moment.
#[derive(Default)]
pub(crate) struct View {
    at: (u64, u64),
    pub(crate) entries: Vec<Arc<Entry>>,
    /// Entries that are not served by the registry, by group.
    elsewhere: HashMap<String, Vec<Arc<Entry>>>,
    /// By name of the APIService.
    pub(crate) documents: HashMap<String, Arc<Document>>,
}

impl View {
    /// The entries that are not served by the registry.
    pub(crate) fn elsewhere(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.entries
            .iter()
            .filter(|e| !matches!(e.destination, Destination::Here))
    }

    /// Who serves a path of an API, unless the registry does. `/openapi/v3` documents are asked for at their server.
    pub(crate) fn route(&self, path: &str) -> Option<&Arc<Entry>> {
        if self.elsewhere.is_empty() {
            return None;
        }
        let rest = path.strip_prefix("/openapi/v3").unwrap_or(path);
        let mut parts = rest.strip_prefix("/apis/")?.splitn(3, '/');
        let (group, version) = (parts.next()?, parts.next()?);
        self.elsewhere.get(group)?.iter().find(|e| e.version == version)
    }
}

/// Knows the APIServices.
pub(crate) struct Aggregator {
    services: Reader,
    resources: Resources,
    identity: ArcSwapOption<Leaf>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
    local: DashMap<String, LocalApi>,
    documents: DashMap<String, Arc<Document>>,
    /// Counts changes of `local`, `documents` and `identity`.
    changed: AtomicU64,
    view: ArcSwap<View>,
    building: Mutex<()>,
}

impl Aggregator {
    pub(crate) fn new(
        resources: &Resources,
        identity: Option<Leaf>,
        tasks: &TaskTracker,
        shutdown: &CancellationToken,
    ) -> Self {
        Self {
            services: resources.resource("apiregistration.k8s.io", "apiservices"),
            resources: resources.clone(),
            identity: ArcSwapOption::from_pointee(identity),
            tasks: tasks.clone(),
            shutdown: shutdown.clone(),
            local: DashMap::new(),
            documents: DashMap::new(),
            changed: AtomicU64::new(1),
            view: ArcSwap::default(),
            building: Mutex::new(()),
        }
    }

    /// Shows another certificate to extension servers, on connections from now on.
    pub(crate) fn renew(&self, identity: Leaf) {
        self.identity.store(Some(Arc::new(identity)));
        self.changed.fetch_add(1, Ordering::AcqRel);
    }

    /// The APIServices as the cache has them now. The same pointer means that nothing changed.
    pub(crate) fn view(&self) -> Arc<View> {
        let current = self.view.load_full();
        if current.at == self.now() {
            return current;
        }
        let _building = self.building.lock();
        let current = self.view.load_full();
        let at = self.now();
        if current.at == at {
            return current;
        }
        let view = Arc::new(self.build(&current, at));
        self.view.store(view.clone());
        view
    }

    fn now(&self) -> (u64, u64) {
        (self.services.version(), self.changed.load(Ordering::Acquire))
    }

    fn build(&self, before: &View, at: (u64, u64)) -> View {
        let objects = self.services.list(None);
        let mut entries: Vec<Arc<Entry>> = objects
            .iter()
            .map(|object| Arc::new(self.entry(object.name(), object.value(), before)))
            .collect();
        entries.sort_by(|a, b| {
            (b.group_priority, &a.group, b.version_priority)
                .cmp(&(a.group_priority, &b.group, a.version_priority))
                .then_with(|| priorities::compare_versions(&a.version, &b.version))
        });
        let mut elsewhere: HashMap<String, Vec<Arc<Entry>>> = HashMap::new();
        for entry in &entries {
            if !matches!(entry.destination, Destination::Here) {
                elsewhere
                    .entry(entry.group.clone())
                    .or_default()
                    .push(entry.clone());
            }
        }
        let documents = self
            .documents
            .iter()
            .map(|d| (d.key().clone(), d.value().clone()))
            .collect();
        View {
            at,
            entries,
            elsewhere,
            documents,
        }
    }

    fn entry(&self, name: &str, object: &Value, before: &View) -> Entry {
        let spec = &object["spec"];
        let text = |field: &str| spec[field].as_str().unwrap_or_default().to_owned();
        let number = |field: &str| spec[field].as_i64().unwrap_or_default();
        let destination = match (ServiceRef::of(&spec["service"]), self.local.get(name)) {
            (Some(service), _) => self.remote(name, service, object, before),
            (None, Some(local)) => Destination::Local(local.clone()),
            (None, None) => Destination::Here,
        };
        Entry {
            name: name.to_owned(),
            group: text("group"),
            version: text("version"),
            group_priority: number("groupPriorityMinimum"),
            version_priority: number("versionPriority"),
            destination,
        }
    }

    fn remote(&self, name: &str, service: ServiceRef, object: &Value, before: &View) -> Destination {
        let spec = &object["spec"];
        let available = is_available(object);
        let identity = self.identity.load_full();
        let is_current = |remote: &Remote| match (&remote.identity, &identity) {
            (Some(known), Some(current)) => Arc::ptr_eq(known, current),
            (known, current) => known.is_none() && current.is_none(),
        };
        // Connections are kept while what they depend on stays.
        let known = before
            .entries
            .iter()
            .find_map(|e| match (e.name == name, &e.destination) {
                (true, Destination::Remote(remote)) if remote.spec == *spec && is_current(remote) => {
                    Some(remote)
                }
                _ => None,
            });
        let client = match known {
            Some(known) => known.client.clone(),
            None => {
                let bundle = ca_bundle(&spec["caBundle"]);
                let insecure = spec["insecureSkipTLSVerify"] == true;
                self.client(&service, &bundle, insecure)
            }
        };
        Destination::Remote(Remote {
            service,
            available,
            client,
            identity,
            spec: spec.clone(),
        })
    }

    /// A client for a Service, with the front proxy's certificate.
    pub(super) fn client(
        &self,
        service: &ServiceRef,
        ca_bundle: &[u8],
        insecure: bool,
    ) -> Result<Client, String> {
        let identity = self.identity.load();
        let tls = client_config(&TlsOptions {
            ca_bundle,
            insecure,
            identity: identity.as_deref(),
        })?;
        let place = Place::Service(service.clone(), self.resources.clone());
        Client::new(place, &service.server_name(), tls, &self.tasks, &self.shutdown)
    }

    /// Serves a group version inside this process.
    pub(super) fn add_local(&self, name: String, api: LocalApi, document: Document) {
        self.documents.insert(name.clone(), Arc::new(document));
        self.local.insert(name, api);
        self.changed.fetch_add(1, Ordering::AcqRel);
    }

    /// Takes what a remote server said; `None` when it did not answer.
    pub(super) fn set_document(&self, name: &str, said: Option<Document>) {
        let before = self.documents.get(name).map(|d| d.clone());
        let document = match (said, &before) {
            (Some(new), _) => new,
            (None, Some(before)) => Document {
                fresh: false,
                ..Document::clone(before)
            },
            (None, None) => return,
        };
        if before.is_some_and(|b| *b == document) {
            return;
        }
        self.documents.insert(name.to_owned(), Arc::new(document));
        self.changed.fetch_add(1, Ordering::AcqRel);
    }

    /// Forgets what servers said whose APIServices are gone.
    pub(super) fn retain_documents(&self, view: &View) {
        let gone =
            |name: &str| !self.local.contains_key(name) && !view.elsewhere().any(|entry| entry.name == name);
        let stale: Vec<String> = self
            .documents
            .iter()
            .map(|d| d.key().clone())
            .filter(|name| gone(name))
            .collect();
        for name in &stale {
            self.documents.remove(name);
        }
        if !stale.is_empty() {
            self.changed.fetch_add(1, Ordering::AcqRel);
        }
    }
}

/// The bytes of a `caBundle`.
pub(crate) fn ca_bundle(value: &Value) -> Vec<u8> {
    let text = value.as_str().unwrap_or_default();
    base64::engine::general_purpose::STANDARD
        .decode(text)
        .unwrap_or_default()
}

fn is_available(object: &Value) -> bool {
    object["status"]["conditions"].as_array().is_some_and(|c| {
        c.iter()
            .any(|c| c["type"] == "Available" && c["status"] == "True")
    })
}
