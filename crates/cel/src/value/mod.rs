//! Values at run time. JSON is read where it lies: lists and maps of the input are views that borrow it.

mod compare;
mod data;
mod json;
mod list;
mod map;
mod text;

pub(crate) use compare::{Steps, equal, order};
pub use data::Value;
pub(crate) use data::{Cidr, Extension, traversal};
pub use json::ToJsonError;
pub use list::List;
pub use map::{Key, Map};
pub use text::Text;
