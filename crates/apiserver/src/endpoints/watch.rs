//! WATCH: frames from the ring, filtered by selector, with bookmarks, until the time is over.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use keelson_api::status::Status;
use rand::Rng;
use serde_json::{Value, json};
use tokio::time::{Instant, Interval};

use super::request::Incoming;
use super::table;
use crate::http::query::Query;
use crate::http::{Body, BodyError, Format, Transform, protobuf};
use crate::registry::options::ListOptions;
use crate::registry::{Kind, Registry, Selection, served, status_of};
use crate::watch_cache::{
    CacheSet, CachedEvent, CachedObject, EventType, Follower, Interest, KindCache, PageRequest, json_frame,
};

/// Bookmarks come about this often, as upstream's.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// At most this many events are taken from the ring at once.
const BATCH: usize = 256;
/// Frames are put together up to this size.
const CHUNK: usize = 64 << 10;

/// Answers a watch.
pub(super) async fn watch(incoming: &Incoming<'_>, kind: &Arc<Kind>) -> Result<Response<Body>, Status> {
    let options = ListOptions::parse(&incoming.query, true)?;
    let mut selection = Selection::parse(&incoming.query, kind)?;
    if !incoming.info.name.is_empty() && selection.name.is_none() {
        let field = format!("metadata.name={}", incoming.info.name);
        let labels = incoming.query.get("labelSelector").unwrap_or_default();
        selection = Selection::new(&labels, &field, kind)?;
    }
    let caches = incoming.server.registry.resources().caches().clone();
    let cache = kind.cache()?.clone();
    let namespace = match incoming.info.namespace.as_str() {
        "" => selection.namespace.clone(),
        _ if !kind.info.namespaced => None,
        namespace => Some(namespace.to_owned()),
    };
    let interest = interest(kind, &selection, namespace.as_deref());
    let deadline = Instant::now() + timeout(incoming, &options);
    let shutdown = incoming.server.shutdown.clone();
    let frames = Frames {
        kind: kind.clone(),
        everything: selection.is_everything(),
        selection,
        namespace,
        transform: incoming.form.transform,
        protobuf: incoming.form.format == Format::Protobuf,
        query: incoming.query.raw().to_owned(),
        columns_sent: false,
    };
    let source = Source {
        cache,
        caches,
        registry: incoming.server.registry.clone(),
        interest,
    };
    let end = Box::pin(async move {
        tokio::select! {
            () = shutdown.cancelled_owned() => End::Shutdown,
            () = tokio::time::sleep_until(deadline) => End::Deadline,
        }
    });
    let watcher = source.start(frames, &options, end).await?;
    let body = stream::unfold(watcher, |mut watcher| async move {
        let chunk = watcher.next().await?;
        Some((Ok::<_, BodyError>(chunk), watcher))
    });
    let content_type = match incoming.form.format {
        Format::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
        _ => "application/json",
    };
    let mut response = Response::new(Body::stream(body));
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    Ok(response)
}

fn timeout(incoming: &Incoming<'_>, options: &ListOptions) -> Duration {
    match options.timeout_seconds {
        Some(seconds) if seconds > 0 => Duration::from_secs(seconds),
        _ => {
            let least = incoming.server.config.min_request_timeout;
            least.mul_f64(1.0 + rand::rng().random::<f64>())
        }
    }
}

/// What wakes a watcher. Small topics keep a change of one pod from waking every kubelet.
fn interest(kind: &Kind, selection: &Selection, namespace: Option<&str>) -> Interest {
    if let Some(name) = &selection.name {
        match namespace {
            _ if !kind.info.namespaced => return Interest::Key(name.as_str().into()),
            Some(namespace) => return Interest::Key(format!("{namespace}/{name}").into()),
            None => {}
        }
    }
    if let Some((slot, value)) = selection.equal_field() {
        return Interest::Field(slot, value.into());
    }
    match namespace {
        Some(namespace) => Interest::Namespace(namespace.into()),
        None => Interest::All,
    }
}

