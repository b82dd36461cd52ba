//! The API model of Keelson: kinds, schemas, codecs, defaulting, validation, patches, selectors, quantities.
//!
//! Pure: no I/O, no clock, no randomness. Objects are [`serde_json::Value`]s; what is true of a kind stands in two
//! tables ([`resources`] and [`schema`]) from which everything generic is driven, for built-in and custom kinds alike.

mod access;
pub mod codec;
pub mod defaults;
pub mod duration;
pub mod field;
pub mod gvk;
pub mod int_or_string;
pub mod names;
pub mod normalize;
pub mod openapi;
pub mod patch;
pub mod printers;
pub mod quantity;
pub mod quota;
pub mod resources;
pub mod schema;
pub mod selector;
pub mod status;
pub mod strategy;
pub mod time;
pub mod validation;

#[cfg(test)]
#[path = "../tests/arbitrary/mod.rs"]
mod arbitrary;
#[cfg(test)]
extern crate self as keelson_api;
