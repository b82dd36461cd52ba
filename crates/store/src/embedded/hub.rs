//! Live watchers, found by the prefix they watch.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::Event;

/// The events of one commit that concern one watcher, and the last revision of that commit.
pub(super) struct Delivery {
    pub(super) through: u64,
    pub(super) events: Vec<Event>,
}

struct Watcher {
    id: u64,
    sender: mpsc::Sender<Delivery>,
}

#[derive(Default)]
struct Group {
    watchers: Vec<Watcher>,
    /// Events of the commit being published, by position.
    matched: Vec<usize>,
}

/// All live watchers. A watcher that does not keep up is dropped from here; it notices, and reads history.
#[derive(Default)]
pub(super) struct Hub {
    groups: BTreeMap<Bytes, Group>,
    next_id: u64,
    /// Every revision up to this one has been handed to the watchers.
    pub(super) published: u64,
    pub(super) closed: bool,
}

impl Hub {
    /// No watchers; the next revision is the one after `published`.
    pub(super) fn new(published: u64) -> Self {
        Self {
            published,
            ..Self::default()
        }
    }

    /// Registers a watcher for everything after `published`.
    pub(super) fn register(&mut self, prefix: &Bytes, buffer: usize) -> (u64, mpsc::Receiver<Delivery>) {
        let (sender, receiver) = mpsc::channel(buffer.max(1));
        let id = self.next_id;
        self.next_id += 1;
        self.groups
            .entry(prefix.clone())
            .or_default()
            .watchers
            .push(Watcher { id, sender });
        (id, receiver)
    }

    pub(super) fn unregister(&mut self, prefix: &Bytes, id: u64) {
        if let Some(group) = self.groups.get_mut(prefix) {
            group.watchers.retain(|w| w.id != id);
            if group.watchers.is_empty() {
                self.groups.remove(prefix);
            }
        }
    }

    /// Hands out the events of one commit, never waiting for anybody.
    pub(super) fn publish(&mut self, events: &[Event], through: u64) {
        self.published = through;
        if self.groups.is_empty() {
            return;
        }
        let mut touched: Vec<Bytes> = Vec::new();
        for (position, event) in events.iter().enumerate() {
            let mut candidate: &[u8] = &event.kv.key;
            // Every prefix of the key that somebody watches, longest first: the greatest entry not above the candidate is
            // either a prefix, or shares at most some bytes with the key, and only those can be a prefix.
            while let Some((prefix, group)) = self
                .groups
                .range_mut::<[u8], _>((Bound::Unbounded, Bound::Included(candidate)))
                .next_back()
            {
                let shared = shared_length(prefix, &event.kv.key);
                if shared == prefix.len() {
                    if group.matched.is_empty() {
                        touched.push(prefix.clone());
                    }
                    group.matched.push(position);
                    if shared == 0 {
                        break;
                    }
                    candidate = &event.kv.key[..shared - 1];
                } else {
                    candidate = &event.kv.key[..shared];
                }
            }
        }
        for prefix in touched {
            let Some(group) = self.groups.get_mut(&prefix) else {
                continue;
            };
            let matched = std::mem::take(&mut group.matched);
            group.watchers.retain(|watcher| {
                let events = matched.iter().map(|position| events[*position].clone()).collect();
                watcher.sender.try_send(Delivery { through, events }).is_ok()
            });
            if group.watchers.is_empty() {
                self.groups.remove(&prefix);
            }
        }
    }

    /// Ends every watch.
    pub(super) fn close(&mut self) {
        self.closed = true;
        self.groups.clear();
    }
}

fn shared_length(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{EventKind, KeyValue, Revision};

    fn event(key: &'static str) -> Event {
        let kv = KeyValue {
            key: Bytes::from_static(key.as_bytes()),
            value: Bytes::new(),
            create_revision: Revision(1),
            mod_revision: Revision(1),
            lease: None,
        };
        Event {
            kind: EventKind::Put,
            kv,
            previous: None,
        }
    }

    #[test]
    fn a_watcher_gets_exactly_what_is_under_its_prefix() {
        let prefixes = [
            "", "/", "/a", "/a/", "/a/b", "/ab", "/b", "/a/b/c/d", "\u{ff}", "/a/a", "/a/c",
        ];
        let keys = [
            "/a/b/c", "/a/b", "/ab", "/a", "/", "/b/", "x", "/a/b/c/d", "/a/bb", "/a/c/d/e",
        ];
        let mut hub = Hub::default();
        let mut receivers: Vec<_> = prefixes
            .iter()
            .map(|p| (*p, hub.register(&Bytes::from_static(p.as_bytes()), 4).1))
            .collect();
        let events: Vec<Event> = keys.iter().map(|k| event(k)).collect();
        hub.publish(&events, 9);
        for (prefix, receiver) in &mut receivers {
            let expected: Vec<&str> = keys.iter().copied().filter(|k| k.starts_with(*prefix)).collect();
            let got = receiver.try_recv().map(|d| d.events).unwrap_or_default();
            let got: Vec<&str> = got
                .iter()
                .map(|e| std::str::from_utf8(&e.kv.key).unwrap())
                .collect();
            assert_eq!(got, expected, "prefix {prefix:?}");
        }
    }
}
