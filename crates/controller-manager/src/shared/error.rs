//! Why a reconciliation failed; it is tried again with backoff.

use keelson_api::selector::LabelSelectorError;

use super::api_error;

/// A failed reconciliation.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The API server refused or did not answer.
    #[error("{}", api_error::message(.0))]
    Api(#[from] kube::Error),
    /// The object's selector is not valid; validation normally prevents that.
    #[error("invalid label selector: {0}")]
    Selector(#[from] LabelSelectorError),
    /// The object lacks what validation demands of it.
    #[error("{0}")]
    Invalid(String),
    /// The cache lags behind; the key comes again.
    #[error("{0}")]
    Retry(String),
}
