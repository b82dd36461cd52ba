//! Seats and queues of the levels: pure bookkeeping, told the time by nobody.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::config::{LevelSpec, Limit};

/// Names a waiting request.
pub(super) type Id = u64;

/// What a request is told.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// It has its seats.
    Execute,
    /// It waits; it will be among what [`Levels::release`] or [`Levels::configure`] returns.
    Wait,
    /// There is neither a seat nor a place in a queue.
    Reject,
}

/// A request that waits.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) id: Id,
    pub(super) seats: u64,
    pub(super) schema: Arc<str>,
    pub(super) flow: String,
}

/// A queue of a level.
#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) waiting: VecDeque<Waiting>,
    /// Seats given to its requests so far: whose queue has the least is next.
    pub(super) served: u64,
}

/// A level and who is in it.
#[derive(Debug)]
pub(super) struct Level {
    pub(super) spec: LevelSpec,
    pub(super) nominal: u64,
    /// Seats that are never lent.
    pub(super) least: u64,
    /// With what it may borrow.
    pub(super) most: u64,
    pub(super) executing: u64,
    pub(super) requests: u64,
    pub(super) queues: Vec<Queue>,
    pub(super) dispatched: u64,
    pub(super) rejected: u64,
    pub(super) timed_out: u64,
}

/// All levels of a server.
#[derive(Debug)]
pub(super) struct Levels {
    total: u64,
    pub(super) levels: HashMap<String, Level>,
}

impl Levels {
    /// `total` seats, shared by the levels that are configured.
    pub(super) fn new(total: u64) -> Self {
        Self {
            total,
            levels: HashMap::new(),
        }
    }

    /// Takes the levels as they are now; returns who may go. Who waits in a level that is gone goes too.
    pub(super) fn configure(&mut self, specs: Vec<LevelSpec>) -> Vec<Id> {
        let shares: u64 = specs.iter().map(|s| s.shares).sum::<u64>().max(1);
        let mut ready = Vec::new();
        let mut old = std::mem::take(&mut self.levels);
        for spec in specs {
            let nominal = (self.total * spec.shares).div_ceil(shares);
            let lendable = (nominal * spec.lendable + 50) / 100;
            let borrowed = spec.borrowing.map_or(self.total, |p| (nominal * p + 50) / 100);
            let count = match spec.limit {
                Limit::Queue { queues, .. } => queues,
                Limit::Reject => 0,
            };
            let before = old.remove(&spec.name);
            let mut level = Level {
                nominal,
                least: nominal - lendable.min(nominal),
                most: nominal + borrowed,
                executing: 0,
                requests: 0,
                queues: Vec::new(),
                dispatched: 0,
                rejected: 0,
                timed_out: 0,
                spec,
            };
            let mut queues = Vec::new();
            if let Some(before) = before {
                level.executing = before.executing;
                level.requests = before.requests;
                level.dispatched = before.dispatched;
                level.rejected = before.rejected;
                level.timed_out = before.timed_out;
                queues = before.queues;
            }
            // Who waits in a queue that is gone goes at once: there is no fair place for it.
            for queue in queues.drain(count.min(queues.len())..) {
                for waiting in queue.waiting {
                    level.executing += waiting.seats;
                    level.requests += 1;
                    ready.push(waiting.id);
                }
            }
            queues.resize_with(count, Queue::default);
            level.queues = queues;
            self.levels.insert(level.spec.name.clone(), level);
        }
        for level in old.into_values() {
            ready.extend(level.queues.into_iter().flat_map(|q| q.waiting).map(|w| w.id));
        }
        ready.extend(self.dispatch());
        ready
    }

    /// Whether a level may use so many seats more: its own, or those that others neither use nor keep for themselves.
    fn has_room(&self, name: &str, seats: u64) -> bool {
        let Some(level) = self.levels.get(name) else {
            return true;
        };
        if level.spec.exempt {
            return true;
        }
        let wanted = level.executing + seats;
        // A request wider than its level runs when it is alone.
        if wanted <= level.least || level.executing == 0 {
            return true;
        }
        if wanted > level.most {
            return false;
        }
        let reserved: u64 = self
            .levels
            .values()
            .filter(|l| !l.spec.exempt && l.spec.name != name)
            .map(|l| l.executing.max(l.least))
            .sum();
        // What is lent away comes back when it is free: until then the nominal seats of a level are its own in turn.
        reserved + wanted <= self.total.max(level.nominal)
    }

