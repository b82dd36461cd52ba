//! Where requests wait.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use http::HeaderMap;
use http::header::HeaderValue;
use keelson_api::status::Status;
use parking_lot::Mutex;
use prometheus::IntGauge;
use tokio::sync::oneshot;

use super::config::{LevelSpec, Schema, too_many};
use super::counts::{Counts, FlowCounts};
use super::level::{Decision, Id, Levels, Waiting};
use crate::metrics::Registry;
use crate::request_info::RequestInfo;
use crate::resources::{Reader, Resources};
use crate::user::UserInfo;

/// `--max-requests-inflight` and `--max-mutating-requests-inflight` together.
const SEATS: u64 = 600;
/// A quarter of `--request-timeout`.
const LONGEST_WAIT: Duration = Duration::from_secs(15);
/// A list takes a seat for so many objects, and at most so many seats.
const OBJECTS_PER_SEAT: usize = 100;
const MOST_SEATS: u64 = 10;

/// FlowSchemas in the order they are tried, and what they name.
#[derive(Default)]
struct Table {
    at: (u64, u64),
    schemas: Vec<(Schema, Arc<FlowCounts>)>,
    /// UID of each level by name.
    levels: HashMap<String, Arc<str>>,
}

/// Decides which requests are served.
pub(crate) struct Flow {
    schemas: Reader,
    levels: Reader,
    table: ArcSwap<Table>,
    pub(super) state: Mutex<State>,
    next: AtomicU64,
    counts: Counts,
}

/// Seats, and how those who wait are told.
pub(super) struct State {
    pub(super) levels: Levels,
    waiting: HashMap<Id, oneshot::Sender<()>>,
}

impl State {
    fn wake(&mut self, ready: Vec<Id>) {
        for id in ready {
            if let Some(waiting) = self.waiting.remove(&id)
                && waiting.send(()).is_err()
            {
                // It gave up in this moment and returns its seats itself.
                tracing::trace!(id, "a request was served too late");
            }
        }
    }
}

/// A request's seats; given back when dropped.
pub(crate) struct Ticket<'a> {
    flow: &'a Flow,
    level: Arc<str>,
    seats: u64,
    schema_uid: Arc<str>,
    level_uid: Arc<str>,
    /// Of requests that have their seats.
    running: Option<Arc<FlowCounts>>,
}

impl Flow {
    pub(crate) fn new(resources: &Resources, metrics: &Registry) -> Self {
        Self {
            counts: Counts::new(metrics),
            schemas: resources.resource("flowcontrol.apiserver.k8s.io", "flowschemas"),
            levels: resources.resource("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations"),
            table: ArcSwap::from_pointee(Table {
                at: (u64::MAX, u64::MAX),
                ..Table::default()
            }),
            state: Mutex::new(State {
                levels: Levels::new(SEATS),
                waiting: HashMap::new(),
            }),
            next: AtomicU64::new(0),
        }
    }

    fn table(&self) -> Arc<Table> {
        let table = self.table.load_full();
        if table.at == (self.schemas.version(), self.levels.version()) {
            return table;
        }
        let mut state = self.state.lock();
        let table = self.table.load_full();
        let at = (self.schemas.version(), self.levels.version());
        if table.at == at {
            return table;
        }
        let mut schemas: Vec<(Schema, Arc<FlowCounts>)> = self
            .schemas
            .list(None)
            .iter()
            .map(|o| {
                let schema = Schema::of(o.value());
                let counts = self.counts.of(&schema.name, &schema.level);
                (schema, Arc::new(counts))
            })
            .collect();
        schemas.sort_by(|(a, _), (b, _)| (a.precedence, &a.name).cmp(&(b.precedence, &b.name)));
        let specs: Vec<LevelSpec> = self
            .levels
            .list(None)
            .iter()
            .map(|o| LevelSpec::of(o.value()))
            .collect();
        let levels = specs.iter().map(|s| (s.name.clone(), s.uid.clone())).collect();
        let ready = state.levels.configure(specs);
        self.counts.configured(&state.levels);
        state.wake(ready);
        let table = Arc::new(Table { at, schemas, levels });
        self.table.store(table.clone());
        table
    }

