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

    /// A client for a user in groups, used by the part of that name.
    pub(crate) fn client(&self, component: &str, user: &str, groups: &[&str]) -> Client {
        let service = self.api.local_service(UserInfo::new(user, groups));
        keelson_client::component_client(service, component)
    }

    /// A client for a service account, used by the part of that name.
    pub(crate) fn service_account(&self, component: &str, namespace: &str, name: &str) -> Client {
        let groups = [
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{namespace}"),
        ];
        let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
        self.client(
            component,
            &format!("system:serviceaccount:{namespace}:{name}"),
            &groups,
        )
    }
}
