//! Clients inside the server process, each with an identity of its own.

use keelson_apiserver::ApiServer;
use keelson_apiserver::user::UserInfo;
use kube::Client;

/// Makes clients over the in-memory transport. Authorization and admission judge them as they judge anyone.
#[derive(Clone)]
pub(crate) struct Identities {
    api: ApiServer,
}

impl Identities {
    pub(crate) fn new(api: ApiServer) -> Self {
        Self { api }
    }

    /// A client for a user in groups.
    pub(crate) fn client(&self, user: &str, groups: &[&str]) -> Client {
        keelson_client::client_from_service(self.api.local_service(UserInfo::new(user, groups)))
    }

    /// A client for a service account.
    pub(crate) fn service_account(&self, namespace: &str, name: &str) -> Client {
        let groups = [
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{namespace}"),
        ];
        let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
        self.client(&format!("system:serviceaccount:{namespace}:{name}"), &groups)
    }
}
