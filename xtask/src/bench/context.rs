//! What a measurement is and what it is given.

use std::path::PathBuf;

use anyhow::Result;
use futures::future::BoxFuture;

use crate::figure::Figure;

/// What `--only` names. To add one: an `async fn(&Context) -> Result<Vec<Figure>>`, and a line in its module's
/// `MEASUREMENTS`.
pub(crate) struct Measurement {
    /// Name for `--only`.
    pub(crate) name: &'static str,
    /// What is measured and how, in a sentence.
    pub(crate) doc: &'static str,
    /// Measures. It runs inside of the machine, alone, and leaves nothing behind.
    pub(crate) run: for<'a> fn(&'a Context) -> BoxFuture<'a, Result<Vec<Figure>>>,
}

/// What measurements share.
#[derive(Debug)]
pub(crate) struct Context {
    /// The binary that is measured.
    pub(crate) keelson: PathBuf,
    /// OCI archives of the testkit's images.
    pub(crate) images: PathBuf,
    /// A directory on a file system that nobody else writes to; it ends with the machine.
    pub(crate) scratch: PathBuf,
    /// Whether to do as little as shows that the measurement works.
    pub(crate) quick: bool,
}

impl Context {
    /// `full`, or `quick` when little is wanted.
    pub(crate) fn rounds(&self, full: usize, quick: usize) -> usize {
        if self.quick { quick } else { full }
    }
}
