//! FlowSchemas and PriorityLevelConfigurations, ready to be matched.

use std::sync::Arc;

use keelson_api::status::Status;
use serde_json::Value;

use crate::request_info::RequestInfo;
use crate::user::UserInfo;

/// How flows of a schema are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Distinguisher {
    None,
    ByUser,
    ByNamespace,
}

/// A FlowSchema.
#[derive(Debug)]
pub(super) struct Schema {
    pub(super) name: Arc<str>,
    pub(super) uid: Arc<str>,
    pub(super) level: Arc<str>,
    pub(super) precedence: i64,
    pub(super) distinguisher: Distinguisher,
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    subjects: Vec<Subject>,
    resources: Vec<ResourceRule>,
    others: Vec<UrlRule>,
}

#[derive(Debug)]
enum Subject {
    User(String),
    Group(String),
    /// Namespace and name.
    Account(String, String),
}

#[derive(Debug)]
struct ResourceRule {
    verbs: Vec<String>,
    groups: Vec<String>,
    resources: Vec<String>,
    namespaces: Vec<String>,
    cluster: bool,
}

#[derive(Debug)]
struct UrlRule {
    verbs: Vec<String>,
    urls: Vec<String>,
}

fn strings(value: &Value) -> Vec<String> {
    let values = value.as_array().into_iter().flatten();
    values.filter_map(|v| v.as_str().map(str::to_owned)).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

impl Schema {
    pub(super) fn of(object: &Value) -> Self {
        let spec = &object["spec"];
        let rules = spec["rules"].as_array().into_iter().flatten();
        Self {
            name: text(&object["metadata"]["name"]).into(),
            uid: text(&object["metadata"]["uid"]).into(),
            level: text(&spec["priorityLevelConfiguration"]["name"]).into(),
            precedence: spec["matchingPrecedence"].as_i64().unwrap_or(1000),
            distinguisher: match spec["distinguisherMethod"]["type"].as_str() {
                Some("ByUser") => Distinguisher::ByUser,
                Some("ByNamespace") => Distinguisher::ByNamespace,
                _ => Distinguisher::None,
            },
            rules: rules.map(Rule::of).collect(),
        }
    }

    pub(super) fn matches(&self, user: &UserInfo, request: &RequestInfo) -> bool {
        self.rules.iter().any(|rule| rule.matches(user, request))
    }

    /// What the request's flow is called within the schema.
    pub(super) fn flow<'a>(&self, user: &'a UserInfo, request: &'a RequestInfo) -> &'a str {
        match self.distinguisher {
            Distinguisher::None => "",
            Distinguisher::ByUser => &user.name,
            Distinguisher::ByNamespace => &request.namespace,
        }
    }
}

impl Rule {
    fn of(value: &Value) -> Self {
        let list = |field: &str| value[field].as_array().into_iter().flatten();
        Self {
            subjects: list("subjects").filter_map(Subject::of).collect(),
            resources: list("resourceRules")
                .map(|r| ResourceRule {
                    verbs: strings(&r["verbs"]),
                    groups: strings(&r["apiGroups"]),
                    resources: strings(&r["resources"]),
                    namespaces: strings(&r["namespaces"]),
                    cluster: r["clusterScope"] == true,
                })
                .collect(),
            others: list("nonResourceRules")
                .map(|r| UrlRule {
                    verbs: strings(&r["verbs"]),
                    urls: strings(&r["nonResourceURLs"]),
                })
                .collect(),
        }
    }

    fn matches(&self, user: &UserInfo, request: &RequestInfo) -> bool {
        if !self.subjects.iter().any(|s| s.matches(user)) {
            return false;
        }
        let any = |list: &[String], wanted: &str| list.iter().any(|v| v == "*" || v == wanted);
        if !request.is_resource {
            return self.others.iter().any(|rule| {
                any(&rule.verbs, &request.verb)
                    && rule.urls.iter().any(|url| match url.strip_suffix('*') {
                        Some(prefix) => request.path.starts_with(prefix),
                        None => *url == request.path,
                    })
            });
        }
        self.resources.iter().any(|rule| {
            let scope = if request.namespace.is_empty() {
                rule.cluster
            } else {
                any(&rule.namespaces, &request.namespace)
            };
            scope
                && any(&rule.verbs, &request.verb)
                && any(&rule.groups, &request.api_group)
                && rule.resources.iter().any(|r| {
                    r == "*"
                        || match r.split_once('/') {
                            None => *r == request.resource && request.subresource.is_empty(),
                            Some((resource, sub)) => {
                                sub == request.subresource
                                    && (resource == request.resource || resource == "*")
                            }
                        }
                })
        })
    }
}

impl Subject {
    fn of(value: &Value) -> Option<Self> {
        Some(match value["kind"].as_str()? {
            "User" => Self::User(text(&value["user"]["name"])),
            "Group" => Self::Group(text(&value["group"]["name"])),
            "ServiceAccount" => {
                let account = &value["serviceAccount"];
                Self::Account(text(&account["namespace"]), text(&account["name"]))
            }
            _ => return None,
        })
    }

    fn matches(&self, user: &UserInfo) -> bool {
        match self {
            Self::User(name) => name == "*" || *name == user.name,
            Self::Group(name) => name == "*" || user.in_group(name),
            Self::Account(namespace, name) => user
                .name
                .strip_prefix("system:serviceaccount:")
                .and_then(|rest| rest.split_once(':'))
                .is_some_and(|(ns, account)| ns == namespace && (name == "*" || account == name)),
        }
    }
}

/// What happens without a free seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Limit {
    Reject,
    Queue {
        queues: usize,
        hand: usize,
        length: usize,
    },
}

