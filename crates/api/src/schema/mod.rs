//! Schemas: what is known of the shape of every kind, as a table small enough to keep and quick to walk.
//!
//! Built-in definitions are parsed once from `data/schema.tsv`; those of custom resources are built at run time from
//! the same types. Everything generic walks them: decoding, pruning, defaulting, strategic merge, server-side apply,
//! protobuf and OpenAPI.

mod defaults;
mod model;
mod registry;
mod table;

pub use defaults::apply_defaults;
pub use model::{
    DefId, Field, FieldExtra, List, ListType, Map, MapType, Object, PatchStrategy, Schema, TagPath,
};
pub use registry::{Registry, registry};
