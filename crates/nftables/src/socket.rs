//! Committing transactions and reading tables back.

use std::collections::HashSet;
use std::io;

use keelson_sys::netlink::{Encoder, KernelError, NLM_F_DUMP, Protocol, Socket, attribute, attributes};

use crate::{Batch, Family};

const SUBSYS_NFTABLES: u16 = 10 << 8;
const GETTABLE: u16 = 1;
const GETCHAIN: u16 = 4;
const GETRULE: u16 = 7;
const GETSET: u16 = 10;
const GETSETELEM: u16 = 13;
const ENOENT: i32 = 2;
/// Beyond this the kernel refuses a datagram whatever the socket says.
const SEND_BUFFER: usize = 256 << 20;

/// Why nf_tables work failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket could not be opened, or a message not be sent or received.
    #[error("nf_tables netlink socket: {0}")]
    Socket(#[from] io::Error),
    /// The kernel refused the transaction; nothing was changed.
    #[error("nf_tables refused '{operation} {name}' in table {table}: {source}{}", .detail.as_deref().map(|d| format!(" ({d})")).unwrap_or_default())]
    Refused {
        /// What was refused.
        operation: &'static str,
        /// The chain or set.
        name: String,
        /// The table.
        table: String,
        /// The kernel's own words.
        detail: Option<String>,
        /// The errno.
        source: io::Error,
    },
    /// The kernel neither acknowledged nor refused a transaction.
    #[error("nf_tables did not acknowledge a transaction on table {table}")]
    NoAnswer {
        /// The table.
        table: String,
    },
    /// A listing failed.
    #[error("listing nf_tables {what}: {source}")]
    List {
        /// What was listed.
        what: &'static str,
        /// The errno.
        source: io::Error,
    },
}

/// An element read back from the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DumpedElement {
    /// Key.
    pub key: Vec<u8>,
    /// Data bytes of a map that does not hold verdicts.
    pub data: Option<Vec<u8>>,
    /// Chain and code of a verdict map's data.
    pub verdict: Option<(i32, Option<String>)>,
    /// (timeout, remaining) in milliseconds.
    pub expires: Option<(u64, u64)>,
}

/// A connection to nf_tables in one network namespace.
#[derive(Debug)]
pub struct NfTables {
    socket: Socket,
}

impl NfTables {
    /// Connects in the calling thread's network namespace.
    pub fn open() -> Result<Self, Error> {
        let socket = Socket::open(Protocol::Netfilter)?;
        socket.set_send_buffer(SEND_BUFFER)?;
        socket.set_receive_buffer(8 << 20)?;
        Ok(NfTables { socket })
    }

    /// Applies a transaction: all of it or, on error, nothing. An empty one does nothing.
    pub fn commit(&mut self, batch: Batch) -> Result<(), Error> {
        if batch.is_empty() {
            return Ok(());
        }
        let table = batch.table().to_owned();
        let (bytes, last, operations) = batch.finish();
        self.socket.send(&bytes)?;
        let mut acknowledged = false;
        let mut first_error: Option<KernelError> = None;
        // The kernel works a batch off within `send`: all answers are queued already.
        loop {
            let replies = self.socket.receive(false)?;
            if replies.is_empty() {
                break;
            }
            for e in replies.iter().filter_map(keelson_sys::netlink::Reply::as_error) {
                if e.errno != 0 {
                    first_error.get_or_insert(e);
                } else if e.seq == last {
                    acknowledged = true;
                }
            }
        }
        if let Some(e) = first_error {
            let index = usize::try_from(e.seq).unwrap_or(0);
            let (operation, name) = match index.checked_sub(2).and_then(|i| operations.get(i)) {
                Some((op, name)) => (*op, name.clone()),
                None => ("commit", format!("of {} changes", operations.len())),
            };
            return Err(Error::Refused {
                operation,
                name,
                table,
                detail: e.message,
                source: io::Error::from_raw_os_error(e.errno),
            });
        }
        if acknowledged {
            Ok(())
        } else {
            Err(Error::NoAnswer { table })
        }
    }

