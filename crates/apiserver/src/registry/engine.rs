//! The registry's state and its reads.

use std::sync::{Arc, OnceLock};

use keelson_api::status::Status;
use keelson_store::Store;
use serde_json::Value;

use super::kind::{Kind, KindSource, KindTable};
use super::leases::EventLeases;
use super::service::ServiceAllocator;
use crate::admission::{Attributes, Chain, Operation};
use crate::config::ApiServerConfig;
use crate::registry::Context;
use crate::resources::Resources;
use crate::watch_cache::{CachedObject, WatchCacheError};

/// One engine for all kinds. Cheap to clone.
#[derive(Clone)]
pub struct Registry {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) resources: Resources,
    pub(super) store: Arc<dyn Store>,
    pub(super) kinds: KindSource,
    pub(super) admission: OnceLock<Chain>,
    pub(super) leases: EventLeases,
    pub(super) services: ServiceAllocator,
}

impl Registry {
    /// A registry over filled caches, with all built-in kinds.
    pub fn new(config: &ApiServerConfig, resources: Resources) -> Self {
        let table = KindTable::builtin(resources.caches());
        Self {
            inner: Arc::new(Inner {
                store: config.store.clone(),
                kinds: KindSource::new(table),
                admission: OnceLock::new(),
                leases: EventLeases::new(config.event_ttl),
                services: ServiceAllocator::new(config),
                resources,
            }),
        }
    }

    /// Sets the admission chain, once.
    pub fn set_admission(&self, chain: Chain) {
        if self.inner.admission.set(chain).is_err() {
            tracing::warn!("the admission chain was set twice; the first one stays");
        }
    }

    /// Read access to everything stored.
    pub fn resources(&self) -> &Resources {
        &self.inner.resources
    }

    /// All rows.
    pub fn kinds(&self) -> Arc<KindTable> {
        self.inner.kinds.load()
    }

    /// The rows as they will be whenever somebody looks.
    pub fn kind_source(&self) -> &KindSource {
        &self.inner.kinds
    }

    /// Changes the rows.
    pub fn update_kinds(&self, change: impl Fn(&mut KindTable)) {
        self.inner.kinds.table().rcu(|table| {
            let mut table = KindTable::clone(table);
            change(&mut table);
            table
        });
    }

    /// The row of a group, version and resource.
    pub fn kind(&self, group: &str, version: &str, resource: &str) -> Option<Arc<Kind>> {
        self.inner
            .kinds
            .table()
            .load()
            .get(group, version, resource)
            .cloned()
    }

    /// Reads one object. Without `resource_version` the answer is as new as the store; with one it is at least that new.
    pub async fn get(
        &self,
        kind: &Kind,
        namespace: &str,
        name: &str,
        resource_version: Option<u64>,
    ) -> Result<Arc<CachedObject>, Status> {
        let caches = self.inner.resources.caches();
        match resource_version {
            None => caches.wait_until_current().await,
            Some(revision) => caches.wait_for(revision).await,
        }
        .map_err(|e| status_of(&e))?;
        let object = kind
            .cache()?
            .get(kind.key_namespace(namespace), name)
            .ok_or_else(|| Status::not_found(&kind.gr, name))?;
        self.form(kind, object).await
    }

    /// The object in the row's version, which a webhook may have to convert.
    pub async fn form(&self, kind: &Kind, object: Arc<CachedObject>) -> Result<Arc<CachedObject>, Status> {
        let Some(crossing) = kind.crossing() else {
            return Ok(object);
        };
        let mut forms = crossing.read(vec![object], false).await?;
        forms.pop().ok_or_else(|| Status::internal("an object was lost"))
    }

    /// The objects of a list in the row's version.
    pub async fn forms(
        &self,
        kind: &Kind,
        objects: Vec<Arc<CachedObject>>,
    ) -> Result<Vec<Arc<CachedObject>>, Status> {
        match kind.crossing() {
            Some(crossing) => crossing.read(objects, true).await,
            None => Ok(objects),
        }
    }

    /// A served object as it is to be stored.
    pub(super) async fn to_stored(&self, kind: &Kind, mut object: Value) -> Result<Value, Status> {
        kind.conversion.store(&mut object)?;
        match kind.crossing() {
            Some(crossing) => crossing.store(object).await,
            None => Ok(object),
        }
    }

