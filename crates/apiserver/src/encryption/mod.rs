//! Encryption at rest: what the store keeps of chosen resources is encrypted before it gets there.
//!
//! As upstream's `EncryptionConfiguration`: for each resource the first rule that names it counts, its first provider writes,
//! all of them read. The stored form is upstream's too (`k8s:enc:aesgcm:v1:<key>:`, nonce, ciphertext, tag; the store's key
//! is authenticated with it), so that data can move between both. [`EncryptedStore::rewrite`] brings what is stored to the
//! first provider.
//!
//! Left out: the providers `aescbc`, `secretbox` and `kms`, which are refused with an error.

mod config;
mod store;

pub use config::{EncryptionConfig, EncryptionConfigError};
pub(crate) use store::EncryptedStore;
