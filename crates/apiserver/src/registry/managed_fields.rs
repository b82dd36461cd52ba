//! `metadata.managedFields` of writes that are not server-side apply.

use jiff::Timestamp;
use keelson_api::patch::apply::{Request, track_update};
use serde_json::Value;

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
    let fields = |object: &Value| metadata::of(object).and_then(|m| m.get("managedFields")).cloned();
    let (Some(mut theirs), Some(ours)) = (fields(new), fields(old)) else {
        return;
    };
    if theirs == ours {
        return;
    }
    let without_times = |value: &Value| -> Vec<Value> {
        let mut entries = value.as_array().cloned().unwrap_or_default();
        for entry in &mut entries {
            if let Some(map) = entry.as_object_mut() {
                map.remove("time");
            }
        }
        entries
    };
    if without_times(&theirs) != without_times(&ours) {
        return;
    }
    let metadata_of_new = metadata::of_mut(new);
    let rest_is_same = metadata::of(old).is_some_and(|old| {
        old.len() == metadata_of_new.len()
            && old
                .iter()
                .all(|(k, v)| k == "managedFields" || metadata_of_new.get(k) == Some(v))
    });
    if rest_is_same && same_but_metadata(new, old) {
        theirs = ours;
        metadata::of_mut(new).insert("managedFields".to_owned(), theirs);
    }
}

fn same_but_metadata(new: &Value, old: &Value) -> bool {
    let (Some(new), Some(old)) = (new.as_object(), old.as_object()) else {
        return false;
    };
    new.len() == old.len() && new.iter().all(|(k, v)| k == "metadata" || old.get(k) == Some(v))
}
