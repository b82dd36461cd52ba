//! Durable writes of the embedded store, beside etcd's.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::try_join_all;
use keelson_store::embedded::{EmbeddedStore, Options};
use keelson_store::etcd::{EtcdOptions, EtcdStore};
use keelson_store::{Precondition, Store, WriteOutcome};

use crate::context::{Context, Measurement};
use crate::figure::{Figure, Unit, percentile};
use crate::peer::Peer;

/// See [`crate::MEASUREMENTS`].
pub(crate) const MEASUREMENTS: &[Measurement] = &[Measurement {
    name: "store",
    doc: "new keys with values of 1 KB, each durable before the next: one writer's time for each, and how many 64 writers achieve; the embedded store in this process, etcd over gRPC on loopback",
    run: |context| store(context).boxed(),
}];

const ENDPOINT: &str = "http://127.0.0.1:12379";

/// What one store achieves.
struct Speed {
    /// One writer's times.
    alone: Vec<Duration>,
    /// Writes per second of 64 writers.
    together: f64,
}

async fn store(context: &Context) -> Result<Vec<Figure>> {
    let directory = context.scratch.join("store");
    let embedded = EmbeddedStore::open(directory.join("embedded"), Options::default())?;
    let ours = measure(context, embedded.as_ref()).await?;
    embedded.close().await;
    let etcd = etcd(context).await?;
    std::fs::remove_dir_all(&directory)?;

    let median = |speed: &Speed| percentile(&speed.alone, 0.5);
    let mut alone = Figure::new(
        "store: 1 KB durable, one writer, p50",
        Unit::Seconds,
        median(&ours),
    );
    let mut together = Figure::new("store: 1 KB durable, 64 writers", Unit::PerSecond, ours.together);
    if let Some(etcd) = etcd {
        alone = alone.peer("etcd", median(&etcd));
        together = together.peer("etcd", etcd.together);
    } else {
        alone = alone.note("etcd is not installed");
    }
    Ok(vec![alone, together])
}

async fn etcd(context: &Context) -> Result<Option<Speed>> {
    let data = context.scratch.join("store/etcd");
    let mut command = Command::new("etcd");
    command
        .arg(format!("--data-dir={}", data.display()))
        .args([
            format!("--listen-client-urls={ENDPOINT}"),
            format!("--advertise-client-urls={ENDPOINT}"),
        ])
        .args([
            "--listen-peer-urls=http://127.0.0.1:12380",
            "--initial-advertise-peer-urls=http://127.0.0.1:12380",
            "--initial-cluster=default=http://127.0.0.1:12380",
        ]);
    let Some(mut peer) = Peer::start(&mut command, &context.scratch.join("etcd.log"))? else {
        return Ok(None);
    };
    let options = EtcdOptions::new([ENDPOINT]);
    let store = peer.answers(|| EtcdStore::connect(&options)).await?;
    let speed = measure(context, &store).await?;
    store.close().await;
    Ok(Some(speed))
}

async fn measure(context: &Context, store: &impl Store) -> Result<Speed> {
    let (singles, period) = (
        context.rounds(1000, 20),
        Duration::from_millis(context.rounds(5000, 200) as u64),
    );
    let mut alone = Vec::with_capacity(singles);
    for number in 0..singles {
        let started = Instant::now();
        put(store, &format!("/alone/{number}")).await?;
        alone.push(started.elapsed());
    }
    let started = Instant::now();
    let writers = (0..64).map(|writer| async move {
        let mut written = 0_u32;
        while started.elapsed() < period {
            put(store, &format!("/together/{writer}/{written}")).await?;
            written += 1;
        }
        anyhow::Ok(written)
    });
    let written: u32 = try_join_all(writers).await?.into_iter().sum();
    Ok(Speed {
        alone,
        together: f64::from(written) / started.elapsed().as_secs_f64(),
    })
}

async fn put(store: &impl Store, key: &str) -> Result<()> {
    let (key, value) = (
        Bytes::copy_from_slice(key.as_bytes()),
        Bytes::from_static(&[b'x'; 1024]),
    );
    let outcome = store.put(key, value, Precondition::Absent, None).await?;
    ensure!(
        matches!(outcome, WriteOutcome::Committed { .. }),
        "a new key was there already"
    );
    Ok(())
}