    /// The newest state of an object, from the cache where it is there, else from the store.
    pub(super) async fn current(
        &self,
        kind: &Kind,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<CachedObject>>, Status> {
        match kind.cache()?.get(kind.key_namespace(namespace), name) {
            Some(object) => Ok(Some(object)),
            None => self.stored(kind, namespace, name).await,
        }
    }

    /// Size of the store in bytes.
    pub(crate) async fn store_size(&self) -> Result<u64, keelson_store::Error> {
        self.inner.store.size().await
    }

    /// Waits until the caches know of a write, where requests are decided by them.
    pub(super) async fn settle(&self, kind: &Kind, revision: keelson_store::Revision) {
        if kind.traits.decides
            && let Err(error) = self.inner.resources.caches().wait_for(revision.0).await
        {
            // The write stands; it is only not known yet whether it is in force.
            tracing::warn!(%error, kind = %kind.gvk, "a write was answered before it was in force");
        }
    }

    /// The state of an object in the store.
    pub(super) async fn stored(
        &self,
        kind: &Kind,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<CachedObject>>, Status> {
        let spec = kind.cache()?.spec();
        let key = spec.key(kind.key_namespace(namespace), name);
        let stored = self.inner.store.get(&key, None).await;
        let stored = stored.map_err(|e| store_status(&e))?;
        stored.map(|kv| super::create::read_back(spec, kv)).transpose()
    }

    /// The object as it is served: parsed, converted, with the row's `apiVersion` and `kind`.
    pub fn served(&self, kind: &Kind, object: &CachedObject) -> Value {
        served(kind, object)
    }

    /// Runs the mutating plugins.
    pub(super) async fn admit(
        &self,
        cx: &Context<'_>,
        attributes: &Attributes<'_>,
        object: Option<&mut Value>,
    ) -> Result<(), Status> {
        match self.inner.admission.get() {
            Some(chain) if cx.admission => chain.admit(attributes, object).await,
            _ => Ok(()),
        }
    }

    /// Runs the validating plugins.
    pub(super) async fn validate_admission(
        &self,
        cx: &Context<'_>,
        attributes: &Attributes<'_>,
        object: Option<&Value>,
    ) -> Result<(), Status> {
        match self.inner.admission.get() {
            Some(chain) if cx.admission => chain.validate(attributes, object).await,
            _ => Ok(()),
        }
    }

    /// Runs all plugins on something that is not stored: reviews, streams, evictions.
    pub async fn admit_connect(
        &self,
        cx: &Context<'_>,
        attributes: &Attributes<'_>,
        object: &mut Value,
    ) -> Result<(), Status> {
        self.admit(cx, attributes, Some(object)).await?;
        self.validate_admission(cx, attributes, Some(object)).await
    }
}

/// The object as a row serves it.
pub fn served(kind: &Kind, object: &CachedObject) -> Value {
    let mut value = object.parse();
    if !kind.conversion.is_same() {
        kind.conversion.serve(&mut value);
    }
    if object.spec().head != kind.head {
        value["apiVersion"] = Value::String(kind.gvk.api_version());
        value["kind"] = Value::String(kind.gvk.kind.to_string());
    }
    value
}

/// Attributes of a write for admission.
#[expect(clippy::too_many_arguments, reason = "the parts of one request")]
pub(super) fn attributes<'a>(
    cx: &'a Context<'a>,
    kind: &'a Kind,
    operation: Operation,
    subresource: &'a str,
    namespace: &'a str,
    name: &'a str,
    old_object: Option<&'a Value>,
    dry_run: bool,
) -> Attributes<'a> {
    Attributes {
        operation,
        resource: &kind.gvr,
        kind: &kind.gvk,
        subresource,
        namespace,
        name,
        user: cx.user,
        old_object,
        options: &cx.options_value,
        dry_run,
        notes: cx.notes,
    }
}

/// A cache error as the API reports it.
pub fn status_of(error: &WatchCacheError) -> Status {
    match error {
        WatchCacheError::Store(error) => store_status(error),
        WatchCacheError::Corrupt { .. } => Status::internal(error),
        WatchCacheError::TooLargeResourceVersion { requested, current } => {
            Status::too_large_resource_version(*requested, *current)
        }
        WatchCacheError::Closed => Status::service_unavailable("the server is shutting down"),
    }
}

/// A store error as the API reports it.
pub fn store_status(error: &keelson_store::Error) -> Status {
    use keelson_store::Error;
    match error {
        Error::Compacted { .. } => Status::expired("The resourceVersion for the provided list is too old."),
        Error::FutureRevision { requested, current } => {
            Status::too_large_resource_version(requested.0, current.0)
        }
        Error::NoSpace(_) => Status::failure(
            507,
            keelson_api::status::Reason::InternalError,
            format!("the object was not written: {error}"),
        ),
        Error::Closed => Status::service_unavailable("the server is shutting down"),
        other => Status::internal(other),
    }
}
