//! `Impersonate-*` headers: acting as somebody else, as far as the real user is allowed to.
//!
//! Two ways lead there. The constrained one (KEP-5284, on by default since v1.36) asks for two things: that the user may make
//! this very request as somebody else (`impersonate-on:<mode>:<verb>`), and that he may act as this somebody
//! (`impersonate:<mode>`). The legacy one asks for the verb `impersonate` alone, for any request. The modes are tried in turn;
//! if none allows it, the refusal of the first that applies is told.

use std::collections::BTreeMap;

use http::HeaderMap;
use keelson_api::field::quote;
use keelson_api::names::{dns1123_label, dns1123_subdomain};
use keelson_api::status::Status;

use crate::authorization::{Authorizer, Decision, NODES_GROUP, forbidden};
use crate::request_info::RequestInfo;
use crate::user::{ALL_AUTHENTICATED, ALL_UNAUTHENTICATED, ANONYMOUS, SYSTEM_MASTERS, UserInfo};

const EXTRA_PREFIX: &str = "impersonate-extra-";
const NODE_PREFIX: &str = "system:node:";
const SERVICE_ACCOUNT_PREFIX: &str = "system:serviceaccount:";
const GROUP: &str = "authentication.k8s.io";
/// Where a service account's token says on which node its pod runs.
const NODE_NAME_KEY: &str = "authentication.kubernetes.io/node-name";
/// Stands for all of the caller's extra where it may not matter which node he is on.
const NODE_KEYS: &str = "authentication.kubernetes.io/associated-node-keys";
/// From so many groups or extra values on, all at once are asked for first.
const MANY: usize = 4;

/// A way to be allowed to act as somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// A service account as the node that its pod runs on.
    AssociatedNode,
    /// Any node.
    ArbitraryNode,
    /// A service account.
    ServiceAccount,
    /// Anybody else.
    UserInfo,
    /// As before there were modes.
    Legacy,
}

impl Mode {
    /// In the order in which they are tried.
    const ALL: [Self; 5] = [
        Self::AssociatedNode,
        Self::ArbitraryNode,
        Self::ServiceAccount,
        Self::UserInfo,
        Self::Legacy,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::AssociatedNode => "associated-node",
            Self::ArbitraryNode => "arbitrary-node",
            Self::ServiceAccount => "serviceaccount",
            Self::UserInfo => "user-info",
            Self::Legacy => "",
        }
    }

    fn applies(self, wanted: &UserInfo, user: &UserInfo) -> bool {
        let only_name = wanted.uid.is_empty() && wanted.groups.is_empty() && wanted.extra.is_empty();
        let (node, account) = (node(&wanted.name), service_account(&wanted.name));
        match self {
            Self::AssociatedNode => {
                let own = match user.extra.get(NODE_NAME_KEY).map(Vec::as_slice) {
                    Some([own]) => Some(own.as_str()),
                    _ => None,
                };
                only_name && node.is_some() && node == own && service_account(&user.name).is_some()
            }
            Self::ArbitraryNode => only_name && node.is_some(),
            Self::ServiceAccount => only_name && account.is_some(),
            Self::UserInfo => node.is_none() && account.is_none(),
            Self::Legacy => true,
        }
    }
}

/// The user to act as; `None` when the headers ask for nobody. `request` is what is to be done as him.
pub async fn impersonate(
    headers: &HeaderMap,
    user: &UserInfo,
    request: &RequestInfo,
    authorizer: &dyn Authorizer,
) -> Result<Option<UserInfo>, Status> {
    let Some(wanted) = wanted(headers)? else {
        return Ok(None);
    };
    let mut refused = None;
    for mode in Mode::ALL.into_iter().filter(|mode| mode.applies(&wanted, user)) {
        let check = Check {
            mode,
            user,
            authorizer,
        };
        match check.all(&wanted, request).await {
            Ok(()) => return Ok(Some(impersonated(mode, wanted))),
            Err(status) => {
                refused.get_or_insert(status);
            }
        }
    }
    Err(refused.unwrap_or_else(|| Status::internal("all impersonation modes failed")))
}

