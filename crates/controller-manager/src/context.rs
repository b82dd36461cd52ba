//! What a controller is started with: its identity, shared informers, events, the token of its end.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::Arc;

use keelson_client::{EventRecorder, EventSource, Index, Informer, InformerOptions};
use kube::{Api, Client, Resource};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::shared::owner::{OwnerKey, owner_key};
use crate::{Config, Controller};

struct Shared {
    config: Config,
    tracker: TaskTracker,
    shutdown: CancellationToken,
    informers: Mutex<HashMap<TypeId, Box<dyn Any + Send + Sync>>>,
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

    /// A client with the controller's identity.
    pub fn client(&self) -> Client {
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

    /// The shared cache of all objects of kind `K`; its list and watch start with the first call. Handlers and indexes
    /// can be added at any time; await [`Informer::synced`] before the first reconciliation.
    pub fn informer<K>(&self) -> Informer<K>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        let mut informers = self.shared.informers.lock();
        let any = informers.entry(TypeId::of::<K>()).or_insert_with(|| {
            let api = Api::<K>::all(self.shared.config.informer_client.clone());
            let shared = &self.shared;
            let options = InformerOptions::default();
            Box::new(Informer::spawn(api, options, &shared.tracker, &shared.shutdown))
        });
        any.downcast_ref::<Informer<K>>()
            .expect("invariant: the map's key is the type of its value")
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

    /// Records events as `component`, which is the controller's name for most, `node-controller` for some.
    pub fn recorder(&self, component: &str) -> EventRecorder {
        let source = EventSource {
            component: component.to_owned(),
            host: None,
        };
        EventRecorder::start(self.client(), source, &self.shared.tracker, self.shutdown())
    }
}
