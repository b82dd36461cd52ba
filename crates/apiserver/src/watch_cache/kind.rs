//! The cache of one kind: its objects in key order, and the ring of its recent events.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parking_lot::RwLock;
use tokio::sync::watch;

use super::object::{CachedObject, KindSpec};
use super::topics::{Interest, Topics};

/// The ring keeps at most this many events of a kind,
const RING_EVENTS: usize = 8192;
/// and at most about this many bytes of them, but always [`RING_LEAST`] events.
const RING_BYTES: usize = 16 << 20;
const RING_LEAST: usize = 128;

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventType {
    /// It was created.
    Added,
    /// It was changed.
    Modified,
    /// It was deleted.
    Deleted,
}

impl EventType {
    /// `type` in the watch frame.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// One change of one object, shared by all watchers.
#[derive(Debug)]
pub struct CachedEvent {
    /// What happened.
    pub kind: EventType,
    /// The object after the change; for deletions its last state at the deletion's revision.
    pub object: Arc<CachedObject>,
    /// The object before the change.
    pub previous: Option<Arc<CachedObject>>,
    frames: [OnceLock<Bytes>; 3],
    protobuf: [OnceLock<Bytes>; 3],
}

impl CachedEvent {
    fn new(kind: EventType, object: Arc<CachedObject>, previous: Option<Arc<CachedObject>>) -> Self {
        Self {
            kind,
            object,
            previous,
            frames: Default::default(),
            protobuf: Default::default(),
        }
    }

    /// Revision of the change.
    pub fn revision(&self) -> u64 {
        self.object.revision()
    }

    /// The JSON frame, line feed included, with this type (a selector can turn MODIFIED into ADDED or DELETED).
    pub fn json_frame(&self, kind: EventType) -> Bytes {
        self.frames[kind as usize]
            .get_or_init(|| json_frame(kind, &self.object))
            .clone()
    }

    /// The protobuf frame with this type, encoded by the first watcher that needs it.
    pub fn protobuf_frame(&self, kind: EventType, encode: impl FnOnce(&CachedObject) -> Bytes) -> Bytes {
        self.protobuf[kind as usize]
            .get_or_init(|| encode(&self.object))
            .clone()
    }
}

/// Encodes a watch frame of an object.
pub fn json_frame(kind: EventType, object: &CachedObject) -> Bytes {
    let mut out = Vec::with_capacity(object.len_hint() + 32);
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(kind.as_str().as_bytes());
    out.extend_from_slice(b"\",\"object\":");
    object.write_json(&mut out);
    out.extend_from_slice(b"}\n");
    out.into()
}

/// Which objects to read.
#[derive(Clone, Debug, Default)]
pub struct PageRequest<'a> {
    /// Only this namespace.
    pub namespace: Option<&'a str>,
    /// Only this name (with a namespace, or at cluster scope).
    pub name: Option<&'a str>,
    /// First relative key wanted (`ns/name`), inclusive; from a continue token.
    pub start: Option<&'a [u8]>,
    /// At most this many; 0 is all.
    pub limit: usize,
    /// The state at exactly this revision.
    pub exact: Option<u64>,
    /// Count what is left behind the page.
    pub count_remaining: bool,
}

/// Objects read at one revision.
#[derive(Debug, Default)]
pub struct Page {
    /// The objects, in key order.
    pub objects: Vec<Arc<CachedObject>>,
    /// The state they belong to.
    pub revision: u64,
    /// Whether there is more behind the last one.
    pub more: bool,
    /// How many more, if asked for.
    pub remaining: Option<usize>,
}

/// The revision asked for is older than the ring; `oldest` is the oldest that can be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too old resource version: {requested} ({oldest})")]
pub struct TooOld {
    /// What was asked for.
    pub requested: u64,
    /// What can be served.
    pub oldest: u64,
}

/// Where a new follower begins.
pub(super) struct Followed {
    /// The events that it has not seen.
    pub(super) backlog: Vec<Arc<CachedEvent>>,
    /// The place behind them.
    pub(super) next: u64,
    /// Who wakes it.
    pub(super) changed: watch::Receiver<u64>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<Bytes, Arc<CachedObject>>,
    per_namespace: HashMap<Box<str>, usize>,
    ring: VecDeque<Arc<CachedEvent>>,
    ring_bytes: usize,
    /// Sequence number of the ring's first event.
    first: u64,
    /// All events after this revision are in the ring.
    complete_after: u64,
    /// Revision of the last event.
    last: u64,
    topics: Topics,
}

