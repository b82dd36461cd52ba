//! The process that the server is in.

use prometheus::{Gauge, IntGauge};

use super::{Registry, register};

/// Read from `/proc/self` when it is asked for.
pub(super) struct Process {
    cpu: Gauge,
    resident: IntGauge,
    descriptors: IntGauge,
    started: Gauge,
}

/// Ticks of `/proc` in a second: what `sysconf(_SC_CLK_TCK)` is on every Linux.
const TICKS: f64 = 100.0;
const PAGE: i64 = 4096;

impl Process {
    pub(super) fn new(registry: &Registry) -> Self {
        let gauge = |name, help| {
            register(
                registry,
                Gauge::new(name, help).expect("invariant: the name is valid"),
            )
        };
        let whole = |name, help| {
            register(
                registry,
                IntGauge::new(name, help).expect("invariant: the name is valid"),
            )
        };
        Self {
            cpu: gauge(
                "process_cpu_seconds_total",
                "User and system CPU time spent in seconds.",
            ),
            resident: whole("process_resident_memory_bytes", "Resident memory in bytes."),
            descriptors: whole("process_open_fds", "Open file descriptors."),
            started: gauge(
                "process_start_time_seconds",
                "Start of the process in seconds since the epoch.",
            ),
        }
    }

    pub(super) fn read(&self) {
        // What /proc does not say stays as it was.
        if let Some((cpu, resident, started)) = stat() {
            self.cpu.set(cpu);
            self.resident.set(resident);
            self.started.set(started);
        }
        if let Ok(entries) = std::fs::read_dir("/proc/self/fd") {
            self.descriptors
                .set(i64::try_from(entries.count()).unwrap_or(i64::MAX));
        }
    }
}

/// CPU seconds, resident bytes, start in seconds since the epoch.
fn stat() -> Option<(f64, i64, f64)> {
    let text = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The command stands in parentheses and may hold spaces.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<f64>().ok();
    let boot = std::fs::read_to_string("/proc/stat").ok()?;
    let boot = boot.lines().find_map(|line| line.strip_prefix("btime "))?;
    Some((
        (number(11)? + number(12)?) / TICKS,
        number(21)? as i64 * PAGE,
        boot.trim().parse::<f64>().ok()? + number(19)? / TICKS,
    ))
}
