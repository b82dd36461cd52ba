//! The three queues behind one lock, and the pods in flight with the events that came meanwhile.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::cache::PodInfo;
use crate::config::Config;
use crate::framework::{ClusterEvent, Profiles, QueueingHint, SortKey};

type Uid = Arc<str>;

/// A pod and its history in the queues.
#[derive(Clone, Debug)]
pub(crate) struct QueuedPod {
    pub(crate) info: Arc<PodInfo>,
    /// When it was last put into a queue.
    pub(crate) timestamp: Instant,
    /// Attempts, with the present one.
    pub(crate) attempts: u32,
    unschedulable: u32,
    /// Failures in sequence that were not the pod's fault.
    errors: u32,
    /// The plugins that refused it last time.
    plugins: BTreeSet<&'static str>,
    /// A PreEnqueue plugin keeps it out.
    gated: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Active(SortKey, u64),
    /// After an error the backoff is waited for in any case.
    Backoff {
        until: Instant,
        sequence: u64,
        error: bool,
    },
    Unschedulable {
        flush: Instant,
        sequence: u64,
    },
}

struct Flight {
    /// Number of the first event that the attempt has not seen.
    from: u64,
    /// The pod as the attempt sees it.
    info: Arc<PodInfo>,
}

#[derive(Default)]
struct State {
    pods: HashMap<Uid, (QueuedPod, Place)>,
    active: BTreeMap<(SortKey, u64), Uid>,
    backoff: BTreeMap<(Instant, u64), Uid>,
    error_backoff: BTreeMap<(Instant, u64), Uid>,
    unschedulable: BTreeMap<(Instant, u64), Uid>,
    /// Pods that are being scheduled.
    in_flight: HashMap<Uid, Flight>,
    events: VecDeque<Arc<ClusterEvent>>,
    /// Number of the first of `events`.
    first_event: u64,
    sequence: u64,
    closed: bool,
}

/// See the module.
pub(crate) struct SchedulingQueue {
    state: Mutex<State>,
    changed: Notify,
    profiles: Arc<Profiles>,
    config: Arc<Config>,
}

impl SchedulingQueue {
    pub(crate) fn new(profiles: Arc<Profiles>, config: Arc<Config>) -> Self {
        Self {
            state: Mutex::default(),
            changed: Notify::new(),
            profiles,
            config,
        }
    }

    /// A new pod; one that is known already is updated.
    pub(crate) fn add(&self, info: Arc<PodInfo>) {
        let mut state = self.state.lock();
        if state.pods.contains_key(&info.uid) || state.in_flight.contains_key(&info.uid) {
            drop(state);
            return self.update(info);
        }
        let pod = QueuedPod {
            info,
            timestamp: Instant::now(),
            attempts: 0,
            unschedulable: 0,
            errors: 0,
            plugins: BTreeSet::new(),
            gated: false,
        };
        self.activate(&mut state, pod);
        drop(state);
        self.changed.notify_one();
    }

    /// A waiting pod changed.
    pub(crate) fn update(&self, info: Arc<PodInfo>) {
        let mut state = self.state.lock();
        let uid = info.uid.clone();
        if let Some(flight) = state.in_flight.get(&uid) {
            // Judged when the attempt has failed.
            if differs(&flight.info, &info) {
                let event = ClusterEvent::PodUpdated {
                    old: flight.info.clone(),
                    new: info,
                };
                state.record(Arc::new(event));
            }
            return;
        }
        let Some((known, place)) = state.pods.get_mut(&uid) else {
            drop(state);
            return self.add(info);
        };
        let old = std::mem::replace(&mut known.info, info.clone());
        if !differs(&old, &info) {
            return;
        }
        let event = ClusterEvent::PodUpdated { old, new: info };
        match place {
            Place::Unschedulable { .. } if self.helps(known, &event) => self.move_up(&mut state, &uid),
            // It may have another rank, or a gate.
            Place::Active(..) => {
                if let Some(pod) = state.take(&uid) {
                    self.activate(&mut state, pod);
                }
            }
            _ => return,
        }
        drop(state);
        self.changed.notify_one();
    }

    /// The pod is gone or has a node.
    pub(crate) fn delete(&self, uid: &str) {
        self.state.lock().take(uid);
    }