/// A PriorityLevelConfiguration.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct LevelSpec {
    pub(super) name: String,
    pub(super) uid: Arc<str>,
    pub(super) exempt: bool,
    pub(super) shares: u64,
    /// Percent of its seats that others may have.
    pub(super) lendable: u64,
    /// Percent of its own seats that it may have of others; `None` is no limit.
    pub(super) borrowing: Option<u64>,
    pub(super) limit: Limit,
}

impl LevelSpec {
    pub(super) fn of(object: &Value) -> Self {
        let spec = &object["spec"];
        let exempt = spec["type"] == "Exempt";
        let part = if exempt { &spec["exempt"] } else { &spec["limited"] };
        let number = |value: &Value, other: u64| value.as_u64().unwrap_or(other);
        let response = &part["limitResponse"];
        let queuing = &response["queuing"];
        let size =
            |field: &str, other: u64| usize::try_from(number(&queuing[field], other).max(1)).unwrap_or(1);
        Self {
            name: text(&object["metadata"]["name"]),
            uid: text(&object["metadata"]["uid"]).into(),
            exempt,
            shares: number(&part["nominalConcurrencyShares"], if exempt { 0 } else { 30 }),
            lendable: number(&part["lendablePercent"], 0).min(100),
            borrowing: part["borrowingLimitPercent"].as_u64(),
            limit: if response["type"] == "Queue" {
                Limit::Queue {
                    queues: size("queues", 64),
                    hand: size("handSize", 8),
                    length: size("queueLengthLimit", 50),
                }
            } else {
                Limit::Reject
            },
        }
    }
}

/// 429 in upstream's words.
pub(super) fn too_many() -> Status {
    Status::too_many_requests("too many requests, please try again later", 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::query::Query;
    use http::Method;
    use serde_json::json;

    fn check(schema: &Value, user: &UserInfo, line: &str, expected: bool) {
        let schema = Schema::of(&json!({"spec": {"rules": [schema]}}));
        let (path, query) = line.split_once('?').unwrap_or((line, ""));
        let request = RequestInfo::parse(&Method::GET, path, &Query::new(query)).unwrap();
        assert_eq!(schema.matches(user, &request), expected, "{line}");
    }

    #[test]
    fn schemas_match() {
        let jane = UserInfo::new("jane", &["dev"]);
        let account = UserInfo::new("system:serviceaccount:ns:bot", &[]);
        let pods = json!({"subjects": [{"kind": "Group", "group": {"name": "dev"}}],
            "resourceRules": [{"verbs": ["list"], "apiGroups": [""], "resources": ["pods", "*/status"],
                "namespaces": ["a"], "clusterScope": false}]});
        check(&pods, &jane, "/api/v1/namespaces/a/pods", true);
        check(&pods, &account, "/api/v1/namespaces/a/pods", false);
        check(&pods, &jane, "/api/v1/namespaces/b/pods", false);
        check(&pods, &jane, "/api/v1/pods", false);
        check(&pods, &jane, "/api/v1/namespaces/a/pods?watch=1", false);
        check(&pods, &jane, "/apis/apps/v1/namespaces/a/pods", false);
        let probes = json!({"subjects": [{"kind": "User", "user": {"name": "*"}}],
            "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/healthz", "/live*"]}]});
        check(&probes, &jane, "/healthz", true);
        check(&probes, &jane, "/healthz/x", false);
        check(&probes, &jane, "/livez/ping", true);
        check(&probes, &jane, "/api/v1/pods", false);
        let bots = json!({"subjects": [{"kind": "ServiceAccount", "serviceAccount": {"namespace": "ns", "name": "*"}}],
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true}]});
        check(&bots, &account, "/api/v1/nodes", true);
        check(&bots, &jane, "/api/v1/nodes", false);
        check(&bots, &account, "/api/v1/namespaces/a/pods", false);
    }
}
