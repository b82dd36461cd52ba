//! Figures of the embedded store: durable writes per second, latency, memory, opening.
//!
//! `cargo run --release -p keelson-store --example bench [DIRECTORY]`; the directory decides which disk is measured.

#![allow(clippy::cast_precision_loss, reason = "figures for people")]

use std::error::Error;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use keelson_store::embedded::{EmbeddedStore, Options};
use keelson_store::{Precondition, RangeRequest, Revision, Store, WatchMessage};

const VALUE: usize = 1_300;
const KEYS: usize = 30_000;
const SECONDS: u64 = 4;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> Result<()> {
    let base = std::env::args()
        .nth(1)
        .map_or_else(std::env::temp_dir, Into::into);
    let path = base.join(format!("keelson-store-bench-{}", std::process::id()));
    if let (Some("--open"), Some(path)) = (std::env::args().nth(1).as_deref(), std::env::args().nth(2)) {
        return open(std::path::Path::new(&path));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let result = runtime.block_on(run(&path));
    std::fs::remove_dir_all(&path)?;
    result
}

async fn run(path: &std::path::Path) -> Result<()> {
    let before = memory("RssAnon")?;
    let store = EmbeddedStore::open(path, options()?)?;
    fill(&store).await?;
    store.wait_for_checkpoint().await;
    println!(
        "{KEYS} values of {VALUE} B ({:.0} MB): {:.0} MB anonymous memory, {:.0} MB on disk",
        (KEYS * VALUE) as f64 / 1e6,
        memory("RssAnon")? - before,
        store.size().await? as f64 / 1e6
    );
    raw(path)?;
    for writers in [1, 64] {
        measure(&store, writers).await?;
        let current = store.revision().await?;
        let started = Instant::now();
        store.compact(current).await?;
        store.wait_for_checkpoint().await;
        println!(
            "  compaction and checkpoints after it: {:.2} s",
            started.elapsed().as_secs_f64()
        );
    }
    println!(
        "after all writes: {:.0} MB anonymous memory",
        memory("RssAnon")? - before
    );
    reads(&store).await?;
    let written = io("write_bytes")?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    println!("written in 3 s of idling: {} B", io("write_bytes")? - written);
    store.close().await;
    drop(store);
    // In a process of its own, whose memory has not been used for anything else.
    std::process::Command::new(std::env::current_exe()?)
        .arg("--open")
        .arg(path)
        .status()?;
    Ok(())
}

fn open(path: &std::path::Path) -> Result<()> {
    let before = memory("RssAnon")?;
    let started = Instant::now();
    let store = EmbeddedStore::open(path, Options::default())?;
    println!(
        "opening: {:.3} s, {:.0} MB anonymous memory",
        started.elapsed().as_secs_f64(),
        memory("RssAnon")? - before
    );
    drop(store);
    Ok(())
}

/// What the disk gives right now: groups of 1 and of 64 values appended to a plain file, with fdatasync after each group.
fn raw(path: &std::path::Path) -> Result<()> {
    for group in [1, 64] {
        let mut file = std::fs::File::create(path.join("raw"))?;
        let bytes = vec![1; VALUE * group];
        let started = Instant::now();
        let mut groups = 0;
        while started.elapsed() < Duration::from_secs(1) {
            file.write_all(&bytes)?;
            file.sync_data()?;
            groups += group;
        }
        println!(
            "plain file, groups of {group}: {:.0}/s",
            groups as f64 / started.elapsed().as_secs_f64()
        );
    }
    std::fs::remove_file(path.join("raw"))?;
    Ok(())
}

/// `SEGMENT_BYTES` in the environment changes the journal's segments.
fn options() -> Result<Options> {
    let mut options = Options::default();
    if let Ok(bytes) = std::env::var("SEGMENT_BYTES") {
        options.segment_bytes = bytes.parse()?;
    }
    Ok(options)
}

async fn fill(store: &Arc<EmbeddedStore>) -> Result<()> {
    let tasks: Vec<_> = (0..16)
        .map(|task| {
            let store = store.clone();
            tokio::spawn(async move {
                for n in (task..KEYS).step_by(16) {
                    store.put(key(n), value(n), Precondition::Absent, None).await?;
                }
                Ok::<_, keelson_store::Error>(())
            })
        })
        .collect();
    for task in tasks {
        task.await??;
    }
    Ok(())
}

/// Writes with so many writers for a while, one watcher reading along.
async fn measure(store: &Arc<EmbeddedStore>, writers: usize) -> Result<()> {
    let from = Revision(store.revision().await?.0 + 1);
    let mut watch = store.watch(Bytes::new(), Some(from)).await?;
    let watcher = tokio::spawn(async move {
        let mut events = 0;
        loop {
            match watch.next().await {
                Some(WatchMessage::Events(more)) => events += more.len(),
                Some(WatchMessage::Progress(_)) if events > 0 => return events,
                Some(WatchMessage::Progress(_)) => {}
                Some(WatchMessage::Lagged) | None => return 0,
            }
            watch.request_progress();
            if events == 0 {
                tokio::task::yield_now().await;
            }
        }
    });
    let cpu = cpu_ticks()?;
    let started = Instant::now();
    let end = started + Duration::from_secs(SECONDS);
    let tasks: Vec<_> = (0..writers)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut latencies = Vec::new();
                let mut n = writer;
                loop {
                    let before = Instant::now();
                    if before >= end {
                        return Ok::<_, keelson_store::Error>(latencies);
                    }
                    store
                        .put(key(n % KEYS), value(n), Precondition::None, None)
                        .await?;
                    latencies.push(before.elapsed());
                    n += writers;
                }
            })
        })
        .collect();
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await??);
    }
    let seconds = started.elapsed().as_secs_f64();
    watcher.abort();
    latencies.sort();
    println!(
        "{writers:2} writers: {:.0} durable writes/s, p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms, {:.0} us of CPU each",
        latencies.len() as f64 / seconds,
        quantile(&latencies, 500),
        quantile(&latencies, 990),
        quantile(&latencies, 999),
        (cpu_ticks()? - cpu) as f64 * 1e4 / latencies.len() as f64
    );
    Ok(())
}

