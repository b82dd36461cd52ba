//! Which pod has which address.
//!
//! One file per pod in `<state>/pods`, written whole (temporary file, rename) before the address is used and removed after
//! the pod's link is gone. What is in use is derived from these files at start, so a crash at any point leaves at worst an
//! address that stays taken until the pod is torn down; it never leaves one that is handed out twice. Nothing is synced:
//! after a power failure the pods are gone as well.
//!
//! Addresses are handed out round robin, so that a fresh pod rarely gets what another had a moment ago.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, TryLockError};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::config::HostPort;

/// Why an address could not be given or taken back.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file operation failed.
    #[error("pod address records: cannot {operation} {path}: {source}")]
    File {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Another process has the records.
    #[error("the pod address records in {0} are in use by another process")]
    Locked(PathBuf),
    /// The range is used up.
    #[error("no free address in the node's pod range {range}: all {size} are in use")]
    Exhausted {
        /// The range.
        range: IpNet,
        /// Its usable size.
        size: usize,
    },
    /// The sandbox identifier cannot be a file name.
    #[error("invalid sandbox id {0:?}")]
    InvalidId(String),
}

/// What is remembered of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Sandbox identifier.
    pub id: String,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// Its addresses, the primary first.
    pub ips: Vec<IpAddr>,
    /// Ports of the node that lead to it.
    #[serde(default)]
    pub host_ports: Vec<HostPort>,
}

/// The records of one node. Dropping it unlocks them.
#[derive(Debug)]
pub struct Ipam {
    dir: PathBuf,
    records: HashMap<String, Record>,
    used: BTreeMap<IpAddr, String>,
    last: HashMap<IpNet, u128>,
    _lock: File,
}

impl Ipam {
    /// Reads the records in `dir`, which is made when missing. Fails when another process has them.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let fail = |operation, path: &Path| {
            let path = path.to_path_buf();
            move |source| Error::File {
                operation,
                path,
                source,
            }
        };
        fs::create_dir_all(dir).map_err(fail("make", dir))?;
        let lock_path = dir.join(".lock");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(fail("open", &lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::Locked(dir.to_path_buf())),
            Err(TryLockError::Error(e)) => return Err(fail("lock", &lock_path)(e)),
        }
        let mut ipam = Ipam {
            dir: dir.to_path_buf(),
            records: HashMap::new(),
            used: BTreeMap::new(),
            last: HashMap::new(),
            _lock: lock,
        };
        for entry in fs::read_dir(dir).map_err(fail("list", dir))? {
            let path = entry.map_err(fail("list", dir))?.path();
            match path.extension().and_then(|e| e.to_str()) {
                Some("tmp") => fs::remove_file(&path).map_err(fail("remove", &path))?,
                Some("json") => {
                    let bytes = fs::read(&path).map_err(fail("read", &path))?;
                    match serde_json::from_slice::<Record>(&bytes) {
                        Ok(record) => ipam.insert(record),
                        // Only a power failure leaves such a file, and then its pod is gone too.
                        Err(error) => {
                            tracing::warn!(path = %path.display(), %error, "removing a damaged pod address record");
                            fs::remove_file(&path).map_err(fail("remove", &path))?;
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(ipam)
    }

    fn insert(&mut self, record: Record) {
        for ip in &record.ips {
            self.used.insert(*ip, record.id.clone());
        }
        self.records.insert(record.id.clone(), record);
    }

    /// What is remembered of the sandbox `id`.
    pub fn get(&self, id: &str) -> Option<&Record> {
        self.records.get(id)
    }

    /// All records.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.records.values()
    }

    /// Gives the sandbox an address from each range and writes that down. A known sandbox keeps what it has.
    pub fn allocate(
        &mut self,
        ranges: &[IpNet],
        id: &str,
        namespace: &str,
        name: &str,
        host_ports: &[HostPort],
    ) -> Result<Record, Error> {
        if id.is_empty()
            || id.len() > 200
            || !id
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
            || id.starts_with('.')
        {
            return Err(Error::InvalidId(id.to_owned()));
        }
        if let Some(record) = self.records.get(id) {
            return Ok(record.clone());
        }
        let ips = ranges
            .iter()
            .map(|range| self.free(*range))
            .collect::<Result<Vec<_>, _>>()?;
        let record = Record {
            id: id.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            ips,
            host_ports: host_ports.to_vec(),
        };
        let path = self.path(id);
        let temporary = path.with_extension("tmp");
        let json = serde_json::to_vec(&record).expect("invariant: a record is plain data");
        fs::write(&temporary, json)
            .and_then(|()| fs::rename(&temporary, &path))
            .map_err(|source| Error::File {
                operation: "write",
                path,
                source,
            })?;
        self.insert(record.clone());
        Ok(record)
    }

    /// Takes the addresses of the sandbox back; call it when they no longer answer. Unknown is fine.
    pub fn release(&mut self, id: &str) -> Result<Option<Record>, Error> {
        let Some(record) = self.records.get(id).cloned() else {
            return Ok(None);
        };
        let path = self.path(id);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(Error::File {
                    operation: "remove",
                    path,
                    source,
                });
            }
            _ => {}
        }
        self.records.remove(id);
        for ip in &record.ips {
            self.used.remove(ip);
        }
        Ok(Some(record))
    }

    fn path(&self, id: &str) -> PathBuf {
        self.dir.join(format!("{id}.json"))
    }

    /// The next free address after the one handed out last. The first address of a range is the gateway's.
    fn free(&mut self, range: IpNet) -> Result<IpAddr, Error> {
        let bits = u32::from(range.max_prefix_len() - range.prefix_len()).min(64);
        let total = 1u128 << bits;
        // Network, gateway and, for IPv4, broadcast are never given to pods.
        let first = 2u128;
        let end = if range.addr().is_ipv4() {
            total.saturating_sub(1)
        } else {
            total
        };
        let usable = end.saturating_sub(first);
        let start = self.last.get(&range).map_or(first, |last| last + 1);
        for i in 0..usable {
            let offset = first + (start - first + i) % usable;
            let ip = nth(range, offset);
            if !self.used.contains_key(&ip) {
                self.last.insert(range, offset);
                return Ok(ip);
            }
        }
        Err(Error::Exhausted {
            range,
            size: usize::try_from(usable).unwrap_or(usize::MAX),
        })
    }
}

