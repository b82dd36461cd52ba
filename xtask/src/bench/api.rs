//! The API server's figures: the program `examples/bench` of crate `apiserver` measures them, with a server in a process
//! of its own and wrk as the load.

use anyhow::{Context as _, Result, ensure};
use futures::FutureExt;
use serde::Deserialize;

use crate::context::{Context, Measurement};
use crate::figure::{Figure, Unit};

/// See [`crate::MEASUREMENTS`].
pub(crate) const MEASUREMENTS: &[Measurement] = &[
    Measurement {
        name: "api-create",
        doc: "ConfigMaps of 1 KB and Pods created over TLS by wrk with 64 connections, beside the bare limits",
        run: |context| rows(context, &["limits", "create"]).boxed(),
    },
    Measurement {
        name: "api-read",
        doc: "13,800 Pods and 20,000 ConfigMaps: memory; GET and LIST over TLS by wrk, the whole list by one client",
        run: |context| rows(context, &["limits", "read"]).boxed(),
    },
    Measurement {
        name: "api-watch",
        doc: "1,000 watchers of one kind on connections of their own while 1,000 changes/s are made: the last one's delay",
        run: |context| rows(context, &["watchers"]).boxed(),
    },
    Measurement {
        name: "api-crds",
        doc: "resident memory that each of 1,000 CustomResourceDefinitions adds once all are established",
        run: |context| rows(context, &["crds"]).boxed(),
    },
    Measurement {
        name: "api-leases",
        doc: "100,000 Leases, each renewed every 10 s",
        run: |context| rows(context, &["leases"]).boxed(),
    },
];

/// What the program says of one figure.
#[derive(Debug, Deserialize)]
struct Row {
    name: String,
    value: String,
    number: f64,
    limit: Option<f64>,
}

/// Name, unit, upstream's value, what must be reached and what is reached for.
type Bound = (&'static str, Unit, Option<f64>, Option<f64>, Option<f64>);

const BOUNDS: &[Bound] = &[
    (
        "create ConfigMap of 1 KB",
        Unit::PerSecond,
        Some(2_060.0),
        Some(12_000.0),
        Some(30_000.0),
    ),
    (
        "create Pod",
        Unit::PerSecond,
        Some(1_380.0),
        Some(7_000.0),
        Some(15_000.0),
    ),
    (
        "get Pod",
        Unit::PerSecond,
        Some(5_120.0),
        Some(30_000.0),
        Some(60_000.0),
    ),
    (
        "list 500 of 13,800 Pods",
        Unit::PerSecond,
        Some(95.0),
        Some(700.0),
        Some(2_000.0),
    ),
    (
        "list 13,800 Pods",
        Unit::Seconds,
        Some(0.55),
        Some(0.1),
        Some(0.05),
    ),
    (
        "memory after 13,800 Pods and 20,000 ConfigMaps",
        Unit::Bytes,
        Some(1.2e9),
        Some(200e6),
        Some(110e6),
    ),
    ("memory after the lists", Unit::Bytes, None, None, None),
    (
        "1,000 watchers, 1,000 changes/s: last watcher",
        Unit::Seconds,
        None,
        Some(0.1),
        Some(0.02),
    ),
    (
        "each of 1,000 CRDs",
        Unit::Bytes,
        Some(13e6),
        Some(100e3),
        Some(20e3),
    ),
    (
        "100,000 Leases renewed every 10 s",
        Unit::PerSecond,
        None,
        Some(9_900.0),
        None,
    ),
];

async fn rows(context: &Context, rows: &[&str]) -> Result<Vec<Figure>> {
    let program = context.keelson.with_file_name("examples").join("bench");
    let seconds = context.rounds(10, 1).to_string();
    let mut command = tokio::process::Command::new(&program);
    command.args(["--json", "--seconds", &seconds]).args(rows);
    command.env("BENCH_DIR", &context.scratch).kill_on_drop(true);
    let output = command.stderr(std::process::Stdio::inherit()).output().await;
    let output = output.with_context(|| format!("cannot run {}", program.display()))?;
    ensure!(
        output.status.success(),
        "the program ended with {}",
        output.status
    );
    let rows: Vec<Row> = serde_json::from_slice(&output.stdout)?;
    Ok(rows.into_iter().map(figure).collect())
}

fn figure(row: Row) -> Figure {
    let bound = BOUNDS.iter().find(|(name, ..)| *name == row.name);
    let unit = bound.map_or(Unit::PerSecond, |(_, unit, ..)| *unit);
    let mut figure = Figure::new(format!("api: {}", row.name), unit, row.number).note(row.value);
    if let Some((_, _, upstream, must, reach)) = bound {
        (figure.upstream, figure.must, figure.reach) = (*upstream, *must, *reach);
    }
    match row.limit {
        Some(limit) => figure.peer("bare limit", limit),
        None => figure,
    }
}
