//! How long a first start takes.

use anyhow::Result;
use futures::FutureExt;

use crate::cluster::Cluster;
use crate::context::{Context, Measurement};
use crate::figure::{Figure, Unit, percentile};

/// See [`crate::MEASUREMENTS`].
pub(crate) const MEASUREMENTS: &[Measurement] = &[Measurement {
    name: "start",
    doc: "`keelson up` on an empty directory, from the start of the program until it says that the API server is ready, and its node Ready; keys and certificates are made within",
    run: |context| start(context).boxed(),
}];

async fn start(context: &Context) -> Result<Vec<Figure>> {
    let rounds = context.rounds(7, 1);
    let (mut api, mut node) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let cluster = Cluster::start(context, 1).await?;
        api.push(cluster.step("API server ready")?);
        node.push(cluster.step("node ")?);
        cluster.stop()?;
    }
    let note = format!("median of {rounds}");
    Ok(vec![
        Figure::new("first start to API ready", Unit::Seconds, percentile(&api, 0.5))
            .bounds(2.9, 1.0, 0.3)
            .note(&note),
        Figure::new("first start to node Ready", Unit::Seconds, percentile(&node, 0.5))
            .bounds(10.0, 3.0, 1.0)
            .note(note),
    ])
}
