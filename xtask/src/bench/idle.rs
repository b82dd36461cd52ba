//! What a cluster uses that nobody uses.

use std::fs;
use std::path::{Path, PathBuf};
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
    let disk = Disk::mount(&context.scratch.join("idle"))?;
    let cluster = Cluster::start_in(context, 1, &disk.directory).await?;
    let (settle, period) = if context.quick { (1, 2) } else { (30, 60) };
    // Time is what is measured here, not waited away.
    tokio::time::sleep(Duration::from_secs(settle)).await;
    let (before, sectors) = (usage_of(&context.keelson)?, disk.written()?);
    tokio::time::sleep(Duration::from_secs(period)).await;
    let (after, sectors) = (usage_of(&context.keelson)?, disk.written()? - sectors);
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
            sectors * per_day,
        )
        .bounds(49e9, 500e6, 100e6)
        .note(format!(
            "at the block device, the file system's journal included, {over}; by the processes {}",
            Unit::BytesPerDay.show(written)
        )),
    ])
}

/// A file system of its own (ext4 on a loop device), so that what is written to it is known exactly.
struct Disk {
    directory: PathBuf,
    device: String,
}

impl Disk {
    fn mount(directory: &Path) -> Result<Self> {
        let image = directory.with_extension("img");
        fs::create_dir_all(directory)?;
        fs::File::create(&image)?.set_len(2 << 30)?;
        // Otherwise the kernel initialises tables in the background.
        let now = "lazy_itable_init=0,lazy_journal_init=0";
        run(Command::new("mkfs.ext4").args(["-q", "-E", now]).arg(&image))?;
        run(Command::new("mount")
            .args(["-o", "loop"])
            .arg(&image)
            .arg(directory))?;
        let source = run(Command::new("findmnt")
            .args(["-n", "-o", "SOURCE"])
            .arg(directory))?;
        let device = source.trim().trim_start_matches("/dev/").to_owned();
        Ok(Self {
            directory: directory.to_owned(),
            device,
        })
    }

    /// Bytes written to the device so far.
    fn written(&self) -> Result<f64> {
        let path = format!("/sys/class/block/{}/stat", self.device);
        let stat = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let sectors = stat.split_whitespace().nth(6).context("a short stat")?;
        Ok(sectors.parse::<u64>()? as f64 * 512.0)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Err(error) = run(Command::new("umount").arg(&self.directory)) {
            eprintln!("{error:#}");
        }
    }
}
