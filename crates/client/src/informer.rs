//! Shared informer: one list-and-watch per kind, a cache of `Arc`ed objects, secondary indexes and change handlers.

use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Resource};
use parking_lot::{Mutex, RwLock};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::NamespacedName;

/// First and longest wait between attempts while the server does not answer.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// One change of the cache.
#[derive(Clone, Debug)]
pub enum Change<K> {
    /// The object is new in the cache.
    Added(Arc<K>),
    /// The object was replaced; old and new.
    Updated(Arc<K>, Arc<K>),
    /// The object is gone; its last known state.
    Deleted(Arc<K>),
}

impl<K> Change<K> {
    /// The newest known state of the object.
    pub fn object(&self) -> &Arc<K> {
        match self {
            Self::Added(object) | Self::Updated(_, object) | Self::Deleted(object) => object,
        }
    }
}

/// Which objects an informer holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct InformerOptions {
    /// Label selector, in the API's string form.
    pub labels: Option<String>,
    /// Field selector, in the API's string form, e.g. `spec.nodeName=n1`.
    pub fields: Option<String>,
}

impl InformerOptions {
    fn config(&self) -> watcher::Config {
        watcher::Config {
            label_selector: self.labels.clone(),
            field_selector: self.fields.clone(),
            ..watcher::Config::default()
        }
    }
}

type Handler<K> = Box<dyn Fn(&Change<K>) + Send + Sync>;
type IndexUpdate<K> = Box<dyn Fn(Option<&Arc<K>>, Option<&Arc<K>>) + Send + Sync>;

struct Shared<K> {
    objects: RwLock<HashMap<NamespacedName, Arc<K>>>,
    /// Serialises changes with registrations, so that no handler misses or repeats a change.
    listeners: Mutex<Listeners<K>>,
    synced: watch::Sender<bool>,
}

struct Listeners<K> {
    handlers: Vec<Handler<K>>,
    indexes: Vec<IndexUpdate<K>>,
}

/// A handle to a cache that follows the server. Clones share the cache.
pub struct Informer<K> {
    shared: Arc<Shared<K>>,
}

impl<K> Clone for Informer<K> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
        }
    }
}

/// The list-and-watch of an informer; must be run for the cache to fill.
pub struct InformerTask<K> {
    shared: Arc<Shared<K>>,
    stream: BoxStream<'static, Result<watcher::Event<K>, watcher::Error>>,
    trim: fn(&mut K),
}

impl<K> Informer<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    /// An empty cache and the task that fills it. Of a `PartialObjectMeta` kind the server sends metadata alone.
    /// Register handlers and indexes, then spawn [`InformerTask::run`].
    pub fn new(api: Api<K>, options: InformerOptions) -> (Self, InformerTask<K>) {
        let shared = Arc::new(Shared {
            objects: RwLock::new(HashMap::new()),
            listeners: Mutex::new(Listeners {
                handlers: Vec::new(),
                indexes: Vec::new(),
            }),
            synced: watch::Sender::new(false),
        });
        let task = InformerTask {
            shared: shared.clone(),
            stream: watcher(api, options.config()).boxed(),
            trim: |_| {},
        };
        (Self { shared }, task)
    }

    /// Creates an informer and spawns its task on `tracker`; it ends when `shutdown` is cancelled.
    pub fn spawn(
        api: Api<K>,
        options: InformerOptions,
        tracker: &tokio_util::task::TaskTracker,
        shutdown: &CancellationToken,
    ) -> Self {
        let (informer, task) = Self::new(api, options);
        tracker.spawn(task.run(shutdown.clone()));
        informer
    }
}

impl<K: Resource + Send + Sync + 'static> Informer<K> {
    /// The object of that key, as the cache has it.
    pub fn get(&self, key: &NamespacedName) -> Option<Arc<K>> {
        self.shared.objects.read().get(key).cloned()
    }

    /// All objects, in no order.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.shared.objects.read().values().cloned().collect()
    }

    /// The objects that satisfy `keep`, in no order. Prefer an [`Index`] where this would run often.
    pub fn list_where(&self, keep: impl Fn(&K) -> bool) -> Vec<Arc<K>> {
        self.shared
            .objects
            .read()
            .values()
            .filter(|object| keep(object))
            .cloned()
            .collect()
    }

    /// How many objects the cache holds.
    pub fn len(&self) -> usize {
        self.shared.objects.read().len()
    }

    /// Whether the cache is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Calls `handler` for every object that is in the cache now (as [`Change::Added`]) and for every later change, in order.
    /// It runs on the informer's task and must not block: put a key into a work queue.
    pub fn on_change(&self, handler: impl Fn(&Change<K>) + Send + Sync + 'static) {
        let mut listeners = self.shared.listeners.lock();
        for object in self.list() {
            handler(&Change::Added(object));
        }
        listeners.handlers.push(Box::new(handler));
    }

    /// Keeps a secondary index: objects by each of the values that `values` returns for them.
    pub fn index<V>(&self, values: impl Fn(&K) -> Vec<V> + Send + Sync + 'static) -> Index<V, K>
    where
        V: Eq + Hash + Clone + Send + Sync + 'static,
    {
        let map: Arc<RwLock<IndexMap<V, K>>> = Arc::default();
        let writer = map.clone();
        let update = move |old: Option<&Arc<K>>, new: Option<&Arc<K>>| {
            let mut map = writer.write();
            if let Some(old) = old {
                let key = NamespacedName::of(old.as_ref());
                for value in values(old) {
                    if let Some(bucket) = map.get_mut(&value) {
                        bucket.remove(&key);
                        if bucket.is_empty() {
                            map.remove(&value);
                        }
                    }
                }
            }
            if let Some(new) = new {
                let key = NamespacedName::of(new.as_ref());
                for value in values(new) {
                    map.entry(value).or_default().insert(key.clone(), new.clone());
                }
            }
        };
        let mut listeners = self.shared.listeners.lock();
        for object in self.list() {
            update(None, Some(&object));
        }
        listeners.indexes.push(Box::new(update));
        Index { map }
    }

    /// Returns when the first list is complete in the cache and all handlers have seen it.
    pub async fn synced(&self) {
        let mut synced = self.shared.synced.subscribe();
        // An error means that the informer was dropped before it synced: then there is nothing to wait for.
        let _ = synced.wait_for(|done| *done).await;
    }

    /// Whether the first list is complete.
    pub fn has_synced(&self) -> bool {
        *self.shared.synced.borrow()
    }
}