/// Why a watch is over.
#[derive(Clone, Copy)]
enum End {
    Shutdown,
    Deadline,
}

struct Source {
    cache: Arc<KindCache>,
    caches: Arc<CacheSet>,
    registry: Registry,
    interest: Interest,
}

struct Watcher {
    frames: Frames,
    caches: Arc<CacheSet>,
    registry: Registry,
    /// None when there is nothing to follow: the watch is over once `pending` is sent.
    follower: Option<Follower>,
    /// Everything up to here has been sent.
    revision: u64,
    /// Initial objects, then whatever has to follow them.
    pending: VecDeque<Pending>,
    bookmarks: Option<Interval>,
    end: Pin<Box<dyn Future<Output = End> + Send>>,
}

enum Pending {
    Initial(Arc<CachedObject>),
    Frame(Bytes),
}

impl Source {
    /// Finds the place in the events, and the objects to send first.
    async fn start(
        self,
        frames: Frames,
        options: &ListOptions,
        end: Pin<Box<dyn Future<Output = End> + Send>>,
    ) -> Result<Watcher, Status> {
        let requested = options.revision()?;
        match requested {
            None if options.send_initial_events.is_some() => self.caches.wait_until_current().await,
            None | Some(0) => Ok(()),
            Some(revision) => self.caches.wait_for(revision).await,
        }
        .map_err(|e| status_of(&e))?;
        let mut watcher = Watcher {
            frames,
            caches: self.caches,
            registry: self.registry,
            follower: None,
            revision: 0,
            pending: VecDeque::new(),
            bookmarks: options.bookmarks.then(|| {
                let mut interval = tokio::time::interval_at(Instant::now() + BOOKMARK_EVERY, BOOKMARK_EVERY);
                interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
                interval
            }),
            end,
        };
        let initial = options
            .send_initial_events
            .unwrap_or(matches!(requested, None | Some(0)));
        if !initial {
            watcher.revision = match requested {
                None | Some(0) => self.cache.revision(),
                Some(revision) => revision,
            };
            match Follower::new(self.cache, self.interest, watcher.revision) {
                Ok(follower) => watcher.follower = Some(follower),
                Err(too_old) => {
                    let error = watcher.frames.error(&Status::expired(too_old.to_string()));
                    watcher.pending.push_back(Pending::Frame(error));
                }
            }
            return Ok(watcher);
        }
        if requested.is_none() {
            watcher
                .caches
                .wait_until_current()
                .await
                .map_err(|e| status_of(&e))?;
        }
        let frames = &watcher.frames;
        let request = PageRequest {
            namespace: frames.namespace.as_deref(),
            ..PageRequest::default()
        };
        let page = self
            .cache
            .page(&request, |o| frames.everything || frames.selection.matches(o));
        let page = page.map_err(|e| Status::expired(e.to_string()))?;
        watcher.revision = page.revision;
        let follower = Follower::new(self.cache, self.interest, page.revision);
        watcher.follower = Some(follower.map_err(|e| Status::expired(e.to_string()))?);
        let objects = watcher.registry.forms(&watcher.frames.kind, page.objects).await?;
        watcher.pending.extend(objects.into_iter().map(Pending::Initial));
        if options.send_initial_events == Some(true) && options.bookmarks {
            let bookmark = watcher.frames.bookmark(page.revision, true);
            watcher.pending.push_back(Pending::Frame(bookmark));
        }
        Ok(watcher)
    }
}