    /// The next pod to schedule; `None` when closed. The caller must end with [`Self::done`] or [`Self::requeue`]. Cancel safe.
    pub(crate) async fn pop(&self) -> Option<QueuedPod> {
        loop {
            let changed = self.changed.notified();
            let deadline = {
                let mut state = self.state.lock();
                if state.closed {
                    return None;
                }
                self.release_due(&mut state, Instant::now());
                // With nothing else to do a pod need not wait for its backoff, unless it follows an error.
                let next = state
                    .active
                    .values()
                    .next()
                    .or_else(|| state.backoff.values().next())
                    .cloned();
                if let Some(mut pod) = next.and_then(|uid| state.take(&uid)) {
                    pod.attempts += 1;
                    pod.plugins.clear();
                    let from = state.first_event + state.events.len() as u64;
                    let flight = Flight {
                        from,
                        info: pod.info.clone(),
                    };
                    state.in_flight.insert(pod.info.uid.clone(), flight);
                    return Some(pod);
                }
                let first = |queue: &BTreeMap<(Instant, u64), Uid>| queue.keys().next().map(|(at, _)| *at);
                [first(&state.error_backoff), first(&state.unschedulable)]
                    .into_iter()
                    .flatten()
                    .min()
            };
            match deadline {
                Some(at) => tokio::select! {
                    () = changed => {}
                    () = tokio::time::sleep_until(at) => {}
                },
                None => changed.await,
            }
        }
    }

    /// The attempt needs no more attention.
    pub(crate) fn done(&self, uid: &str) {
        self.state.lock().land(uid);
    }

    /// The attempt failed: refused by `plugins`, or by an error when there are none. `pod.info` is the newest state of the pod.
    pub(crate) fn requeue(&self, mut pod: QueuedPod, plugins: BTreeSet<&'static str>) {
        let mut state = self.state.lock();
        let events = state.land(&pod.info.uid);
        if state.pods.contains_key(&pod.info.uid) {
            return;
        }
        pod.timestamp = Instant::now();
        pod.plugins = plugins;
        if pod.plugins.is_empty() {
            pod.errors += 1;
            self.back_off(&mut state, pod);
        } else {
            pod.errors = 0;
            pod.unschedulable += 1;
            if events.iter().any(|event| self.helps(&pod, event)) {
                self.back_off(&mut state, pod);
            } else {
                self.shelve(&mut state, pod);
            }
        }
        drop(state);
        self.changed.notify_one();
    }

    /// Moves up the unschedulable pods that the event may help.
    pub(crate) fn on_event(&self, event: ClusterEvent) {
        let mut state = self.state.lock();
        let waiting = state.unschedulable.values();
        let helped: Vec<Uid> = waiting
            .filter(|uid| {
                state
                    .pods
                    .get(*uid)
                    .is_some_and(|(pod, _)| self.helps(pod, &event))
            })
            .cloned()
            .collect();
        for uid in &helped {
            self.move_up(&mut state, uid);
        }
        state.record(Arc::new(event));
        drop(state);
        if !helped.is_empty() {
            self.changed.notify_one();
        }
    }

    /// Moves a pod up without further questions.
    pub(crate) fn activate_pod(&self, uid: &str) {
        let mut state = self.state.lock();
        if let Some(pod) = state.take(uid) {
            self.activate(&mut state, pod);
            drop(state);
            self.changed.notify_one();
        }
    }

