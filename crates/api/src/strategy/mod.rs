//! What upstream's registry strategies do with an object before it is stored, and what they say of its kind.

pub mod pod_resources;
