//! What processes use, from /proc.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};

/// Sums over the processes of a cluster.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// How many.
    pub(crate) processes: usize,
    /// Resident memory in bytes; pages that several share count for each.
    pub(crate) rss: u64,
    /// Proportional memory in bytes; a page that several share counts once in all.
    pub(crate) pss: u64,
    /// Processor time, user and system, ended threads included.
    pub(crate) cpu: Duration,
    /// Bytes that were sent towards a disk (`write_bytes`).
    pub(crate) written: u64,
}

/// What the processes of the program `exe` use that run in this machine, those in sandboxed nodes included.
pub(crate) fn usage_of(exe: &Path) -> Result<Usage> {
    let mut sum = Usage::default();
    for entry in fs::read_dir("/proc").context("cannot list /proc")? {
        let process = entry?.path();
        // Entries that are no processes have no `exe`; a process may also end while it is looked at.
        if fs::read_link(process.join("exe")).is_ok_and(|path| path == exe)
            && let Some(usage) = usage(&process)
        {
            sum.processes += 1;
            sum.rss += usage.rss;
            sum.pss += usage.pss;
            sum.cpu += usage.cpu;
            sum.written += usage.written;
        }
    }
    Ok(sum)
}

/// One process; `None` when it has ended.
fn usage(process: &Path) -> Option<Usage> {
    let rollup = fs::read_to_string(process.join("smaps_rollup")).ok()?;
    let io = fs::read_to_string(process.join("io")).ok()?;
    let stat = fs::read_to_string(process.join("stat")).ok()?;
    Some(Usage {
        processes: 1,
        rss: number(&rollup, "Rss:")? * 1024,
        pss: number(&rollup, "Pss:")? * 1024,
        cpu: cpu_time(&stat)?,
        written: number(&io, "write_bytes:")?,
    })
}

/// The number after `key` on the line that begins with it.
fn number(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Fields 14 and 15 of `/proc/PID/stat`, in hundredths of a second. The name in parentheses may hold spaces.
fn cpu_time(stat: &str) -> Option<Duration> {
    let after_name = &stat[stat.rfind(')')? + 1..];
    let mut fields = after_name.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(Duration::from_millis((user + system) * 10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_proc() {
        let stat = "42 (a (b) c) S 1 42 42 0 -1 4194560 100 0 0 0 250 50 7 7 20 0 9 0 100 1000 200";
        assert_eq!(cpu_time(stat), Some(Duration::from_secs(3)));
        assert_eq!(number("Rss:    12 kB\nPss:    7 kB\n", "Pss:"), Some(7));
        assert_eq!(number("rchar: 5\n", "write_bytes:"), None);
    }
}
