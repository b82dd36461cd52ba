//! The release binary's size.

use anyhow::Result;
use futures::FutureExt;

use crate::context::{Context, Measurement};
use crate::figure::{Figure, Unit};

/// See [`crate::MEASUREMENTS`].
pub(crate) const MEASUREMENTS: &[Measurement] = &[Measurement {
    name: "size",
    doc: "size of the release binary's file",
    run: |context| size(context).boxed(),
}];

async fn size(context: &Context) -> Result<Vec<Figure>> {
    let bytes = std::fs::metadata(&context.keelson)?.len();
    Ok(vec![
        Figure::new("release binary", Unit::Bytes, bytes as f64).bounds(640e6, 50e6, 30e6),
    ])
}
