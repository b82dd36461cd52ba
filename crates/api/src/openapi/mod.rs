//! OpenAPI documents (v3 per group version, v2 as a whole), made from schemas and the resource table.
//!
//! They carry what clients work with: structure, list types, patch strategies, defaults, enumerations, operations with
//! their kinds, actions and parameters. Descriptions are left out on purpose.

mod components;
mod documents;
mod paths;

pub use components::{Flavor, schema_json};
pub use documents::{builtin_v3_paths, v2, v3_document, v3_document_for, v3_index, v3_server_url};
