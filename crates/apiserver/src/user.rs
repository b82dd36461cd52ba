//! Who makes a request: `user.Info` of upstream's authenticator.

use std::collections::BTreeMap;

/// Group of every request that authenticated.
pub const ALL_AUTHENTICATED: &str = "system:authenticated";
/// Group of every request that did not.
pub const ALL_UNAUTHENTICATED: &str = "system:unauthenticated";
/// Name of the user of a request that carried no credentials.
pub const ANONYMOUS: &str = "system:anonymous";
/// The group that may do everything.
pub const SYSTEM_MASTERS: &str = "system:masters";
/// Name of the server's own identity, for what it does to itself.
pub const API_SERVER_USER: &str = "system:apiserver";

/// An authenticated identity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserInfo {
    /// The name, e.g. `system:node:n1`.
    pub name: String,
    /// Unique over time; empty where the authenticator has none.
    pub uid: String,
    /// The groups, `system:authenticated` among them.
    pub groups: Vec<String>,
    /// What else the authenticator says.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl UserInfo {
    /// A user of this name in these groups; `system:authenticated` is added.
    pub fn new(name: impl Into<String>, groups: &[&str]) -> Self {
        let mut groups: Vec<String> = groups.iter().map(|g| (*g).to_owned()).collect();
        if !groups.iter().any(|g| g == ALL_AUTHENTICATED) {
            groups.push(ALL_AUTHENTICATED.to_owned());
        }
        Self {
            name: name.into(),
            groups,
            ..Self::default()
        }
    }

    /// The identity of requests without credentials.
    pub fn anonymous() -> Self {
        Self {
            name: ANONYMOUS.to_owned(),
            groups: vec![ALL_UNAUTHENTICATED.to_owned()],
            ..Self::default()
        }
    }

    /// The server itself (`system:apiserver` in `system:masters`).
    pub fn api_server() -> Self {
        Self::new(API_SERVER_USER, &[SYSTEM_MASTERS])
    }

    /// Whether the user is in `group`.
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }
}
