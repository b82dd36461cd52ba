//! What a write knows about its request.

use serde_json::Value;

use super::options::WriteOptions;
use crate::admission::Notes;
use crate::user::UserInfo;

/// The request behind a write.
pub struct Context<'a> {
    /// Who writes.
    pub user: &'a UserInfo,
    /// Warnings and audit annotations.
    pub notes: &'a Notes,
    /// Options of create, update and patch.
    pub options: WriteOptions,
    /// The options as admission sees them.
    pub options_value: Value,
    /// The manager that managedFields name.
    pub manager: String,
    /// Whether admission runs; it does not for what the server does to itself.
    pub admission: bool,
}

impl<'a> Context<'a> {
    /// The server's own writes: no admission.
    pub fn internal(user: &'a UserInfo, notes: &'a Notes) -> Self {
        Self {
            user,
            notes,
            options: WriteOptions::default(),
            options_value: Value::Null,
            manager: "kube-apiserver".to_owned(),
            admission: false,
        }
    }
}
