//! `metadata.managedFields` of writes that are not server-side apply.

use jiff::Timestamp;
use keelson_api::patch::apply::{Request, track_update};
use serde_json::{Map, Value};

use super::kind::Kind;
use super::{Context, metadata};

/// The request as the field manager sees it.
pub(super) fn request<'a>(cx: &'a Context<'_>, kind: &'a Kind, subresource: &'a str) -> Option<Request<'a>> {
    Some(Request {
        schema: kind.schema().ok()?,
        manager: &cx.manager,
        api_version: &kind.api_version,
        subresource,
        now: Timestamp::now(),
        ignored: kind.reset_fields(subresource),
    })
}

/// The object was created by this request.
pub(super) fn created(cx: &Context<'_>, kind: &Kind, object: &mut Value) {
    if let Some(request) = request(cx, kind, "") {
        track_update(&request, None, object);
    }
}

/// The object was changed by this request.
pub(super) fn updated(cx: &Context<'_>, kind: &Kind, subresource: &str, new: &mut Value, old: &Value) {
    if let Some(request) = request(cx, kind, subresource) {
        track_update(&request, Some(old), new);
    }
}

/// A write that changes nothing but the times in managedFields changes nothing.
pub(super) fn drop_time_only_change(new: &mut Value, old: &Value) {
    let (Some(theirs), Some(ours)) = (metadata::of(new), metadata::of(old)) else {
        return;
    };
    let (Some(list), Some(live)) = (theirs.get("managedFields"), ours.get("managedFields")) else {
        return;
    };
    // The rest first: it is what nearly every write changes.
    let same = same_but(theirs, ours, "managedFields")
        && matches!((&*new, old), (Value::Object(new), Value::Object(old)) if same_but(new, old, "metadata"))
        && list != live
        && same_but_times(list, live);
    if same {
        let live = live.clone();
        metadata::of_mut(new).insert("managedFields".to_owned(), live);
    }
}

fn same_but(new: &Map<String, Value>, old: &Map<String, Value>, field: &str) -> bool {
    new.len() == old.len() && new.iter().all(|(k, v)| k == field || old.get(k) == Some(v))
}

fn same_but_times(new: &Value, old: &Value) -> bool {
    let (Value::Array(new), Value::Array(old)) = (new, old) else {
        return false;
    };
    new.len() == old.len()
        && new.iter().zip(old).all(|(new, old)| match (new, old) {
            (Value::Object(new), Value::Object(old)) => same_but(new, old, "time"),
            (new, old) => new == old,
        })
}
