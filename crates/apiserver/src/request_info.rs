//! What a request asks for, read from its method, path and query as upstream's `RequestInfoFactory` does.

use http::Method;

use crate::http::query::Query;

/// The parts of a request that authorization, admission and routing look at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// Whether the path names an API resource (`/api/v1/...`, `/apis/<group>/<version>/...`).
    pub is_resource: bool,
    /// The path as asked for, decoded.
    pub path: String,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`, `proxy`; for other paths the
    /// method in lower case.
    pub verb: String,
    /// `api` or `apis`; empty for other paths.
    pub api_prefix: String,
    /// The group, empty for the core group.
    pub api_group: String,
    /// The version, e.g. `v1`.
    pub api_version: String,
    /// The namespace, empty at cluster scope.
    pub namespace: String,
    /// The plural, e.g. `pods`.
    pub resource: String,
    /// E.g. `status`; empty for the object itself.
    pub subresource: String,
    /// The object's name, empty for collections.
    pub name: String,
    /// The path's parts from the resource on.
    pub parts: Vec<String>,
    /// The field selector as given, for list, watch and deletecollection.
    pub field_selector: String,
    /// The label selector as given, for list, watch and deletecollection.
    pub label_selector: String,
}

/// The path cannot be read as a request.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestInfoError {
    /// `/api/v1/watch` or `/api/v1/proxy` with nothing behind it.
    #[error("unable to determine kind and namespace from url, {0}")]
    NoKind(String),
}

impl RequestInfo {
    /// Reads a request line. `path` is percent-decoded per part.
    pub fn parse(method: &Method, path: &str, query: &Query<'_>) -> Result<Self, RequestInfoError> {
        let mut info = Self {
            path: decode(path),
            verb: method.as_str().to_ascii_lowercase(),
            ..Self::default()
        };
        let mut parts: Vec<String> = path
            .trim_matches('/')
            .split('/')
            .filter(|p| !p.is_empty())
            .map(decode)
            .collect();
        if parts.len() < 3 || (parts[0] != "api" && parts[0] != "apis") {
            return Ok(info);
        }
        let prefix = parts.remove(0);
        if prefix != "api" {
            if parts.len() < 3 {
                info.api_prefix = prefix;
                return Ok(info);
            }
            info.api_group = parts.remove(0);
        }
        info.api_prefix = prefix;
        info.is_resource = true;
        info.api_version = parts.remove(0);
        if parts[0] == "proxy" || parts[0] == "watch" {
            if parts.len() < 2 {
                return Err(RequestInfoError::NoKind(path.to_owned()));
            }
            info.verb = parts.remove(0);
        } else {
            info.verb = match *method {
                Method::POST => "create",
                Method::GET | Method::HEAD => "get",
                Method::PUT => "update",
                Method::PATCH => "patch",
                Method::DELETE => "delete",
                _ => "",
            }
            .to_owned();
        }
        if parts[0] == "namespaces" && parts.len() > 1 {
            info.namespace = parts[1].clone();
            // /namespaces/<ns>/<resource>: what follows is the resource, unless it is one of Namespace's own subresources.
            if parts.len() > 2 && parts[2] != "status" && parts[2] != "finalize" {
                parts.drain(..2);
            }
        }
        info.resource = parts[0].clone();
        info.name = parts.get(1).cloned().unwrap_or_default();
        if info.verb != "proxy" {
            info.subresource = parts.get(2).cloned().unwrap_or_default();
        }
        info.parts = parts;
        info.refine_verb(query);
        Ok(info)
    }

    fn refine_verb(&mut self, query: &Query<'_>) {
        if self.name.is_empty() && self.verb == "get" {
            let watch = query.flag("watch");
            self.verb = if watch { "watch" } else { "list" }.to_owned();
            if let Some(name) = query.get("fieldSelector").as_deref().and_then(metadata_name)
                && is_valid_path_segment(name)
            {
                self.name = name.to_owned();
            }
        }
        if self.name.is_empty() && self.verb == "delete" {
            self.verb = "deletecollection".to_owned();
        }
        if matches!(self.verb.as_str(), "list" | "watch" | "deletecollection") {
            self.field_selector = query
                .get("fieldSelector")
                .map(|v| v.into_owned())
                .unwrap_or_default();
            self.label_selector = query
                .get("labelSelector")
                .map(|v| v.into_owned())
                .unwrap_or_default();
        }
    }

    /// `group/version`, or `version` in the core group.
    pub fn group_version(&self) -> String {
        if self.api_group.is_empty() {
            self.api_version.clone()
        } else {
            format!("{}/{}", self.api_group, self.api_version)
        }
    }

    /// Whether the request changes nothing.
    pub fn is_read_only(&self) -> bool {
        matches!(self.verb.as_str(), "get" | "list" | "watch" | "head" | "options")
    }
}

fn metadata_name(selector: &str) -> Option<&str> {
    selector.split(',').find_map(|term| {
        let value = term.trim().strip_prefix("metadata.name=")?;
        Some(value.strip_prefix('=').unwrap_or(value))
    })
}

fn is_valid_path_segment(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '%'])
}

fn decode(part: &str) -> String {
    crate::http::query::percent_decode(part, false).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(method: Method, url: &str, expected: &str) {
        let (path, query) = url.split_once('?').unwrap_or((url, ""));
        let i = RequestInfo::parse(&method, path, &Query::new(query)).unwrap();
        let got = format!(
            "{} {} g={} v={} ns={} r={} s={} n={}",
            i.is_resource, i.verb, i.api_group, i.api_version, i.namespace, i.resource, i.subresource, i.name
        );
        assert_eq!(got, expected, "{method} {url}");
    }

    #[test]
    fn request_lines() {
        check(
            Method::GET,
            "/api/v1/namespaces",
            "true list g= v=v1 ns= r=namespaces s= n=",
        );
        check(
            Method::GET,
            "/api/v1/namespaces/other",
            "true get g= v=v1 ns=other r=namespaces s= n=other",
        );
        check(
            Method::PUT,
            "/api/v1/namespaces/other/finalize",
            "true update g= v=v1 ns=other r=namespaces s=finalize n=other",
        );
        check(
            Method::GET,
            "/api/v1/namespaces/other/pods/foo",
            "true get g= v=v1 ns=other r=pods s= n=foo",
        );
        check(
            Method::GET,
            "/api/v1/watch/pods",
            "true watch g= v=v1 ns= r=pods s= n=",
        );
        check(
            Method::GET,
            "/api/v1/watch/namespaces/other/pods/foo",
            "true watch g= v=v1 ns=other r=pods s= n=foo",
        );
        check(
            Method::GET,
            "/api/v1/pods?watch=1&fieldSelector=metadata.name%3Dfoo",
            "true watch g= v=v1 ns= r=pods s= n=foo",
        );
        check(
            Method::DELETE,
            "/apis/apps/v1/namespaces/other/deployments",
            "true deletecollection g=apps v=v1 ns=other r=deployments s= n=",
        );
        check(
            Method::POST,
            "/api/v1/namespaces/a/pods/p/exec?command=x",
            "true create g= v=v1 ns=a r=pods s=exec n=p",
        );
        check(
            Method::GET,
            "/api/v1/namespaces/a/services/s/proxy/x/y",
            "true get g= v=v1 ns=a r=services s=proxy n=s",
        );
        check(Method::GET, "/healthz", "false get g= v= ns= r= s= n=");
        check(Method::GET, "/apis/apps/v1", "false get g= v= ns= r= s= n=");
        check(Method::POST, "/apis", "false post g= v= ns= r= s= n=");
        assert!(RequestInfo::parse(&Method::GET, "/api/v1/watch", &Query::new("")).is_err());
    }
}
