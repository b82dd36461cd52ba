//! OpenAPI documents (v3 per group version, v2 as a whole), made from schemas and the resource table.
//!
//! They carry what clients work with: structure, list types, patch strategies, defaults, enumerations, operations with
//! their kinds, actions and parameters. Descriptions of built-in fields are left out on purpose, but for those of metadata;
//! custom resources keep theirs.

mod components;
mod custom;
mod descriptions;
mod documents;
mod paths;

pub use components::{Flavor, schema_json};
pub use custom::{CustomKind, definition_name};
pub use documents::{
    V2Writer, builtin_v3_paths, v2, v3_document, v3_document_with, v3_index, v3_path, v3_server_url,
};
