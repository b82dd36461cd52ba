//! What a cluster uses that nobody uses.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::FutureExt;

use crate::cluster::{Cluster, run};
use crate::context::{Context, Measurement};
use crate::figure::{Figure, Unit};
use crate::processes::usage_of;

/// See [`crate::MEASUREMENTS`].
pub(crate) const MEASUREMENTS: &[Measurement] = &[Measurement {
    name: "idle",
    doc: "a single node without pods, half a minute after its start: memory of all processes; then for a minute their processor time and what they and their file system write",
    run: |context| idle(context).boxed(),
}];

const DAY: f64 = 86_400.0;

async fn idle(context: &Context) -> Result<Vec<Figure>> {
    let cluster = Cluster::start(context, 1).await?;
    let (settle, period) = if context.quick { (1, 2) } else { (30, 60) };
    // Time is what is measured here, not waited away.
    tokio::time::sleep(Duration::from_secs(settle)).await;
    let (before, on_disk) = (usage_of(&context.keelson)?, written(&context.scratch)?);
    tokio::time::sleep(Duration::from_secs(period)).await;
    let (after, on_disk) = (usage_of(&context.keelson)?, written(&context.scratch)? - on_disk);
    let per_day = DAY / period as f64;
    let written = (after.written - before.written) as f64 * per_day;
    let cpu = (after.cpu - before.cpu).as_secs_f64() / period as f64;
    cluster.stop()?;
    let processes = match after.processes {
        1 => "RSS of 1 process".to_owned(),
        n => format!("RSS of {n} processes"),
    };
    let over = format!("over {period} s");
    Ok(vec![
        Figure::new("idle single node: resident memory", Unit::Bytes, after.rss as f64)
            .bounds(736e6, 120e6, 60e6)
            .note(format!("{processes}; PSS {}", Unit::Bytes.show(after.pss as f64))),
        Figure::new("idle single node: CPU", Unit::Cores, cpu)
            .bounds(0.12, 0.01, 0.003)
            .note(&over),
        Figure::new(
            "idle single node: disk writes",
            Unit::BytesPerDay,
            on_disk * per_day,
        )
        .bounds(49e9, 500e6, 100e6)
        .note(format!(
            "at the block device, the file system's journal included, {over}; by the processes {}",
            Unit::BytesPerDay.show(written)
        )),
    ])
}

/// Bytes written so far to the device of the file system that `directory` is on.
fn written(directory: &Path) -> Result<f64> {
    let source = run(Command::new("findmnt")
        .args(["-n", "-o", "SOURCE", "--target"])
        .arg(directory))?;
    // Of file systems mounted one over the other the last is the one that is seen.
    let device = source.lines().next_back().unwrap_or_default().trim();
    let device = device.trim_start_matches("/dev/");
    let path = format!("/sys/class/block/{device}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let sectors = stat.split_whitespace().nth(6).context("a short stat")?;
    Ok(sectors.parse::<u64>()? as f64 * 512.0)
}
