//! Questions for the world outside go to the node's own resolvers, in turn until one answers, and what they say is kept for a
//! short while.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use keelson_sys::netns::NetNs;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;

use super::ResolvConf;

/// How long one resolver may take; clients give up after 5 s.
const UPSTREAM_TIMEOUT: Duration = Duration::from_millis(1500);
/// All attempts together.
const TOTAL_TIMEOUT: Duration = Duration::from_secs(3);
/// All attempts together while no resolver answers anybody: clients that search through many names must not wait for each.
const SILENT_TIMEOUT: Duration = Duration::from_millis(500);
/// How long after a question that nobody answered that is so.
const SILENCE: Duration = Duration::from_secs(10);
/// Longest that an answer is kept.
const MAX_TTL: u32 = 30;
/// Most answers kept.
const CACHE_SIZE: usize = 10_000;
/// Most questions on their way at once.
const IN_FLIGHT: usize = 1000;
/// A file that changed is read again at the earliest after this.
const RECHECK: Duration = Duration::from_secs(5);
/// Size of UDP answers that upstream may send: fits an unfragmented packet.
const UDP_PAYLOAD: u16 = 1232;

type Key = (Name, RecordType, bool);

/// The upstream resolvers and their cache.
#[derive(Debug)]
pub struct Forwarder {
    resolv_conf: Option<PathBuf>,
    own: Vec<SocketAddr>,
    upstreams: Mutex<Upstreams>,
    preferred: AtomicUsize,
    cache: Mutex<HashMap<Key, (Message, Instant, Instant)>>,
    pending: Mutex<HashMap<Key, usize>>,
    slots: Semaphore,
    netns: Option<NetNs>,
    /// When no resolver answered, if none has since.
    silent: Mutex<Option<Instant>>,
}

#[derive(Debug, Default)]
struct Upstreams {
    addresses: Vec<SocketAddr>,
    modified: Option<SystemTime>,
    checked: Option<Instant>,
}

impl Forwarder {
    /// Forwards to the resolvers of a resolv.conf, except `own` addresses: the server would ask itself.
    pub fn new(resolv_conf: PathBuf, own: Vec<SocketAddr>, netns: Option<NetNs>) -> Self {
        Self::make(Some(resolv_conf), Vec::new(), own, netns)
    }

    /// Forwards to fixed resolvers.
    pub fn to(upstreams: Vec<SocketAddr>, netns: Option<NetNs>) -> Self {
        Self::make(None, upstreams, Vec::new(), netns)
    }

    fn make(
        resolv_conf: Option<PathBuf>,
        addresses: Vec<SocketAddr>,
        own: Vec<SocketAddr>,
        netns: Option<NetNs>,
    ) -> Self {
        Forwarder {
            resolv_conf,
            own,
            upstreams: Mutex::new(Upstreams {
                addresses,
                ..Default::default()
            }),
            preferred: AtomicUsize::new(0),
            cache: Mutex::default(),
            pending: Mutex::default(),
            slots: Semaphore::new(IN_FLIGHT),
            netns,
            silent: Mutex::default(),
        }
    }

