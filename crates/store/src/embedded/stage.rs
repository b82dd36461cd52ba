//! One group commit in the making: requests are judged against the index and what the group has done so far.

use std::collections::HashMap;

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::embedded::index::{Found, Index, Value, Version};
use crate::embedded::lease::Leases;
use crate::embedded::record::Op;
use crate::{Error, Event, EventKind, KeyValue, LeaseId, Precondition, Revision, WriteOutcome};

/// What callers and timers ask of the committer.
pub(super) enum Request {
    Put {
        key: Bytes,
        value: Bytes,
        precondition: Precondition,
        lease: Option<LeaseId>,
        reply: Reply<WriteOutcome>,
    },
    Delete {
        key: Bytes,
        precondition: Precondition,
        reply: Reply<WriteOutcome>,
    },
    Compact {
        revision: u64,
        reply: Reply<()>,
    },
    LeaseGrant {
        ttl: u64,
        reply: Reply<LeaseId>,
    },
    LeaseRevoke {
        id: i64,
        reply: Reply<()>,
    },
    /// The timer says that the lease's time is up.
    LeaseExpire {
        id: i64,
    },
}

impl Request {
    /// Bytes that it adds to the journal, about.
    pub(super) fn weight(&self) -> usize {
        64 + match self {
            Request::Put { key, value, .. } => key.len() + value.len(),
            Request::Delete { key, .. } => key.len(),
            _ => 0,
        }
    }

    /// Whether it needs everything before it to be committed first.
    pub(super) fn is_barrier(&self) -> bool {
        matches!(
            self,
            Request::LeaseRevoke { .. } | Request::LeaseExpire { .. } | Request::Compact { .. }
        )
    }
}

pub(super) type Reply<T> = oneshot::Sender<Result<T, Error>>;

/// Answers that wait for the group to be durable.
enum Answer {
    Write(Reply<WriteOutcome>, WriteOutcome),
    Unit(Reply<()>),
    Lease(Reply<LeaseId>, LeaseId),
    /// Nobody asked; the lease comes again when the group fails.
    Expiry(i64),
}

/// Lease changes that take effect with the group.
pub(super) enum LeaseChange {
    Grant { id: i64, ttl: u64 },
    End { id: i64 },
    Attach { key: Bytes, from: i64, to: i64 },
}

/// A group of requests, judged and encoded, not yet durable.
pub(super) struct Stage {
    pub(super) current: u64,
    /// The journal frame; empty when nothing is to be written.
    pub(super) payload: Vec<u8>,
    pub(super) versions: Vec<(Bytes, Version)>,
    pub(super) events: Vec<Event>,
    pub(super) leases: Vec<LeaseChange>,
    pub(super) compact: Option<u64>,
    latest: HashMap<Bytes, Option<KeyValue>>,
    answers: Vec<Answer>,
}

