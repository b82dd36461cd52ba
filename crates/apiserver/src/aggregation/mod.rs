//! kube-aggregator: APIServices, and requests for groups that somebody else serves.
//!
//! - `controller` keeps an APIService for each group version served here (label
//!   `kube-aggregator.kubernetes.io/automanaged`: `onstart` for built-in ones, `true` for custom resources) and the condition
//!   `Available` of all of them, with upstream's reasons. Remote ones are looked at when the APIService, its Service or its
//!   endpoints change, and every 30 seconds.
//! - `proxy` passes requests on: to a Service, with the front proxy's certificate and the `X-Remote-*` headers, or to a
//!   [`LocalApi`], an extension server inside this process. An APIService without `spec.service` means the local one, one with
//!   `spec.service` the remote one, so that applying another server's manifest replaces a local API.
//! - `discovery` holds what the others say about their resources; [`View`] is the one consistent state that the discovery
//!   documents are made of.
//!
//! Left out: what remote servers publish as OpenAPI v2 is not merged into `/openapi/v2`, and v2 is not converted to v3 for
//! servers that have nothing else.

mod controller;
mod discovery;
mod health;
mod priorities;
mod proxy;
mod view;

pub(crate) use controller::{register, run};
pub(crate) use discovery::{Group, Rows, groups, openapi_hash, remote_resources};
pub(crate) use priorities::compare_versions;
pub(crate) use proxy::{Forwarded, serve};
pub(crate) use view::{Aggregator, View, ca_bundle};
pub use view::{LocalApi, LocalApiService};
