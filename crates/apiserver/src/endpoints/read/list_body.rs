//! The bodies of lists: stored bytes spliced together piece by piece while the list is sent, so that a list of 55 MB takes
//! 64 KB of memory and its first bytes leave at once.

use std::sync::Arc;

use bytes::Bytes;
use keelson_api::codec::protobuf;
use keelson_api::status::Status;
use serde_json::json;

use super::{Listed, write_list_meta};
use crate::registry::{Kind, served};

/// About the size of a piece: as much as TLS encrypts at once.
const PIECE: usize = 64 << 10;
/// So many objects are encoded before other requests have a turn.
const TURN: usize = 32;

/// Whether the list can be spliced from stored bytes.
pub(super) fn is_spliced(kind: &Kind) -> bool {
    kind.conversion.is_same()
}

/// Everything before the items, the comma-separated items to come.
fn head(kind: &Kind, listed: &Listed) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    out.extend_from_slice(b"{\"kind\":\"");
    out.extend_from_slice(kind.info.list_kind.as_bytes());
    out.extend_from_slice(b"\",\"apiVersion\":\"");
    out.extend_from_slice(kind.gvk.api_version().as_bytes());
    out.extend_from_slice(b"\",");
    write_list_meta(&mut out, listed);
    out.extend_from_slice(b",\"items\":[");
    out
}

const TAIL: &[u8] = b"]}";

/// The pieces of a spliced list and the length of them all.
pub(super) fn pieces(kind: &Arc<Kind>, listed: Listed) -> (impl Iterator<Item = Bytes> + Send + use<>, u64) {
    let mut piece = head(kind, &listed);
    let objects = listed.page.objects;
    // Custom resources say in each item what they are.
    let item_head = if kind.traits.typed_items {
        kind.head.clone()
    } else {
        b"{".to_vec()
    };
    let items: usize = objects.iter().map(|o| o.written_len(item_head.len())).sum();
    let length = piece.len() + items + objects.len().saturating_sub(1) + TAIL.len();
    let mut objects = objects.into_iter();
    let mut first = true;
    let mut done = false;
    let pieces = std::iter::from_fn(move || {
        if done {
            return None;
        }
        let mut out = std::mem::take(&mut piece);
        if objects.len() > 0 {
            out.reserve(PIECE.saturating_sub(out.len()));
        }
        while out.len() < PIECE {
            let Some(object) = objects.next() else {
                out.extend_from_slice(TAIL);
                done = true;
                break;
            };
            if !std::mem::replace(&mut first, false) {
                out.push(b',');
            }
            object.write_json_as(&item_head, &mut out);
        }
        Some(Bytes::from(out))
    });
    (pieces, length as u64)
}

/// The whole list in one piece, for forms that are made from it.
pub(super) fn whole(kind: &Arc<Kind>, listed: Listed) -> Vec<u8> {
    if is_spliced(kind) {
        let (pieces, length) = pieces(kind, listed);
        let mut out = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
        pieces.for_each(|piece| out.extend_from_slice(&piece));
        return out;
    }
    let mut out = head(kind, &listed);
    for (at, object) in listed.page.objects.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        let mut value = served(kind, object);
        if let Some(map) = value.as_object_mut() {
            map.remove("kind");
            map.remove("apiVersion");
        }
        serde_json::to_writer(&mut out, &value).expect("invariant: a value can be written");
    }
    out.extend_from_slice(TAIL);
    out
}

/// The list as protobuf: one object at a time is taken apart.
pub(super) async fn protobuf(kind: &Kind, listed: &Listed) -> Result<Vec<u8>, Status> {
    let schema = kind.schema()?;
    let mut meta = json!({"resourceVersion": listed.page.revision.to_string()});
    if let Some(token) = &listed.continue_token {
        meta["continue"] = token.as_str().into();
        if let Some(remaining) = listed.page.remaining {
            meta["remainingItemCount"] = remaining.into();
        }
    }
    let mut list = protobuf::ListEncoder::new(&meta).map_err(Status::internal)?;
    for (at, object) in listed.page.objects.iter().enumerate() {
        list.push(schema, &served(kind, object))
            .map_err(Status::internal)?;
        if at % TURN == TURN - 1 {
            tokio::task::yield_now().await;
        }
    }
    Ok(list.finish(&kind.gvk.api_version(), &kind.info.list_kind))
}