    /// Whether requests of a level wait when there is no seat.
    pub(super) fn has_queues(&self, name: &str) -> bool {
        self.levels
            .get(name)
            .is_some_and(|level| !level.queues.is_empty())
    }

    /// A request of a level arrives.
    pub(super) fn arrive(&mut self, name: &str, request: Waiting, hash: u64) -> Decision {
        let room = self.has_room(name, request.seats);
        let Some(level) = self.levels.get_mut(name) else {
            return Decision::Execute;
        };
        let queued = level.queues.iter().any(|q| !q.waiting.is_empty());
        if level.spec.exempt || (room && !queued) {
            level.executing += request.seats;
            level.requests += 1;
            level.dispatched += 1;
            return Decision::Execute;
        }
        let Limit::Queue { hand, length, .. } = level.spec.limit else {
            level.rejected += 1;
            return Decision::Reject;
        };
        let least_served = level
            .queues
            .iter()
            .filter(|q| !q.waiting.is_empty())
            .map(|q| q.served)
            .min();
        let dealt = deal(hash, level.queues.len(), hand);
        let Some(at) = dealt.into_iter().min_by_key(|at| level.queues[*at].waiting.len()) else {
            level.rejected += 1;
            return Decision::Reject;
        };
        let queue = &mut level.queues[at];
        if queue.waiting.len() >= length {
            level.rejected += 1;
            return Decision::Reject;
        }
        if queue.waiting.is_empty() {
            // A queue that was idle has no claim on the past.
            queue.served = queue.served.max(least_served.unwrap_or(queue.served));
        }
        queue.waiting.push_back(request);
        Decision::Wait
    }

    /// A request gives its seats back; returns who may go now.
    pub(super) fn release(&mut self, name: &str, seats: u64) -> Vec<Id> {
        if let Some(level) = self.levels.get_mut(name) {
            level.executing = level.executing.saturating_sub(seats);
            level.requests = level.requests.saturating_sub(1);
        }
        self.dispatch()
    }

    /// A request waits no longer; false when it has its seats already.
    pub(super) fn give_up(&mut self, name: &str, id: Id, timed_out: bool) -> bool {
        let Some(level) = self.levels.get_mut(name) else {
            return false;
        };
        for queue in &mut level.queues {
            let before = queue.waiting.len();
            queue.waiting.retain(|w| w.id != id);
            if queue.waiting.len() < before {
                level.timed_out += u64::from(timed_out);
                return true;
            }
        }
        false
    }

    /// Gives free seats to those who wait, level by level.
    fn dispatch(&mut self) -> Vec<Id> {
        let waiting: Vec<String> = self
            .levels
            .values()
            .filter(|l| l.queues.iter().any(|q| !q.waiting.is_empty()))
            .map(|l| l.spec.name.clone())
            .collect();
        let mut ready = Vec::new();
        for name in waiting {
            while let Some(id) = self.dispatch_one(&name) {
                ready.push(id);
            }
        }
        ready
    }

    /// Gives seats to the first of the queue that had the fewest so far.
    fn dispatch_one(&mut self, name: &str) -> Option<Id> {
        let level = self.levels.get(name)?;
        let (at, seats) = level
            .queues
            .iter()
            .enumerate()
            .filter_map(|(at, q)| Some((at, q.served, q.waiting.front()?.seats)))
            .min_by_key(|(_, served, _)| *served)
            .map(|(at, _, seats)| (at, seats))?;
        if !self.has_room(name, seats) {
            return None;
        }
        let level = self.levels.get_mut(name)?;
        let queue = &mut level.queues[at];
        let next = queue.waiting.pop_front()?;
        queue.served += next.seats;
        level.executing += next.seats;
        level.requests += 1;
        level.dispatched += 1;
        Some(next.id)
    }
}

