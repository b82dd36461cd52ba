//! Kubernetes' protobuf encoding (`application/vnd.kubernetes.protobuf`), driven by the tags in the schema table.
//!
//! A body is the magic `k8s\0` and a `runtime.Unknown` that names the kind and holds the message. Messages are proto2 as
//! gogo writes them: repeated scalars unpacked, maps as entries, Go's inlined structs as messages of their own.
//! Quantities, times and IntOrString have messages of their own; raw JSON stays JSON inside.

mod decode;
mod encode;
mod envelope;
mod wire;

pub use decode::decode_message;
pub use encode::encode_message;
pub use envelope::{
    Envelope, ListEncoder, MAGIC, decode, encode, encode_envelope, open, partial_object_metadata,
    partial_object_metadata_list, watch_frame,
};
pub use wire::Error;
