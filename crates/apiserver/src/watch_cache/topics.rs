//! Who is to be woken by which event: watchers of one name, one namespace or one field's value hear of nothing else.
//!
//! A topic remembers the places in the kind's ring of the events that concern it, for as long as the ring has them.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use tokio::sync::watch;

use super::kind::CachedEvent;

/// What a watcher wants to be woken for. It may be woken for more than it will show, never for less.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Interest {
    /// Every event of the kind.
    All,
    /// Those of one namespace.
    Namespace(Box<str>),
    /// Those of one object, by its relative key.
    Key(Box<str>),
    /// Those of objects whose selectable field in this slot has, or had, this value.
    Field(usize, Box<str>),
}

impl Interest {
    /// Whether an event is of interest.
    pub(super) fn wants(&self, event: &CachedEvent) -> bool {
        match self {
            Self::All => true,
            Self::Namespace(namespace) => **namespace == *event.object.namespace(),
            Self::Key(key) => key.as_bytes() == &event.object.key()[..],
            Self::Field(slot, value) => {
                *event.object.field(*slot) == **value
                    || event
                        .previous
                        .as_ref()
                        .is_some_and(|p| *p.field(*slot) == **value)
            }
        }
    }
}

/// The events of one interest.
pub(super) struct Topic {
    /// Places in the kind's ring, ascending.
    pub(super) places: VecDeque<u64>,
    /// Some event before this place is forgotten.
    pub(super) lost_before: u64,
    changed: Arc<watch::Sender<u64>>,
    followers: usize,
}

impl Topic {
    fn new() -> Self {
        Self {
            places: VecDeque::new(),
            lost_before: 0,
            changed: Arc::new(watch::Sender::new(0)),
            followers: 0,
        }
    }
}

/// All topics of a kind that somebody follows.
#[derive(Default)]
pub(super) struct Topics {
    namespaces: HashMap<Box<str>, Topic>,
    keys: HashMap<Box<[u8]>, Topic>,
    /// By slot; few slots are ever followed.
    fields: Vec<(usize, HashMap<Box<str>, Topic>)>,
    /// Topics touched since [`Topics::take_touched`].
    touched: Vec<Arc<watch::Sender<u64>>>,
}

impl Topics {
    pub(super) fn get(&self, interest: &Interest) -> Option<&Topic> {
        match interest {
            Interest::All => None,
            Interest::Namespace(namespace) => self.namespaces.get(namespace),
            Interest::Key(key) => self.keys.get(key.as_bytes()),
            Interest::Field(slot, value) => {
                let (_, map) = self.fields.iter().find(|(s, _)| s == slot)?;
                map.get(value)
            }
        }
    }

    /// Adds a follower; a topic made for it knows the events from now on.
    pub(super) fn follow(&mut self, interest: &Interest) -> Option<watch::Receiver<u64>> {
        let new = Topic::new;
        let topic = match interest {
            Interest::All => return None,
            Interest::Namespace(namespace) => self.namespaces.entry(namespace.clone()).or_insert_with(new),
            Interest::Key(key) => self.keys.entry(key.as_bytes().into()).or_insert_with(new),
            Interest::Field(slot, value) => {
                let at = match self.fields.iter().position(|(s, _)| s == slot) {
                    Some(at) => at,
                    None => {
                        self.fields.push((*slot, HashMap::new()));
                        self.fields.len() - 1
                    }
                };
                self.fields[at].1.entry(value.clone()).or_insert_with(new)
            }
        };
        topic.followers += 1;
        Some(topic.changed.subscribe())
    }

    /// Takes a follower away, and the topic with the last one.
    pub(super) fn unfollow(&mut self, interest: &Interest) {
        fn leave<K: std::hash::Hash + Eq + std::borrow::Borrow<Q>, Q: std::hash::Hash + Eq + ?Sized>(
            map: &mut HashMap<K, Topic>,
            key: &Q,
        ) {
            if let Some(topic) = map.get_mut(key) {
                topic.followers -= 1;
                if topic.followers == 0 {
                    map.remove(key);
                }
            }
        }
        match interest {
            Interest::All => {}
            Interest::Namespace(namespace) => leave(&mut self.namespaces, &**namespace),
            Interest::Key(key) => leave(&mut self.keys, key.as_bytes()),
            Interest::Field(slot, value) => {
                if let Some((_, map)) = self.fields.iter_mut().find(|(s, _)| s == slot) {
                    leave(map, &**value);
                }
                self.fields.retain(|(_, map)| !map.is_empty());
            }
        }
    }

    /// Who tells the followers of all topics.
    pub(super) fn senders(&self) -> Vec<Arc<watch::Sender<u64>>> {
        let fields = self.fields.iter().flat_map(|(_, map)| map.values());
        let topics = self.namespaces.values().chain(self.keys.values()).chain(fields);
        topics.map(|topic| topic.changed.clone()).collect()
    }

    /// An event was put at `place`; the ring begins at `first`.
    pub(super) fn publish(&mut self, event: &CachedEvent, place: u64, first: u64) {
        let Self {
            namespaces,
            keys,
            fields,
            touched,
        } = self;
        let mut touch = |topic: &mut Topic| {
            while let Some(gone) = topic.places.front().copied().filter(|p| *p < first) {
                topic.places.pop_front();
                topic.lost_before = gone + 1;
            }
            if topic.places.back() != Some(&place) {
                topic.places.push_back(place);
                touched.push(topic.changed.clone());
            }
        };
        if !namespaces.is_empty()
            && let Some(topic) = namespaces.get_mut(event.object.namespace())
        {
            touch(topic);
        }
        if !keys.is_empty()
            && let Some(topic) = keys.get_mut(&event.object.key()[..])
        {
            touch(topic);
        }
        for (slot, map) in fields {
            let now = event.object.field(*slot);
            if let Some(topic) = map.get_mut(now) {
                touch(topic);
            }
            let before = event.previous.as_ref().map(|p| p.field(*slot));
            if let Some(before) = before.filter(|before| *before != now)
                && let Some(topic) = map.get_mut(before)
            {
                touch(topic);
            }
        }
    }

    /// Everything before `place` is forgotten, and everybody told.
    pub(super) fn reset(&mut self, place: u64) {
        let fields = self.fields.iter_mut().flat_map(|(_, map)| map.values_mut());
        let all = self.namespaces.values_mut().chain(self.keys.values_mut());
        for topic in all.chain(fields) {
            topic.places.clear();
            topic.lost_before = place;
            self.touched.push(topic.changed.clone());
        }
    }

    /// Whom to tell; outside of the lock.
    pub(super) fn take_touched(&mut self) -> Vec<Arc<watch::Sender<u64>>> {
        std::mem::take(&mut self.touched)
    }
}