/// Deals a hand of different queues from a hash, as upstream's shuffle sharding does.
fn deal(mut hash: u64, queues: usize, hand: usize) -> Vec<usize> {
    let hand = hand.min(queues);
    let mut dealt: Vec<usize> = Vec::with_capacity(hand);
    for at in 0..hand {
        let left = u64::try_from(queues - at).unwrap_or(1);
        let mut card = usize::try_from(hash % left).unwrap_or(0);
        hash /= left;
        // The card is the n-th queue that has not been dealt.
        let mut sorted = dealt.clone();
        sorted.sort_unstable();
        for earlier in sorted {
            if card >= earlier {
                card += 1;
            }
        }
        dealt.push(card);
    }
    dealt
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, shares: u64, lendable: u64, limit: Limit) -> LevelSpec {
        LevelSpec {
            name: name.to_owned(),
            uid: "".into(),
            exempt: name == "exempt",
            shares,
            lendable,
            borrowing: None,
            limit,
        }
    }

    const QUEUE: Limit = Limit::Queue {
        queues: 8,
        hand: 2,
        length: 3,
    };

    fn request(id: Id, flow: &str) -> Waiting {
        Waiting {
            id,
            seats: 1,
            schema: "s".into(),
            flow: flow.to_owned(),
        }
    }

    fn arrive(levels: &mut Levels, name: &str, id: Id, hash: u64) -> Decision {
        levels.arrive(name, request(id, ""), hash)
    }

    #[test]
    fn hands_are_different_queues() {
        for hash in [0, 1, 77, u64::MAX] {
            let mut hand = deal(hash, 16, 4);
            hand.sort_unstable();
            hand.dedup();
            assert!(
                hand.len() == 4 && hand.iter().all(|q| *q < 16),
                "{hash}: {hand:?}"
            );
        }
        assert_eq!(deal(5, 2, 8).len(), 2);
    }

    #[test]
    fn levels_reject_queue_and_serve_in_order() {
        let mut levels = Levels::new(4);
        levels.configure(vec![
            spec("a", 1, 0, QUEUE),
            spec("b", 1, 0, Limit::Reject),
            spec("exempt", 0, 0, Limit::Reject),
        ]);
        for id in 0..2 {
            assert_eq!(arrive(&mut levels, "a", id, 0), Decision::Execute);
            assert_eq!(arrive(&mut levels, "b", 10 + id, 0), Decision::Execute);
        }
        assert_eq!(arrive(&mut levels, "b", 12, 0), Decision::Reject);
        assert_eq!(arrive(&mut levels, "exempt", 13, 0), Decision::Execute);
        // Two queues of three are dealt to this flow.
        for id in 2..8 {
            assert_eq!(arrive(&mut levels, "a", id, 0), Decision::Wait);
        }
        assert_eq!(arrive(&mut levels, "a", 8, 0), Decision::Reject);
        // Another flow is not behind them.
        assert_eq!(arrive(&mut levels, "a", 9, 5), Decision::Wait);
        assert_eq!(
            levels.release("b", 1),
            Vec::<Id>::new(),
            "what b does not lend stays with b"
        );
        let order: Vec<Id> = (0..3).flat_map(|_| levels.release("a", 1)).collect();
        assert_eq!(order.len(), 3);
        assert!(order.contains(&9), "{order:?}");
        assert!(levels.give_up("a", 7, true) && !levels.give_up("a", 7, true));
        assert_eq!(levels.levels["a"].timed_out, 1);
    }

    #[test]
    fn idle_levels_lend() {
        let mut levels = Levels::new(10);
        levels.configure(vec![spec("busy", 1, 0, QUEUE), spec("idle", 1, 60, QUEUE)]);
        // Five of its own, three of the other's five.
        for id in 0..8 {
            assert_eq!(arrive(&mut levels, "busy", id, 0), Decision::Execute, "{id}");
        }
        assert_eq!(arrive(&mut levels, "busy", 8, 0), Decision::Wait);
        // The lender has what it keeps at once, and the rest when it comes back.
        for id in 20..22 {
            assert_eq!(arrive(&mut levels, "idle", id, 0), Decision::Execute);
        }
        assert_eq!(arrive(&mut levels, "idle", 22, 0), Decision::Wait);
    }

    #[test]
    fn queues_that_vanish_let_everybody_go() {
        let mut levels = Levels::new(1);
        levels.configure(vec![spec("a", 1, 0, QUEUE)]);
        assert_eq!(arrive(&mut levels, "a", 0, 0), Decision::Execute);
        assert_eq!(arrive(&mut levels, "a", 1, 0), Decision::Wait);
        assert_eq!(levels.configure(vec![spec("a", 1, 0, Limit::Reject)]), [1]);
        assert_eq!(levels.levels["a"].executing, 2);
    }
}
