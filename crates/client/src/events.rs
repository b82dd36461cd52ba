//! Event recording with client-go's correlation: a repeated event raises a count instead of making a new object, and a
//! source that floods one object is cut off.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource as CoreEventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Events waiting to be written; beyond this they are dropped with a warning, as upstream's broadcaster does.
const BUFFER: usize = 1024;
/// Burst of events a source may write about one object, and how often it gets one more.
const SPAM_BURST: f64 = 25.0;
const SPAM_REFILL: Duration = Duration::from_secs(300);
/// Entries of the correlation cache; the oldest half is forgotten beyond it.
const CACHE: usize = 4096;

/// The type of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventType {
    /// Something expected happened.
    Normal,
    /// Something needs attention.
    Warning,
}

impl EventType {
    fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// Who reports.
#[derive(Clone, Debug)]
pub struct EventSource {
    /// The component, e.g. `kubelet`.
    pub component: String,
    /// The node it runs on, where that matters.
    pub host: Option<String>,
}

struct Request {
    object: ObjectReference,
    kind: EventType,
    reason: String,
    message: String,
    at: Timestamp,
}

/// Writes events in the background. Clones share the writer.
#[derive(Clone)]
pub struct EventRecorder {
    sender: mpsc::Sender<Request>,
}

/// A reference to `object` as events and owner lookups need it.
pub fn object_reference<K>(object: &K) -> ObjectReference
where
    K: Resource<DynamicType = ()>,
{
    let meta = object.meta();
    ObjectReference {
        api_version: Some(K::api_version(&()).into_owned()),
        kind: Some(K::kind(&()).into_owned()),
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path: None,
    }
}

impl EventRecorder {
    /// Starts the writer on `tracker`; it ends at `shutdown` after writing what is queued.
    pub fn start(
        client: Client,
        source: EventSource,
        tracker: &TaskTracker,
        shutdown: CancellationToken,
    ) -> Self {
        let (sender, receiver) = mpsc::channel(BUFFER);
        let writer = Writer {
            client,
            source: Arc::new(source),
            known: HashMap::new(),
            spam: HashMap::new(),
        };
        tracker.spawn(writer.run(receiver, shutdown));
        Self { sender }
    }

    /// Records that something happened to `object`. Never blocks.
    pub fn event(&self, object: &ObjectReference, kind: EventType, reason: &str, message: impl Into<String>) {
        let request = Request {
            object: object.clone(),
            kind,
            reason: reason.to_owned(),
            message: message.into(),
            at: Timestamp::now(),
        };
        if let Err(error) = self.sender.try_send(request) {
            tracing::warn!(reason, %error, "event dropped");
        }
    }
}

/// What makes two events the same.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Identity {
    object: ObjectKey,
    kind: EventType,
    reason: String,
    message: String,
}

type ObjectKey = (String, String, String, String, String);

struct Known {
    name: String,
    count: i32,
    last: Instant,
}

struct Bucket {
    tokens: f64,
    filled: Instant,
}

struct Writer {
    client: Client,
    source: Arc<EventSource>,
    known: HashMap<Identity, Known>,
    spam: HashMap<ObjectKey, Bucket>,
}

impl Writer {
    async fn run(mut self, mut receiver: mpsc::Receiver<Request>, shutdown: CancellationToken) {
        loop {
            let request = tokio::select! {
                request = receiver.recv() => request,
                () = shutdown.cancelled() => {
                    receiver.close();
                    receiver.recv().await
                }
            };
            let Some(request) = request else { return };
            let reason = request.reason.clone();
            let write = self.write(request);
            tokio::select! {
                result = write => if let Err(error) = result {
                    tracing::debug!(reason, %error, "event not written");
                },
                // A server that is gone must not hold up our own end.
                () = async { shutdown.cancelled().await; tokio::time::sleep(Duration::from_secs(1)).await } => return,
            }
        }
    }

    async fn write(&mut self, request: Request) -> Result<(), kube::Error> {
        let object = object_key(&request.object);
        if !self.allowed(&object) {
            return Ok(());
        }
        let namespace = match request.object.namespace.as_deref() {
            Some(namespace) if !namespace.is_empty() => namespace,
            _ => "default",
        };
        let api = Api::<Event>::namespaced(self.client.clone(), namespace);
        let identity = Identity {
            object,
            kind: request.kind,
            reason: request.reason.clone(),
            message: request.message.clone(),
        };
        if let Some(known) = self.known.get_mut(&identity) {
            known.count = known.count.saturating_add(1);
            known.last = Instant::now();
            let patch = json!({"count": known.count, "lastTimestamp": Time(request.at)});
            match api
                .patch(&known.name, &PatchParams::default(), &Patch::Strategic(patch))
                .await
            {
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                other => return other.map(|_| ()),
            }
        }
        let event = self.new_event(&request, namespace);
        let name = event.metadata.name.clone().unwrap_or_default();
        api.create(&PostParams::default(), &event).await?;
        self.remember(identity, name);
        Ok(())
    }

    fn new_event(&self, request: &Request, namespace: &str) -> Event {
        let nanos = request.at.as_nanosecond();
        let object_name = request.object.name.as_deref().unwrap_or_default();
        Event {
            metadata: ObjectMeta {
                name: Some(format!("{object_name}.{nanos:x}")),
                namespace: Some(namespace.to_owned()),
                ..ObjectMeta::default()
            },
            involved_object: request.object.clone(),
            reason: Some(request.reason.clone()),
            message: Some(request.message.clone()),
            type_: Some(request.kind.as_str().to_owned()),
            count: Some(1),
            first_timestamp: Some(Time(request.at)),
            last_timestamp: Some(Time(request.at)),
            source: Some(CoreEventSource {
                component: Some(self.source.component.clone()),
                host: self.source.host.clone(),
            }),
            reporting_component: Some(self.source.component.clone()),
            reporting_instance: Some(self.source.host.clone().unwrap_or_default()),
            ..Event::default()
        }
    }

    fn remember(&mut self, identity: Identity, name: String) {
        if self.known.len() >= CACHE {
            let mut ages: Vec<_> = self.known.values().map(|known| known.last).collect();
            ages.sort_unstable();
            let middle = ages[ages.len() / 2];
            self.known.retain(|_, known| known.last > middle);
        }
        self.known.insert(
            identity,
            Known {
                name,
                count: 1,
                last: Instant::now(),
            },
        );
    }

    fn allowed(&mut self, object: &ObjectKey) -> bool {
        let now = Instant::now();
        if self.spam.len() >= CACHE {
            self.spam.retain(|_, bucket| now - bucket.filled < SPAM_REFILL);
        }
        let bucket = self.spam.entry(object.clone()).or_insert(Bucket {
            tokens: SPAM_BURST,
            filled: now,
        });
        let refill = (now - bucket.filled).as_secs_f64() / SPAM_REFILL.as_secs_f64();
        bucket.tokens = (bucket.tokens + refill).min(SPAM_BURST);
        bucket.filled = now;
        if bucket.tokens < 1.0 {
            return false;
        }
        bucket.tokens -= 1.0;
        true
    }
}

fn object_key(object: &ObjectReference) -> ObjectKey {
    let part = |value: &Option<String>| value.clone().unwrap_or_default();
    (
        part(&object.kind),
        part(&object.namespace),
        part(&object.name),
        part(&object.uid),
        part(&object.field_path),
    )
}
