//! Raw netlink: a blocking socket and a message encoder.
//!
//! The socket belongs to the network namespace of the thread that opened it and keeps belonging there
//! whichever thread uses it afterwards; see [`crate::netns`] for opening one elsewhere. The kernel answers
//! rtnetlink and nfnetlink requests synchronously within `send`, so a request and its replies need no event loop.
//!
//! Nothing here knows a message family: callers put family headers and attributes.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendto, socket,
};

/// `NLM_F_REQUEST`: every request carries it.
pub const NLM_F_REQUEST: u16 = 0x1;
/// `NLM_F_MULTI`: part of a multi-message reply.
pub const NLM_F_MULTI: u16 = 0x2;
/// `NLM_F_ACK`: ask for an acknowledgement.
pub const NLM_F_ACK: u16 = 0x4;
/// `NLM_F_REPLACE`: replace an existing object.
pub const NLM_F_REPLACE: u16 = 0x100;
/// `NLM_F_EXCL`: fail when the object exists.
pub const NLM_F_EXCL: u16 = 0x200;
/// `NLM_F_CREATE`: create the object when it is missing.
pub const NLM_F_CREATE: u16 = 0x400;
/// `NLM_F_APPEND`: append to the object list.
pub const NLM_F_APPEND: u16 = 0x800;
/// `NLM_F_DUMP`: `NLM_F_ROOT | NLM_F_MATCH`.
pub const NLM_F_DUMP: u16 = 0x300;
/// `NLMSG_ERROR`: an acknowledgement or an error.
pub const NLMSG_ERROR: u16 = 2;
/// `NLMSG_DONE`: end of a dump.
pub const NLMSG_DONE: u16 = 3;
/// `NLA_F_NESTED`: attribute flag for a nest.
pub const NLA_F_NESTED: u16 = 0x8000;

const HEADER: usize = 16;
const SOL_NETLINK: libc::c_int = 270;
const NETLINK_CAP_ACK: libc::c_int = 10;
const NETLINK_EXT_ACK: libc::c_int = 11;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;

/// Which netlink family a socket speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Links, addresses, routes, neighbours.
    Route,
    /// nf_tables and conntrack.
    Netfilter,
}

/// One received message: header fields and the payload after the header.
#[derive(Clone, Debug)]
pub struct Reply {
    /// `nlmsg_type`.
    pub kind: u16,
    /// `nlmsg_flags`.
    pub flags: u16,
    /// `nlmsg_seq`.
    pub seq: u32,
    /// Bytes after the netlink header.
    pub payload: Vec<u8>,
}

/// An error that the kernel reported for the message with sequence number `seq`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelError {
    /// Sequence number of the refused message.
    pub seq: u32,
    /// Positive errno; 0 for an acknowledgement.
    pub errno: i32,
    /// The kernel's own words (extended acknowledgement), if it gave any.
    pub message: Option<String>,
}

impl Reply {
    /// The error or acknowledgement in an `NLMSG_ERROR` message, `None` for any other message.
    pub fn as_error(&self) -> Option<KernelError> {
        if self.kind != NLMSG_ERROR || self.payload.len() < 4 {
            return None;
        }
        let errno = -i32::from_ne_bytes(self.payload[..4].try_into().ok()?);
        let mut message = None;
        if self.flags & NLM_F_ACK_TLVS != 0 && self.payload.len() >= 4 + HEADER {
            let mut at = 4 + HEADER;
            if self.flags & NLM_F_CAPPED == 0 {
                let inner = u32::from_ne_bytes(self.payload[4..8].try_into().ok()?) as usize;
                at = 4 + align(inner.max(HEADER));
            }
            for (kind, value) in attributes(self.payload.get(at..).unwrap_or_default()) {
                if kind == NLMSGERR_ATTR_MSG {
                    message = Some(String::from_utf8_lossy(value).trim_end_matches('\0').to_owned());
                }
            }
        }
        Some(KernelError {
            seq: self.seq,
            errno,
            message,
        })
    }
}

/// A netlink socket in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    seq: u32,
    buffer: Vec<u8>,
}