/// The cache of one kind.
pub struct KindCache {
    spec: Arc<KindSpec>,
    state: RwLock<State>,
    /// The whole server's position, see [`super::CacheSet`].
    applied: Arc<AtomicU64>,
    changed: watch::Sender<u64>,
    /// Nothing feeds it any more.
    closed: AtomicBool,
}

impl KindCache {
    pub(super) fn new(spec: Arc<KindSpec>, applied: Arc<AtomicU64>) -> Self {
        Self {
            spec,
            state: RwLock::default(),
            applied,
            changed: watch::Sender::new(0),
            closed: AtomicBool::new(false),
        }
    }

    /// Ends all watches: the kind is no longer served from here.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        let state = self.state.read();
        let last = state.last;
        let senders = state.topics.senders();
        drop(state);
        tell(&senders, last);
        self.changed.send_replace(last);
    }

    /// Whether watches have ended.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// How the kind is stored.
    pub fn spec(&self) -> &Arc<KindSpec> {
        &self.spec
    }

    /// Replaces everything by what the store holds at `revision`; running watches get 410.
    pub(super) fn reset(&self, objects: Vec<Arc<CachedObject>>, revision: u64) {
        let mut state = self.state.write();
        let next = state.first + state.ring.len() as u64 + 1;
        let mut topics = std::mem::take(&mut state.topics);
        topics.reset(next);
        let touched = topics.take_touched();
        *state = State {
            first: next,
            complete_after: revision,
            last: revision,
            topics,
            ..State::default()
        };
        for object in objects {
            if let Some(count) = state.per_namespace.get_mut(object.namespace()) {
                *count += 1;
            } else {
                state.per_namespace.insert(object.namespace().into(), 1);
            }
            state.objects.insert(object.key().clone(), object);
        }
        drop(state);
        tell(&touched, revision);
        self.changed.send_replace(revision);
    }

    /// Applies changes of whole revisions, in order: the new object, or the key and revision of a deletion.
    pub(super) fn apply(&self, changes: Vec<Change>) {
        let mut last = 0;
        let mut state = self.state.write();
        for change in changes {
            match change {
                Change::Put(object) => {
                    last = object.revision();
                    state.put(object);
                }
                Change::Delete(key, revision) => {
                    last = revision;
                    state.delete(&key, revision);
                }
            }
        }
        state.last = last;
        state.trim();
        let touched = state.topics.take_touched();
        drop(state);
        tell(&touched, last);
        self.changed.send_replace(last);
    }

    /// One object; `namespace` is empty at cluster scope.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<CachedObject>> {
        let state = self.state.read();
        if namespace.is_empty() {
            return state.objects.get(name.as_bytes()).cloned();
        }
        let mut key = smallvec::SmallVec::<[u8; 128]>::new();
        key.extend_from_slice(namespace.as_bytes());
        key.push(b'/');
        key.extend_from_slice(name.as_bytes());
        state.objects.get(&key[..]).cloned()
    }

    /// All objects of a namespace, or all.
    pub fn list(&self, namespace: Option<&str>) -> Vec<Arc<CachedObject>> {
        let request = PageRequest {
            namespace,
            ..PageRequest::default()
        };
        self.page(&request, |_| true)
            .map(|p| p.objects)
            .unwrap_or_default()
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.state.read().objects.len()
    }

    /// Whether there are no objects.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The revision of the kind's last change.
    pub fn version(&self) -> u64 {
        self.state.read().last
    }

    /// The revision that a list served now has: nothing at or below it is missing.
    pub fn revision(&self) -> u64 {
        let state = self.state.read();
        state.last.max(self.applied.load(Ordering::Acquire))
    }

    /// Told the kind's new revision after each change.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Reads objects that `matches`, at one revision.
    pub fn page(
        &self,
        request: &PageRequest<'_>,
        matches: impl Fn(&CachedObject) -> bool,
    ) -> Result<Page, TooOld> {
        let state = self.state.read();
        let now = state.last.max(self.applied.load(Ordering::Acquire));
        let revision = request.exact.unwrap_or(now);
        let undone = if revision < state.last {
            Some(state.undo(revision)?)
        } else {
            None
        };
        let mut page = Page {
            revision,
            ..Page::default()
        };
        let bounds = bounds(request);
        let visit = |page: &mut Page, object: &Arc<CachedObject>| -> bool {
            if !matches(object) {
                return true;
            }
            if page_full(page, request) {
                page.more = true;
                if request.count_remaining {
                    *page.remaining.get_or_insert(0) += 1;
                }
                return request.count_remaining;
            }
            page.objects.push(object.clone());
            true
        };
        let range = state
            .objects
            .range::<[u8], _>((borrowed(&bounds.0), borrowed(&bounds.1)));
        match undone {
            None => {
                // The whole kind's count is known: no need to walk to the end for it.
                let whole = request.count_remaining && request.namespace.is_none() && request.start.is_none();
                for (_, object) in range {
                    if !visit(&mut page, object) {
                        break;
                    }
                    if whole && page_full(&page, request) {
                        let left = state.objects.len() - page.objects.len();
                        page.more = left > 0;
                        page.remaining = (left > 0).then_some(left);
                        break;
                    }
                }
            }
            Some(undone) => {
                let mut merged: BTreeMap<&Bytes, &Arc<CachedObject>> = range.collect();
                for (key, old) in &undone {
                    let inside = contains(&bounds, key);
                    match old {
                        Some(old) if inside => {
                            merged.insert(key, old);
                        }
                        _ => {
                            merged.remove(key);
                        }
                    }
                }
                for object in merged.values() {
                    if !visit(&mut page, object) {
                        break;
                    }
                }
            }
        }
        Ok(page)
    }

    /// Adds a follower of `interest` after `revision`.
    pub(super) fn follow(&self, interest: &Interest, revision: u64) -> Result<Followed, TooOld> {
        let mut state = self.state.write();
        if revision < state.complete_after {
            return Err(TooOld {
                requested: revision,
                oldest: state.complete_after,
            });
        }
        let skip = state.ring.partition_point(|e| e.revision() <= revision);
        let later = state.ring.range(skip..);
        let backlog = later.filter(|e| interest.wants(e)).cloned().collect();
        let next = state.first + state.ring.len() as u64;
        let changed = state.topics.follow(interest);
        Ok(Followed {
            backlog,
            next,
            changed: changed.unwrap_or_else(|| self.changed.subscribe()),
        })
    }

    pub(super) fn unfollow(&self, interest: &Interest) {
        if *interest != Interest::All {
            self.state.write().topics.unfollow(interest);
        }
    }

    #[cfg(test)]
    pub(super) fn follows(&self, interest: &Interest) -> bool {
        self.state.read().topics.get(interest).is_some()
    }

    /// Up to `max` events of `interest` from place `from` on, the place behind them, and whether they are all there are.
    pub(super) fn events_of(
        &self,
        interest: &Interest,
        from: u64,
        max: usize,
    ) -> Result<(Vec<Arc<CachedEvent>>, u64, bool), TooOld> {
        let state = self.state.read();
        let end = state.first + state.ring.len() as u64;
        let too_old = TooOld {
            requested: 0,
            oldest: state.complete_after,
        };
        let at = |place: u64| -> Option<Arc<CachedEvent>> {
            let index = usize::try_from(place.checked_sub(state.first)?).ok()?;
            state.ring.get(index).cloned()
        };
        let Some(topic) = state.topics.get(interest) else {
            // Everything, or a topic that nobody follows.
            let skip = from.checked_sub(state.first).ok_or(too_old)?;
            let skip = usize::try_from(skip).unwrap_or(usize::MAX).min(state.ring.len());
            let events: Vec<_> = state.ring.range(skip..).take(max).cloned().collect();
            let next = from + events.len() as u64;
            return Ok((events, next, next >= end));
        };
        if from < topic.lost_before {
            return Err(too_old);
        }
        let start = topic.places.partition_point(|place| *place < from);
        let events: Option<Vec<_>> = topic
            .places
            .range(start..)
            .take(max)
            .map(|place| at(*place))
            .collect();
        let events = events.ok_or(too_old)?;
        match topic.places.get(start + events.len()) {
            Some(next) => Ok((events, *next, false)),
            None => Ok((events, end, true)),
        }
    }
}

