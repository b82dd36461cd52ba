//! Work queue as client-go's: a key is in the queue at most once and is worked on by at most one worker; a key that is
//! added while it is worked on comes again afterwards. Delays and rate limits are deadlines, not tasks.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How long a failing key waits: `base * 2^failures`, at most `max`.
#[derive(Clone, Copy, Debug)]
pub struct RateLimit {
    /// Wait after the first failure.
    pub base: Duration,
    /// Longest wait.
    pub max: Duration,
}

impl Default for RateLimit {
    /// client-go's per-item limits: 5 ms to 1000 s.
    fn default() -> Self {
        Self {
            base: Duration::from_millis(5),
            max: Duration::from_secs(1000),
        }
    }
}

struct State<T> {
    queue: VecDeque<T>,
    /// Queued, or to be queued again when the work on it is done.
    dirty: HashSet<T>,
    processing: HashSet<T>,
    /// Deadlines; an entry counts only if it is the one in `deadlines`.
    delayed: BinaryHeap<Reverse<(Instant, u64)>>,
    deadlines: HashMap<T, (Instant, u64)>,
    by_sequence: HashMap<u64, T>,
    sequence: u64,
    failures: HashMap<T, u32>,
    shut_down: bool,
}

/// A deduplicating queue of keys. Clones share it.
pub struct WorkQueue<T> {
    state: Arc<Mutex<State<T>>>,
    changed: Arc<Notify>,
    rate_limit: RateLimit,
}

impl<T> Clone for WorkQueue<T> {
    fn clone(&self) -> Self {
        Self {
            state: self.state.clone(),
            changed: self.changed.clone(),
            rate_limit: self.rate_limit,
        }
    }
}

impl<T: Eq + Hash + Clone> Default for WorkQueue<T> {
    fn default() -> Self {
        Self::new(RateLimit::default())
    }
}

impl<T: Eq + Hash + Clone> WorkQueue<T> {
    /// An empty queue.
    pub fn new(rate_limit: RateLimit) -> Self {
        Self {
            state: Arc::new(Mutex::new(State {
                queue: VecDeque::new(),
                dirty: HashSet::new(),
                processing: HashSet::new(),
                delayed: BinaryHeap::new(),
                deadlines: HashMap::new(),
                by_sequence: HashMap::new(),
                sequence: 0,
                failures: HashMap::new(),
                shut_down: false,
            })),
            changed: Arc::new(Notify::new()),
            rate_limit,
        }
    }

    /// Queues `key`, unless it is queued already.
    pub fn add(&self, key: T) {
        if self.state.lock().add(key) {
            self.changed.notify_one();
        }
    }

    /// Queues `key` after `delay`; an earlier pending deadline of the same key stays.
    pub fn add_after(&self, key: T, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        let mut state = self.state.lock();
        if state.shut_down {
            return;
        }
        let at = Instant::now() + delay;
        if state
            .deadlines
            .get(&key)
            .is_some_and(|(pending, _)| *pending <= at)
        {
            return;
        }
        state.sequence += 1;
        let sequence = state.sequence;
        if let Some((_, old)) = state.deadlines.insert(key.clone(), (at, sequence)) {
            state.by_sequence.remove(&old);
        }
        state.by_sequence.insert(sequence, key);
        state.delayed.push(Reverse((at, sequence)));
        drop(state);
        self.changed.notify_one();
    }

    /// Queues `key` after its backoff, and counts a failure.
    pub fn add_rate_limited(&self, key: T) {
        let failures = {
            let mut state = self.state.lock();
            let failures = state.failures.entry(key.clone()).or_default();
            *failures = failures.saturating_add(1);
            *failures - 1
        };
        let factor = 1u32.checked_shl(failures).unwrap_or(u32::MAX);
        let delay = self
            .rate_limit
            .base
            .saturating_mul(factor)
            .min(self.rate_limit.max);
        self.add_after(key, delay);
    }

    /// Forgets the failures of `key`.
    pub fn forget(&self, key: &T) {
        self.state.lock().failures.remove(key);
    }

    /// How often `key` failed since it was last forgotten.
    pub fn num_requeues(&self, key: &T) -> u32 {
        self.state.lock().failures.get(key).copied().unwrap_or_default()
    }

