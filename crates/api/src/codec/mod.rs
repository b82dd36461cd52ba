//! Wire formats: JSON (with strict decoding) and YAML.

pub mod json;
pub mod yaml;