/// The address `offset` places into `range`.
pub(crate) fn nth(range: IpNet, offset: u128) -> IpAddr {
    match range.network() {
        IpAddr::V4(a) => {
            let offset = u32::try_from(offset & 0xffff_ffff).expect("invariant: masked to 32 bits");
            IpAddr::V4((u32::from(a).wrapping_add(offset)).into())
        }
        IpAddr::V6(a) => IpAddr::V6((u128::from(a).wrapping_add(offset)).into()),
    }
}

/// The gateway of a node's pod range: its first address.
pub(crate) fn gateway(range: IpNet) -> IpNet {
    IpNet::new(nth(range, 1), range.prefix_len()).expect("invariant: the prefix is the range's own")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(s: &str) -> IpNet {
        s.parse().unwrap()
    }

    #[test]
    fn hands_out_every_address_once_and_then_refuses() {
        let dir = tempfile::tempdir().unwrap();
        let mut ipam = Ipam::open(dir.path()).unwrap();
        let r = [range("10.1.0.0/29")];
        let mut seen = Vec::new();
        for i in 0..5 {
            seen.extend(ipam.allocate(&r, &format!("p{i}"), "d", "n", &[]).unwrap().ips);
        }
        let expected: Vec<IpAddr> = (2..7).map(|i| IpAddr::from([10, 1, 0, i])).collect();
        assert_eq!(seen, expected);
        let e = ipam.allocate(&r, "more", "d", "n", &[]).unwrap_err();
        assert_eq!(
            e.to_string(),
            "no free address in the node's pod range 10.1.0.0/29: all 5 are in use"
        );
        ipam.release("p1").unwrap();
        assert_eq!(
            ipam.allocate(&r, "more", "d", "n", &[]).unwrap().ips,
            [IpAddr::from([10, 1, 0, 3])]
        );
    }

    #[test]
    fn a_restart_knows_what_is_in_use_and_reuse_comes_last() {
        let dir = tempfile::tempdir().unwrap();
        let r = [range("10.1.0.0/24")];
        let mut ipam = Ipam::open(dir.path()).unwrap();
        let a = ipam.allocate(&r, "a", "d", "n", &[]).unwrap();
        ipam.allocate(&r, "b", "d", "n", &[]).unwrap();
        ipam.release("b").unwrap();
        assert_eq!(
            ipam.allocate(&r, "c", "d", "n", &[]).unwrap().ips,
            [IpAddr::from([10, 1, 0, 4])]
        );
        assert!(matches!(Ipam::open(dir.path()), Err(Error::Locked(_))));
        drop(ipam);
        // A crash in the middle of a write leaves a temporary file, a power failure an empty one.
        fs::write(dir.path().join("x.tmp"), "half").unwrap();
        fs::write(dir.path().join("y.json"), "").unwrap();
        let mut ipam = Ipam::open(dir.path()).unwrap();
        assert_eq!(ipam.records().count(), 2);
        assert_eq!(ipam.allocate(&r, "a", "d", "n", &[]).unwrap(), a);
        assert_eq!(
            ipam.allocate(&r, "d", "d", "n", &[]).unwrap().ips,
            [IpAddr::from([10, 1, 0, 3])]
        );
    }

    #[test]
    fn identifiers_cannot_leave_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let mut ipam = Ipam::open(dir.path()).unwrap();
        for id in ["", "../x", "a/b", ".lock"] {
            assert!(
                matches!(ipam.allocate(&[], id, "d", "n", &[]), Err(Error::InvalidId(_))),
                "{id}"
            );
        }
    }
}
