//! Where requests wait.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::HeaderMap;
use http::header::HeaderValue;
use keelson_api::status::Status;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::config::{LevelSpec, Schema, too_many};
use super::level::{Decision, Id, Levels, Waiting};
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
    schemas: Vec<Schema>,
    /// UID of each level by name.
    levels: HashMap<String, String>,
}

/// Decides which requests are served.
pub(crate) struct Flow {
    schemas: Reader,
    levels: Reader,
    table: ArcSwap<Table>,
    pub(super) state: Mutex<State>,
    next: AtomicU64,
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
    level: String,
    seats: u64,
    schema_uid: String,
    level_uid: String,
}

impl Flow {
    pub(crate) fn new(resources: &Resources) -> Self {
        Self::with_seats(resources, SEATS)
    }

    /// As [`Self::new`] with another number of seats.
    pub(super) fn with_seats(resources: &Resources, seats: u64) -> Self {
        Self {
            schemas: resources.resource("flowcontrol.apiserver.k8s.io", "flowschemas"),
            levels: resources.resource("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations"),
            table: ArcSwap::from_pointee(Table {
                at: (u64::MAX, u64::MAX),
                ..Table::default()
            }),
            state: Mutex::new(State {
                levels: Levels::new(seats),
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
        let mut schemas: Vec<Schema> = self
            .schemas
            .list(None)
            .iter()
            .map(|o| Schema::of(o.value()))
            .collect();
        schemas.sort_by(|a, b| (a.precedence, &a.name).cmp(&(b.precedence, &b.name)));
        let specs: Vec<LevelSpec> = self
            .levels
            .list(None)
            .iter()
            .map(|o| LevelSpec::of(o.value()))
            .collect();
        let levels = specs.iter().map(|s| (s.name.clone(), s.uid.clone())).collect();
        let ready = state.levels.configure(specs);
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
        let schema = table
            .schemas
            .iter()
            .find(|s| table.levels.contains_key(&s.level) && s.matches(user, request));
        let (level, schema_uid, flow) = match schema {
            Some(schema) => (
                schema.level.as_str(),
                schema.uid.clone(),
                schema.flow(user, request),
            ),
            // The catch-all schema exists from the start on; nothing is limited before.
            None => ("", String::new(), ""),
        };
        let seats = match request.verb.as_str() {
            "list" => u64::try_from(objects.div_ceil(OBJECTS_PER_SEAT)).unwrap_or(MOST_SEATS),
            _ => 1,
        };
        let ticket = Ticket {
            flow: self,
            level: level.to_owned(),
            seats: seats.clamp(1, MOST_SEATS),
            schema_uid,
            level_uid: table.levels.get(level).cloned().unwrap_or_default(),
        };
        let mut hasher = DefaultHasher::new();
        (&ticket.schema_uid, flow).hash(&mut hasher);
        self.wait(ticket, schema.map_or("", |s| &s.name), flow, hasher.finish())
            .await
    }

    async fn wait<'a>(
        &'a self,
        ticket: Ticket<'a>,
        schema: &str,
        flow: &str,
        hash: u64,
    ) -> Result<Ticket<'a>, Status> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let receiver = {
            let mut state = self.state.lock();
            let request = Waiting {
                id,
                seats: ticket.seats,
                schema: schema.to_owned(),
                flow: flow.to_owned(),
            };
            match state.levels.arrive(&ticket.level, request, hash) {
                Decision::Execute => return Ok(ticket),
                Decision::Reject => {
                    drop(state);
                    ticket.without_seats();
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
        };
        match tokio::time::timeout(LONGEST_WAIT, receiver).await {
            Ok(_) => Ok(place.take()),
            Err(_) => {
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

    /// Ends a ticket that never got seats.
    fn without_seats(mut self) {
        self.seats = 0;
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        if self.seats == 0 || self.level.is_empty() {
            return;
        }
        let mut state = self.flow.state.lock();
        let ready = state.levels.release(&self.level, self.seats);
        state.wake(ready);
    }
}
