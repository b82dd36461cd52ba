//! A watch: a task that holds one etcd watch over the whole key space, and follows it from member to member.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use etcd_client::{EventType, KeyValue as EtcdKeyValue, WatchClient, WatchOptions, WatchResponse};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::store::EtcdStore;
use crate::{Event, EventKind, KeyValue, LeaseId, Revision, WatchMessage, WatchSource};

/// Messages that wait for a reader; behind them etcd's own buffers fill.
const BUFFER: usize = 16;
/// Pause before a member is tried again.
const RETRY: Duration = Duration::from_millis(200);
/// A response holds up to a thousand revisions.
const MAX_RESPONSE: usize = 1 << 30;

/// The receiving end.
pub(super) struct EtcdWatch {
    messages: mpsc::Receiver<WatchMessage>,
    progress: mpsc::Sender<()>,
}

#[async_trait]
impl WatchSource for EtcdWatch {
    async fn next(&mut self) -> Option<WatchMessage> {
        self.messages.recv().await
    }

    fn request_progress(&mut self) -> bool {
        // A full queue holds a request that is not served yet: it serves for this one too.
        !matches!(
            self.progress.try_send(()),
            Err(mpsc::error::TrySendError::Closed(()))
        )
    }
}

/// What the task holds.
pub(super) struct Follower {
    store: EtcdStore,
    prefix: Bytes,
    /// First revision that was not delivered.
    next: u64,
    /// Last revision that was delivered.
    delivered: u64,
    /// Revision whose delivery is to be reported.
    target: Option<u64>,
    messages: mpsc::Sender<WatchMessage>,
    requests: mpsc::Receiver<()>,
}

/// Why following ended.
enum End {
    /// Try another member.
    Lost,
    /// Nobody listens, or the watch is over.
    Finished,
}

impl Follower {
    /// A watch of `prefix` from `next`; with `target`, progress is reported when that has been delivered.
    pub(super) fn new(store: EtcdStore, prefix: Bytes, next: u64, target: Option<u64>) -> (Self, EtcdWatch) {
        let (messages, receiver) = mpsc::channel(BUFFER);
        let (progress, requests) = mpsc::channel(1);
        let watch = EtcdWatch {
            messages: receiver,
            progress,
        };
        let follower = Self {
            store,
            prefix,
            next,
            delivered: 0,
            target,
            messages,
            requests,
        };
        (follower, watch)
    }

    /// Runs until nobody listens, history is gone, or the store is closed.
    pub(super) async fn run(mut self, client: WatchClient, closed: CancellationToken) {
        let listener = self.messages.clone();
        tokio::select! {
            () = closed.cancelled() => {}
            () = listener.closed() => {}
            () = self.follow(client.max_decoding_message_size(MAX_RESPONSE)) => {}
        }
    }

    async fn follow(&mut self, mut client: WatchClient) {
        if self.report().await.is_err() {
            return;
        }
        loop {
            match self.follow_one(&mut client).await {
                End::Finished => return,
                // The deadline of a retry against a member that is down: nothing tells when it is back.
                End::Lost => tokio::time::sleep(RETRY).await,
            }
        }
    }

    /// Follows one etcd watch for as long as it lives.
    async fn follow_one(&mut self, client: &mut WatchClient) -> End {
        let options = WatchOptions::new()
            .with_all_keys()
            .with_prev_key()
            .with_start_revision(i64::try_from(self.next).unwrap_or(i64::MAX));
        let mut stream = match client.watch(Vec::new(), Some(options)).await {
            Ok(stream) => stream,
            Err(error) => {
                tracing::debug!(%error, "etcd watch not made, trying again");
                return End::Lost;
            }
        };
        loop {
            tokio::select! {
                response = stream.message() => match response {
                    Ok(Some(response)) => if let Some(end) = self.accept(&response).await {
                        return end;
                    },
                    Ok(None) => return End::Lost,
                    Err(error) => {
                        tracing::debug!(%error, "etcd watch lost, going on at another member");
                        return End::Lost;
                    }
                },
                Some(()) = self.requests.recv() => match self.store.newest().await {
                    Ok(revision) => {
                        self.target = self.target.max(Some(revision));
                        if self.report().await.is_err() {
                            return End::Finished;
                        }
                    }
                    Err(error) => tracing::warn!(%error, "etcd does not say its revision: a progress request is dropped"),
                },
            }
        }
    }

    /// Passes on a response; `Some` when that was the last one.
    async fn accept(&mut self, response: &WatchResponse) -> Option<End> {
        if response.compact_revision() != 0 {
            // Nobody listens any more: then this is the end as well.
            drop(self.messages.send(WatchMessage::Lagged).await);
            return Some(End::Finished);
        }
        if response.canceled() {
            tracing::debug!(
                reason = response.cancel_reason(),
                "etcd cancelled a watch, making it again"
            );
            return Some(End::Lost);
        }
        let last = response
            .events()
            .iter()
            .filter_map(|event| event.kv())
            .next_back();
        // Progress and confirmations have no events.
        let last = unsigned(last?.mod_revision());
        let events: Vec<Event> = response
            .events()
            .iter()
            .filter(|event| event.kv().is_some_and(|kv| kv.key().starts_with(&self.prefix)))
            .filter_map(to_event)
            .collect();
        if !events.is_empty() && self.messages.send(WatchMessage::Events(events)).await.is_err() {
            return Some(End::Finished);
        }
        (self.delivered, self.next) = (last, last + 1);
        self.report().await.is_err().then_some(End::Finished)
    }

    /// Reports progress when the target has been delivered.
    async fn report(&mut self) -> Result<(), mpsc::error::SendError<WatchMessage>> {
        if let Some(target) = self.target.filter(|target| *target < self.next) {
            self.target = None;
            let delivered = Revision(target.max(self.delivered));
            self.messages.send(WatchMessage::Progress(delivered)).await?;
        }
        Ok(())
    }
}

fn to_event(event: &etcd_client::Event) -> Option<Event> {
    let kv = to_key_value(event.kv()?.clone());
    let previous = event.prev_kv().cloned().map(to_key_value);
    Some(match event.event_type() {
        EventType::Put => Event {
            kind: EventKind::Put,
            kv,
            previous,
        },
        EventType::Delete => Event {
            kind: EventKind::Delete,
            kv: KeyValue {
                create_revision: previous.as_ref().map_or(Revision(0), |p| p.create_revision),
                lease: None,
                ..kv
            },
            previous,
        },
    })
}

/// The same key in the store's terms.
pub(super) fn to_key_value(kv: EtcdKeyValue) -> KeyValue {
    let (create, modified, lease) = (kv.create_revision(), kv.mod_revision(), kv.lease());
    let (key, value) = kv.into_key_value();
    KeyValue {
        key: key.into(),
        value: value.into(),
        create_revision: Revision(unsigned(create)),
        mod_revision: Revision(unsigned(modified)),
        lease: (lease != 0).then_some(LeaseId(lease)),
    }
}

/// etcd's revisions are signed and never negative.
pub(super) fn unsigned(revision: i64) -> u64 {
    u64::try_from(revision).unwrap_or(0)
}