fn tell(touched: &[Arc<watch::Sender<u64>>], revision: u64) {
    for sender in touched {
        sender.send_replace(revision);
    }
}

fn page_full(page: &Page, request: &PageRequest<'_>) -> bool {
    request.limit > 0 && page.objects.len() == request.limit
}

/// A change to apply.
pub(super) enum Change {
    Put(Arc<CachedObject>),
    Delete(Bytes, u64),
}

impl State {
    fn put(&mut self, object: Arc<CachedObject>) {
        let previous = self.objects.insert(object.key().clone(), object.clone());
        if previous.is_none() {
            if let Some(count) = self.per_namespace.get_mut(object.namespace()) {
                *count += 1;
            } else {
                self.per_namespace.insert(object.namespace().into(), 1);
            }
        }
        let kind = if previous.is_some() {
            EventType::Modified
        } else {
            EventType::Added
        };
        self.push(CachedEvent::new(kind, object, previous));
    }

    fn delete(&mut self, key: &Bytes, revision: u64) {
        let Some(previous) = self.objects.remove(key) else {
            return;
        };
        if let Some(count) = self.per_namespace.get_mut(previous.namespace()) {
            *count -= 1;
            if *count == 0 {
                self.per_namespace.remove(previous.namespace());
            }
        }
        let object = Arc::new(previous.at_revision(revision));
        self.push(CachedEvent::new(EventType::Deleted, object, Some(previous)));
    }