    /// The resolvers now. The file is looked at again when a question comes and the last look is some seconds old.
    fn upstreams(&self) -> Vec<SocketAddr> {
        let mut known = self.upstreams.lock();
        let Some(path) = &self.resolv_conf else {
            return known.addresses.clone();
        };
        if known.checked.is_some_and(|at| at.elapsed() < RECHECK) {
            return known.addresses.clone();
        }
        known.checked = Some(Instant::now());
        let modified = std::fs::metadata(path).and_then(|m| m.modified()).ok();
        if modified.is_none() || modified != known.modified {
            match std::fs::read_to_string(path) {
                Ok(text) => {
                    let mut found = ResolvConf::parse(&text).nameservers;
                    found.retain(|a| !self.own.contains(a));
                    known.addresses = found;
                    known.modified = modified;
                }
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "cannot read the upstream resolvers")
                }
            }
        }
        known.addresses.clone()
    }

    /// The answer to a question, with any response code; SERVFAIL when no resolver answers. `client` is who asks.
    pub async fn resolve(&self, query: &Query, dnssec: bool, client: Option<IpAddr>) -> Message {
        let failure = || {
            let mut message = Message::response(0, OpCode::Query);
            message.metadata.response_code = ResponseCode::ServFail;
            message
        };
        let key = (query.name().to_lowercase(), query.query_type(), dnssec);
        if let Some(hit) = self.cached(&key) {
            return hit;
        }
        let upstreams = self.upstreams();
        if upstreams.is_empty() {
            return failure();
        }
        // A resolver that asks us what we are asking it would go round for ever.
        let pending = self.pending.lock().get(&key).copied().unwrap_or(0);
        if pending > 0 && client.is_some_and(|ip| upstreams.iter().any(|u| u.ip() == ip)) {
            tracing::warn!(name = %key.0, "an upstream resolver forwards to this server: loop broken");
            return failure();
        }
        let Ok(_slot) = self.slots.try_acquire() else {
            return failure();
        };
        *self.pending.lock().entry(key.clone()).or_default() += 1;
        let _pending = Pending {
            forwarder: self,
            key: key.clone(),
        };
        let silent = self.silent.lock().is_some_and(|since| since.elapsed() < SILENCE);
        let patience = if silent { SILENT_TIMEOUT } else { TOTAL_TIMEOUT };
        let asked = tokio::time::timeout(patience, self.ask_all(&upstreams, query, dnssec)).await;
        match asked {
            Ok(Some(message)) => {
                *self.silent.lock() = None;
                self.keep(key, &message);
                message
            }
            _ => {
                if !silent {
                    *self.silent.lock() = Some(Instant::now());
                }
                failure()
            }
        }
    }

    async fn ask_all(&self, upstreams: &[SocketAddr], query: &Query, dnssec: bool) -> Option<Message> {
        let first = self.preferred.load(Ordering::Relaxed);
        let mut refused = None;
        for i in 0..upstreams.len() * 2 {
            let n = (first + i) % upstreams.len();
            match self.ask(upstreams[n], query, dnssec).await {
                Ok(message) => match message.metadata.response_code {
                    // Another may know better.
                    ResponseCode::ServFail | ResponseCode::Refused | ResponseCode::NotImp => {
                        refused = Some(message)
                    }
                    _ => {
                        self.preferred.store(n, Ordering::Relaxed);
                        return Some(message);
                    }
                },
                Err(error) => {
                    tracing::debug!(upstream = %upstreams[n], name = %query.name(), %error, "no answer")
                }
            }
            if i + 1 == upstreams.len() && refused.is_some() {
                break;
            }
        }
        refused
    }

    async fn ask(&self, upstream: SocketAddr, query: &Query, dnssec: bool) -> io::Result<Message> {
        let mut question = Message::query();
        question.metadata.recursion_desired = true;
        question.add_query(query.clone());
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_PAYLOAD).set_dnssec_ok(dnssec);
        question.set_edns(edns);
        let id = question.metadata.id;
        let bytes = question.to_vec().map_err(io::Error::other)?;
        let answer = timeout(self.ask_udp(upstream, &bytes, id, query)).await?;
        if !answer.metadata.truncation {
            return Ok(answer);
        }
        timeout(self.ask_tcp(upstream, &bytes, id, query)).await
    }

    async fn ask_udp(
        &self,
        upstream: SocketAddr,
        bytes: &[u8],
        id: u16,
        query: &Query,
    ) -> io::Result<Message> {
        let local: SocketAddr = if upstream.is_ipv4() {
            ([0, 0, 0, 0], 0).into()
        } else {
            ([0u16; 8], 0).into()
        };
        // A port of its own for each question, chosen by the kernel: hard to guess together with the id.
        let bind = move || {
            let socket = std::net::UdpSocket::bind(local)?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        let socket = UdpSocket::from_std(match self.netns.clone() {
            Some(netns) => tokio::task::spawn_blocking(move || netns.run(bind))
                .await
                .map_err(io::Error::other)??,
            None => bind()?,
        })?;
        socket.connect(upstream).await?;
        socket.send(bytes).await?;
        let mut buffer = vec![0; 4096];
        loop {
            let n = socket.recv(&mut buffer).await?;
            if let Some(message) = accept(&buffer[..n], id, query) {
                return Ok(message);
            }
        }
    }

    async fn ask_tcp(
        &self,
        upstream: SocketAddr,
        bytes: &[u8],
        id: u16,
        query: &Query,
    ) -> io::Result<Message> {
        let mut stream = match self.netns.clone() {
            Some(netns) => {
                let connect = move || {
                    let stream = std::net::TcpStream::connect_timeout(&upstream, UPSTREAM_TIMEOUT)?;
                    stream.set_nonblocking(true)?;
                    Ok(stream)
                };
                let connected = tokio::task::spawn_blocking(move || netns.run(connect)).await;
                TcpStream::from_std(connected.map_err(io::Error::other)??)?
            }
            None => TcpStream::connect(upstream).await?,
        };
        let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
        stream.write_all(&[&length.to_be_bytes(), bytes].concat()).await?;
        let length = stream.read_u16().await?;
        let mut buffer = vec![0; usize::from(length)];
        stream.read_exact(&mut buffer).await?;
        accept(&buffer, id, query).ok_or_else(|| io::Error::other("the answer does not fit the question"))
    }

    fn cached(&self, key: &Key) -> Option<Message> {
        let cache = self.cache.lock();
        let (message, stored, expires) = cache.get(key)?;
        let now = Instant::now();
        if now >= *expires {
            return None;
        }
        let age = u32::try_from(stored.elapsed().as_secs()).unwrap_or(u32::MAX);
        let mut message = message.clone();
        for record in message
            .answers
            .iter_mut()
            .chain(&mut message.authorities)
            .chain(&mut message.additionals)
        {
            record.ttl = record.ttl.saturating_sub(age);
        }
        Some(message)
    }

    fn keep(&self, key: Key, message: &Message) {
        let Some(ttl) = time_to_live(message) else { return };
        let now = Instant::now();
        let mut cache = self.cache.lock();
        if cache.len() >= CACHE_SIZE {
            cache.retain(|_, (_, _, expires)| *expires > now);
            if cache.len() >= CACHE_SIZE {
                cache.clear();
            }
        }
        cache.insert(
            key,
            (message.clone(), now, now + Duration::from_secs(u64::from(ttl))),
        );
    }
}