impl Watcher {
    /// The next chunk of frames; `None` when the watch is over.
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(chunk) = self.initial_chunk() {
            return Some(chunk);
        }
        loop {
            let follower = self.follower.as_mut()?;
            // Everything up to here is in the ring once the events are read.
            let applied = self.caches.revision();
            let Ok(batch) = follower.read(BATCH) else {
                self.follower = None;
                let status = Status::expired("The resourceVersion for the provided watch is too old.");
                return Some(self.frames.error(&status));
            };
            if let Err(status) = self.frames.convert(&self.registry, &batch.events).await {
                self.follower = None;
                return Some(self.frames.error(&status));
            }
            if let Some(last) = batch.events.last() {
                self.revision = self.revision.max(last.revision());
            }
            if batch.drained {
                self.revision = self.revision.max(applied);
            }
            if let Some(chunk) = self.frames.chunk(&batch.events) {
                return Some(chunk);
            }
            if !batch.drained {
                continue;
            }
            tokio::select! {
                biased;
                served = follower.changed() => {
                    if !served {
                        return None;
                    }
                }
                end = &mut self.end => {
                    self.follower = None;
                    // The last thing said is how far the watch came, so that the next one starts there.
                    let says = matches!(end, End::Deadline) && self.bookmarks.is_some();
                    return says.then(|| self.frames.bookmark(self.revision, false));
                }
                () = tick(&mut self.bookmarks) => {
                    let applied = self.caches.revision();
                    if self.follower.as_ref().is_some_and(Follower::is_settled) {
                        self.revision = self.revision.max(applied);
                    }
                    return Some(self.frames.bookmark(self.revision, false));
                }
            }
        }
    }

    fn initial_chunk(&mut self) -> Option<Bytes> {
        let mut chunk = Vec::new();
        while chunk.len() < CHUNK {
            match self.pending.pop_front() {
                None => break,
                Some(Pending::Initial(object)) => {
                    chunk.extend_from_slice(&self.frames.object(EventType::Added, &object));
                }
                Some(Pending::Frame(frame)) => chunk.extend_from_slice(&frame),
            }
        }
        (!chunk.is_empty()).then(|| chunk.into())
    }
}

async fn tick(interval: &mut Option<Interval>) {
    match interval {
        Some(interval) => {
            interval.tick().await;
        }
        None => std::future::pending().await,
    }
}

/// What the watcher wants to see, and how.
struct Frames {
    kind: Arc<Kind>,
    selection: Selection,
    everything: bool,
    namespace: Option<String>,
    transform: Transform,
    protobuf: bool,
    query: String,
    columns_sent: bool,
}

impl Frames {
    fn wants(&self, object: &CachedObject) -> bool {
        self.namespace.as_deref().is_none_or(|n| n == object.namespace())
            && (self.everything || self.selection.matches(object))
    }

    /// What an event is to this watcher.
    fn judge(&self, event: &CachedEvent) -> Option<EventType> {
        if event.kind == EventType::Deleted {
            return self.wants(&event.object).then_some(EventType::Deleted);
        }
        if self.everything {
            return self.wants(&event.object).then_some(event.kind);
        }
        let now = self.wants(&event.object);
        let before = event.previous.as_ref().is_some_and(|p| self.wants(p));
        match (before, now) {
            (false, true) => Some(EventType::Added),
            (true, true) => Some(EventType::Modified),
            (true, false) => Some(EventType::Deleted),
            (false, false) => None,
        }
    }

    fn chunk(&mut self, events: &[Arc<CachedEvent>]) -> Option<Bytes> {
        let mut first: Option<Bytes> = None;
        let mut joined: Vec<u8> = Vec::new();
        for event in events {
            let Some(kind) = self.judge(event) else { continue };
            let frame = self.event(kind, event);
            match first.take() {
                None if joined.is_empty() => first = Some(frame),
                None => joined.extend_from_slice(&frame),
                Some(bytes) => {
                    joined.extend_from_slice(&bytes);
                    joined.extend_from_slice(&frame);
                }
            }
        }
        first.or_else(|| (!joined.is_empty()).then(|| joined.into()))
    }

    fn event(&mut self, kind: EventType, event: &CachedEvent) -> Bytes {
        // Gone for the selector, not for the store: the last state that matched, at this revision.
        if kind == EventType::Deleted
            && event.kind != EventType::Deleted
            && let Some(previous) = &event.previous
        {
            let previous = self.form(previous).at_revision(event.revision());
            return self.object(kind, &Arc::new(previous));
        }
        if self.is_plain() {
            if self.protobuf {
                return event.protobuf_frame(kind, |object| {
                    self.frame(kind.as_str(), &served(&self.kind, object))
                });
            }
            return event.json_frame(kind);
        }
        self.object(kind, &event.object)
    }

