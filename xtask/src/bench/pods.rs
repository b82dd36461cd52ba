//! How long pods take to run.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures::future::try_join_all;
use futures::{FutureExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::cluster::{Cluster, wait_each};
use crate::context::{Context, Measurement};
use crate::figure::{Figure, Unit, percentile, percentile_of};

/// See [`crate::MEASUREMENTS`].
pub(crate) const MEASUREMENTS: &[Measurement] = &[
    Measurement {
        name: "pods",
        doc: "single node, image present: from sending the pod until a watch shows it Running; each is gone before the next is made",
        run: |context| one_by_one(context).boxed(),
    },
    Measurement {
        name: "pods-at-once",
        doc: "single node, image present: from sending 50 pods at once until a watch shows the last one Running",
        run: |context| at_once(context).boxed(),
    },
];

async fn one_by_one(context: &Context) -> Result<Vec<Figure>> {
    let rounds = context.rounds(100, 3);
    let cluster = Cluster::start(context, 1).await?;
    let image = cluster.import(context, "busybox:1")?;
    cluster.takes_pods().await?;
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), "default");
    let mut events = std::pin::pin!(watcher(pods.clone(), watcher::Config::default()));
    let mut times = Vec::with_capacity(rounds);
    for round in 0..rounds {
        let name = format!("one-{round}");
        let started = Instant::now();
        pods.create(&PostParams::default(), &pod(&name, &image)?).await?;
        loop {
            match events.try_next().await?.context("the watch ended")? {
                watcher::Event::Apply(pod) if pod.name_any() == name && is_running(&pod) => break,
                _ => {}
            }
        }
        times.push(started.elapsed());
        pods.delete(&name, &DeleteParams::default()).await?;
        loop {
            match events.try_next().await?.context("the watch ended")? {
                watcher::Event::Delete(pod) if pod.name_any() == name => break,
                _ => {}
            }
        }
    }
    cluster.stop()?;
    let note = format!("{rounds} pods");
    Ok(vec![
        Figure::new(
            "pod create to Running, one by one, p50",
            Unit::Seconds,
            percentile(&times, 0.5),
        )
        .bounds(0.563, 0.25, 0.08)
        .note(&note),
        Figure::new(
            "pod create to Running, one by one, p99",
            Unit::Seconds,
            percentile(&times, 0.99),
        )
        .bounds(0.609, 0.5, 0.2)
        .note(note),
    ])
}

async fn at_once(context: &Context) -> Result<Vec<Figure>> {
    const PODS: usize = 50;
    let rounds = context.rounds(5, 1);
    let mut last = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let cluster = Cluster::start(context, 1).await?;
        let image = cluster.import(context, "busybox:1")?;
        cluster.takes_pods().await?;
        last.push(fifty(&cluster, &image, PODS).await?.as_secs_f64());
        cluster.stop()?;
    }
    Ok(vec![
        Figure::new(
            "50 pods at once, last one Running",
            Unit::Seconds,
            percentile_of(&last, 0.5),
        )
        .bounds(10.7, 4.0, 1.5)
        .note(format!("median of {rounds}")),
    ])
}

/// Creates `count` pods at once; when the last was Running.
async fn fifty(cluster: &Cluster, image: &str, count: usize) -> Result<Duration> {
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), "default");
    let mut events = std::pin::pin!(watcher(pods.clone(), watcher::Config::default()).applied_objects());
    let names: BTreeSet<String> = (0..count).map(|number| format!("many-{number}")).collect();
    let objects = names
        .iter()
        .map(|name| pod(name, image))
        .collect::<Result<Vec<_>>>()?;
    let parameters = PostParams::default();
    let started = Instant::now();
    let create = try_join_all(objects.iter().map(|pod| pods.create(&parameters, pod)));
    let (created, times) = tokio::join!(create, wait_each(&mut events, names, is_running));
    created?;
    let last = times?.into_iter().max().context("no pod")?;
    Ok(last.duration_since(started))
}

/// A pod that does nothing, and ends when it is told to.
fn pod(name: &str, image: &str) -> Result<Pod> {
    Ok(serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "main", "image": image, "command": ["/bin/sleep", "1000000"]}],
        },
    }))?)
}

fn is_running(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    phase == Some("Running")
}
