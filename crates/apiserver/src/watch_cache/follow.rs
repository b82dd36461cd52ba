//! A watcher's place in a kind's events.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::watch;

use super::kind::{CachedEvent, KindCache, TooOld};
use super::topics::Interest;

/// Reads the events of an interest, each once and in order, from a revision on. It holds a place in the kind's ring and no
/// queue of its own.
pub struct Follower {
    cache: Arc<KindCache>,
    interest: Interest,
    changed: watch::Receiver<u64>,
    /// Events of interest that were there when it began.
    backlog: VecDeque<Arc<CachedEvent>>,
    /// Everything before this place has been seen or is of no interest.
    next: u64,
}

/// What was read: events, and whether that was all there is.
pub struct Batch {
    /// The events, in order.
    pub events: Vec<Arc<CachedEvent>>,
    /// Nothing of interest is behind them.
    pub drained: bool,
}

impl Follower {
    /// Follows the events after `revision`.
    pub fn new(cache: Arc<KindCache>, interest: Interest, revision: u64) -> Result<Self, TooOld> {
        let followed = cache.follow(&interest, revision)?;
        Ok(Self {
            cache,
            interest,
            changed: followed.changed,
            backlog: followed.backlog.into(),
            next: followed.next,
        })
    }

    /// Up to `max` events that have not been read yet. `TooOld`: some of them are gone, and nothing more will come.
    pub fn read(&mut self, max: usize) -> Result<Batch, TooOld> {
        if !self.backlog.is_empty() {
            let events = self.backlog.drain(..self.backlog.len().min(max)).collect();
            return Ok(Batch {
                events,
                drained: false,
            });
        }
        // What changes from here on wakes again.
        self.changed.mark_unchanged();
        let (events, next, drained) = self.cache.events_of(&self.interest, self.next, max)?;
        self.next = next;
        Ok(Batch { events, drained })
    }

    /// Whether everything of interest has been read.
    pub fn is_settled(&self) -> bool {
        let rest = self.cache.events_of(&self.interest, self.next, 1);
        self.backlog.is_empty() && matches!(rest, Ok((events, ..)) if events.is_empty())
    }

    /// Waits until there may be something to read. False: the kind is no longer served.
    pub async fn changed(&mut self) -> bool {
        !self.cache.is_closed() && self.changed.changed().await.is_ok() && !self.cache.is_closed()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.cache.unfollow(&self.interest);
    }
}

#[cfg(test)]
mod tests {
    use super::super::kind::tests::{cache, delete, put, put_on};
    use super::*;

    fn names(follower: &mut Follower) -> String {
        let mut out = Vec::new();
        loop {
            let batch = follower.read(2).unwrap();
            out.extend(
                batch
                    .events
                    .iter()
                    .map(|e| format!("{}@{}", e.object.name(), e.revision())),
            );
            if batch.drained {
                return out.join(" ");
            }
        }
    }

    #[test]
    fn each_interest_hears_of_its_own() {
        let c = Arc::new(cache());
        put(&c, "a", "x", 1);
        put_on(&c, "a", "y", "n1", 2);
        put(&c, "b", "x", 3);
        let follow = |interest, from| Follower::new(c.clone(), interest, from).unwrap();
        let mut all = follow(Interest::All, 1);
        let mut namespace = follow(Interest::Namespace("a".into()), 1);
        let mut key = follow(Interest::Key("b/x".into()), 0);
        let slot = c.spec().extractor.slot("spec.nodeName").unwrap();
        let mut node = follow(Interest::Field(slot, "n1".into()), 0);
        assert_eq!(names(&mut all), "y@2 x@3");
        assert_eq!(names(&mut namespace), "y@2");
        assert_eq!(names(&mut key), "x@3");
        assert_eq!(names(&mut node), "y@2");
        assert!(!namespace.changed.has_changed().unwrap());
        put(&c, "b", "z", 4);
        assert!(!namespace.changed.has_changed().unwrap() && !key.changed.has_changed().unwrap());
        assert!(all.changed.has_changed().unwrap() && namespace.is_settled() && !all.is_settled());
        put_on(&c, "a", "y", "n2", 5);
        delete(&c, "b", "x", 6);
        assert!(
            node.changed.has_changed().unwrap(),
            "what moved away concerns where it was"
        );
        assert_eq!(names(&mut all), "z@4 y@5 x@6");
        assert_eq!(names(&mut namespace), "y@5");
        assert_eq!(names(&mut key), "x@6");
        assert_eq!(names(&mut node), "y@5");
        assert!(node.is_settled());
        // A second follower of a topic that is there already reads what was before it.
        assert_eq!(
            names(&mut follow(Interest::Namespace("a".into()), 0)),
            "x@1 y@2 y@5"
        );
        drop(all);
        let second = follow(Interest::Key("b/x".into()), 6);
        drop((namespace, key, node));
        assert!(c.follows(&Interest::Key("b/x".into())));
        drop(second);
        assert!(!c.follows(&Interest::Key("b/x".into())));
    }

    #[test]
    fn quiet_topics_do_not_grow_old_and_loud_ones_do() {
        let c = Arc::new(cache());
        put(&c, "quiet", "x", 1);
        let mut quiet = Follower::new(c.clone(), Interest::Namespace("quiet".into()), 1).unwrap();
        let mut loud = Follower::new(c.clone(), Interest::Namespace("loud".into()), 1).unwrap();
        for revision in 2..=20_000 {
            put(&c, "loud", "x", revision);
        }
        assert!(loud.read(10).is_err(), "events of its interest are gone");
        assert!(quiet.is_settled());
        put(&c, "quiet", "x", 20_001);
        assert_eq!(names(&mut quiet), "x@20001");
        c.reset(Vec::new(), 30_000);
        assert!(quiet.changed.has_changed().unwrap());
        assert!(quiet.read(1).is_err());
    }
}