async fn reads(store: &Arc<EmbeddedStore>) -> Result<()> {
    let started = Instant::now();
    let rounds = 200_000;
    for n in 0..rounds {
        store.get(&key(n % KEYS), None).await?;
    }
    println!(
        "get: {:.0}/s on one task",
        f64::from(u32::try_from(rounds)?) / started.elapsed().as_secs_f64()
    );
    let started = Instant::now();
    let response = store.range(RangeRequest::prefix("/registry/")).await?;
    println!(
        "range of {} keys: {:.2} ms",
        response.kvs.len(),
        started.elapsed().as_secs_f64() * 1e3
    );
    Ok(())
}

fn key(n: usize) -> Bytes {
    format!("/registry/configmaps/namespace-{}/object-{n}", n % 50).into()
}

fn value(n: usize) -> Bytes {
    let mut state = n as u64 + 1;
    let next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        state.to_le_bytes()[7]
    };
    std::iter::repeat_with(next).take(VALUE).collect()
}

fn quantile(sorted: &[Duration], per_mille: usize) -> f64 {
    sorted
        .get(sorted.len() * per_mille / 1000)
        .map_or(0.0, |d| d.as_secs_f64() * 1e3)
}

/// A field of /proc/self/status, in MB.
fn memory(field: &str) -> Result<f64> {
    Ok(proc_field("/proc/self/status", field)? as f64 * 1024.0 / 1e6)
}

/// User and system time of this process, in ticks of 10 ms.
fn cpu_ticks() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = text.rsplit_once(')').ok_or("no such field")?;
    let mut fields = fields.split_whitespace().skip(11);
    let mut next = || fields.next().ok_or("no such field");
    Ok(next()?.parse::<u64>()? + next()?.parse::<u64>()?)
}

fn io(field: &str) -> Result<u64> {
    proc_field("/proc/self/io", field)
}

fn proc_field(file: &str, field: &str) -> Result<u64> {
    let text = std::fs::read_to_string(file)?;
    let line = text
        .lines()
        .find_map(|l| l.strip_prefix(field)?.strip_prefix(':'));
    let number = line
        .and_then(|l| l.split_whitespace().next())
        .ok_or("no such field")?;
    Ok(number.parse()?)
}
