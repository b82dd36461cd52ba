//! 1,000 watchers of one kind, 1,000 changes per second: when the last of them has each change.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::Result;
use crate::client::Client;

const NAMESPACE: &str = "/api/v1/namespaces/watched/configmaps";

/// Latencies in milliseconds.
pub(crate) struct Fanout {
    pub(crate) changes_per_second: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
}

/// Runs `watchers` watches on connections of their own while `per_second` changes are made.
pub(crate) async fn fan_out(
    client: &Client,
    watchers: usize,
    per_second: usize,
    length: Duration,
) -> Result<Fanout> {
    let objects = 100;
    let mut connection = client.connect().await?;
    connection
        .post("/api/v1/namespaces", &json!({"metadata": {"name": "watched"}}))
        .await?;
    for at in 0..objects {
        connection
            .post(
                NAMESPACE,
                &json!({"metadata": {"name": format!("w-{at}")}, "data": {"n": "0"}}),
            )
            .await?;
    }
    let list = connection.get(&format!("{NAMESPACE}?limit=1")).await?;
    let list: serde_json::Value = serde_json::from_slice(&list)?;
    let from = list["metadata"]["resourceVersion"]
        .as_str()
        .ok_or("list")?
        .to_owned();
    let total = per_second * usize::try_from(length.as_secs())?;
    let sent: Arc<Vec<AtomicU64>> = Arc::new((0..total).map(|_| AtomicU64::new(0)).collect());
    let arrived: Arc<Vec<AtomicU64>> = Arc::new((0..total).map(|_| AtomicU64::new(0)).collect());
    let epoch = Instant::now();
    let mut readers = tokio::task::JoinSet::new();
    for _ in 0..watchers {
        let mut stream = client.stream().await?;
        let request = format!(
            "GET {NAMESPACE}?watch=1&resourceVersion={from}&timeoutSeconds=600 HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        let arrived = arrived.clone();
        readers.spawn(async move {
            let mut buffer = vec![0u8; 32 << 10];
            let mut seen = 0usize;
            while seen < total {
                let read = stream.read(&mut buffer).await?;
                if read == 0 {
                    return Err("a watch ended".into());
                }
                let now = micros(epoch);
                // Every event, and nothing else in the stream, ends in a brace and a line feed.
                let events = crate::client::count(&buffer[..read], b"}\n");
                for at in seen..(seen + events).min(total) {
                    arrived[at].fetch_max(now, Ordering::Relaxed);
                }
                seen += events;
            }
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
        });
    }
    // 16 writers, each every 16 ms: an open loop, which a slow server does not slow down until requests overlap.
    let begin = Instant::now();
    let next = Arc::new(AtomicU64::new(0));
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let mut connection = client.connect().await?;
        let (next, sent) = (next.clone(), sent.clone());
        writers.spawn(async move {
            loop {
                let at = usize::try_from(next.fetch_add(1, Ordering::Relaxed))?;
                if at >= total {
                    return Ok::<_, Box<dyn std::error::Error + Send + Sync>>(());
                }
                let due = begin + Duration::from_secs_f64(at as f64 / per_second as f64);
                tokio::time::sleep_until(due.into()).await;
                sent[at].store(micros(epoch), Ordering::Relaxed);
                let path = format!("{NAMESPACE}/w-{}", at % objects);
                let body = json!({"data": {"n": at.to_string()}}).to_string();
                connection.send(Method::PATCH, &path, body).await?;
            }
        });
    }
    while let Some(writer) = writers.join_next().await {
        writer??;
    }
    let seconds = begin.elapsed().as_secs_f64();
    while let Some(reader) = readers.join_next().await {
        reader??;
    }
    // Changes overlap a little, so the n-th to arrive is compared with the n-th sent.
    let mut latencies: Vec<u64> = sent
        .iter()
        .zip(arrived.iter())
        .map(|(sent, arrived)| {
            arrived
                .load(Ordering::Relaxed)
                .saturating_sub(sent.load(Ordering::Relaxed))
        })
        .collect();
    latencies.sort_unstable();
    let percentile = |p: usize| latencies[latencies.len() * p / 100] as f64 / 1000.0;
    Ok(Fanout {
        changes_per_second: total as f64 / seconds,
        p50_ms: percentile(50),
        p99_ms: percentile(99),
    })
}

fn micros(epoch: Instant) -> u64 {
    u64::try_from(epoch.elapsed().as_micros()).unwrap_or(u64::MAX)
}