    fn push(&mut self, event: CachedEvent) {
        self.ring_bytes += event_bytes(&event);
        let place = self.first + self.ring.len() as u64;
        self.topics.publish(&event, place, self.first);
        self.ring.push_back(Arc::new(event));
    }

    fn trim(&mut self) {
        while self.ring.len() > RING_EVENTS || (self.ring_bytes > RING_BYTES && self.ring.len() > RING_LEAST)
        {
            let Some(event) = self.ring.pop_front() else { break };
            self.ring_bytes -= event_bytes(&event);
            self.first += 1;
            self.complete_after = event.revision();
        }
    }

    /// What changed keys were at `revision`: `None` where they did not exist.
    fn undo(&self, revision: u64) -> Result<BTreeMap<Bytes, Option<Arc<CachedObject>>>, TooOld> {
        if revision < self.complete_after {
            return Err(TooOld {
                requested: revision,
                oldest: self.complete_after,
            });
        }
        let newer = self.ring.iter().rev().take_while(|e| e.revision() > revision);
        Ok(newer
            .map(|e| (e.object.key().clone(), e.previous.clone()))
            .collect())
    }
}

fn event_bytes(event: &CachedEvent) -> usize {
    event.object.stored().len() * 2 + 512
}

type Bounds = (Bound<Vec<u8>>, Bound<Vec<u8>>);

fn bounds(request: &PageRequest<'_>) -> Bounds {
    let (mut low, high) = match (request.namespace, request.name) {
        (Some(namespace), Some(name)) if !namespace.is_empty() => {
            let key = format!("{namespace}/{name}").into_bytes();
            (Bound::Included(key.clone()), Bound::Included(key))
        }
        (None, Some(name)) => (
            Bound::Included(name.as_bytes().to_vec()),
            Bound::Included(name.as_bytes().to_vec()),
        ),
        (Some(namespace), _) if !namespace.is_empty() => (
            Bound::Included(format!("{namespace}/").into_bytes()),
            Bound::Excluded(format!("{namespace}0").into_bytes()),
        ),
        _ => (Bound::Unbounded, Bound::Unbounded),
    };
    if let Some(start) = request.start {
        let lower = matches!(&low, Bound::Included(l) if l.as_slice() > start);
        if !lower {
            low = Bound::Included(start.to_vec());
        }
    }
    // An inverted range would panic in BTreeMap::range; it is empty instead.
    if let (Bound::Included(l), Bound::Included(h) | Bound::Excluded(h)) = (&low, &high)
        && l > h
    {
        return (Bound::Included(l.clone()), Bound::Excluded(l.clone()));
    }
    (low, high)
}

fn borrowed(bound: &Bound<Vec<u8>>) -> Bound<&[u8]> {
    match bound {
        Bound::Included(b) => Bound::Included(b.as_slice()),
        Bound::Excluded(b) => Bound::Excluded(b.as_slice()),
        Bound::Unbounded => Bound::Unbounded,
    }
}

fn contains(bounds: &Bounds, key: &[u8]) -> bool {
    use std::ops::RangeBounds;
    RangeBounds::<[u8]>::contains(&(borrowed(&bounds.0), borrowed(&bounds.1)), key)
}

#[cfg(test)]
#[path = "kind_tests.rs"]
pub(super) mod tests;
