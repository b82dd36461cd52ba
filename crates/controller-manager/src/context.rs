//! What a controller is started with: its identity, shared informers, events, the token of its end.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt::{Debug, Display};
use std::hash::Hash;
use std::sync::Arc;

use keelson_client::{
    EventRecorder, EventSource, Index, Informer, InformerOptions, Reconciled, WorkQueue, run_workers,
};
use kube::{Api, Client, Resource};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::shared::owner::{OwnerKey, owner_key};
use crate::shared::trim::trim;
use crate::{Config, Controller};

struct Shared {
    config: Config,
    tracker: TaskTracker,
    shutdown: CancellationToken,
    informers: Mutex<HashMap<(TypeId, InformerOptions), Box<dyn Any + Send + Sync>>>,
    owner_indexes: Mutex<HashMap<TypeId, Box<dyn Any + Send + Sync>>>,
}

/// The surroundings of one controller. Clones are of the same controller.
#[derive(Clone)]
pub struct Context {
    shared: Arc<Shared>,
    controller: &'static Controller,
}

impl Context {
    /// A context whose tasks run on `tracker` until `shutdown`; made once per run, then [`Self::of`] each controller.
    pub(crate) fn new(
        config: Config,
        controller: &'static Controller,
        tracker: TaskTracker,
        shutdown: CancellationToken,
    ) -> Self {
        let shared = Shared {
            config,
            tracker,
            shutdown,
            informers: Mutex::default(),
            owner_indexes: Mutex::default(),
        };
        Self {
            shared: Arc::new(shared),
            controller,
        }
    }

    /// The same surroundings, for `controller`.
    pub(crate) fn of(&self, controller: &'static Controller) -> Self {
        Self {
            shared: self.shared.clone(),
            controller,
        }
    }

    /// The controller's name, e.g. `deployment-controller`.
    pub fn name(&self) -> &'static str {
        self.controller.name
    }

    /// The configuration of the manager.
    pub fn config(&self) -> &Config {
        &self.shared.config
    }

    /// A client with the controller's identity; one without an account acts as the manager itself.
    pub fn client(&self) -> Client {
        if self.controller.account.is_empty() {
            return self.shared.config.informer_client.clone();
        }
        (self.shared.config.client)(self.controller.account)
    }

    /// Cancelled when the controller must end.
    pub fn shutdown(&self) -> CancellationToken {
        self.shared.shutdown.clone()
    }

    /// Waits for `event`; `false` when the controller must end before it happens.
    pub async fn before_shutdown(&self, event: impl Future<Output = ()>) -> bool {
        tokio::select! {
            () = self.shared.shutdown.cancelled() => false,
            () = event => true,
        }
    }

    /// Runs `task` until it ends by itself; it is joined before the manager returns, so it must watch [`Self::shutdown`].
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.shared.tracker.spawn(task);
    }

    /// The shared cache of all objects of kind `K`, without what [`trim`] takes out; its list and watch start with the first call. Handlers and indexes
    /// can be added at any time; await [`Informer::synced`] before the first reconciliation.
    pub fn informer<K>(&self) -> Informer<K>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        self.informer_where(InformerOptions::default())
    }

    /// The shared cache of the objects of kind `K` that a field selector chooses: a controller that needs few of a kind
    /// that is large or many should not hold them all.
    pub fn informer_of<K>(&self, fields: impl Into<String>) -> Informer<K>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        self.informer_where(InformerOptions {
            fields: Some(fields.into()),
            labels: None,
        })
    }

    fn informer_where<K>(&self, options: InformerOptions) -> Informer<K>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        let mut informers = self.shared.informers.lock();
        let key = (TypeId::of::<K>(), options.clone());
        let any = informers.entry(key).or_insert_with(|| {
            let api = Api::<K>::all(self.shared.config.informer_client.clone());
            let (informer, task) = Informer::new(api, options);
            self.spawn(task.trimmed(trim).run(self.shutdown()));
            Box::new(informer)
        });
        any.downcast_ref::<Informer<K>>()
            .expect("invariant: the map's key has the type of its value")
            .clone()
    }

    /// The shared index of kind `K` by controlling owner; made with the first call.
    pub fn by_owner<K>(&self) -> Index<OwnerKey, K>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        let informer = self.informer::<K>();
        let mut indexes = self.shared.owner_indexes.lock();
        let any = indexes
            .entry(TypeId::of::<K>())
            .or_insert_with(|| Box::new(informer.index(|object: &K| vec![owner_key(object.meta())])));
        any.downcast_ref::<Index<OwnerKey, K>>()
            .expect("invariant: the map's key is the type of its value")
            .clone()
    }

    /// Works off `queue` until the controller must end: `reconcile` gets `state` and a key. See [`run_workers`].
    pub async fn work<T, S, F, Fut, E>(
        &self,
        queue: WorkQueue<T>,
        workers: usize,
        state: Arc<S>,
        reconcile: F,
    ) where
        T: Eq + Hash + Clone + Display + Send + Sync + 'static,
        S: Send + Sync + 'static,
        F: Fn(Arc<S>, T) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Reconciled, E>> + Send,
        E: std::error::Error + 'static,
    {
        let reconcile = move |key| reconcile(state.clone(), key);
        run_workers(self.name(), queue, workers, self.shutdown(), reconcile).await;
    }

    /// As [`Self::work`], beginning as soon as the caches that `reconcile` reads are complete.
    pub async fn work_after<T, S, F, Fut, E>(
        &self,
        ready: impl Future<Output = ()>,
        queue: WorkQueue<T>,
        workers: usize,
        state: Arc<S>,
        reconcile: F,
    ) where
        T: Eq + Hash + Clone + Display + Send + Sync + 'static,
        S: Send + Sync + 'static,
        F: Fn(Arc<S>, T) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Reconciled, E>> + Send,
        E: std::error::Error + 'static,
    {
        if self.before_shutdown(ready).await {
            self.work(queue, workers, state, reconcile).await;
        }
    }

    /// Records events as `component`, which is the controller's name for most, `node-controller` for some.
    pub fn recorder(&self, component: &str) -> EventRecorder {
        let source = EventSource {
            component: component.to_owned(),
            host: None,
        };
        EventRecorder::start(self.client(), source, &self.shared.tracker, self.shutdown())
    }
}
