//! Present usage of a group.

use std::fs;
use std::path::Path;

use super::{Error, Group, find_key, read_number};

/// Usage of a group; what the kernel does not tell is `None`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stats {
    /// CPU time since the group was made, nanoseconds.
    pub cpu_usage: Option<u64>,
    /// Bytes, with caches.
    pub memory_usage: Option<u64>,
    /// Bytes, without inactive file caches.
    pub memory_working_set: Option<u64>,
    /// Bytes of anonymous memory.
    pub memory_rss: Option<u64>,
    /// Bytes; `None` when unlimited.
    pub memory_limit: Option<u64>,
    /// Since the group was made.
    pub page_faults: Option<u64>,
    /// Since the group was made.
    pub major_page_faults: Option<u64>,
    /// Bytes.
    pub swap_usage: Option<u64>,
    /// Bytes; `None` when unlimited.
    pub swap_limit: Option<u64>,
    /// Number of tasks.
    pub processes: Option<u64>,
    /// Pressure stall information (version 2 only).
    pub cpu_pressure: Option<Pressure>,
    /// As above.
    pub memory_pressure: Option<Pressure>,
    /// As above.
    pub io_pressure: Option<Pressure>,
}

/// One pressure file: `some` and `full`, each as (avg10, avg60, avg300, total microseconds).
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pressure {
    /// At least one task stalled.
    pub some: (f64, f64, f64, u64),
    /// All tasks stalled.
    pub full: (f64, f64, f64, u64),
}

/// What version 1 shows for "no limit" is the largest page-aligned number.
const V1_UNLIMITED: u64 = 0x7fff_ffff_ffff_f000;

pub(super) fn v1(group: &Group) -> Result<Stats, Error> {
    let read = |controller: &str, file: &str| read_number(&group.directory(controller)?.join(file));
    let mut stats = Stats {
        cpu_usage: read("cpuacct", "cpuacct.usage"),
        processes: read("pids", "pids.current"),
        ..Stats::default()
    };
    if let Some(directory) = group.directory("memory") {
        let path = directory.join("memory.stat");
        let text = fs::read_to_string(&path).map_err(|source| Error::new("read", &path, source))?;
        let usage = read_number(&directory.join("memory.usage_in_bytes"));
        stats.memory_usage = usage;
        let inactive = find_key(&text, "total_inactive_file").unwrap_or(0);
        stats.memory_working_set = usage.map(|usage| usage.saturating_sub(inactive));
        stats.memory_rss = find_key(&text, "total_rss");
        stats.page_faults = find_key(&text, "total_pgfault");
        stats.major_page_faults = find_key(&text, "total_pgmajfault");
        stats.swap_usage = find_key(&text, "total_swap");
        stats.memory_limit =
            read_number(&directory.join("memory.limit_in_bytes")).filter(|limit| *limit < V1_UNLIMITED);
    } else if group
        .directory("cpuacct")
        .is_none_or(|directory| !directory.exists())
    {
        return Err(Error::new(
            "read",
            &group.path(),
            std::io::ErrorKind::NotFound.into(),
        ));
    }
    Ok(stats)
}

pub(super) fn v2(group: &Group) -> Result<Stats, Error> {
    let Some(directory) = group.directory("") else {
        return Ok(Stats::default());
    };
    let path = directory.join("cpu.stat");
    let cpu = fs::read_to_string(&path).map_err(|source| Error::new("read", &path, source))?;
    let memory = fs::read_to_string(directory.join("memory.stat")).unwrap_or_default();
    let read = |file: &str| read_number(&directory.join(file));
    let usage = read("memory.current");
    let inactive = find_key(&memory, "inactive_file").unwrap_or(0);
    Ok(Stats {
        cpu_usage: find_key(&cpu, "usage_usec").map(|usec| usec * 1000),
        memory_usage: usage,
        memory_working_set: usage.map(|usage| usage.saturating_sub(inactive)),
        memory_rss: find_key(&memory, "anon"),
        memory_limit: read("memory.max"),
        page_faults: find_key(&memory, "pgfault"),
        major_page_faults: find_key(&memory, "pgmajfault"),
        swap_usage: read("memory.swap.current"),
        swap_limit: read("memory.swap.max"),
        processes: read("pids.current"),
        cpu_pressure: pressure(&directory.join("cpu.pressure")),
        memory_pressure: pressure(&directory.join("memory.pressure")),
        io_pressure: pressure(&directory.join("io.pressure")),
    })
}

fn pressure(path: &Path) -> Option<Pressure> {
    parse_pressure(&fs::read_to_string(path).ok()?)
}

fn parse_pressure(text: &str) -> Option<Pressure> {
    let line = |name: &str| {
        let fields = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        let field = |key: &str| {
            fields
                .split(' ')
                .find_map(|f| f.strip_prefix(key)?.strip_prefix('='))
        };
        let average = |key: &str| field(key)?.parse::<f64>().ok();
        Some((
            average("avg10")?,
            average("avg60")?,
            average("avg300")?,
            field("total")?.parse().ok()?,
        ))
    };
    Some(Pressure {
        some: line("some")?,
        full: line("full").unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_is_parsed() {
        let text = "some avg10=1.50 avg60=0.20 avg300=0.00 total=12345\nfull avg10=0.10 avg60=0.00 avg300=0.00 total=7\n";
        let expected = Pressure {
            some: (1.5, 0.2, 0.0, 12345),
            full: (0.1, 0.0, 0.0, 7),
        };
        assert_eq!(parse_pressure(text), Some(expected));
        assert_eq!(parse_pressure(""), None);
    }
}