impl Socket {
    /// Opens a socket of family `protocol` in the calling thread's network namespace.
    pub fn open(protocol: Protocol) -> io::Result<Self> {
        let proto = match protocol {
            Protocol::Route => SockProtocol::NetlinkRoute,
            Protocol::Netfilter => SockProtocol::NetlinkNetFilter,
        };
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            proto,
        )?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        // Old kernels lack these two; errors then carry no text, which is all that is lost.
        let _ = set_option(fd.as_fd(), SOL_NETLINK, NETLINK_CAP_ACK, 1);
        let _ = set_option(fd.as_fd(), SOL_NETLINK, NETLINK_EXT_ACK, 1);
        Ok(Socket {
            fd,
            seq: 0,
            buffer: vec![0; 1 << 17],
        })
    }

    /// Lets one `send` carry up to `bytes`, past the system's default limit (needs `CAP_NET_ADMIN`).
    pub fn set_send_buffer(&self, bytes: usize) -> io::Result<()> {
        let value = i32::try_from(bytes).unwrap_or(i32::MAX / 2);
        set_option(self.fd.as_fd(), libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, value)
    }

    /// Lets replies of up to `bytes` wait in the socket (needs `CAP_NET_ADMIN`).
    pub fn set_receive_buffer(&self, bytes: usize) -> io::Result<()> {
        let value = i32::try_from(bytes).unwrap_or(i32::MAX / 2);
        set_option(self.fd.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, value)
    }

    /// Next sequence number; never 0.
    pub fn next_seq(&mut self) -> u32 {
        self.seq = self.seq.wrapping_add(1).max(1);
        self.seq
    }

    /// Sends encoded messages in one datagram.
    pub fn send(&self, bytes: &[u8]) -> io::Result<()> {
        loop {
            match sendto(
                self.fd.as_raw_fd(),
                bytes,
                &NetlinkAddr::new(0, 0),
                MsgFlags::empty(),
            ) {
                Ok(n) if n == bytes.len() => return Ok(()),
                Ok(_) => return Err(io::Error::other("netlink accepted only part of a datagram")),
                Err(nix::errno::Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Receives one datagram's messages. Without `wait`, returns an empty list when nothing is queued.
    pub fn receive(&mut self, wait: bool) -> io::Result<Vec<Reply>> {
        let flags = if wait {
            MsgFlags::empty()
        } else {
            MsgFlags::MSG_DONTWAIT
        };
        let n = loop {
            match recv(self.fd.as_raw_fd(), &mut self.buffer, flags) {
                Ok(n) => break n,
                Err(nix::errno::Errno::EINTR) => {}
                Err(nix::errno::Errno::EAGAIN) if !wait => return Ok(Vec::new()),
                Err(e) => return Err(e.into()),
            }
        };
        Ok(split(&self.buffer[..n]))
    }

    /// Sends one request and returns once it is acknowledged or refused. `message` must carry `NLM_F_ACK`
    /// and `seq` be its sequence number. Replies before the acknowledgement are returned.
    pub fn request(&mut self, message: &[u8], seq: u32) -> io::Result<Result<Vec<Reply>, KernelError>> {
        self.send(message)?;
        let mut replies = Vec::new();
        loop {
            for reply in self.receive(true)? {
                if reply.seq != seq {
                    continue;
                }
                match reply.as_error() {
                    Some(e) if e.errno == 0 => return Ok(Ok(replies)),
                    Some(e) => return Ok(Err(e)),
                    None => replies.push(reply),
                }
            }
        }
    }

    /// Sends one dump request (`NLM_F_DUMP`) and returns all messages of the answer.
    pub fn dump(&mut self, message: &[u8], seq: u32) -> io::Result<Result<Vec<Reply>, KernelError>> {
        self.send(message)?;
        let mut replies = Vec::new();
        loop {
            for reply in self.receive(true)? {
                if reply.seq != seq {
                    continue;
                }
                if let Some(e) = reply.as_error() {
                    return Ok(if e.errno == 0 { Ok(replies) } else { Err(e) });
                }
                if reply.kind == NLMSG_DONE {
                    return Ok(Ok(replies));
                }
                replies.push(reply);
            }
        }
    }
}

fn set_option(
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let size = libc::socklen_t::try_from(size_of::<libc::c_int>()).expect("invariant: 4 fits");
    // SAFETY: `fd` is open for the duration of the call, `value` is a live c_int and `size` is its size.
    let rc = unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), size) };
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn align(n: usize) -> usize {
    (n + 3) & !3
}

fn split(mut bytes: &[u8]) -> Vec<Reply> {
    let mut out = Vec::new();
    while bytes.len() >= HEADER {
        let len = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize;
        if len < HEADER || len > bytes.len() {
            break;
        }
        out.push(Reply {
            kind: u16::from_ne_bytes([bytes[4], bytes[5]]),
            flags: u16::from_ne_bytes([bytes[6], bytes[7]]),
            seq: u32::from_ne_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]),
            payload: bytes[HEADER..len].to_vec(),
        });
        bytes = &bytes[align(len).min(bytes.len())..];
    }
    out
}

