//! What the runtime and the shims say to each other.
//!
//! One `SOCK_SEQPACKET` unix socket per sandbox, `<shim dir>/shim.sock`. A packet is one JSON value, with file
//! descriptors beside it where the message says so. The runtime sends [`Request`], the shim answers every request
//! with one [`Reply`] of the same id (not necessarily in order) and sends [`Event`]s at any time. The shim serves
//! one connection at a time: a newer one replaces the older.
//!
//! Everything that must outlive the connection is in files beside the bundles: see [`ExitRecord`].

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use serde::{Deserialize, Serialize};

use crate::images::OverlayMount;

/// The largest packet, bytes. Below the default socket buffer of Linux (212,992).
pub const MAX_PACKET: usize = 160 * 1024;
/// The most descriptors in one packet.
pub const MAX_FDS: usize = 4;
/// Name of the socket in the shim's directory.
pub const SOCKET_NAME: &str = "shim.sock";
/// Name of the file with a container's exit in its bundle.
pub const EXIT_FILE: &str = "exit.json";

/// A request with the id that its reply carries.
#[derive(Debug, Serialize, Deserialize)]
pub struct RequestPacket {
    /// Chosen by the runtime, unique per connection.
    pub id: u64,
    /// What to do.
    pub request: Request,
}

/// What the runtime asks of a shim.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Request {
    /// Tell everything: answered by [`Reply::State`].
    State,
    /// Create and start the container whose bundle this is; answered by [`Reply::Started`].
    Start {
        /// Container id.
        id: String,
        /// Directory with `config.json` (OCI) and `launch.json` ([`Launch`]).
        bundle: PathBuf,
    },
    /// Send a signal to the container's init process.
    Kill {
        /// Container id.
        id: String,
        /// Signal number.
        signal: i32,
    },
    /// Run a further process in a container. Without a tty the packet carries its stdin (when `stdin`), stdout and
    /// stderr; with one, the reply carries the master side.
    Exec {
        /// Chosen by the runtime, unique per shim.
        exec: String,
        /// Container id.
        id: String,
        /// Arguments; the first is the program.
        args: Vec<String>,
        /// Whether it gets a terminal.
        tty: bool,
        /// Whether the first descriptor is its stdin; otherwise stdin is empty.
        stdin: bool,
    },
    /// Send a signal to a process started by `Exec`.
    KillExec {
        /// As in `Exec`.
        exec: String,
        /// Signal number.
        signal: i32,
    },
    /// Copy a container's further output to the descriptors of this packet: stdout (when asked for), then stderr.
    /// The reply carries a descriptor for its stdin when it has one: the pipe, or the terminal's master side.
    Attach {
        /// Container id.
        id: String,
        /// Whether a descriptor for stdout is in the packet.
        stdout: bool,
        /// Whether a descriptor for stderr is in the packet.
        stderr: bool,
    },
    /// Close the shim's own end of the container's stdin (`stdin_once`).
    CloseStdin {
        /// Container id.
        id: String,
    },
    /// Open the container's log file again, after it was moved away.
    ReopenLog {
        /// Container id.
        id: String,
    },
    /// Connect to `localhost:port` in the pod's network namespace; the reply carries the socket, which may still be
    /// connecting.
    Dial {
        /// TCP port.
        port: u16,
    },
    /// Forget an exited container.
    Delete {
        /// Container id.
        id: String,
    },
    /// Kill what is left and exit.
    Shutdown,
}

/// A reply with the id of its request.
#[derive(Debug, Serialize, Deserialize)]
pub enum Packet {
    /// Answers the request `id`.
    Reply {
        /// The request's id.
        id: u64,
        /// The answer.
        reply: Reply,
    },
    /// Something happened.
    Event(Event),
}

/// What a shim answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Reply {
    /// Done; nothing to tell.
    Done,
    /// The request failed.
    Failed {
        /// Why, for people.
        message: String,
    },
    /// Answers `State`.
    State(ShimState),
    /// Answers `Start` and `Exec`.
    Started {
        /// Process id in the shim's PID namespace.
        pid: i32,
        /// Nanoseconds since the epoch.
        at: i64,
    },
}