impl Stage {
    /// An empty group on top of `current`.
    pub(super) fn new(current: u64) -> Self {
        Self {
            current,
            payload: Vec::new(),
            versions: Vec::new(),
            events: Vec::new(),
            leases: Vec::new(),
            compact: None,
            latest: HashMap::new(),
            answers: Vec::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.answers.is_empty()
    }

    /// Judges one request.
    pub(super) fn add(&mut self, request: Request, index: &Index, leases: &Leases) {
        match request {
            Request::Put {
                key,
                value,
                precondition,
                lease,
                reply,
            } => {
                self.put(key, value, precondition, lease, reply, index, leases);
            }
            Request::Delete {
                key,
                precondition,
                reply,
            } => {
                let previous = self.latest(&key, index);
                match previous {
                    Some(previous) if holds(precondition, Some(&previous)) => {
                        self.current += 1;
                        self.delete(key, previous.clone(), 0);
                        let revision = Revision(self.current);
                        let outcome = WriteOutcome::Committed {
                            revision,
                            previous: Some(previous),
                        };
                        self.answers.push(Answer::Write(reply, outcome));
                    }
                    current => self.conflict(current, reply),
                }
            }
            Request::Compact { revision, reply } => {
                if revision > self.current {
                    let error = Error::FutureRevision {
                        requested: Revision(revision),
                        current: Revision(self.current),
                    };
                    let _ = reply.send(Err(error)); // the caller may have gone
                    return;
                }
                if revision > index.compacted {
                    Op::Compact { revision }.encode(&mut self.payload);
                    self.compact = Some(revision);
                }
                self.answers.push(Answer::Unit(reply));
            }
            Request::LeaseGrant { ttl, reply } => {
                let id = leases.new_id();
                let ttl = ttl.max(1);
                Op::LeaseGrant { id, ttl }.encode(&mut self.payload);
                self.leases.push(LeaseChange::Grant { id, ttl });
                self.answers.push(Answer::Lease(reply, LeaseId(id)));
            }
            Request::LeaseRevoke { id, reply } => {
                if !leases.exists(id) {
                    let _ = reply.send(Err(Error::LeaseNotFound(LeaseId(id)))); // the caller may have gone
                    return;
                }
                self.end_lease(id, index, leases);
                self.answers.push(Answer::Unit(reply));
            }
            Request::LeaseExpire { id } => {
                // It may have been kept alive or revoked while the request waited.
                if leases.expired(id) {
                    self.end_lease(id, index, leases);
                    self.answers.push(Answer::Expiry(id));
                }
            }
        }
    }

    /// The group is durable and visible.
    pub(super) fn succeed(self) {
        for answer in self.answers {
            // A caller that has gone does not want its answer.
            match answer {
                Answer::Write(reply, outcome) => drop(reply.send(Ok(outcome))),
                Answer::Unit(reply) => drop(reply.send(Ok(()))),
                Answer::Lease(reply, id) => drop(reply.send(Ok(id))),
                Answer::Expiry(_) => {}
            }
        }
    }

    /// Nothing of the group has happened.
    pub(super) fn fail(self, error: impl Fn() -> Error, leases: &Leases) {
        for answer in self.answers {
            // A caller that has gone does not want its answer.
            match answer {
                Answer::Write(reply, _) => drop(reply.send(Err(error()))),
                Answer::Unit(reply) => drop(reply.send(Err(error()))),
                Answer::Lease(reply, _) => drop(reply.send(Err(error()))),
                Answer::Expiry(id) => leases.retry_expiry(id),
            }
        }
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "the fields of one request and what it is judged against"
    )]
    fn put(
        &mut self,
        key: Bytes,
        value: Bytes,
        precondition: Precondition,
        lease: Option<LeaseId>,
        reply: Reply<WriteOutcome>,
        index: &Index,
        leases: &Leases,
    ) {
        let previous = self.latest(&key, index);
        if !holds(precondition, previous.as_ref()) {
            return self.conflict(previous, reply);
        }
        if let Some(id) = lease
            && !leases.exists(id.0)
        {
            let _ = reply.send(Err(Error::LeaseNotFound(id))); // the caller may have gone
            return;
        }
        self.current += 1;
        let revision = self.current;
        let create = previous.as_ref().map_or(revision, |p| p.create_revision.0);
        let lease_id = lease.map_or(0, |l| l.0);
        Op::Put {
            revision,
            create,
            lease: lease_id,
            key: &key,
            value: &value,
        }
        .encode(&mut self.payload);
        let from = previous.as_ref().and_then(|p| p.lease).map_or(0, |l| l.0);
        if from != lease_id {
            self.leases.push(LeaseChange::Attach {
                key: key.clone(),
                from,
                to: lease_id,
            });
        }
        let version = Version {
            id: (revision, 0),
            create,
            lease: lease_id,
            value: Value::Memory(value.clone()),
        };
        self.versions.push((key.clone(), version));
        let kv = KeyValue {
            key: key.clone(),
            value,
            create_revision: Revision(create),
            mod_revision: Revision(revision),
            lease,
        };
        self.latest.insert(key, Some(kv.clone()));
        self.events.push(Event {
            kind: EventKind::Put,
            kv,
            previous: previous.clone(),
        });
        let outcome = WriteOutcome::Committed {
            revision: Revision(revision),
            previous,
        };
        self.answers.push(Answer::Write(reply, outcome));
    }

    fn conflict(&mut self, current: Option<KeyValue>, reply: Reply<WriteOutcome>) {
        let outcome = WriteOutcome::Conflict {
            revision: Revision(self.current),
            current,
        };
        self.answers.push(Answer::Write(reply, outcome));
    }

    /// Deletes a key at the group's current revision, as the change number `place` of that revision.
    fn delete(&mut self, key: Bytes, previous: KeyValue, place: u32) {
        let revision = self.current;
        Op::Delete { revision, key: &key }.encode(&mut self.payload);
        if let Some(lease) = previous.lease {
            self.leases.push(LeaseChange::Attach {
                key: key.clone(),
                from: lease.0,
                to: 0,
            });
        }
        let version = Version {
            id: (revision, place),
            create: 0,
            lease: 0,
            value: Value::Memory(Bytes::new()),
        };
        self.versions.push((key.clone(), version));
        self.latest.insert(key, None);
        self.events.push(deletion(previous, revision));
    }

    fn end_lease(&mut self, id: i64, index: &Index, leases: &Leases) {
        let keys = leases.keys(id);
        let mut place = 0;
        for key in keys {
            let Some(previous) = self.latest(&key, index) else {
                continue;
            };
            if place == 0 {
                self.current += 1;
            }
            self.delete(key, previous, place);
            place += 1;
        }
        Op::LeaseEnd { id }.encode(&mut self.payload);
        self.leases.push(LeaseChange::End { id });
    }

    fn latest(&self, key: &Bytes, index: &Index) -> Option<KeyValue> {
        match self.latest.get(key) {
            Some(staged) => staged.clone(),
            None => index.latest(key).and_then(Found::in_memory),
        }
    }
}

/// The event of a deletion.
pub(super) fn deletion(previous: KeyValue, revision: u64) -> Event {
    let kv = KeyValue {
        key: previous.key.clone(),
        value: Bytes::new(),
        create_revision: previous.create_revision,
        mod_revision: Revision(revision),
        lease: None,
    };
    Event {
        kind: EventKind::Delete,
        kv,
        previous: Some(previous),
    }
}

fn holds(precondition: Precondition, current: Option<&KeyValue>) -> bool {
    match precondition {
        Precondition::None => true,
        Precondition::Absent => current.is_none(),
        Precondition::ModRevision(wanted) => current.is_some_and(|c| c.mod_revision == wanted),
    }
}