/// Iterates over the attributes in `bytes`: type without flag bits, and value. Stops at malformed data.
pub fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.len() < 4 {
            return None;
        }
        let len = usize::from(u16::from_ne_bytes([rest[0], rest[1]]));
        let kind = u16::from_ne_bytes([rest[2], rest[3]]) & 0x3fff;
        if len < 4 || len > rest.len() {
            return None;
        }
        let value = &rest[4..len];
        rest = &rest[align(len).min(rest.len())..];
        Some((kind, value))
    })
}

/// The value of attribute `kind` in `bytes`.
pub fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(k, _)| *k == kind).map(|(_, v)| v)
}

/// Encodes one or more netlink messages into a buffer.
///
/// `begin` starts a message and `end` closes it; attributes may nest. Misnesting is impossible because nests are closures.
#[derive(Debug, Default, Clone)]
pub struct Encoder {
    bytes: Vec<u8>,
    start: usize,
}

impl Encoder {
    /// An empty buffer.
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts a message; `NLM_F_REQUEST` is added to `flags`.
    pub fn begin(&mut self, kind: u16, flags: u16, seq: u32) -> &mut Self {
        self.start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes
            .extend_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        self.bytes.extend_from_slice(&seq.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self
    }

    /// Appends raw bytes (a family header), padded to four.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self.pad();
        self
    }

    /// Closes the message that `begin` started.
    pub fn end(&mut self) -> &mut Self {
        let len = u32::try_from(self.bytes.len() - self.start).unwrap_or(u32::MAX);
        self.bytes[self.start..self.start + 4].copy_from_slice(&len.to_ne_bytes());
        self
    }

    /// An attribute with a byte value.
    pub fn attr(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let len = u16::try_from(4 + value.len()).expect("invariant: an attribute value is below 64 KiB");
        self.bytes.extend_from_slice(&len.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
        self
    }

    /// A NUL-terminated string attribute.
    pub fn attr_str(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = Vec::with_capacity(value.len() + 1);
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(0);
        self.attr(kind, &bytes)
    }

    /// A one-byte attribute.
    pub fn attr_u8(&mut self, kind: u16, value: u8) -> &mut Self {
        self.attr(kind, &[value])
    }

    /// A 16-bit attribute in network order.
    pub fn attr_be16(&mut self, kind: u16, value: u16) -> &mut Self {
        self.attr(kind, &value.to_be_bytes())
    }

    /// A 32-bit attribute in host order.
    pub fn attr_u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attr(kind, &value.to_ne_bytes())
    }

    /// A 32-bit attribute in network order.
    pub fn attr_be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attr(kind, &value.to_be_bytes())
    }

    /// A 64-bit attribute in network order.
    pub fn attr_be64(&mut self, kind: u16, value: u64) -> &mut Self {
        self.attr(kind, &value.to_be_bytes())
    }

    /// A nested attribute: `fill` writes its content. The nest must stay below 64 KiB.
    pub fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | NLA_F_NESTED).to_ne_bytes());
        fill(self);
        let len = u16::try_from(self.bytes.len() - at).expect("invariant: a nest is below 64 KiB");
        self.bytes[at..at + 2].copy_from_slice(&len.to_ne_bytes());
        self
    }

    fn pad(&mut self) {
        let len = align(self.bytes.len());
        self.bytes.resize(len, 0);
    }

    /// Bytes encoded so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing was encoded.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The encoded messages.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodes_nested_and_padded_attributes() {
        let mut e = Encoder::new();
        e.begin(16, 0, 7).raw(&[1, 2]).nest(3, |e| {
            e.attr_u8(1, 9);
        });
        e.end();
        let b = e.as_bytes();
        assert_eq!(b.len(), 16 + 4 + 4 + 8);
        assert_eq!(u32::from_ne_bytes(b[..4].try_into().unwrap()) as usize, b.len());
        let (kind, nested) = attributes(&b[20..]).next().unwrap();
        assert_eq!(kind, 3);
        assert_eq!(attribute(nested, 1), Some(&[9u8][..]));
    }

    #[test]
    fn malformed_attributes_end_the_iteration() {
        assert_eq!(attributes(&[200, 0, 1, 0, 5]).count(), 0);
        assert_eq!(attributes(&[0, 0, 0, 0]).count(), 0);
    }

    #[test]
    fn kernel_answers_a_link_dump() {
        let mut s = Socket::open(Protocol::Route).unwrap();
        let seq = s.next_seq();
        let mut e = Encoder::new();
        e.begin(18, NLM_F_DUMP, seq).raw(&[0; 16]).end();
        let links = s.dump(e.as_bytes(), seq).unwrap().unwrap();
        assert!(!links.is_empty());
    }
}