/// Whom the headers name.
fn wanted(headers: &HeaderMap) -> Result<Option<UserInfo>, Status> {
    let text = |name: &str| -> Vec<String> {
        headers
            .get_all(name)
            .iter()
            .map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned())
            .collect()
    };
    let first = |name: &str| text(name).into_iter().next().unwrap_or_default();
    let mut wanted = UserInfo {
        name: first("impersonate-user"),
        uid: first("impersonate-uid"),
        groups: text("impersonate-group"),
        extra: BTreeMap::new(),
    };
    for header in headers.keys() {
        if let Some(key) = header.as_str().strip_prefix(EXTRA_PREFIX) {
            let key = crate::http::query::percent_decode(key, false).into_owned();
            wanted.extra.entry(key).or_default().extend(text(header.as_str()));
        }
    }
    if !wanted.name.is_empty() {
        return Ok(Some(wanted));
    }
    let UserInfo {
        uid, groups, extra, ..
    } = &wanted;
    if uid.is_empty() && groups.is_empty() && extra.is_empty() {
        return Ok(None);
    }
    let list = |values: &[String]| values.iter().map(|v| quote(v)).collect::<Vec<_>>().join(", ");
    let groups = match groups.as_slice() {
        [] => "[]string(nil)".to_owned(),
        groups => format!("[]string{{{}}}", list(groups)),
    };
    let entries: Vec<String> = extra
        .iter()
        .map(|(key, values)| format!("{}:[]string{{{}}}", quote(key), list(values)))
        .collect();
    let extra = match entries.as_slice() {
        [] => "map[string][]string(nil)".to_owned(),
        entries => format!("map[string][]string{{{}}}", entries.join(", ")),
    };
    Err(Status::bad_request(format!(
        "requested &user.DefaultInfo{{Name:\"\", UID:{}, Groups:{groups}, Extra:{extra}}} without impersonating a user name",
        quote(uid)
    )))
}

/// The questions of one mode.
struct Check<'a> {
    mode: Mode,
    user: &'a UserInfo,
    authorizer: &'a dyn Authorizer,
}

