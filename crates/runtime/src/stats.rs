//! Usage of containers and sandboxes, read from their groups when asked for.

use std::path::Path;
use std::sync::Arc;

use keelson_cri::v1;
use tonic::Status;

use crate::cgroup::{self, Pressure, Stats};
use crate::describe::matches;
use crate::runtime::{Runtime, now};
use crate::state::{Container, Phase, Sandbox};

fn value(number: Option<u64>) -> Option<v1::UInt64Value> {
    number.map(|value| v1::UInt64Value { value })
}

fn pressure(pressure: Option<Pressure>) -> Option<v1::PsiStats> {
    let data = |(avg10, avg60, avg300, total): (f64, f64, f64, u64)| v1::PsiData {
        total,
        avg10,
        avg60,
        avg300,
    };
    pressure.map(|p| v1::PsiStats {
        full: Some(data(p.full)),
        some: Some(data(p.some)),
    })
}

fn cpu(stats: &Stats, timestamp: i64, nano_cores: Option<u64>) -> v1::CpuUsage {
    v1::CpuUsage {
        timestamp,
        usage_core_nano_seconds: value(stats.cpu_usage),
        usage_nano_cores: value(nano_cores),
        psi: pressure(stats.cpu_pressure),
    }
}

fn memory(stats: &Stats, timestamp: i64) -> v1::MemoryUsage {
    let available = stats
        .memory_limit
        .zip(stats.memory_working_set)
        .map(|(limit, used)| limit.saturating_sub(used));
    v1::MemoryUsage {
        timestamp,
        working_set_bytes: value(stats.memory_working_set),
        available_bytes: value(available),
        usage_bytes: value(stats.memory_usage),
        rss_bytes: value(stats.memory_rss),
        page_faults: value(stats.page_faults),
        major_page_faults: value(stats.major_page_faults),
        psi: pressure(stats.memory_pressure),
    }
}

impl Runtime {
    pub(crate) async fn container_stats(
        &self,
        container: &Arc<Container>,
    ) -> Result<v1::ContainerStats, Status> {
        let timestamp = now();
        let cgroup = container.record.lock().cgroup.clone();
        let stats = match container.phase() {
            Phase::Running { .. } => match self.0.cgroups.group(&cgroup).stats() {
                Ok(stats) => stats,
                // It has ended in the meantime.
                Err(error) if error.source.kind() == std::io::ErrorKind::NotFound => Stats::default(),
                Err(error) => return Err(Status::unknown(format!("failed to fetch metrics: {error}"))),
            },
            _ => Stats::default(),
        };
        let nano_cores = stats.cpu_usage.and_then(|usage| {
            let before = container.last_cpu.lock().replace((timestamp, usage))?;
            let elapsed = u64::try_from(timestamp - before.0)
                .ok()
                .filter(|elapsed| *elapsed > 0)?;
            let used = u128::from(usage.checked_sub(before.1)?) * 1_000_000_000;
            u64::try_from(used / u128::from(elapsed)).ok()
        });
        let layer = self.0.images.rootfs_usage(&container.id).await.ok();
        let mountpoint = self.0.config.root.display().to_string();
        let config = container.config.lock();
        Ok(v1::ContainerStats {
            attributes: Some(v1::ContainerAttributes {
                id: container.id.clone(),
                metadata: config.metadata.clone(),
                labels: config.labels.clone(),
                annotations: config.annotations.clone(),
            }),
            cpu: Some(cpu(&stats, timestamp, nano_cores)),
            memory: Some(memory(&stats, timestamp)),
            writable_layer: Some(v1::FilesystemUsage {
                timestamp,
                fs_id: Some(v1::FilesystemIdentifier { mountpoint }),
                used_bytes: value(layer.map(|layer| layer.bytes)),
                inodes_used: value(layer.map(|layer| layer.inodes)),
            }),
            swap: Some(v1::SwapUsage {
                timestamp,
                swap_available_bytes: value(
                    stats
                        .swap_limit
                        .zip(stats.swap_usage)
                        .map(|(limit, used)| limit.saturating_sub(used)),
                ),
                swap_usage_bytes: value(stats.swap_usage),
            }),
            io: stats.io_pressure.map(|io| v1::IoUsage {
                timestamp,
                psi: pressure(Some(io)),
            }),
        })
    }

    pub(crate) async fn list_container_stats(
        &self,
        filter: Option<v1::ContainerStatsFilter>,
    ) -> Result<Vec<v1::ContainerStats>, Status> {
        let filter = filter.unwrap_or_default();
        let containers: Vec<Arc<Container>> = self
            .0
            .containers
            .read()
            .values()
            .filter(|c| filter.id.is_empty() || c.id.starts_with(&filter.id))
            .filter(|c| filter.pod_sandbox_id.is_empty() || c.sandbox_id.starts_with(&filter.pod_sandbox_id))
            .filter(|c| matches(&filter.label_selector, &c.config.lock().labels))
            .filter(|c| matches!(c.phase(), Phase::Running { .. }))
            .cloned()
            .collect();
        let mut list = Vec::with_capacity(containers.len());
        for container in containers {
            list.push(self.container_stats(&container).await?);
        }
        Ok(list)
    }

