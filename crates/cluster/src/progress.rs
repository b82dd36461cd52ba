//! What a long command tells while it works.

use std::time::Instant;

use serde::{Deserialize, Serialize};

/// One step that has been done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What is done, e.g. `API server ready`.
    pub done: String,
    /// Since the command began, in milliseconds.
    pub after_ms: u64,
    /// The last step: everything that was asked for is there.
    #[serde(default)]
    pub last: bool,
}

/// Receives steps as they are done.
pub type Report<'a> = &'a (dyn Fn(Step) + Send + Sync);

/// Counts from its making.
pub struct Progress<'a> {
    started: Instant,
    report: Report<'a>,
}

impl<'a> Progress<'a> {
    /// Starts the clock.
    pub fn new(report: Report<'a>) -> Self {
        Self {
            started: Instant::now(),
            report,
        }
    }

    /// A step is done.
    pub fn done(&self, what: impl Into<String>) {
        self.send(what.into(), false);
    }

    /// The last step is done.
    pub fn finished(&self, what: impl Into<String>) {
        self.send(what.into(), true);
    }

    fn send(&self, done: String, last: bool) {
        let after_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        (self.report)(Step { done, after_ms, last });
    }
}
