//! The server: questions in, answers out, over UDP and TCP.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Record};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Answer, Forwarder, Records, Zone};

/// A UDP answer without EDNS.
const PLAIN_UDP: u16 = 512;
/// Largest UDP answer, whatever the client says.
const MAX_UDP: u16 = 4096;
/// Aliases that are followed within one answer.
const MAX_ALIASES: usize = 8;
/// An idle TCP connection is closed after this.
const TCP_IDLE: Duration = Duration::from_secs(10);
/// TCP connections at once.
const TCP_CONNECTIONS: usize = 256;
/// UDP questions worked on at once; more are dropped, clients ask again.
const UDP_QUESTIONS: usize = 4096;

/// The DNS server of one node.
pub struct Server {
    zone: Zone,
    records: Arc<dyn Records>,
    forwarder: Forwarder,
}

impl Server {
    /// Answers for `zone` from `records`, for everything else from `forwarder`.
    pub fn new(zone: Zone, records: Arc<dyn Records>, forwarder: Forwarder) -> Self {
        Server {
            zone,
            records,
            forwarder,
        }
    }

    /// The answer to one message, at most `limit` bytes unless the client takes more over UDP (`tcp` has no limit). `None` for
    /// what deserves no answer.
    pub async fn handle(&self, bytes: &[u8], client: Option<IpAddr>, tcp: bool) -> Option<Vec<u8>> {
        let Ok(request) = Message::from_vec(bytes) else {
            return malformed(bytes);
        };
        if request.metadata.message_type != MessageType::Query {
            return None;
        }
        let mut response = Message::new(
            request.metadata.id,
            MessageType::Response,
            request.metadata.op_code,
        );
        response.metadata = Metadata::response_from_request(&request.metadata);
        response.metadata.recursion_available = true;
        response.queries.clone_from(&request.queries);
        let mut limit = if tcp { u16::MAX } else { PLAIN_UDP };
        let mut dnssec = false;
        if let Some(edns) = &request.edns {
            dnssec = edns.flags().dnssec_ok;
            if !tcp {
                limit = edns.max_payload().clamp(PLAIN_UDP, MAX_UDP);
            }
            let mut own = Edns::new();
            own.set_max_payload(MAX_UDP).set_dnssec_ok(dnssec);
            response.set_edns(own);
        }
        let code = match (request.metadata.op_code, request.queries.as_slice()) {
            _ if request.edns.as_ref().is_some_and(|e| e.version() > 0) => Some(ResponseCode::BADVERS),
            (OpCode::Query, [query]) if query.query_class() == DNSClass::IN => {
                self.answer(query, dnssec, client, &mut response).await;
                None
            }
            (OpCode::Query, [_]) => Some(ResponseCode::Refused),
            (OpCode::Query, _) => Some(ResponseCode::FormErr),
            _ => Some(ResponseCode::NotImp),
        };
        if let Some(code) = code {
            response.metadata.response_code = code;
        }
        fit(response, usize::from(limit))
    }

    async fn answer(&self, query: &Query, dnssec: bool, client: Option<IpAddr>, response: &mut Message) {
        let mut query = query.clone();
        for _ in 0..MAX_ALIASES {
            let in_zone = self.zone.name().zone_of(query.name());
            if in_zone && !self.records.ready() {
                response.metadata.response_code = ResponseCode::ServFail;
                return;
            }
            let first = response.answers.is_empty();
            match self
                .zone
                .answer(self.records.as_ref(), query.name(), query.query_type())
            {
                Answer::Records(mut answers, helpful) => {
                    shuffle(&mut answers);
                    response.metadata.authoritative = first || response.metadata.authoritative;
                    response.answers.extend(answers);
                    response.additionals.extend(helpful);
                    return;
                }
                Answer::Alias(record, target) => {
                    response.metadata.authoritative |= first;
                    response.answers.push(*record);
                    if query.query_type() == hickory_proto::rr::RecordType::CNAME {
                        return;
                    }
                    query.set_name(target);
                }
                Answer::NoData => {
                    response.metadata.authoritative |= first;
                    response.authorities.push(self.zone.soa());
                    return;
                }
                Answer::NoName => {
                    response.metadata.authoritative |= first;
                    response.metadata.response_code = ResponseCode::NXDomain;
                    response.authorities.push(self.zone.soa());
                    return;
                }
                Answer::Elsewhere => {
                    let from = self.forwarder.resolve(&query, dnssec, client).await;
                    // An alias stands even when its target cannot be resolved.
                    if first || from.metadata.response_code != ResponseCode::ServFail {
                        response.metadata.response_code = from.metadata.response_code;
                    }
                    response.metadata.authentic_data = from.metadata.authentic_data && first;
                    response.answers.extend(from.answers);
                    response.authorities.extend(from.authorities);
                    response.additionals.extend(from.additionals);
                    return;
                }
            }
        }
        response.metadata.response_code = ResponseCode::ServFail;
    }

