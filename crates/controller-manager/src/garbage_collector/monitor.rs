//! Watches over the metadata of every resource that can be listed, watched and deleted. The set follows discovery, which runs
//! again whenever a CustomResourceDefinition or an APIService changes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kube::core::{DynamicObject, PartialObjectMeta};
use kube::runtime::watcher;
use kube::{Api, Client};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use keelson_client::WorkQueue;

use super::graph::{Graph, Task, Uid};
use crate::served::{Served, ServedResource};

/// First and longest wait after a failure.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));

/// The graph, what is served, and the queue that changes go to.
pub(super) struct Monitors {
    pub(super) client: Client,
    pub(super) graph: Mutex<Graph>,
    pub(super) queue: WorkQueue<Task>,
    pub(super) served: RwLock<Arc<Served>>,
    /// Asks for a new discovery.
    pub(super) stale: Notify,
    /// How many watches have not listed yet; `usize::MAX` before the first discovery.
    unlisted: watch::Sender<usize>,
}

impl Monitors {
    pub(super) fn new(client: Client) -> Self {
        Self {
            client,
            graph: Mutex::default(),
            queue: WorkQueue::default(),
            served: RwLock::default(),
            stale: Notify::new(),
            unlisted: watch::Sender::new(usize::MAX),
        }
    }

    /// Returns when the graph has everything that can be read now.
    pub(super) async fn complete(&self) {
        let mut unlisted = self.unlisted.subscribe();
        // The sender lives as long as `self`.
        let _ = unlisted.wait_for(|count| *count == 0).await;
    }

    /// Queues what a change brought about.
    pub(super) fn enqueue(&self, tasks: Vec<Task>) {
        tasks.into_iter().for_each(|task| self.queue.add(task));
    }

    /// Takes out an object that is gone.
    pub(super) fn forget(&self, uid: &str) {
        let tasks = self.graph.lock().forget(uid);
        self.enqueue(tasks);
    }

    /// Keeps one watch per resource until `shutdown`.
    pub(super) async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let tracker = TaskTracker::new();
        let mut running: HashMap<(String, String), (Arc<ServedResource>, CancellationToken)> = HashMap::new();
        let mut wait = BACKOFF.0;
        loop {
            let discovered = tokio::select! {
                () = shutdown.cancelled() => break,
                discovered = Served::discover(&self.client) => discovered,
            };
            match discovered {
                Ok(served) => {
                    wait = BACKOFF.0;
                    self.follow(served, &mut running, &tracker, &shutdown);
                    tokio::select! {
                        () = shutdown.cancelled() => break,
                        () = self.stale.notified() => {}
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "the garbage collector cannot discover resources; trying again");
                    tokio::select! {
                        () = shutdown.cancelled() => break,
                        () = tokio::time::sleep(wait) => {}
                    }
                    wait = (wait * 2).min(BACKOFF.1);
                }
            }
        }
        tracker.close();
        tracker.wait().await;
    }

    fn follow(
        self: &Arc<Self>,
        served: Served,
        running: &mut HashMap<(String, String), (Arc<ServedResource>, CancellationToken)>,
        tracker: &TaskTracker,
        shutdown: &CancellationToken,
    ) {
        let wanted: Vec<_> = served
            .preferred
            .iter()
            .filter(|resource| is_collected(resource))
            .cloned()
            .collect();
        let key = |resource: &ServedResource| (resource.api.group.clone(), resource.api.plural.clone());
        // A group whose server does not answer is not gone.
        let stale: HashSet<&str> = served
            .stale
            .iter()
            .map(|version| version.split('/').next().unwrap_or(""))
            .collect();
        running.retain(|(group, _), (resource, token)| {
            let stays = wanted.iter().any(|wanted| wanted == resource) || stale.contains(group.as_str());
            if !stays {
                token.cancel();
            }
            stays
        });
        self.unlisted.send_if_modified(|count| {
            let first = *count == usize::MAX;
            if first {
                *count = 0;
            }
            first && wanted.is_empty()
        });
        for resource in wanted {
            running.entry(key(&resource)).or_insert_with(|| {
                let token = shutdown.child_token();
                self.unlisted.send_modify(|count| *count += 1);
                tracker.spawn(self.clone().watch(resource.clone(), token.clone()));
                (resource, token)
            });
        }
        *self.served.write() = Arc::new(served);
    }

    async fn watch(self: Arc<Self>, resource: Arc<ServedResource>, token: CancellationToken) {
        let api: Api<PartialObjectMeta<DynamicObject>> = Api::all_with(self.client.clone(), &resource.api);
        let mut stream = Box::pin(watcher(api, watcher::Config::default()));
        let mut counted = Counted(Some(&self.unlisted));
        let mut listed = HashSet::new();
        let mut wait = BACKOFF.0;
        loop {
            let event = tokio::select! {
                () = token.cancelled() => break,
                event = stream.next() => event,
            };
            match event {
                Some(Ok(event)) => {
                    wait = BACKOFF.0;
                    let complete = matches!(event, watcher::Event::InitDone);
                    self.handle(&resource, event, &mut listed);
                    if complete {
                        counted.done();
                    }
                }
                Some(Err(error)) => {
                    tracing::debug!(resource = resource.group_resource(), %error, "watch failed; trying again");
                    // What cannot be read must not hold up everything else; and it may not be served any more.
                    counted.done();
                    self.stale.notify_one();
                    tokio::select! {
                        () = token.cancelled() => break,
                        () = tokio::time::sleep(wait) => {}
                    }
                    wait = (wait * 2).min(BACKOFF.1);
                }
                None => break,
            }
        }
    }

    fn handle(
        &self,
        resource: &Arc<ServedResource>,
        event: watcher::Event<PartialObjectMeta<DynamicObject>>,
        listed: &mut HashSet<Uid>,
    ) {
        let changes_discovery = matches!(
            resource.group_resource().as_str(),
            "customresourcedefinitions.apiextensions.k8s.io" | "apiservices.apiregistration.k8s.io"
        );
        let tasks = match event {
            watcher::Event::Init => {
                listed.clear();
                Vec::new()
            }
            watcher::Event::InitApply(object) => {
                listed.extend(object.metadata.uid.as_deref().map(Uid::from));
                self.graph.lock().observe(resource, &object.metadata)
            }
            watcher::Event::InitDone => {
                let mut graph = self.graph.lock();
                let gone = graph.unlisted(resource, listed);
                *listed = HashSet::new();
                gone.iter().flat_map(|uid| graph.forget(uid)).collect()
            }
            watcher::Event::Apply(object) => {
                if changes_discovery {
                    self.stale.notify_one();
                }
                self.graph.lock().observe(resource, &object.metadata)
            }
            watcher::Event::Delete(object) => {
                if changes_discovery {
                    self.stale.notify_one();
                }
                self.graph
                    .lock()
                    .forget(object.metadata.uid.as_deref().unwrap_or_default())
            }
        };
        self.enqueue(tasks);
    }
}

/// Events own nothing, are owned by nothing, and are many.
fn is_collected(resource: &ServedResource) -> bool {
    resource.api.plural != "events" && resource.can(&["list", "watch", "delete"])
}

/// One watch that has not listed yet; counted down once, however it ends.
struct Counted<'a>(Option<&'a watch::Sender<usize>>);

impl Counted<'_> {
    fn done(&mut self) {
        if let Some(sender) = self.0.take() {
            sender.send_modify(|count| *count -= 1);
        }
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.done();
    }
}