impl Check<'_> {
    fn constrained(&self) -> bool {
        self.mode != Mode::Legacy
    }

    async fn all(&self, wanted: &UserInfo, request: &RequestInfo) -> Result<(), Status> {
        if self.constrained() {
            let mut on = request.clone();
            on.verb = format!("impersonate-on:{}:{}", self.mode.name(), request.verb);
            self.ask(&on).await?;
        }
        self.ask(&self.named(&wanted.name)).await?;
        if !wanted.uid.is_empty() {
            self.ask(&self.about(GROUP, "uids", &wanted.uid)).await?;
        }
        self.groups(&wanted.groups).await?;
        self.extra(&wanted.extra).await
    }

    async fn ask(&self, request: &RequestInfo) -> Result<(), Status> {
        let mut user = self.user.clone();
        if self.mode == Mode::AssociatedNode {
            // What is allowed here is allowed on every node, so nothing may depend on which one it is.
            let keys = user.extra.into_keys().collect();
            user.extra = BTreeMap::from([(NODE_KEYS.to_owned(), keys)]);
        }
        let verdict = self.authorizer.review(&user, request).await;
        if verdict.decision == Decision::Allow {
            return Ok(());
        }
        let reason = match (verdict.error, verdict.reason) {
            (Some(error), reason) if reason.is_empty() => error,
            (Some(error), reason) => format!("{error}: {reason}"),
            (None, reason) => reason,
        };
        Err(forbidden(&user, request, &reason))
    }

    fn about(&self, group: &str, resource: &str, name: &str) -> RequestInfo {
        let verb = match self.mode {
            Mode::Legacy => "impersonate".to_owned(),
            mode => format!("impersonate:{}", mode.name()),
        };
        RequestInfo {
            is_resource: true,
            verb,
            api_group: group.to_owned(),
            api_version: "v1".to_owned(),
            resource: resource.to_owned(),
            name: name.to_owned(),
            ..RequestInfo::default()
        }
    }

    /// Users and groups are resources of the core group in the legacy mode.
    fn group(&self) -> &'static str {
        if self.constrained() { GROUP } else { "" }
    }

    fn named(&self, name: &str) -> RequestInfo {
        if let Some((namespace, account)) = service_account(name) {
            let mut request = self.about(self.group(), "serviceaccounts", account);
            request.namespace = namespace.to_owned();
            return request;
        }
        match (self.mode, node(name)) {
            (Mode::AssociatedNode, Some(_)) => self.about(GROUP, "nodes", "*"),
            (Mode::ArbitraryNode, Some(node)) => self.about(GROUP, "nodes", node),
            _ => self.about(self.group(), "users", name),
        }
    }

    async fn groups(&self, groups: &[String]) -> Result<(), Status> {
        let about = |group: &str| self.about(self.group(), "groups", group);
        let refuse = |group: &str, reason: &str| Err(forbidden(self.user, &about(group), reason));
        if self.constrained() && groups.iter().any(String::is_empty) {
            return refuse("", "impersonating the empty string group is not allowed");
        }
        if self.constrained() && groups.iter().any(|group| group == SYSTEM_MASTERS) {
            return refuse(
                SYSTEM_MASTERS,
                "impersonating the system:masters group is not allowed",
            );
        }
        if self.constrained() && groups.len() >= MANY && self.ask(&about("*")).await.is_ok() {
            return Ok(());
        }
        for group in groups {
            self.ask(&about(group)).await?;
        }
        Ok(())
    }

    async fn extra(&self, extra: &BTreeMap<String, Vec<String>>) -> Result<(), Status> {
        let about = |key: &str, value: &str| {
            let mut request = self.about(GROUP, "userextras", value);
            request.subresource = key.to_owned();
            request
        };
        if self.constrained() {
            if let Some(reason) = wrong_extra(extra) {
                return Err(forbidden(self.user, &about("", ""), &reason));
            }
            let many = extra.values().map(Vec::len).sum::<usize>() >= MANY;
            if many && self.ask(&about("*", "*")).await.is_ok() {
                return Ok(());
            }
        }
        for (key, values) in extra {
            for value in values {
                self.ask(&about(key, value)).await?;
            }
        }
        Ok(())
    }
}

/// Why extra cannot be had in a constrained mode.
fn wrong_extra(extra: &BTreeMap<String, Vec<String>>) -> Option<String> {
    let wrong = |key: &str, values: &[String]| {
        let prefixed = key
            .split_once('/')
            .is_some_and(|(domain, path)| !path.is_empty() && dns1123_subdomain(domain).is_empty());
        Some(if key.is_empty() {
            "impersonating the empty string key in extra is not allowed".to_owned()
        } else if !prefixed {
            format!(
                "impersonating an invalid key in extra is not allowed: extra.key: Invalid value: {}: must be a domain-prefixed \
                 path (such as \"acme.io/foo\")",
                quote(key)
            )
        } else if key != key.to_lowercase() {
            format!(
                "impersonating a non-lowercase key in extra is not allowed: {}",
                quote(key)
            )
        } else if values.iter().any(String::is_empty) {
            "impersonating the empty string value in extra is not allowed".to_owned()
        } else {
            return None;
        })
    };
    extra.iter().find_map(|(key, values)| wrong(key, values))
}

fn service_account(name: &str) -> Option<(&str, &str)> {
    name.strip_prefix(SERVICE_ACCOUNT_PREFIX)?
        .split_once(':')
        .filter(|(namespace, name)| dns1123_label(namespace).is_empty() && dns1123_subdomain(name).is_empty())
}