/// What a shim tells without being asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Event {
    /// A container's init process is gone and its exit is recorded in [`EXIT_FILE`].
    Exited {
        /// Container id.
        id: String,
        /// How it ended.
        exit: ExitRecord,
    },
    /// A process started by `Exec` is gone.
    ExecExited {
        /// As in `Exec`.
        exec: String,
        /// Exit code; 128 + signal when a signal ended it.
        code: i32,
    },
}

/// All that a shim knows.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ShimState {
    /// The shim's own process id.
    pub pid: i32,
    /// The pod's first process, when the pod shares one PID namespace.
    pub pause: Option<i32>,
    /// Its containers.
    pub containers: Vec<ContainerState>,
}

/// One container of a shim.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ContainerState {
    /// Container id.
    pub id: String,
    /// Process id of its init process.
    pub pid: i32,
    /// Start, nanoseconds since the epoch.
    pub started_at: i64,
    /// Set when it is gone.
    pub exit: Option<ExitRecord>,
}

/// How a container ended; written to [`EXIT_FILE`] before anybody is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// Exit code; 128 + signal when a signal ended it.
    pub code: i32,
    /// End, nanoseconds since the epoch.
    pub at: i64,
    /// Start, nanoseconds since the epoch.
    pub started_at: i64,
    /// The kernel's OOM killer was at work in the container's group.
    pub oom: bool,
}

impl ExitRecord {
    /// Writes the record into a bundle: complete or not at all.
    ///
    /// # Errors
    /// Any I/O error, for example a full disk.
    pub fn write(&self, bundle: &Path) -> io::Result<()> {
        write_atomically(&bundle.join(EXIT_FILE), &serde_json::to_vec(self)?)
    }

    /// Reads the record of a bundle; `None` when the container has not exited (or nobody saw it).
    ///
    /// # Errors
    /// I/O errors other than absence, and content that is not a record.
    pub fn read(bundle: &Path) -> io::Result<Option<Self>> {
        match std::fs::read(bundle.join(EXIT_FILE)) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Replaces a file by rename, so that a reader sees the old or the new content.
///
/// # Errors
/// Any I/O error.
pub fn write_atomically(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    std::fs::write(&temporary, content)?;
    std::fs::rename(&temporary, path)
}

/// What the shim needs for a container beyond its OCI spec; `launch.json` in the bundle.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Launch {
    /// What the container's root file system is.
    pub rootfs: RootfsMount,
    /// Absolute path of the CRI log file; none when the container keeps no log.
    pub log_path: Option<PathBuf>,
    /// Whether it gets a terminal.
    pub tty: bool,
    /// Whether its stdin is kept open.
    pub stdin: bool,
    /// The group, as a path below every hierarchy's mount point.
    pub cgroup: PathBuf,
    /// Owner of the output pipes, so that programs can open `/dev/stdout` by path.
    pub uid: u32,
    /// Asked for; the nearest permitted value is applied.
    pub oom_score_adj: Option<i32>,
    /// Directories that are made in the root file system when they are missing: working directory, image volumes.
    pub directories: Vec<PathBuf>,
    /// Root file systems of images that are mounted as volumes, and where in the bundle.
    pub image_mounts: Vec<(RootfsMount, PathBuf)>,
    /// Bind mounts whose propagation is not private.
    pub staged: Vec<StagedMount>,
    /// Whether its init process is the first of a PID namespace of its own; otherwise what it leaves behind is
    /// killed through its group.
    pub own_pid_namespace: bool,
    /// The filter of every process of the container, whose program is [`SeccompFilter::FILE`]; without it the OCI
    /// spec may have a profile.
    #[serde(default)]
    pub seccomp: Option<SeccompFilter>,
}

/// How a compiled seccomp profile is loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeccompFilter {
    /// `SECCOMP_FILTER_FLAG_*`.
    pub flags: u32,
    /// The OCI spec has `CAP_SYS_ADMIN` in the effective set for the loading alone.
    pub lent_effective: bool,
    /// The same of the permitted set.
    pub lent_permitted: bool,
}