    fn dump(
        &mut self,
        what: &'static str,
        kind: u16,
        family: Family,
        fill: impl FnOnce(&mut Encoder),
    ) -> Result<Vec<Vec<u8>>, Error> {
        let seq = self.socket.next_seq();
        let mut e = Encoder::new();
        e.begin(SUBSYS_NFTABLES | kind, NLM_F_DUMP, seq)
            .raw(&[family.number(), 0, 0, 0]);
        fill(&mut e);
        e.end();
        match self.socket.dump(e.as_bytes(), seq)? {
            Ok(replies) => Ok(replies
                .into_iter()
                .map(|r| r.payload.get(4..).unwrap_or_default().to_vec())
                .collect()),
            Err(e) if e.errno == ENOENT => Ok(Vec::new()),
            Err(e) => Err(Error::List {
                what,
                source: io::Error::from_raw_os_error(e.errno),
            }),
        }
    }

    /// Names of the tables of a family.
    pub fn tables(&mut self, family: Family) -> Result<Vec<String>, Error> {
        let replies = self.dump("tables", GETTABLE, family, |_| {})?;
        Ok(replies.iter().filter_map(|r| text(r, 1)).collect())
    }

    /// Names of the chains of a table.
    pub fn chains(&mut self, family: Family, table: &str) -> Result<Vec<String>, Error> {
        let replies = self.dump("chains", GETCHAIN, family, |_| {})?;
        Ok(replies
            .iter()
            .filter(|r| text(r, 1).as_deref() == Some(table))
            .filter_map(|r| text(r, 3))
            .collect())
    }

    /// Names of the sets and maps of a table; none when it is missing.
    pub fn sets(&mut self, family: Family, table: &str) -> Result<Vec<String>, Error> {
        let replies = self.dump("sets", GETSET, family, |e| {
            e.attr_str(1, table);
        })?;
        Ok(replies.iter().filter_map(|r| text(r, 2)).collect())
    }

    /// Number of rules of a chain.
    pub fn rule_count(&mut self, family: Family, table: &str, chain: &str) -> Result<usize, Error> {
        let replies = self.dump("rules", GETRULE, family, |e| {
            e.attr_str(1, table).attr_str(2, chain);
        })?;
        Ok(replies.len())
    }

    /// Elements of a set or map; none when it is missing.
    pub fn elements(&mut self, family: Family, table: &str, set: &str) -> Result<Vec<DumpedElement>, Error> {
        let replies = self.dump("elements", GETSETELEM, family, |e| {
            e.attr_str(1, table).attr_str(2, set);
        })?;
        // While the kernel grows a hash table it tells of some elements twice. Flags tell the end of an interval from the
        // beginning of the next.
        let mut told = HashSet::new();
        let mut out = Vec::new();
        for reply in &replies {
            for (_, element) in attributes(attribute(reply, 3).unwrap_or_default()) {
                let flags = attribute(element, 3).unwrap_or_default();
                let decoded = decode_element(element);
                out.extend(decoded.filter(|e| told.insert((e.key.clone(), flags.to_vec()))));
            }
        }
        Ok(out)
    }
}

impl Batch {
    pub(crate) fn table(&self) -> &str {
        &self.table
    }
}

fn text(message: &[u8], kind: u16) -> Option<String> {
    attribute(message, kind).map(|v| String::from_utf8_lossy(v).trim_end_matches('\0').to_owned())
}

fn be64(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}

fn decode_element(element: &[u8]) -> Option<DumpedElement> {
    let key = attribute(attribute(element, 1)?, 1)?.to_vec();
    let data = attribute(element, 2);
    let verdict = data.and_then(|d| attribute(d, 2)).and_then(|v| {
        let code = i32::from_be_bytes(attribute(v, 1)?.try_into().ok()?);
        Some((code, text(v, 2)))
    });
    let timeout = attribute(element, 4).and_then(be64);
    let left = attribute(element, 5).and_then(be64);
    Some(DumpedElement {
        key,
        data: data.and_then(|d| attribute(d, 1)).map(<[u8]>::to_vec),
        verdict,
        expires: timeout.zip(left),
    })
}
