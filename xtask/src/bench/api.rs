//! The API server's figures.

use crate::context::Measurement;

/// See [`crate::MEASUREMENTS`].
pub(crate) const MEASUREMENTS: &[Measurement] = &[];