    /// The next key; `None` after shutdown. The caller must call [`Self::done`] with it. Cancel safe.
    pub async fn get(&self) -> Option<T> {
        loop {
            let changed = self.changed.notified();
            let deadline = {
                let mut state = self.state.lock();
                state.release_due(Instant::now());
                if let Some(key) = state.queue.pop_front() {
                    state.dirty.remove(&key);
                    state.processing.insert(key.clone());
                    if !state.queue.is_empty() {
                        self.changed.notify_one();
                    }
                    return Some(key);
                }
                if state.shut_down {
                    self.changed.notify_waiters();
                    return None;
                }
                state.delayed.peek().map(|Reverse((at, _))| *at)
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

    /// The work on `key` has ended; it is queued again if it was added meanwhile.
    pub fn done(&self, key: &T) {
        let mut state = self.state.lock();
        state.processing.remove(key);
        if state.dirty.contains(key) {
            state.queue.push_back(key.clone());
            drop(state);
            self.changed.notify_one();
        }
    }

    /// No more keys: [`Self::get`] returns what is queued, then `None`.
    pub fn shut_down(&self) {
        self.state.lock().shut_down = true;
        self.changed.notify_waiters();
        self.changed.notify_one();
    }

    /// How many keys are queued now, without the delayed ones.
    pub fn len(&self) -> usize {
        self.state.lock().queue.len()
    }

    /// Whether nothing is queued now.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T: Eq + Hash + Clone> State<T> {
    /// Whether a worker has something new to do.
    fn add(&mut self, key: T) -> bool {
        if self.shut_down || !self.dirty.insert(key.clone()) || self.processing.contains(&key) {
            return false;
        }
        self.queue.push_back(key);
        true
    }

    fn release_due(&mut self, now: Instant) {
        while let Some(Reverse((at, sequence))) = self.delayed.peek().copied() {
            // A deadline that was replaced by an earlier one is dropped whenever it comes up.
            let current = self.by_sequence.contains_key(&sequence);
            if current && at > now {
                return;
            }
            self.delayed.pop();
            if let Some(key) = self.by_sequence.remove(&sequence) {
                self.deadlines.remove(&key);
                self.add(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_key_is_queued_once_and_comes_again_when_added_during_work() {
        let queue = WorkQueue::default();
        queue.add(1);
        queue.add(1);
        assert_eq!(queue.get().await, Some(1));
        assert!(queue.is_empty());
        queue.add(1);
        assert!(queue.is_empty(), "not while it is worked on");
        queue.done(&1);
        assert_eq!(queue.get().await, Some(1));
    }

    #[tokio::test(start_paused = true)]
    async fn the_earliest_deadline_wins() {
        let queue = WorkQueue::default();
        let start = Instant::now();
        queue.add_after("late", Duration::from_secs(10));
        queue.add_after("late", Duration::from_secs(2));
        queue.add_after("late", Duration::from_secs(5));
        queue.add_after("soon", Duration::from_secs(1));
        assert_eq!(queue.get().await, Some("soon"));
        assert_eq!(queue.get().await, Some("late"));
        assert_eq!(start.elapsed().as_secs(), 2);
        assert!(
            tokio::time::timeout(Duration::from_secs(20), queue.get())
                .await
                .is_err(),
            "only once"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn backoff_doubles_up_to_the_limit() {
        let limit = RateLimit {
            base: Duration::from_millis(10),
            max: Duration::from_millis(35),
        };
        let queue = WorkQueue::new(limit);
        for expected in [10, 20, 35, 35] {
            let start = Instant::now();
            queue.add_rate_limited(7);
            assert_eq!(queue.get().await, Some(7));
            queue.done(&7);
            assert_eq!(start.elapsed().as_millis(), expected);
        }
        assert_eq!(queue.num_requeues(&7), 4);
        queue.forget(&7);
        assert_eq!(queue.num_requeues(&7), 0);
    }

    #[tokio::test]
    async fn shutdown_wakes_all_waiting_workers() {
        let queue = WorkQueue::<u8>::default();
        let workers: Vec<_> = (0..3)
            .map(|_| {
                let queue = queue.clone();
                tokio::spawn(async move { queue.get().await })
            })
            .collect();
        tokio::task::yield_now().await;
        queue.shut_down();
        for worker in workers {
            assert_eq!(worker.await.unwrap(), None);
        }
    }
}
