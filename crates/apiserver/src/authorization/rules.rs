//! One rule of a Role, and what it allows.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::request_info::RequestInfo;

/// `rbac.authorization.k8s.io/v1` PolicyRule.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PolicyRule {
    /// Groups; `*` is all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub api_groups: Vec<String>,
    /// Paths outside of resources; a trailing `*` matches any rest.
    #[serde(rename = "nonResourceURLs", skip_serializing_if = "Vec::is_empty")]
    pub non_resource_urls: Vec<String>,
    /// Names; empty is all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resource_names: Vec<String>,
    /// `pods`, `pods/log`, `*/scale`, `*`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<String>,
    /// Verbs; `*` is all.
    pub verbs: Vec<String>,
}

impl PolicyRule {
    /// The two rules that allow everything.
    pub fn everything() -> [Self; 2] {
        let all = || vec!["*".to_owned()];
        let resources = Self {
            api_groups: all(),
            resources: all(),
            verbs: all(),
            ..Self::default()
        };
        let others = Self {
            non_resource_urls: all(),
            verbs: all(),
            ..Self::default()
        };
        [resources, others]
    }

    /// The `rules` of a Role or ClusterRole; what does not read as a rule (validation keeps it out) grants nothing.
    pub fn of_role(role: &Value) -> Vec<Self> {
        let rules = role
            .get("rules")
            .and_then(Value::as_array)
            .map(Vec::as_slice)
            .unwrap_or_default();
        rules
            .iter()
            .filter_map(|rule| serde_json::from_value(rule.clone()).ok())
            .collect()
    }

    /// Whether this rule allows the request.
    pub fn allows(&self, request: &RequestInfo) -> bool {
        if !matches(&self.verbs, &request.verb) {
            return false;
        }
        if !request.is_resource {
            return self
                .non_resource_urls
                .iter()
                .any(|url| url_matches(url, &request.path));
        }
        matches(&self.api_groups, &request.api_group)
            && self.resource_matches(&request.resource, &request.subresource)
            && (self.resource_names.is_empty() || self.resource_names.contains(&request.name))
    }

    /// Whether the rule speaks of the resource.
    pub fn resource_matches(&self, resource: &str, subresource: &str) -> bool {
        self.resources.iter().any(|rule| {
            if rule == "*" {
                return true;
            }
            match rule.split_once('/') {
                None => subresource.is_empty() && rule == resource,
                Some((r, s)) => !subresource.is_empty() && s == subresource && (r == resource || r == "*"),
            }
        })
    }
}

fn matches(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == "*" || item == wanted)
}

/// Whether a rule's URL covers a path (or, for escalation checks, another rule's URL).
pub(super) fn url_matches(rule: &str, path: &str) -> bool {
    rule == "*"
        || rule == path
        || rule
            .strip_suffix('*')
            .is_some_and(|prefix| path.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(rule: Value, line: &str, allowed: bool) {
        let role = json!({"rules": [rule]});
        let rule = &PolicyRule::of_role(&role)[0];
        let words: Vec<&str> = line.split(' ').collect();
        let request = if words[1].starts_with('/') {
            RequestInfo {
                verb: words[0].into(),
                path: words[1].into(),
                ..RequestInfo::default()
            }
        } else {
            let (resource, subresource) = words[2].split_once('/').unwrap_or((words[2], ""));
            RequestInfo {
                is_resource: true,
                verb: words[0].into(),
                api_group: words[1].replace("core", ""),
                resource: resource.into(),
                subresource: subresource.into(),
                name: words.get(3).unwrap_or(&"").to_string(),
                ..RequestInfo::default()
            }
        };
        assert_eq!(rule.allows(&request), allowed, "{rule:?} {line}");
    }

    #[test]
    fn what_rules_allow() {
        let read = json!({"apiGroups": [""], "resources": ["pods", "pods/log"], "verbs": ["get", "list"]});
        check(read.clone(), "get core pods a", true);
        check(read.clone(), "get core pods/log a", true);
        check(read.clone(), "get core pods/exec a", false);
        check(read.clone(), "delete core pods a", false);
        check(read, "get apps pods a", false);
        let scale = json!({"apiGroups": ["*"], "resources": ["*/scale"], "verbs": ["*"]});
        check(scale.clone(), "patch apps deployments/scale d", true);
        check(scale, "patch apps deployments d", false);
        let all = json!({"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]});
        check(all.clone(), "patch apps deployments/scale d", true);
        check(all, "get /healthz", false);
        let named = json!({"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["s"], "verbs": ["get", "list"]});
        check(named.clone(), "get core secrets s", true);
        check(named.clone(), "get core secrets t", false);
        check(named, "list core secrets", false);
        let urls = json!({"nonResourceURLs": ["/healthz", "/apis/*"], "verbs": ["get"]});
        check(urls.clone(), "get /healthz", true);
        check(urls.clone(), "get /apis/apps", true);
        check(urls.clone(), "get /apis", false);
        check(urls, "get /healthz/etcd", false);
    }
}
