//! Random operations on a store and on a plain model, which must agree at every revision.

use std::collections::BTreeMap;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::Backend;
use super::driver::{bytes, committed, events_through};
use crate::{Error, Event, EventKind, KeyValue, Precondition, RangeRequest, Revision, WriteOutcome};

/// The whole state after each revision: simple, and easy to see that it is right.
struct Model {
    base: u64,
    states: Vec<BTreeMap<Bytes, KeyValue>>,
    events: Vec<Event>,
    compacted: u64,
}

impl Model {
    fn current(&self) -> u64 {
        self.base + self.states.len() as u64 - 1
    }

    fn at(&self, revision: u64) -> &BTreeMap<Bytes, KeyValue> {
        &self.states[usize::try_from(revision - self.base).unwrap()]
    }

    fn get(&self, key: &Bytes) -> Option<KeyValue> {
        self.at(self.current()).get(key).cloned()
    }

    fn write(&mut self, key: &Bytes, value: Option<Bytes>, precondition: Precondition) -> WriteOutcome {
        let previous = self.get(key);
        let holds = match precondition {
            Precondition::None => true,
            Precondition::Absent => previous.is_none(),
            Precondition::ModRevision(r) => previous.as_ref().is_some_and(|p| p.mod_revision == r),
        };
        if !holds || (value.is_none() && previous.is_none()) {
            return WriteOutcome::Conflict {
                revision: Revision(self.current()),
                current: previous,
            };
        }
        let revision = Revision(self.current() + 1);
        let mut state = self.at(self.current()).clone();
        let kind = if value.is_some() {
            EventKind::Put
        } else {
            EventKind::Delete
        };
        let kv = KeyValue {
            key: key.clone(),
            value: value.unwrap_or_default(),
            create_revision: previous.as_ref().map_or(revision, |p| p.create_revision),
            mod_revision: revision,
            lease: None,
        };
        match kind {
            EventKind::Put => state.insert(key.clone(), kv.clone()),
            EventKind::Delete => state.remove(key),
        };
        self.states.push(state);
        self.events.push(Event {
            kind,
            kv,
            previous: previous.clone(),
        });
        WriteOutcome::Committed { revision, previous }
    }
}

/// A thousand random writes, reads at random revisions, compactions and restarts agree with a model, and a watch from the
/// compaction mark replays exactly what happened.
pub async fn random_operations_match_a_model(backend: &impl Backend) {
    let seed = std::env::var("CONTRACT_SEED")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or_else(rand::random);
    eprintln!("CONTRACT_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut store = backend.start().await;
    let base = store.revision().await.unwrap().0;
    let mut model = Model {
        base,
        states: vec![BTreeMap::new()],
        events: Vec::new(),
        compacted: base,
    };
    for step in 0..1_000 {
        let key = bytes(format!(
            "/{}/{}",
            random.random_range(0..3),
            random.random_range(0..6)
        ));
        match random.random_range(0..100) {
            0..=54 => {
                let precondition = precondition(&mut random, &model, &key);
                let value = if random.random_bool(0.7) {
                    let length = random.random_range(0..200);
                    Some(bytes(format!("{step}{}", "x".repeat(length))))
                } else {
                    None
                };
                let outcome = match value.clone() {
                    Some(value) => store.put(key.clone(), value, precondition, None).await.unwrap(),
                    None => store.delete(key.clone(), precondition).await.unwrap(),
                };
                assert_eq!(outcome, model.write(&key, value, precondition), "step {step}");
            }
            55..=94 => {
                let revision = random.random_range(model.base..=model.current() + 1);
                let got = store.get(&key, Some(Revision(revision))).await;
                let prefix = &key[..random.random_range(0..=key.len())];
                let limit = random.random_range(0..8);
                let request = RangeRequest {
                    revision: Some(Revision(revision)),
                    limit,
                    ..RangeRequest::prefix(Bytes::copy_from_slice(prefix))
                };
                let range = store.range(request).await;
                if revision > model.current() {
                    assert!(matches!(got, Err(Error::FutureRevision { .. })), "step {step}");
                    assert!(matches!(range, Err(Error::FutureRevision { .. })), "step {step}");
                } else if revision < model.compacted {
                    assert!(matches!(got, Err(Error::Compacted { .. })), "step {step}");
                    assert!(matches!(range, Err(Error::Compacted { .. })), "step {step}");
                } else if revision > base {
                    let state = model.at(revision);
                    assert_eq!(got.unwrap().as_ref(), state.get(&key), "step {step}");
                    let under: Vec<_> = state
                        .values()
                        .filter(|kv| kv.key.starts_with(prefix))
                        .cloned()
                        .collect();
                    let range = range.unwrap();
                    assert_eq!(range.count, under.len(), "step {step}");
                    let limit = if limit == 0 { usize::MAX } else { limit };
                    assert_eq!(
                        range.kvs,
                        under.into_iter().take(limit).collect::<Vec<_>>(),
                        "step {step}"
                    );
                }
            }
            95..=97 => {
                let mark = random.random_range(model.compacted.max(base)..=model.current());
                store.compact(Revision(mark)).await.unwrap();
                model.compacted = model.compacted.max(mark);
            }
            _ => {
                backend.stop(store).await;
                store = backend.start().await;
                assert_eq!(store.revision().await.unwrap().0, model.current());
            }
        }
    }
    if model.compacted < model.current() {
        let from = Revision(model.compacted + 1);
        let mut watch = store.watch(Bytes::new(), Some(from)).await.unwrap();
        let events = events_through(&mut watch, Revision(model.current())).await;
        let expected: Vec<_> = model
            .events
            .iter()
            .filter(|e| e.kv.mod_revision >= from)
            .cloned()
            .collect();
        assert_eq!(events, expected);
    }
    let last = committed(
        store
            .put(bytes("/end"), Bytes::new(), Precondition::Absent, None)
            .await
            .unwrap(),
    )
    .0;
    assert_eq!(last.0, model.current() + 1);
}

fn precondition(random: &mut StdRng, model: &Model, key: &Bytes) -> Precondition {
    match random.random_range(0..4) {
        0 => Precondition::Absent,
        1 => Precondition::ModRevision(Revision(random.random_range(model.base..=model.current()))),
        2 => model.get(key).map_or(Precondition::Absent, |kv| {
            Precondition::ModRevision(kv.mod_revision)
        }),
        _ => Precondition::None,
    }
}
