//! What a node leaves in the kernel when it did not stop in order: shims, containers, mounts, namespaces, links, tables.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::mount::{MntFlags, umount2};
use rustix::process::Signal;

use keelson_kube_proxy::Proxier;
use keelson_network::PodNetwork;

use crate::node;
use crate::paths::Paths;
use crate::process::ProcessRecord;
use crate::sandbox::CgroupTree;
use crate::settings::ClusterSettings;
use crate::underlay;

/// Something could not be removed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A mount.
    #[error("cannot unmount {path}", path = path.display())]
    Unmount {
        /// The mount point.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A process.
    #[error("cannot end process {pid}")]
    Process {
        /// Its id.
        pid: i32,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// `/proc` could not be read.
    #[error("cannot read /proc")]
    Proc(#[source] io::Error),
    /// A link or table.
    #[error("cannot remove the pod network")]
    Network(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Takes the pod network and the proxy's table of this machine's node away. Its pods must be gone.
pub async fn remove_network(paths: &Paths, settings: &ClusterSettings) -> Result<(), Error> {
    let mut config = node::network_config(paths, &settings.node_name);
    config.cluster_cidrs = vec![settings.cluster_cidr.into()];
    config.service_cidrs = vec![settings.service_cidr.into()];
    config.load_balancer_cidrs = vec![settings.load_balancer_cidr.into()];
    let proxy = node::proxy_config(paths, &settings.node_name);
    let work = tokio::task::spawn_blocking(move || -> Result<(), Error> {
        let network = PodNetwork::new(config).map_err(|e| Error::Network(Box::new(e)))?;
        network.remove().map_err(|e| Error::Network(Box::new(e)))?;
        let mut proxier = Proxier::new(proxy).map_err(|e| Error::Network(Box::new(e)))?;
        proxier.remove().map_err(|e| Error::Network(Box::new(e)))
    });
    work.await.map_err(|panic| Error::Network(Box::new(panic)))??;
    underlay::remove_loopback_address(settings.dns_address())
        .await
        .map_err(|e| Error::Network(Box::new(e)))
}

/// Ends every process in the cluster's cgroups and every shim, then unmounts everything below its directories.
pub async fn remove(paths: &Paths) -> Result<(), Error> {
    for process in shims(paths).map_err(Error::Proc)? {
        end(process)?;
    }
    for pid in members(&paths.cgroup()).map_err(Error::Proc)? {
        if let Some(process) = ProcessRecord::of(pid) {
            end(process)?;
        }
    }
    unmount_below(&[&paths.run, &paths.data])
}

fn end(process: ProcessRecord) -> Result<(), Error> {
    match process.signal_and_wait(Signal::KILL, Duration::from_secs(10)) {
        Ok(_) => Ok(()),
        Err(source) => Err(Error::Process {
            pid: process.pid,
            source,
        }),
    }
}

/// The shims that serve this cluster and their launcher, whose command line they have: `keelson internal shim …` with
/// one of the cluster's directories as an argument.
fn shims(paths: &Paths) -> io::Result<Vec<ProcessRecord>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // The process may have ended meanwhile.
        let Ok(command) = std::fs::read(entry.path().join("cmdline")) else {
            continue;
        };
        let arguments: Vec<_> = command
            .split(|byte| *byte == 0)
            .map(String::from_utf8_lossy)
            .collect();
        let is_shim = arguments.iter().take(3).any(|argument| argument == "shim");
        let ours = |argument: &str| {
            [&paths.run, &paths.data]
                .iter()
                .any(|dir| Path::new(argument).starts_with(dir))
        };
        if is_shim && arguments.iter().any(|argument| ours(argument)) {
            found.extend(ProcessRecord::of(pid));
        }
    }
    Ok(found)
}

/// Every process in `group` or below it, in any hierarchy.
fn members(group: &str) -> io::Result<BTreeSet<i32>> {
    let mut pids = BTreeSet::new();
    for directory in CgroupTree::detect()?.paths(group) {
        collect(&directory, &mut pids)?;
    }
    Ok(pids)
}

fn collect(directory: &Path, pids: &mut BTreeSet<i32>) -> io::Result<()> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let procs = std::fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    pids.extend(procs.lines().filter_map(|line| line.parse::<i32>().ok()));
    for entry in entries.flatten() {
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), pids)?;
        }
    }
    Ok(())
}

/// Unmounts whatever is mounted below the directories, the newest first. A disk that is mounted at one of them stays.
fn unmount_below(directories: &[&Path]) -> Result<(), Error> {
    let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").map_err(Error::Proc)?;
    let points = mountinfo
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(unescape);
    let mut ours: Vec<PathBuf> = points
        .filter(|point| directories.iter().any(|d| point.starts_with(d) && point != d))
        .collect();
    ours.reverse();
    for point in ours {
        match umount2(&point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            // Gone with the mount that it was on.
            Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
            Err(error) => {
                return Err(Error::Unmount {
                    path: point,
                    source: error.into(),
                });
            }
        }
    }
    Ok(())
}

/// Mount points in `/proc` have blanks and backslashes as octal escapes.
fn unescape(text: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let octal = (first == b'\\').then(|| tail.get(..3)).flatten();
        let value = octal
            .and_then(|o| std::str::from_utf8(o).ok())
            .and_then(|o| u8::from_str_radix(o, 8).ok());
        match value {
            Some(value) => {
                bytes.push(value);
                rest = &tail[3..];
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_unescaped() {
        for (text, path) in [
            ("/a", "/a"),
            ("/a\\040b", "/a b"),
            ("/a\\134", "/a\\"),
            ("/a\\04", "/a\\04"),
        ] {
            assert_eq!(unescape(text), Path::new(path));
        }
    }
}