    /// Waits for a request's seats; 429 when it has to wait too long or too many wait already. `objects` is how many objects
    /// there are of the kind that it lists.
    pub(crate) async fn admit(
        &self,
        user: &UserInfo,
        request: &RequestInfo,
        objects: usize,
    ) -> Result<Ticket<'_>, Status> {
        let table = self.table();
        let found = table.schemas.iter().find_map(|(schema, counts)| {
            let level = table.levels.get(&*schema.level)?;
            schema.matches(user, request).then_some((schema, counts, level))
        });
        let Some((schema, counts, level_uid)) = found else {
            // The catch-all schema exists from the start on; nothing is limited before.
            return Ok(Ticket {
                flow: self,
                level: "".into(),
                seats: 0,
                schema_uid: "".into(),
                level_uid: "".into(),
                running: None,
            });
        };
        let seats = match request.verb.as_str() {
            "list" => u64::try_from(objects.div_ceil(OBJECTS_PER_SEAT)).unwrap_or(MOST_SEATS),
            _ => 1,
        };
        let ticket = Ticket {
            flow: self,
            level: schema.level.clone(),
            seats: seats.clamp(1, MOST_SEATS),
            schema_uid: schema.uid.clone(),
            level_uid: level_uid.clone(),
            running: None,
        };
        self.wait(ticket, schema, counts, schema.flow(user, request))
            .await
    }

    async fn wait<'a>(
        &'a self,
        ticket: Ticket<'a>,
        schema: &Schema,
        counts: &Arc<FlowCounts>,
        flow: &str,
    ) -> Result<Ticket<'a>, Status> {
        let mut hasher = DefaultHasher::new();
        (&schema.uid, flow).hash(&mut hasher);
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let receiver = {
            let mut state = self.state.lock();
            let request = Waiting {
                id,
                seats: ticket.seats,
                schema: schema.name.clone(),
                flow: flow.to_owned(),
            };
            let queues = state.levels.has_queues(&ticket.level);
            match state.levels.arrive(&ticket.level, request, hasher.finish()) {
                Decision::Execute => return Ok(ticket.runs(counts)),
                Decision::Reject => {
                    drop(state);
                    ticket.without_seats();
                    if queues { &counts.full } else { &counts.limit }.inc();
                    return Err(too_many());
                }
                Decision::Wait => {
                    let (sender, receiver) = oneshot::channel();
                    state.waiting.insert(id, sender);
                    receiver
                }
            }
        };
        // Also when the client is gone, its place is freed.
        let mut place = Place {
            ticket: Some(ticket),
            id,
            timed_out: false,
            waiting: counts.waiting.clone(),
        };
        place.waiting.inc();
        let since = Instant::now();
        match tokio::time::timeout(LONGEST_WAIT, receiver).await {
            Ok(_) => {
                counts.waited(since.elapsed());
                Ok(place.take().runs(counts))
            }
            Err(_) => {
                counts.timed_out.inc();
                place.timed_out = true;
                Err(too_many())
            }
        }
    }
}

/// A place in a queue.
struct Place<'a> {
    ticket: Option<Ticket<'a>>,
    id: Id,
    timed_out: bool,
    waiting: IntGauge,
}

impl<'a> Place<'a> {
    fn take(&mut self) -> Ticket<'a> {
        self.ticket
            .take()
            .expect("invariant: taken once, when the wait is over")
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.waiting.dec();
        let Some(ticket) = self.ticket.take() else { return };
        let mut state = ticket.flow.state.lock();
        state.waiting.remove(&self.id);
        let waited = state.levels.give_up(&ticket.level, self.id, self.timed_out);
        drop(state);
        if waited {
            ticket.without_seats();
        }
        // Else it was given seats in this moment, which dropping the ticket returns.
    }
}

impl Ticket<'_> {
    /// Names FlowSchema and level in an answer.
    pub(crate) fn mark(&self, headers: &mut HeaderMap) {
        for (name, uid) in [
            ("x-kubernetes-pf-flowschema-uid", &self.schema_uid),
            ("x-kubernetes-pf-prioritylevel-uid", &self.level_uid),
        ] {
            if !uid.is_empty()
                && let Ok(value) = HeaderValue::from_str(uid)
            {
                headers.insert(name, value);
            }
        }
    }

    /// The request has its seats from now on.
    fn runs(mut self, counts: &Arc<FlowCounts>) -> Self {
        counts.dispatched.inc();
        counts.executing.inc();
        counts.seats.add(i64::try_from(self.seats).unwrap_or(i64::MAX));
        self.running = Some(counts.clone());
        self
    }

    /// Ends a ticket that never got seats.
    fn without_seats(mut self) {
        self.seats = 0;
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        if let Some(counts) = self.running.take() {
            counts.executing.dec();
            counts.seats.sub(i64::try_from(self.seats).unwrap_or(i64::MAX));
        }
        if self.seats == 0 {
            return;
        }
        let mut state = self.flow.state.lock();
        let ready = state.levels.release(&self.level, self.seats);
        state.wake(ready);
    }
}