    /// No more pods are handed out.
    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_one();
    }

    fn helps(&self, pod: &QueuedPod, event: &ClusterEvent) -> bool {
        let concerns = match event {
            ClusterEvent::PodUpdated { new, .. } => new.uid == pod.info.uid,
            _ => true,
        };
        let framework = self.profiles.of(&pod.info);
        let hint = |plugin: &&'static str| framework.queueing_hint(plugin, &pod.info, event);
        concerns
            && pod
                .plugins
                .iter()
                .any(|plugin| hint(plugin) == QueueingHint::Queue)
    }

    /// From unschedulable to active, or to backoff while that lasts.
    fn move_up(&self, state: &mut State, uid: &str) {
        let Some(pod) = state.take(uid) else { return };
        if pod.timestamp + self.backoff(&pod) > Instant::now() && !pod.gated {
            self.back_off(state, pod);
        } else {
            self.activate(state, pod);
        }
    }

    /// Into the active queue, if the PreEnqueue plugins let it.
    fn activate(&self, state: &mut State, mut pod: QueuedPod) {
        if let Err(status) = self.profiles.of(&pod.info).run_pre_enqueue(&pod.info) {
            pod.gated = true;
            pod.plugins.insert(status.plugin);
            return self.shelve(state, pod);
        }
        if pod.gated {
            pod.gated = false;
            pod.timestamp = Instant::now();
        }
        let sequence = state.next();
        let key = self.profiles.first().sort_key(&pod);
        state.active.insert((key, sequence), pod.info.uid.clone());
        state
            .pods
            .insert(pod.info.uid.clone(), (pod, Place::Active(key, sequence)));
    }

    fn back_off(&self, state: &mut State, pod: QueuedPod) {
        let (until, error) = (pod.timestamp + self.backoff(&pod), pod.errors > 0);
        if until <= Instant::now() {
            return self.activate(state, pod);
        }
        let sequence = state.next();
        let queue = if error {
            &mut state.error_backoff
        } else {
            &mut state.backoff
        };
        queue.insert((until, sequence), pod.info.uid.clone());
        state.pods.insert(
            pod.info.uid.clone(),
            (
                pod,
                Place::Backoff {
                    until,
                    sequence,
                    error,
                },
            ),
        );
    }

    fn shelve(&self, state: &mut State, pod: QueuedPod) {
        let sequence = state.next();
        let flush = Instant::now() + self.config.pod_max_in_unschedulable;
        state
            .unschedulable
            .insert((flush, sequence), pod.info.uid.clone());
        state.pods.insert(
            pod.info.uid.clone(),
            (pod, Place::Unschedulable { flush, sequence }),
        );
    }

    fn backoff(&self, pod: &QueuedPod) -> Duration {
        let count = if pod.errors > 0 {
            pod.errors
        } else {
            pod.unschedulable
        };
        let Some(doublings) = count.checked_sub(1) else {
            return Duration::ZERO;
        };
        let factor = 1u32.checked_shl(doublings).unwrap_or(u32::MAX);
        self.config
            .pod_initial_backoff
            .saturating_mul(factor)
            .min(self.config.pod_max_backoff)
    }

    fn release_due(&self, state: &mut State, now: Instant) {
        let due = |queue: &BTreeMap<(Instant, u64), Uid>| {
            queue
                .iter()
                .next()
                .filter(|((at, _), _)| *at <= now)
                .map(|(_, uid)| uid.clone())
        };
        while let Some(uid) = due(&state.backoff).or_else(|| due(&state.error_backoff)) {
            if let Some(pod) = state.take(&uid) {
                self.activate(state, pod);
            }
        }
        while let Some(uid) = due(&state.unschedulable) {
            // A gated pod is asked again and, if still refused, waits for the next flush.
            self.move_up(state, &uid);
        }
    }
}

/// Whether an update may matter to a plugin: status and bookkeeping do not.
fn differs(old: &PodInfo, new: &PodInfo) -> bool {
    old.pod.spec != new.pod.spec
        || old.labels() != new.labels()
        || old.is_terminating() != new.is_terminating()
}

impl State {
    fn next(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    fn take(&mut self, uid: &str) -> Option<QueuedPod> {
        let (pod, place) = self.pods.remove(uid)?;
        match place {
            Place::Active(key, sequence) => self.active.remove(&(key, sequence)),
            Place::Backoff {
                until,
                sequence,
                error: false,
            } => self.backoff.remove(&(until, sequence)),
            Place::Backoff {
                until,
                sequence,
                error: true,
            } => self.error_backoff.remove(&(until, sequence)),
            Place::Unschedulable { flush, sequence } => self.unschedulable.remove(&(flush, sequence)),
        };
        Some(pod)
    }

    /// Keeps an event for the pods in flight.
    fn record(&mut self, event: Arc<ClusterEvent>) {
        if !self.in_flight.is_empty() {
            self.events.push_back(event);
        }
    }

    /// Ends a flight; the events that came during it.
    fn land(&mut self, uid: &str) -> Vec<Arc<ClusterEvent>> {
        let Some(flight) = self.in_flight.remove(uid) else {
            return Vec::new();
        };
        let skip = usize::try_from(flight.from - self.first_event).unwrap_or(usize::MAX);
        let seen = self.events.iter().skip(skip).cloned().collect();
        let needed = self
            .in_flight
            .values()
            .map(|flight| flight.from)
            .min()
            .unwrap_or(u64::MAX);
        while self.first_event < needed && self.events.pop_front().is_some() {
            self.first_event += 1;
        }
        seen
    }
}
