//! Wires informers, queue, cache and plugins, and runs the scheduling loop.

use std::sync::Arc;

use futures::future::join_all;
use keelson_client::{
    EventRecorder, EventSource, EventType, Informer, InformerOptions, LeaderElectionConfig, object_reference,
    run_as_leader,
};
use kube::{Api, Client};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::binding::Binding;
use crate::cache::{Cache, PodInfo, Snapshot};
use crate::config::{Config, Error, Profile};
use crate::events::EventHandlers;
use crate::failure::{Failure, StatusPatch};
use crate::framework::{
    ByNamespace, Framework, Handle, Listers, Nominator, PostFilterResult, Profiles, Status,
};
use crate::plugins;
use crate::queue::{QueuedPod, SchedulingQueue};
use crate::schedule_one::{Algorithm, ScheduleError};

/// By the profile's scheduler name.
type Recorders = Vec<(Arc<str>, EventRecorder)>;

/// What the loop and the binding cycles share.
pub(crate) struct Shared {
    pub(crate) profiles: Arc<Profiles>,
    /// Events are from the scheduler of the pod's profile; each with its name.
    recorders: Recorders,
    pub(crate) cache: Arc<Mutex<Cache>>,
    pub(crate) queue: Arc<SchedulingQueue>,
    pub(crate) handle: Handle,
}

impl Shared {
    /// Records events about a pod.
    pub(crate) fn recorder(&self, pod: &PodInfo) -> &EventRecorder {
        let spec = pod.pod.spec.as_ref();
        let name = spec.and_then(|spec| spec.scheduler_name.as_deref());
        let own = self.recorders.iter().find(|(own, _)| Some(&**own) == name);
        own.map_or(&self.handle.recorder, |(_, recorder)| recorder)
    }
}

/// Schedules pods until `shutdown`; returns when all tasks have ended.
///
/// # Errors
/// [`Error::LeaderElectionLost`] when another candidate took over: the caller decides whether to try again.
/// [`Error::Profile`] when a profile cannot work.
pub async fn run(config: Config, client: Client, shutdown: CancellationToken) -> Result<(), Error> {
    let Some(identity) = config.leader_election_identity.clone() else {
        return lead(config, client, shutdown).await;
    };
    let election = LeaderElectionConfig::new("kube-scheduler", identity);
    let work = client.clone();
    let mut outcome = Ok(());
    let ended = &mut outcome;
    run_as_leader(client, election, shutdown.clone(), |leading| async move {
        *ended = lead(config, work, leading).await;
    })
    .await;
    outcome?;
    if shutdown.is_cancelled() {
        Ok(())
    } else {
        Err(Error::LeaderElectionLost)
    }
}

/// A recorder for each profile, by its name; and the first of them.
fn recorders(
    config: &Config,
    client: &Client,
    tasks: &TaskTracker,
    shutdown: &CancellationToken,
) -> Result<(EventRecorder, Recorders), Error> {
    let recorder = |profile: &Profile| {
        let source = EventSource {
            component: profile.scheduler_name.clone(),
            host: None,
        };
        let recorder = EventRecorder::start(client.clone(), source, tasks, shutdown.clone());
        (Arc::from(profile.scheduler_name.as_str()), recorder)
    };
    let all: Vec<_> = config.profiles.iter().map(recorder).collect();
    let first = all.first().map(|(_, first)| first.clone());
    let first = first.ok_or_else(|| Error::Profile {
        profile: String::new(),
        problem: "there is no profile".into(),
    })?;
    Ok((first, all))
}

/// The frameworks of all profiles.
fn profiles(handle: &Handle, recorders: &[(Arc<str>, EventRecorder)]) -> Result<Option<Profiles>, Error> {
    let mut profiles: Option<Profiles> = None;
    for (profile, (name, recorder)) in handle.config.profiles.iter().zip(recorders) {
        let handle = Handle {
            scheduler_name: name.clone(),
            recorder: recorder.clone(),
            ..handle.clone()
        };
        let mut framework = Framework::new(handle.nominator.clone());
        plugins::register_all(&mut framework, &handle);
        framework.configure(profile).map_err(|problem| Error::Profile {
            profile: name.to_string(),
            problem,
        })?;
        match &mut profiles {
            None => profiles = Some(Profiles::new(name, framework)),
            Some(profiles) => profiles.add(name, framework),
        }
    }
    Ok(profiles)
}

