//! `metadata.managedFields` of writes that are not server-side apply.

use serde_json::Value;

use super::kind::Kind;
use super::{Context, metadata};

/// The object was created by this request.
pub(super) fn created(_cx: &Context<'_>, _kind: &Kind, object: &mut Value) {
    metadata::remove(object, &["managedFields"]);
}

/// The object was changed by this request.
pub(super) fn updated(_cx: &Context<'_>, _kind: &Kind, _subresource: &str, new: &mut Value, old: &Value) {
    metadata::copy(new, old, "managedFields");
}

/// A write that changes nothing but the times in managedFields changes nothing.
pub(super) fn drop_time_only_change(_new: &mut Value, _old: &Value) {}