    pub(crate) async fn sandbox_stats(&self, sandbox: &Arc<Sandbox>) -> Result<v1::PodSandboxStats, Status> {
        let timestamp = now();
        let parent = sandbox
            .config
            .linux
            .as_ref()
            .map(|linux| linux.cgroup_parent.clone())
            .unwrap_or_default();
        // Without a group of its own, the pod's usage is not known.
        let stats = if parent.trim_matches('/').is_empty() {
            Stats::default()
        } else {
            match self.0.cgroups.group(Path::new(&parent)).stats() {
                Ok(stats) => stats,
                Err(cgroup::Error { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                    Stats::default()
                }
                Err(error) => return Err(Status::unknown(format!("failed to fetch metrics: {error}"))),
            }
        };
        let filter = v1::ContainerStatsFilter {
            pod_sandbox_id: sandbox.id.clone(),
            ..Default::default()
        };
        let containers = self.list_container_stats(Some(filter)).await?;
        Ok(v1::PodSandboxStats {
            attributes: Some(v1::PodSandboxAttributes {
                id: sandbox.id.clone(),
                metadata: sandbox.config.metadata.clone(),
                labels: sandbox.config.labels.clone(),
                annotations: sandbox.config.annotations.clone(),
            }),
            linux: Some(v1::LinuxPodSandboxStats {
                cpu: Some(cpu(&stats, timestamp, None)),
                memory: Some(memory(&stats, timestamp)),
                network: self.network_usage(sandbox, timestamp).await,
                process: Some(v1::ProcessUsage {
                    timestamp,
                    process_count: value(stats.processes),
                }),
                containers,
                io: stats.io_pressure.map(|io| v1::IoUsage {
                    timestamp,
                    psi: pressure(Some(io)),
                }),
            }),
            windows: None,
        })
    }

    /// The counters of the pod's interfaces, as any process in its network namespace sees them.
    async fn network_usage(&self, sandbox: &Sandbox, timestamp: i64) -> Option<v1::NetworkUsage> {
        sandbox.network.as_ref()?;
        let shim = sandbox.shim()?;
        let state = shim.state().await.ok()?;
        let text = std::fs::read_to_string(format!("/proc/{}/net/dev", state.pid)).ok()?;
        let (mut default_interface, mut interfaces) = (None, Vec::new());
        for interface in parse_net_dev(&text) {
            if interface.name == "eth0" {
                default_interface = Some(interface);
            } else {
                interfaces.push(interface);
            }
        }
        Some(v1::NetworkUsage {
            timestamp,
            default_interface,
            interfaces,
        })
    }

    pub(crate) async fn list_sandbox_stats(
        &self,
        filter: Option<v1::PodSandboxStatsFilter>,
    ) -> Result<Vec<v1::PodSandboxStats>, Status> {
        let filter = filter.unwrap_or_default();
        let sandboxes: Vec<Arc<Sandbox>> = self
            .0
            .sandboxes
            .read()
            .values()
            .filter(|s| filter.id.is_empty() || s.id.starts_with(&filter.id))
            .filter(|s| matches(&filter.label_selector, &s.config.labels))
            .filter(|s| s.state() == v1::PodSandboxState::SandboxReady)
            .cloned()
            .collect();
        let mut list = Vec::with_capacity(sandboxes.len());
        for sandbox in sandboxes {
            list.push(self.sandbox_stats(&sandbox).await?);
        }
        Ok(list)
    }
}

/// `/proc/<pid>/net/dev` without the loopback interface.
fn parse_net_dev(text: &str) -> Vec<v1::NetworkInterfaceUsage> {
    text.lines()
        .filter_map(|line| {
            let (name, counters) = line.split_once(':')?;
            let name = name.trim();
            let counters: Vec<u64> = counters
                .split_whitespace()
                .filter_map(|n| n.parse().ok())
                .collect();
            (name != "lo" && counters.len() >= 11).then(|| v1::NetworkInterfaceUsage {
                name: name.to_owned(),
                rx_bytes: value(Some(counters[0])),
                rx_errors: value(Some(counters[2])),
                tx_bytes: value(Some(counters[8])),
                tx_errors: value(Some(counters[10])),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_interfaces() {
        let text = "Inter-|   Receive                                                |  Transmit\n \
            face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop\n    \
            lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  \
            eth0: 100 2 3 0 0 0 0 0 400 5 6 0 0 0 0 0\n";
        let interfaces = parse_net_dev(text);
        assert_eq!(interfaces.len(), 1);
        let eth0 = &interfaces[0];
        let numbers =
            [&eth0.rx_bytes, &eth0.rx_errors, &eth0.tx_bytes, &eth0.tx_errors].map(|v| v.unwrap().value);
        assert_eq!(numbers, [100, 3, 400, 6]);
    }
}