async fn lead(config: Config, client: Client, shutdown: CancellationToken) -> Result<(), Error> {
    let tasks = TaskTracker::new();
    let (recorder, recorders) = recorders(&config, &client, &tasks, &shutdown)?;
    // Everything is started at once: the first lists go in parallel.
    macro_rules! informer {
        () => {
            informer!(InformerOptions::default())
        };
        ($options:expr) => {
            Informer::new(Api::all(client.clone()), $options)
        };
    }
    let living = InformerOptions {
        fields: Some("status.phase!=Succeeded,status.phase!=Failed".to_owned()),
        ..InformerOptions::default()
    };
    let (pods, pods_task) = informer!(living);
    let (nodes, nodes_task) = informer!();
    let (namespaces, namespaces_task) = informer!();
    let (services, services_task) = informer!();
    let (replication_controllers, replication_controllers_task) = informer!();
    let (replica_sets, replica_sets_task) = informer!();
    let (stateful_sets, stateful_sets_task) = informer!();
    let (budgets, budgets_task) = informer!();
    let (claims, claims_task) = informer!();
    let (volumes, volumes_task) = informer!();
    let (classes, classes_task) = informer!();
    let nominator = Arc::new(Nominator::default());
    let listers = Listers {
        pods: Arc::new(pods.clone()),
        namespaces: Arc::new(namespaces.clone()),
        services: Arc::new(ByNamespace::new(&services)),
        replication_controllers: Arc::new(replication_controllers.clone()),
        replica_sets: Arc::new(replica_sets.clone()),
        stateful_sets: Arc::new(stateful_sets.clone()),
        budgets: Arc::new(budgets.clone()),
        claims: Arc::new(claims.clone()),
        volumes: Arc::new(volumes.clone()),
        storage_classes: Arc::new(classes.clone()),
    };
    let config = Arc::new(config);
    let handle = Handle {
        client,
        config: config.clone(),
        scheduler_name: recorders[0].0.clone(),
        listers,
        recorder,
        nominator: nominator.clone(),
        tasks: tasks.clone(),
        claim_changes: watch::Sender::new(()),
        queue: Arc::default(),
    };
    let Some(profiles) = profiles(&handle, &recorders)? else {
        return Ok(());
    };
    let profiles = Arc::new(profiles);
    let queue = Arc::new(SchedulingQueue::new(profiles.clone(), config.clone()));
    let weak = Arc::downgrade(&queue);
    handle.queue.get_or_init(|| weak);
    let cache = Arc::new(Mutex::new(Cache::default()));
    let handlers = EventHandlers {
        cache: cache.clone(),
        queue: queue.clone(),
        nominator,
        profiles: profiles.clone(),
        claim_changes: handle.claim_changes.clone(),
    };
    handlers.register(&pods, &nodes, &namespaces, &claims, &volumes, &classes);
    macro_rules! spawn {
        ($($task:ident),*) => { $(tasks.spawn($task.run(shutdown.clone()));)* };
    }
    spawn!(
        pods_task,
        nodes_task,
        namespaces_task,
        services_task,
        replication_controllers_task,
        replica_sets_task
    );
    spawn!(
        stateful_sets_task,
        budgets_task,
        claims_task,
        volumes_task,
        classes_task
    );
    let others = join_all([
        Box::pin(namespaces.synced()) as futures::future::BoxFuture<'_, ()>,
        Box::pin(services.synced()),
        Box::pin(replication_controllers.synced()),
        Box::pin(replica_sets.synced()),
        Box::pin(stateful_sets.synced()),
        Box::pin(budgets.synced()),
        Box::pin(claims.synced()),
        Box::pin(volumes.synced()),
        Box::pin(classes.synced()),
    ]);
    let synced = async { tokio::join!(pods.synced(), nodes.synced(), others) };
    tokio::select! {
        _ = synced => {}
        () = shutdown.cancelled() => {}
    }
    let shared = Arc::new(Shared {
        profiles,
        recorders,
        cache,
        queue,
        handle,
    });
    Loop::new(shared, &config, shutdown).run().await;
    tasks.close();
    tasks.wait().await;
    Ok(())
}

