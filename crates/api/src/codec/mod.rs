//! Wire formats: JSON (with strict decoding), YAML and protobuf.

pub mod json;
pub mod protobuf;
pub mod yaml;
