//! The answer to a request that is not allowed, in upstream's words.

use keelson_api::field::quote;
use keelson_api::gvk::GroupResource;
use keelson_api::status::Status;

use crate::request_info::RequestInfo;
use crate::user::UserInfo;

/// `User "x" cannot list resource "pods" in API group "" in the namespace "default"`.
pub fn forbidden_message(user: &UserInfo, request: &RequestInfo) -> String {
    let who = quote(&user.name);
    let verb = &request.verb;
    if !request.is_resource {
        return format!("User {who} cannot {verb} path {}", quote(&request.path));
    }
    let resource = if request.subresource.is_empty() {
        request.resource.clone()
    } else {
        format!("{}/{}", request.resource, request.subresource)
    };
    let what = format!(
        "resource {} in API group {}",
        quote(&resource),
        quote(&request.api_group)
    );
    if request.namespace.is_empty() {
        format!("User {who} cannot {verb} {what} at the cluster scope")
    } else {
        format!(
            "User {who} cannot {verb} {what} in the namespace {}",
            quote(&request.namespace)
        )
    }
}

/// 403 with the message and, where the authorizers said one, their reason.
pub fn forbidden(user: &UserInfo, request: &RequestInfo, reason: &str) -> Status {
    let mut message = forbidden_message(user, request);
    if !reason.is_empty() {
        message.push_str(": ");
        message.push_str(reason);
    }
    let resource = GroupResource::new(request.api_group.clone(), request.resource.clone());
    Status::forbidden(&resource, &request.name, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        let user = UserInfo::new("x", &[]);
        let mut request = RequestInfo {
            is_resource: true,
            verb: "list".into(),
            resource: "pods".into(),
            namespace: "default".into(),
            ..RequestInfo::default()
        };
        assert_eq!(
            forbidden(&user, &request, "").message,
            r#"pods is forbidden: User "x" cannot list resource "pods" in API group "" in the namespace "default""#
        );
        request.namespace.clear();
        request.verb = "get".into();
        request.subresource = "log".into();
        request.name = "p".into();
        assert_eq!(
            forbidden(&user, &request, "why").message,
            r#"pods "p" is forbidden: User "x" cannot get resource "pods/log" in API group "" at the cluster scope: why"#
        );
        let request = RequestInfo {
            verb: "get".into(),
            path: "/metrics".into(),
            ..RequestInfo::default()
        };
        let status = forbidden(&UserInfo::anonymous(), &request, "");
        assert_eq!(
            status.message,
            r#"forbidden: User "system:anonymous" cannot get path "/metrics""#
        );
        assert_eq!(status.code, 403);
    }
}
