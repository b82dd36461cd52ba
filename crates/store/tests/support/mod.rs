//! etcd clusters for tests, of Debian's etcd.

use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use keelson_store::etcd::EtcdOptions;
use tempfile::TempDir;

/// One etcd cluster; ended with its value.
pub(crate) struct Cluster {
    members: Vec<Member>,
}

struct Member {
    name: String,
    address: Ipv4Addr,
    port: u16,
    data: TempDir,
    process: Option<Child>,
}

/// Clusters of one process differ in their ports.
static NEXT_PORT: AtomicU16 = AtomicU16::new(2379);

impl Cluster {
    /// Starts `count` members on loopback addresses that follow from the process id, which no other test shares.
    pub(crate) fn start(count: usize) -> Self {
        let port = NEXT_PORT.fetch_add(2, Ordering::Relaxed);
        let id = std::process::id();
        let byte = |shift: u32| u8::try_from((id >> shift) & 0xff).unwrap();
        let members = (0..count).map(|index| Member {
            name: format!("m{index}"),
            address: Ipv4Addr::new(
                127,
                byte(14),
                byte(6),
                u8::try_from(((id & 0x3f) << 2) as usize + index).unwrap(),
            ),
            port,
            // In memory: what a disk does to etcd is etcd's matter, and hundreds of fsyncs are slow beside other tests.
            data: tempfile::tempdir_in("/dev/shm").unwrap(),
            process: None,
        });
        let mut cluster = Self {
            members: members.collect(),
        };
        cluster.ensure_running();
        cluster
    }

    /// Starts the members that do not run, and returns when their ports are open.
    pub(crate) fn ensure_running(&mut self) {
        let initial: Vec<String> = self
            .members
            .iter()
            .map(|m| format!("{}={}", m.name, m.peer_url()))
            .collect();
        let initial = initial.join(",");
        for member in &mut self.members {
            if member.process.is_none() {
                member.process = Some(member.spawn(&initial));
            }
        }
        for member in &self.members {
            member.wait_for_port();
        }
    }

    /// How to reach the cluster.
    pub(crate) fn options(&self) -> EtcdOptions {
        EtcdOptions::new(self.members.iter().map(Member::client_url))
    }

    /// kill -9.
    pub(crate) fn kill(&mut self, index: usize) {
        if let Some(mut process) = self.members[index].process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// kill -9, then a start with the same data.
    #[allow(dead_code, reason = "each test program uses a part of this module")]
    pub(crate) fn kill_and_restart(&mut self, index: usize) {
        self.kill(index);
        self.ensure_running();
    }

    /// Ends all members.
    pub(crate) fn stop(&mut self) {
        for index in 0..self.members.len() {
            self.kill(index);
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Member {
    fn client_url(&self) -> String {
        format!("http://{}:{}", self.address, self.port)
    }

    fn peer_url(&self) -> String {
        format!("http://{}:{}", self.address, self.port + 1)
    }

    fn spawn(&self, initial_cluster: &str) -> Child {
        let log = std::fs::File::create(self.data.path().join("log")).unwrap();
        Command::new("etcd")
            .arg(format!("--name={}", self.name))
            .arg(format!("--data-dir={}", self.data.path().join("data").display()))
            .arg(format!("--listen-client-urls={}", self.client_url()))
            .arg(format!("--advertise-client-urls={}", self.client_url()))
            .arg(format!("--listen-peer-urls={}", self.peer_url()))
            .arg(format!("--initial-advertise-peer-urls={}", self.peer_url()))
            .arg(format!("--initial-cluster={initial_cluster}"))
            .arg("--logger=zap")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("etcd is installed: cargo xtask setup")
    }

    fn wait_for_port(&self) {
        let end = Instant::now() + Duration::from_secs(30);
        while std::net::TcpStream::connect((self.address, self.port)).is_err() {
            assert!(
                Instant::now() < end,
                "{} does not listen; see its log",
                self.client_url()
            );
            // Nothing tells when another program listens.
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