fn node(name: &str) -> Option<&str> {
    name.strip_prefix(NODE_PREFIX)
        .filter(|node| dns1123_subdomain(node).is_empty())
}

fn impersonated(mode: Mode, mut user: UserInfo) -> UserInfo {
    if let (true, Some((namespace, _))) = (user.groups.is_empty(), service_account(&user.name)) {
        user.groups = vec![
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{namespace}"),
        ];
    }
    if matches!(mode, Mode::AssociatedNode | Mode::ArbitraryNode) {
        user.groups = vec![NODES_GROUP.to_owned()];
    }
    let implied = match user.name.as_str() {
        ANONYMOUS => ALL_UNAUTHENTICATED,
        _ if user.in_group(ALL_UNAUTHENTICATED) => ALL_UNAUTHENTICATED,
        _ => ALL_AUTHENTICATED,
    };
    if !user.in_group(implied) {
        user.groups.push(implied.to_owned());
    }
    user
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_trait::async_trait;

    /// Allows what is in the list: `verb resource/name`, or `verb resource` for any name.
    struct Listed(&'static [&'static str]);

    #[async_trait]
    impl Authorizer for Listed {
        async fn authorize(&self, _: &UserInfo, r: &RequestInfo) -> (Decision, String) {
            let resource = format!("{} {}{}", r.verb, r.resource, r.subresource);
            let named = format!("{resource}/{}", r.name);
            let allowed = self.0.iter().any(|a| *a == resource || *a == named);
            let decision = if allowed {
                Decision::Allow
            } else {
                Decision::NoOpinion
            };
            (decision, String::new())
        }
    }

    async fn ask_as(
        user: &UserInfo,
        headers: &[(&'static str, &str)],
        allowed: &'static [&'static str],
    ) -> Result<String, String> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        let request = RequestInfo {
            is_resource: true,
            verb: "list".into(),
            resource: "pods".into(),
            ..RequestInfo::default()
        };
        match impersonate(&map, user, &request, &Listed(allowed)).await {
            Ok(Some(user)) => Ok(format!(
                "{} {} {:?}",
                user.name,
                user.groups.join(","),
                user.extra
            )),
            Ok(None) => Ok("nobody".into()),
            Err(status) => Err(format!("{} {}", status.code, status.message)),
        }
    }

    async fn ask(
        headers: &[(&'static str, &str)],
        allowed: &'static [&'static str],
    ) -> Result<String, String> {
        ask_as(&UserInfo::new("jane", &[]), headers, allowed).await
    }

    const BOB: (&str, &str) = ("impersonate-user", "bob");

    #[tokio::test]
    async fn as_somebody_else() {
        assert_eq!(ask(&[], &[]).await.unwrap(), "nobody");
        assert_eq!(
            ask(&[BOB], &["impersonate users/bob"]).await.unwrap(),
            "bob system:authenticated {}"
        );
        let groups = [BOB, ("impersonate-group", "a"), ("impersonate-group", "b")];
        assert!(
            ask(&groups, &["impersonate users/bob", "impersonate groups/a"])
                .await
                .is_err()
        );
        let all = &[
            "impersonate users/bob",
            "impersonate groups/a",
            "impersonate groups/b",
        ];
        assert_eq!(
            ask(&groups, all).await.unwrap(),
            "bob a,b,system:authenticated {}"
        );
        let account = ("impersonate-user", "system:serviceaccount:ns:sa");
        assert_eq!(
            ask(&[account], &["impersonate serviceaccounts/sa"])
                .await
                .unwrap(),
            "system:serviceaccount:ns:sa system:serviceaccounts,system:serviceaccounts:ns,system:authenticated {}"
        );
        let extra = [BOB, ("impersonate-extra-scopes", "x")];
        assert_eq!(
            ask(
                &extra,
                &["impersonate users/bob", "impersonate userextrasscopes/x"]
            )
            .await
            .unwrap(),
            r#"bob system:authenticated {"scopes": ["x"]}"#
        );
        assert_eq!(
            ask(&[("impersonate-group", "a")], &[]).await.unwrap_err(),
            r#"400 requested &user.DefaultInfo{Name:"", UID:"", Groups:[]string{"a"}, Extra:map[string][]string(nil)} without impersonating a user name"#
        );
        let anonymous = ("impersonate-user", "system:anonymous");
        assert_eq!(
            ask(&[anonymous], &["impersonate users"]).await.unwrap(),
            "system:anonymous system:unauthenticated {}"
        );
    }

    #[tokio::test]
    async fn for_some_requests_alone() {
        // Without any right the first mode that applies says what is missing.
        assert_eq!(
            ask(&[BOB], &[]).await.unwrap_err(),
            r#"403 pods is forbidden: User "jane" cannot impersonate-on:user-info:list resource "pods" in API group "" at the cluster scope"#
        );
        assert_eq!(
            ask(&[BOB], &["impersonate-on:user-info:list pods"])
                .await
                .unwrap_err(),
            r#"403 users.authentication.k8s.io "bob" is forbidden: User "jane" cannot impersonate:user-info resource "users" in API group "authentication.k8s.io" at the cluster scope"#
        );
        let both = &[
            "impersonate-on:user-info:list pods",
            "impersonate:user-info users/bob",
        ];
        assert_eq!(ask(&[BOB], both).await.unwrap(), "bob system:authenticated {}");
        assert!(
            ask(
                &[BOB],
                &["impersonate-on:user-info:get pods", "impersonate:user-info users"]
            )
            .await
            .is_err()
        );
        let masters = [BOB, ("impersonate-group", "system:masters")];
        let all = &[
            "impersonate-on:user-info:list pods",
            "impersonate:user-info users",
            "impersonate:user-info groups",
        ];
        assert!(
            ask(&masters, all)
                .await
                .unwrap_err()
                .ends_with("impersonating the system:masters group is not allowed")
        );
        assert!(ask(&[BOB, ("impersonate-group", "a")], all).await.is_ok());
        let extra = [BOB, ("impersonate-extra-scopes", "x")];
        assert!(
            ask(&extra, all)
                .await
                .unwrap_err()
                .contains("impersonating an invalid key in extra is not allowed")
        );
        let account = ("impersonate-user", "system:serviceaccount:ns:sa");
        let accounts = &[
            "impersonate-on:serviceaccount:list pods",
            "impersonate:serviceaccount serviceaccounts/sa",
        ];
        assert!(ask(&[account], accounts).await.is_ok());
        assert!(ask(&[account], all).await.is_err(), "accounts are no other users");
        assert!(
            ask(&[account, ("impersonate-group", "a")], accounts)
                .await
                .is_err(),
            "nor with other groups"
        );
    }

    #[tokio::test]
    async fn as_a_node() {
        let node = ("impersonate-user", "system:node:n1");
        let any = &[
            "impersonate-on:arbitrary-node:list pods",
            "impersonate:arbitrary-node nodes/n1",
        ];
        assert_eq!(
            ask(&[node], any).await.unwrap(),
            "system:node:n1 system:nodes,system:authenticated {}"
        );
        let own = &[
            "impersonate-on:associated-node:list pods",
            "impersonate:associated-node nodes/*",
        ];
        assert!(ask(&[node], own).await.is_err());
        let mut agent = UserInfo::new("system:serviceaccount:ns:agent", &[]);
        agent.extra.insert(NODE_NAME_KEY.into(), vec!["n1".into()]);
        assert_eq!(
            ask_as(&agent, &[node], own).await.unwrap(),
            "system:node:n1 system:nodes,system:authenticated {}"
        );
        let other = ("impersonate-user", "system:node:n2");
        assert!(ask_as(&agent, &[other], own).await.is_err());
    }
}