impl SeccompFilter {
    /// The program, in the bundle.
    pub const FILE: &str = "seccomp.bpf";
    /// The profile that it was compiled from, in the bundle.
    pub const PROFILE: &str = "seccomp.json";
}

/// A bind mount that is prepared at another place before the container's mount namespace is made, because its
/// propagation differs from that of the rest (private). The OCI spec names `target` as the source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagedMount {
    /// Path on the host.
    pub source: PathBuf,
    /// Existing file or directory in the bundle.
    pub target: PathBuf,
    /// Its propagation.
    pub propagation: Propagation,
}

/// How mounts made later on one side become visible on the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    /// The host's appear in the container.
    HostToContainer,
    /// Both ways.
    Bidirectional,
}

/// How to make a container's root file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RootfsMount {
    /// An overlay; mounted in the container's mount namespace alone, so it vanishes with it.
    Overlay(OverlayMount),
    /// A directory as it is.
    Directory(PathBuf),
}

/// Sends one packet.
///
/// # Errors
/// `EAGAIN` on a full non-blocking socket, `EMSGSIZE` beyond [`MAX_PACKET`], `EPIPE` when the peer is gone.
pub fn send(socket: impl AsFd, message: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    if message.len() > MAX_PACKET || fds.len() > MAX_FDS {
        return Err(io::Error::from_raw_os_error(nix::libc::EMSGSIZE));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    rustix::net::sendmsg(
        socket,
        &[IoSlice::new(message)],
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
    Ok(())
}

/// Receives one packet into `buffer`; `None` when the peer has closed.
///
/// # Errors
/// `EAGAIN` when a non-blocking socket has nothing; a packet that does not fit is an error.
pub fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<Option<(&[u8], VecDeque<OwnedFd>)>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::net::recvmsg(
        socket,
        &mut [IoSliceMut::new(buffer)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut fds = VecDeque::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if received.flags.contains(rustix::net::ReturnFlags::TRUNC) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "packet larger than the protocol allows",
        ));
    }
    if received.bytes == 0 {
        return Ok(None);
    }
    Ok(Some((&buffer[..received.bytes], fds)))
}

/// Binds or connects to a socket below a directory whose path may be longer than a socket address (108 bytes).
///
/// # Errors
/// When the directory cannot be opened.
pub fn socket_address(directory: &Path) -> io::Result<(OwnedFd, rustix::net::SocketAddrUnix)> {
    use std::os::fd::AsRawFd;
    let handle = rustix::fs::open(
        directory,
        rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )?;
    let path = format!("/proc/self/fd/{}/{SOCKET_NAME}", handle.as_raw_fd());
    let address = rustix::net::SocketAddrUnix::new(path)?;
    Ok((handle, address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn packets_carry_descriptors() {
        let (a, b) = rustix::net::socketpair(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::SEQPACKET,
            rustix::net::SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        let (mut reader, writer) = std::io::pipe().unwrap();
        send(&a, b"hello", &[writer.as_fd()]).unwrap();
        send(&a, b"again", &[]).unwrap();
        drop(writer);
        drop(a);
        let mut buffer = vec![0; MAX_PACKET];
        let (bytes, mut fds) = receive(&b, &mut buffer).unwrap().unwrap();
        assert_eq!(bytes, b"hello");
        std::fs::File::from(fds.pop_front().unwrap())
            .write_all(b"through")
            .unwrap();
        let (bytes, fds) = receive(&b, &mut buffer).unwrap().unwrap();
        assert_eq!((bytes, fds.len()), (&b"again"[..], 0));
        assert!(receive(&b, &mut buffer).unwrap().is_none());
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");
    }

    #[test]
    fn exit_records_are_read_back() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(ExitRecord::read(directory.path()).unwrap(), None);
        let record = ExitRecord {
            code: 137,
            at: 5,
            started_at: 2,
            oom: true,
        };
        record.write(directory.path()).unwrap();
        assert_eq!(ExitRecord::read(directory.path()).unwrap(), Some(record));
    }
}
