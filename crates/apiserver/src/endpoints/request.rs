//! One request on its way through the server.

use std::sync::Arc;

use http::HeaderMap;
use keelson_api::status::Status;

use crate::admission::Notes;
use crate::http::query::Query;
use crate::http::{Connection, Negotiated};
use crate::registry::options::WriteOptions;
use crate::registry::{Context, Kind};
use crate::request_info::RequestInfo;
use crate::server::Inner;
use crate::user::UserInfo;

/// Everything a handler needs besides the body.
pub(super) struct Incoming<'a> {
    pub(super) server: &'a Arc<Inner>,
    pub(super) info: &'a RequestInfo,
    pub(super) user: &'a UserInfo,
    pub(super) headers: &'a HeaderMap,
    pub(super) query: Query<'a>,
    pub(super) notes: &'a Notes,
    pub(super) form: Negotiated,
    pub(super) connection: &'a Connection,
}

impl Incoming<'_> {
    pub(super) fn header(&self, name: http::header::HeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|v| v.to_str().ok())
    }

    /// A write's context; `options` is `CreateOptions`, `UpdateOptions` or `PatchOptions`.
    pub(super) fn context(&self, options: &'static str) -> Result<Context<'_>, Status> {
        let parsed = WriteOptions::parse(&self.query, options)?;
        Ok(Context {
            user: self.user,
            notes: self.notes,
            options_value: parsed.to_value(options),
            manager: parsed.manager(self.header(http::header::USER_AGENT)),
            options: parsed,
            admission: true,
        })
    }

    /// The namespace that keys have: empty for cluster-scoped kinds.
    pub(super) fn namespace(&self, kind: &Kind) -> &str {
        if kind.info.namespaced {
            &self.info.namespace
        } else {
            ""
        }
    }
}