type IndexMap<V, K> = HashMap<V, HashMap<NamespacedName, Arc<K>>>;

/// A secondary index over an informer's cache. Clones share it.
pub struct Index<V, K> {
    map: Arc<RwLock<IndexMap<V, K>>>,
}

impl<V, K> Clone for Index<V, K> {
    fn clone(&self) -> Self {
        Self {
            map: self.map.clone(),
        }
    }
}

impl<V: Eq + Hash, K> Index<V, K> {
    /// The objects under `value`, in no order.
    pub fn get<Q>(&self, value: &Q) -> Vec<Arc<K>>
    where
        V: std::borrow::Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.map
            .read()
            .get(value)
            .map(|bucket| bucket.values().cloned().collect())
            .unwrap_or_default()
    }

    /// How many objects are under `value`.
    pub fn count<Q>(&self, value: &Q) -> usize
    where
        V: std::borrow::Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.map.read().get(value).map_or(0, HashMap::len)
    }
}

impl<K: Resource> Shared<K> {
    fn apply(&self, object: K) {
        let listeners = self.listeners.lock();
        let key = NamespacedName::of(&object);
        let new = Arc::new(object);
        let old = self.objects.write().insert(key, new.clone());
        listeners
            .indexes
            .iter()
            .for_each(|update| update(old.as_ref(), Some(&new)));
        let change = match old {
            Some(old) if old.meta().uid != new.meta().uid => {
                // Deleted and created again while we were not watching.
                let gone = Change::Deleted(old);
                listeners.handlers.iter().for_each(|handler| handler(&gone));
                Change::Added(new)
            }
            Some(old) if old.meta().resource_version == new.meta().resource_version => return,
            Some(old) => Change::Updated(old, new),
            None => Change::Added(new),
        };
        listeners.handlers.iter().for_each(|handler| handler(&change));
    }

    fn remove(&self, key: &NamespacedName, last_state: Option<K>) {
        let listeners = self.listeners.lock();
        let Some(old) = self.objects.write().remove(key) else {
            return;
        };
        listeners
            .indexes
            .iter()
            .for_each(|update| update(Some(&old), None));
        let change = Change::Deleted(last_state.map_or(old, Arc::new));
        listeners.handlers.iter().for_each(|handler| handler(&change));
    }
}

impl<K: Resource + Send + Sync + 'static> InformerTask<K> {
    /// Lets `trim` take out of each object what no user of the cache reads. An object that a user writes back as a whole
    /// must keep everything.
    #[must_use]
    pub fn trimmed(mut self, trim: fn(&mut K)) -> Self {
        self.trim = trim;
        self
    }

    /// Lists and watches until `shutdown`; failures are retried with backoff and never lose a change.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let kind = std::any::type_name::<K>().rsplit("::").next().unwrap_or_default();
        let mut listed: HashSet<NamespacedName> = HashSet::new();
        let mut wait = BACKOFF.0;
        loop {
            let event = tokio::select! {
                () = shutdown.cancelled() => return,
                event = self.stream.next() => event,
            };
            match event {
                Some(Ok(event)) => {
                    // The start of a list says nothing yet about whether the server answers.
                    if !matches!(event, watcher::Event::Init) {
                        wait = BACKOFF.0;
                    }
                    self.handle(event, &mut listed);
                }
                Some(Err(error)) => {
                    tracing::debug!(kind, %error, "list or watch failed; retrying");
                    tokio::select! {
                        () = shutdown.cancelled() => return,
                        () = tokio::time::sleep(wait) => {}
                    }
                    wait = (wait * 2).min(BACKOFF.1);
                }
                None => return,
            }
        }
    }

    fn handle(&self, event: watcher::Event<K>, listed: &mut HashSet<NamespacedName>) {
        // Field ownership is the server's business; it is a good part of an object's size.
        let trim = self.trim;
        let lean = |object: &mut K| {
            object.meta_mut().managed_fields = None;
            trim(object);
        };
        match event.modify(lean) {
            watcher::Event::Init => listed.clear(),
            watcher::Event::InitApply(object) => {
                listed.insert(NamespacedName::of(&object));
                self.shared.apply(object);
            }
            watcher::Event::InitDone => {
                let gone: Vec<_> = self
                    .shared
                    .objects
                    .read()
                    .keys()
                    .filter(|key| !listed.contains(key))
                    .cloned()
                    .collect();
                gone.iter().for_each(|key| self.shared.remove(key, None));
                *listed = HashSet::new();
                self.shared.synced.send_replace(true);
            }
            watcher::Event::Apply(object) => self.shared.apply(object),
            watcher::Event::Delete(object) => {
                let key = NamespacedName::of(&object);
                self.shared.remove(&key, Some(object));
            }
        }
    }
}