/// Counts a question as on its way while it lives.
struct Pending<'a> {
    forwarder: &'a Forwarder,
    key: Key,
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        let mut pending = self.forwarder.pending.lock();
        if let Some(n) = pending.get_mut(&self.key) {
            *n -= 1;
            if *n == 0 {
                pending.remove(&self.key);
            }
        }
    }
}

async fn timeout<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(UPSTREAM_TIMEOUT, work)
        .await
        .map_err(io::Error::from)?
}

/// The message, if it answers our question and nobody else's.
fn accept(bytes: &[u8], id: u16, query: &Query) -> Option<Message> {
    let message = Message::from_vec(bytes).ok()?;
    let ours = message.metadata.id == id
        && message.metadata.message_type == MessageType::Response
        && message
            .queries
            .first()
            .is_none_or(|q| q.name() == query.name() && q.query_type() == query.query_type());
    ours.then_some(message)
}

/// Seconds that an answer may be kept; failures and what says 0 are not.
fn time_to_live(message: &Message) -> Option<u32> {
    let ttl = match message.metadata.response_code {
        ResponseCode::NoError if !message.answers.is_empty() => {
            message.answers.iter().map(|r| r.ttl).min()?
        }
        ResponseCode::NoError | ResponseCode::NXDomain => {
            message.authorities.iter().find_map(|r| match &r.data {
                RData::SOA(soa) => Some(r.ttl.min(soa.minimum)),
                _ => None,
            })?
        }
        _ => return None,
    };
    (ttl > 0 && !message.metadata.truncation).then_some(ttl.min(MAX_TTL))
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use super::*;

    /// Clients give up after 5 seconds, and ask for several names in turn.
    #[tokio::test]
    async fn silent_resolvers_fail_in_time_and_at_once_when_they_go_on() {
        let upstream = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let forwarder = Forwarder::to(vec![upstream.local_addr().unwrap()], None);
        let query = Query::query(Name::from_str("example.test.").unwrap(), RecordType::A);
        for most in [TOTAL_TIMEOUT, SILENT_TIMEOUT, SILENT_TIMEOUT] {
            let start = Instant::now();
            let answer = forwarder.resolve(&query, false, None).await;
            assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
            assert!(
                start.elapsed() <= most + Duration::from_millis(400),
                "{:?}",
                start.elapsed()
            );
        }
    }
}