/// The scheduling loop: one pod after the other.
struct Loop {
    shared: Arc<Shared>,
    algorithm: Algorithm,
    snapshot: Snapshot,
    bindings: Arc<Semaphore>,
    shutdown: CancellationToken,
}

impl Loop {
    fn new(shared: Arc<Shared>, config: &Config, shutdown: CancellationToken) -> Self {
        Self {
            shared,
            algorithm: Algorithm::new(config.percentage_of_nodes_to_score),
            snapshot: Snapshot::default(),
            bindings: Arc::new(Semaphore::new(config.max_concurrent_bindings.max(1))),
            shutdown,
        }
    }

    async fn run(mut self) {
        loop {
            let next = async {
                // No more pods than can be bound: what waits in the queue can still be reordered.
                let permit = self.bindings.clone().acquire_owned().await;
                (permit, self.shared.queue.pop().await)
            };
            let (permit, queued) = tokio::select! {
                next = next => next,
                () = self.shutdown.cancelled() => break,
            };
            let (Ok(permit), Some(queued)) = (permit, queued) else {
                break;
            };
            if let Some(work) = self.schedule(queued) {
                let work = work.run(self.shared.clone(), self.shutdown.clone());
                self.shared.handle.tasks.spawn(async move {
                    work.await;
                    drop(permit);
                });
            }
        }
        self.shared.queue.close();
    }

    /// One scheduling cycle; what is left to do beside the next one.
    fn schedule(&mut self, queued: QueuedPod) -> Option<Work> {
        let shared = &self.shared;
        let pod = queued.info.clone();
        if pod.is_terminating() {
            let message = format!(
                "skip schedule deleting pod: {}/{}",
                pod.key.namespace, pod.key.name
            );
            let reference = object_reference(&*pod.pod);
            shared
                .recorder(&pod)
                .event(&reference, EventType::Warning, "FailedScheduling", message);
            shared.queue.done(&pod.uid);
            return None;
        }
        shared.cache.lock().update(&mut self.snapshot);
        let (chosen, mut state) =
            match self
                .algorithm
                .schedule(shared.profiles.of(&pod), &self.snapshot, &pod)
            {
                Ok(found) => found,
                Err(error) => return self.failed(queued, error).map(Work::Tell),
            };
        let assumed = Arc::new(pod.on_node(chosen.shared_name()));
        if !shared.cache.lock().assume(assumed.clone()) {
            // The informer was faster: the pod has a node.
            shared.queue.done(&pod.uid);
            return None;
        }
        shared.handle.nominator.remove(&pod.uid);
        if let Err(status) = shared
            .profiles
            .of(&pod)
            .run_reserve(&mut state, &assumed, &chosen)
        {
            return Some(Work::Undo(
                Box::new(Binding {
                    queued,
                    assumed,
                    state,
                }),
                status,
            ));
        }
        Some(Work::Bind(Box::new(Binding {
            queued,
            assumed,
            state,
        })))
    }

    fn failed(&self, queued: QueuedPod, error: ScheduleError) -> Option<StatusPatch> {
        let clear = Some(PostFilterResult {
            nominated_node: String::new(),
        });
        match error {
            ScheduleError::NoNodes => self.shared.fail(queued, Failure::no_nodes(), clear),
            ScheduleError::Failed(status) => {
                self.shared.fail(queued, Failure::error(status.message()), clear)
            }
            ScheduleError::Fit(mut error, state) => {
                let framework = self.shared.profiles.of(&queued.info);
                let (result, outcome) =
                    framework.run_post_filter(&state, &queued.info, &self.snapshot, &error.diagnosis);
                if let Err(status) = outcome {
                    error.diagnosis.post_filter = status.message();
                }
                self.shared.fail(queued, Failure::unschedulable(error), result)
            }
        }
    }
}

/// What a scheduling cycle leaves to a task of its own.
enum Work {
    Bind(Box<Binding>),
    Undo(Box<Binding>, Status),
    Tell(StatusPatch),
}

impl Work {
    async fn run(self, shared: Arc<Shared>, shutdown: CancellationToken) {
        match self {
            Self::Bind(binding) => binding.run(shared, shutdown).await,
            Self::Undo(binding, status) => binding.undo(&shared, status).await,
            Self::Tell(patch) => patch.write(shared.handle.client.clone()).await,
        }
    }
}
