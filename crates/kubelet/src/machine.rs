//! What the machine is and has, from /proc and /sys.

use std::path::{Path, PathBuf};

use crate::config::KubeletConfig;

/// A fact is missing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of /proc cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// /proc/meminfo has no `MemTotal`.
    #[error("/proc/meminfo does not tell the memory's size")]
    Memory,
}

/// Facts that do not change while the kubelet runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Machine {
    pub(crate) cpus: i64,
    /// Bytes.
    pub(crate) memory: u64,
    pub(crate) swap: u64,
    /// Bytes of the file system that pods' local storage is on.
    pub(crate) storage: u64,
    pub(crate) boot_id: String,
    pub(crate) machine_id: String,
    pub(crate) system_uuid: String,
    pub(crate) kernel_version: String,
    pub(crate) os_image: String,
}

/// The architecture as Go and OCI name it.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        "riscv64" => "riscv64",
        other => other,
    }
}

fn read(path: &str) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(|source| Error::Read {
        path: PathBuf::from(path),
        source,
    })
}

fn optional(path: &str) -> String {
    std::fs::read_to_string(path)
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}

/// A value of /proc/meminfo in bytes.
pub(crate) fn meminfo(text: &str, key: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    line.trim()
        .trim_end_matches("kB")
        .trim()
        .parse::<u64>()
        .ok()
        .map(|kib| kib * 1024)
}

/// Unit of CPU times in /proc; the kernel's `USER_HZ`, which is the same on all architectures that have Kubernetes.
pub(crate) const TICKS_PER_SECOND: u64 = 100;

/// When the machine was started, in seconds since the epoch.
pub(crate) fn boot_time() -> Option<i64> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    line.trim().parse().ok()
}

/// When this process was started, in seconds since the epoch.
pub(crate) fn process_start_time() -> Option<i64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The 20th field after the name, in ticks since the boot.
    let ticks: u64 = stat
        .rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(19)?
        .parse()
        .ok()?;
    Some(boot_time()? + i64::try_from(ticks / TICKS_PER_SECOND).ok()?)
}

/// How many processes and threads the machine can have, and has.
pub(crate) fn process_limits() -> Option<(u64, u64)> {
    let most = std::fs::read_to_string("/proc/sys/kernel/pid_max").ok()?;
    let load = std::fs::read_to_string("/proc/loadavg").ok()?;
    let (_, now) = load.split_whitespace().nth(3)?.split_once('/')?;
    Some((most.trim().parse().ok()?, now.parse().ok()?))
}

/// Size, free bytes, inodes and free inodes of the file system at `path`.
pub(crate) fn file_system(path: &Path) -> std::io::Result<FileSystem> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(FileSystem {
        capacity: stat.f_blocks * stat.f_frsize,
        available: stat.f_bavail * stat.f_frsize,
        inodes: stat.f_files,
        inodes_free: stat.f_ffree,
    })
}

/// Usage of a file system, in bytes and inodes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FileSystem {
    pub(crate) capacity: u64,
    pub(crate) available: u64,
    pub(crate) inodes: u64,
    pub(crate) inodes_free: u64,
}

impl Machine {
    /// Reads all facts.
    pub(crate) fn read(config: &KubeletConfig) -> Result<Self, Error> {
        let cpuinfo = read("/proc/cpuinfo")?;
        let cpus = cpuinfo
            .lines()
            .filter(|line| line.starts_with("processor"))
            .count()
            .max(1);
        let memory = read("/proc/meminfo")?;
        let machine_id = optional("/etc/machine-id");
        let uuid = optional("/sys/class/dmi/id/product_uuid");
        let release = optional("/etc/os-release");
        let os_image = release
            .lines()
            .find_map(|line| line.strip_prefix("PRETTY_NAME="))
            .unwrap_or("Linux");
        Ok(Self {
            cpus: i64::try_from(cpus).unwrap_or(i64::MAX),
            memory: meminfo(&memory, "MemTotal").ok_or(Error::Memory)?,
            swap: meminfo(&memory, "SwapTotal").unwrap_or_default(),
            storage: file_system(&config.root_dir)
                .map(|fs| fs.capacity)
                .unwrap_or_default(),
            boot_id: optional("/proc/sys/kernel/random/boot_id"),
            system_uuid: if uuid.is_empty() { machine_id.clone() } else { uuid },
            machine_id,
            kernel_version: optional("/proc/sys/kernel/osrelease"),
            os_image: os_image.trim_matches('"').to_owned(),
        })
    }
}
