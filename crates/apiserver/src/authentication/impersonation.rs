//! `Impersonate-*` headers: acting as somebody else, as far as the real user is allowed to.

use std::collections::BTreeMap;

use http::HeaderMap;
use keelson_api::status::Status;

use crate::authorization::{Authorizer, Decision, forbidden};
use crate::request_info::RequestInfo;
use crate::user::{ALL_AUTHENTICATED, ALL_UNAUTHENTICATED, ANONYMOUS, UserInfo};

const EXTRA_PREFIX: &str = "impersonate-extra-";
const SERVICE_ACCOUNT_PREFIX: &str = "system:serviceaccount:";

/// The user to act as; `None` when the headers ask for nobody. Every part (user, each group, uid, each extra value) needs
/// the verb `impersonate`.
pub async fn impersonate(
    headers: &HeaderMap,
    user: &UserInfo,
    authorizer: &dyn Authorizer,
) -> Result<Option<UserInfo>, Status> {
    let text = |name: &str| -> Vec<String> {
        headers
            .get_all(name)
            .iter()
            .map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned())
            .collect()
    };
    let name = text("impersonate-user").into_iter().next().unwrap_or_default();
    let groups = text("impersonate-group");
    let uid = text("impersonate-uid").into_iter().next().unwrap_or_default();
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for header in headers.keys() {
        if let Some(key) = header.as_str().strip_prefix(EXTRA_PREFIX) {
            let key = crate::http::query::percent_decode(key, false).into_owned();
            extra.entry(key).or_default().extend(text(header.as_str()));
        }
    }
    if name.is_empty() {
        if groups.is_empty() && uid.is_empty() && extra.is_empty() {
            return Ok(None);
        }
        return Err(Status::internal(format!(
            "requested {groups:?}, {extra:?}, {uid:?} without impersonating a user name"
        )));
    }
    for request in wanted(&name, &groups, &uid, &extra) {
        let (decision, reason) = authorizer.authorize(user, &request).await;
        if decision != Decision::Allow {
            return Err(forbidden(user, &request, &reason));
        }
    }
    Ok(Some(impersonated(name, groups, uid, extra)))
}

fn wanted(
    name: &str,
    groups: &[String],
    uid: &str,
    extra: &BTreeMap<String, Vec<String>>,
) -> Vec<RequestInfo> {
    let request = |group: &str, resource: &str, subresource: &str, namespace: &str, name: &str| RequestInfo {
        is_resource: true,
        verb: "impersonate".to_owned(),
        api_group: group.to_owned(),
        api_version: "v1".to_owned(),
        namespace: namespace.to_owned(),
        resource: resource.to_owned(),
        subresource: subresource.to_owned(),
        name: name.to_owned(),
        ..RequestInfo::default()
    };
    let mut all = Vec::new();
    match service_account(name) {
        Some((namespace, account)) => all.push(request("", "serviceaccounts", "", namespace, account)),
        None => all.push(request("", "users", "", "", name)),
    }
    all.extend(groups.iter().map(|group| request("", "groups", "", "", group)));
    for (key, values) in extra {
        all.extend(
            values
                .iter()
                .map(|v| request("authentication.k8s.io", "userextras", key, "", v)),
        );
    }
    if !uid.is_empty() {
        all.push(request("authentication.k8s.io", "uids", "", "", uid));
    }
    all
}

fn service_account(name: &str) -> Option<(&str, &str)> {
    name.strip_prefix(SERVICE_ACCOUNT_PREFIX)?
        .split_once(':')
        .filter(|(ns, n)| !ns.is_empty() && !n.is_empty())
}

fn impersonated(
    name: String,
    mut groups: Vec<String>,
    uid: String,
    extra: BTreeMap<String, Vec<String>>,
) -> UserInfo {
    if let (true, Some((namespace, _))) = (groups.is_empty(), service_account(&name)) {
        groups = vec![
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{namespace}"),
        ];
    }
    if name == ANONYMOUS {
        if !groups.iter().any(|g| g == ALL_UNAUTHENTICATED) {
            groups.push(ALL_UNAUTHENTICATED.to_owned());
        }
    } else if !groups
        .iter()
        .any(|g| g == ALL_AUTHENTICATED || g == ALL_UNAUTHENTICATED)
    {
        groups.push(ALL_AUTHENTICATED.to_owned());
    }
    UserInfo {
        name,
        uid,
        groups,
        extra,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_trait::async_trait;

    /// Allows what is in the list: `resource/name`.
    struct Listed(&'static [&'static str]);

    #[async_trait]
    impl Authorizer for Listed {
        async fn authorize(&self, _: &UserInfo, r: &RequestInfo) -> (Decision, String) {
            let asked = format!("{}{}/{}", r.resource, r.subresource, r.name);
            let allowed = r.verb == "impersonate" && self.0.contains(&asked.as_str());
            (
                if allowed {
                    Decision::Allow
                } else {
                    Decision::NoOpinion
                },
                String::new(),
            )
        }
    }

    async fn ask(
        headers: &[(&'static str, &str)],
        allowed: &'static [&'static str],
    ) -> Result<String, String> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        match impersonate(&map, &UserInfo::new("jane", &[]), &Listed(allowed)).await {
            Ok(Some(user)) => Ok(format!(
                "{} {} {:?}",
                user.name,
                user.groups.join(","),
                user.extra
            )),
            Ok(None) => Ok("nobody".into()),
            Err(status) => Err(status.message),
        }
    }

    #[tokio::test]
    async fn as_somebody_else() {
        assert_eq!(ask(&[], &[]).await.unwrap(), "nobody");
        assert_eq!(
            ask(&[("impersonate-user", "bob")], &["users/bob"]).await.unwrap(),
            "bob system:authenticated {}"
        );
        assert_eq!(
            ask(&[("impersonate-user", "bob")], &[]).await.unwrap_err(),
            r#"users "bob" is forbidden: User "jane" cannot impersonate resource "users" in API group "" at the cluster scope"#
        );
        let groups = [
            ("impersonate-user", "bob"),
            ("impersonate-group", "a"),
            ("impersonate-group", "b"),
        ];
        assert!(
            ask(&groups, &["users/bob", "groups/a"])
                .await
                .unwrap_err()
                .contains("groups \"b\"")
        );
        assert_eq!(
            ask(&groups, &["users/bob", "groups/a", "groups/b"])
                .await
                .unwrap(),
            "bob a,b,system:authenticated {}"
        );
        assert_eq!(
            ask(
                &[("impersonate-user", "system:serviceaccount:ns:sa")],
                &["serviceaccounts/sa"]
            )
            .await
            .unwrap(),
            "system:serviceaccount:ns:sa system:serviceaccounts,system:serviceaccounts:ns,system:authenticated {}"
        );
        let extra = [("impersonate-user", "bob"), ("impersonate-extra-scopes", "x")];
        assert_eq!(
            ask(&extra, &["users/bob", "userextrasscopes/x"]).await.unwrap(),
            r#"bob system:authenticated {"scopes": ["x"]}"#
        );
        assert!(ask(&[("impersonate-group", "a")], &[]).await.is_err());
    }
}