    /// Serves UDP until `shutdown`.
    pub async fn serve_udp(self: Arc<Self>, socket: UdpSocket, shutdown: CancellationToken) {
        let socket = Arc::new(socket);
        let tracker = TaskTracker::new();
        let slots = Arc::new(Semaphore::new(UDP_QUESTIONS));
        let mut buffer = vec![0; usize::from(u16::MAX)];
        loop {
            let received = tokio::select! {
                () = shutdown.cancelled() => break,
                received = socket.recv_from(&mut buffer) => received,
            };
            // An error tells of an earlier answer that a client refused.
            let Ok((n, client)) = received else { continue };
            let Ok(slot) = slots.clone().try_acquire_owned() else {
                continue;
            };
            let (server, socket, bytes) = (self.clone(), socket.clone(), buffer[..n].to_vec());
            let stop = shutdown.clone();
            tracker.spawn(async move {
                let _slot = slot;
                let answer = tokio::select! {
                    () = stop.cancelled() => None,
                    answer = server.handle(&bytes, Some(client.ip()), false) => answer,
                };
                if let Some(answer) = answer {
                    // The client will ask again if this got lost.
                    let _ = socket.send_to(&answer, client).await;
                }
            });
        }
        tracker.close();
        tracker.wait().await;
    }

    /// Serves TCP until `shutdown`.
    pub async fn serve_tcp(self: Arc<Self>, listener: TcpListener, shutdown: CancellationToken) {
        let tracker = TaskTracker::new();
        let slots = Arc::new(Semaphore::new(TCP_CONNECTIONS));
        loop {
            let accept = async {
                let slot = slots
                    .clone()
                    .acquire_owned()
                    .await
                    .expect("invariant: the semaphore is never closed");
                (listener.accept().await, slot)
            };
            let (accepted, slot) = tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = accept => accepted,
            };
            let Ok((stream, client)) = accepted else { continue };
            let (server, stop) = (self.clone(), shutdown.clone());
            tracker.spawn(async move {
                let _slot = slot;
                tokio::select! {
                    () = stop.cancelled() => {}
                    // A connection that breaks is the client's business.
                    _ = server.connection(stream, client.ip()) => {}
                }
            });
        }
        tracker.close();
        tracker.wait().await;
    }

    async fn connection(&self, mut stream: TcpStream, client: IpAddr) -> io::Result<()> {
        loop {
            let read = async {
                let length = stream.read_u16().await?;
                let mut bytes = vec![0; usize::from(length)];
                stream.read_exact(&mut bytes).await?;
                io::Result::Ok(bytes)
            };
            let bytes = tokio::time::timeout(TCP_IDLE, read).await??;
            let Some(answer) = self.handle(&bytes, Some(client), true).await else {
                return Ok(());
            };
            let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
            let framed = [&length.to_be_bytes()[..], &answer].concat();
            tokio::time::timeout(TCP_IDLE, stream.write_all(&framed)).await??;
        }
    }
}

/// FORMERR for what has a header that can be answered.
fn malformed(bytes: &[u8]) -> Option<Vec<u8>> {
    let id = u16::from_be_bytes(bytes.get(..2)?.try_into().ok()?);
    let is_query = bytes.len() >= 12 && bytes[2] & 0x80 == 0;
    is_query
        .then(|| {
            Message::error_msg(id, OpCode::Query, ResponseCode::FormErr)
                .to_vec()
                .ok()
        })
        .flatten()
}

/// Spreads clients that take the first address.
fn shuffle(records: &mut [Record]) {
    use std::hash::{BuildHasher, RandomState};
    if records.len() > 1 {
        let random = RandomState::new().hash_one(0);
        let n = usize::try_from(random % records.len() as u64).unwrap_or(0);
        records.rotate_left(n);
    }
}

/// Encodes a response; what does not fit is left out and marked so, and the client comes by TCP.
fn fit(mut response: Message, limit: usize) -> Option<Vec<u8>> {
    loop {
        match response.to_vec() {
            Ok(bytes) if bytes.len() <= limit => return Some(bytes),
            Ok(_) | Err(_) if !response.additionals.is_empty() => response.additionals.clear(),
            Ok(_) | Err(_) if !response.answers.is_empty() => {
                response.metadata.truncation = true;
                response.answers.truncate(response.answers.len() / 2);
            }
            Ok(_) | Err(_) if !response.authorities.is_empty() => response.authorities.clear(),
            Ok(_) => return None,
            Err(error) => {
                tracing::debug!(%error, "a DNS answer could not be encoded");
                return None;
            }
        }
    }
}
