//! The watch cache: every stored object once, as the bytes that are served, with a small index for selectors.
//!
//! One store watch feeds all kinds, so "the cache is at revision R" is one number for the whole server, and a consistent
//! read is "wait until that number reaches the store's revision". Each kind has an ordered map of its objects and a ring of
//! its recent events. Watchers hold a place in the ring and no queue of their own: memory does not grow with slow
//! watchers, and one whose place has left the ring gets 410. A watcher of one name, namespace or field value is woken by
//! what concerns it alone, and grows old by nothing else ([`Interest`]). A frame of the watch stream is encoded by the first
//! watcher that needs it and shared by all others. An older state is the current one with the ring's newer events undone.

mod error;
mod extract;
mod follow;
mod kind;
mod object;
mod set;
mod topics;

pub use error::WatchCacheError;
pub use extract::{Extracted, FieldExtractor, SelectableField};
pub use follow::{Batch, Follower};
pub use kind::{CachedEvent, EventType, KindCache, Page, PageRequest, TooOld, json_frame};
pub use object::{CachedObject, KindSpec, Reading, Shape, StoredForm, head, push_number};
pub use set::CacheSet;
pub use topics::Interest;