    fn is_plain(&self) -> bool {
        self.transform == Transform::None
            && self.kind.conversion.is_same()
            && self.kind.crossing().is_none()
            && self
                .kind
                .cache
                .as_ref()
                .is_some_and(|c| c.spec().head == self.kind.head)
    }

    /// Converts the events that will be shown, where the kind is one whose versions differ.
    async fn convert(&self, registry: &Registry, events: &[Arc<CachedEvent>]) -> Result<(), Status> {
        if self.kind.crossing().is_none() {
            return Ok(());
        }
        let shown = events.iter().filter_map(|event| match self.judge(event)? {
            EventType::Deleted if event.kind != EventType::Deleted => event.previous.clone(),
            _ => Some(event.object.clone()),
        });
        // What is converted stays beside the object; that is where the frames take it from.
        for object in shown {
            registry.form(&self.kind, object).await?;
        }
        Ok(())
    }

    /// The object in the row's version, once it is converted.
    fn form(&self, object: &Arc<CachedObject>) -> Arc<CachedObject> {
        let known = self.kind.crossing().and_then(|crossing| crossing.known(object));
        known.unwrap_or_else(|| object.clone())
    }

    fn object(&mut self, kind: EventType, object: &Arc<CachedObject>) -> Bytes {
        if self.is_plain() && !self.protobuf {
            return json_frame(kind, object);
        }
        let object = &self.form(object);
        let value = served(&self.kind, object);
        let value = match self.transform {
            Transform::None => value,
            Transform::Table => {
                let columns = !std::mem::replace(&mut self.columns_sent, true);
                let query = Query::new(&self.query);
                match table::table(&self.kind, &[value], object.revision(), None, &query, columns) {
                    Ok(json) => serde_json::from_slice(&json).unwrap_or(Value::Null),
                    Err(status) => return self.error(&status),
                }
            }
            Transform::PartialObjectMetadata | Transform::PartialObjectMetadataList => {
                table::partial_metadata(&value)
            }
        };
        self.frame(kind.as_str(), &value)
    }

    fn bookmark(&self, revision: u64, initial_end: bool) -> Bytes {
        let mut metadata = json!({"resourceVersion": revision.to_string()});
        if initial_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = match self.transform {
            Transform::None => json!({
                "kind": self.kind.gvk.kind,
                "apiVersion": self.kind.gvk.api_version(),
                "metadata": metadata,
            }),
            Transform::Table => json!({
                "kind": "Table",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": {"resourceVersion": revision.to_string()},
                "columnDefinitions": null,
                "rows": [{"cells": null, "object": {
                    "kind": "PartialObjectMetadata",
                    "apiVersion": "meta.k8s.io/v1",
                    "metadata": metadata,
                }}],
            }),
            _ => json!({
                "kind": "PartialObjectMetadata",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": metadata,
            }),
        };
        self.frame("BOOKMARK", &object)
    }

    fn error(&self, status: &Status) -> Bytes {
        self.frame(
            "ERROR",
            &serde_json::to_value(status).expect("invariant: a Status is plain data"),
        )
    }

    fn frame(&self, kind: &str, object: &Value) -> Bytes {
        if self.protobuf
            && let Some(body) = protobuf::encode(object)
        {
            return keelson_api::codec::protobuf::watch_frame(kind, &body).into();
        }
        frame(kind, object)
    }
}

fn frame(kind: &str, object: &Value) -> Bytes {
    let mut out = format!("{{\"type\":\"{kind}\",\"object\":").into_bytes();
    serde_json::to_writer(&mut out, object).expect("invariant: writing to memory does not fail");
    out.extend_from_slice(b"}\n");
    out.into()
}
