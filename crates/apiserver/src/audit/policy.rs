//! `audit.k8s.io/v1` Policy.

use serde_json::Value;

use crate::request_info::RequestInfo;
use crate::user::UserInfo;

/// How much is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    None,
    Metadata,
    Request,
    RequestResponse,
}

impl Level {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "None" => Self::None,
            "Metadata" => Self::Metadata,
            "Request" => Self::Request,
            "RequestResponse" => Self::RequestResponse,
            _ => return None,
        })
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Metadata => "Metadata",
            Self::Request => "Request",
            Self::RequestResponse => "RequestResponse",
        }
    }
}

/// The policy cannot be used; says where.
#[derive(Debug, thiserror::Error)]
pub enum AuditPolicyError {
    /// It is no YAML.
    #[error("the audit policy cannot be read: {0}")]
    Syntax(#[from] serde_yaml_ng::Error),
    /// Something in it is wrong.
    #[error("the audit policy is invalid: {0}")]
    Invalid(String),
}

/// Which requests are recorded, and how much of them.
#[derive(Clone, Debug)]
pub struct AuditPolicy {
    rules: Vec<Rule>,
    omit_stages: Vec<String>,
    omit_managed_fields: bool,
}

#[derive(Clone, Debug)]
struct Rule {
    level: Level,
    users: Vec<String>,
    groups: Vec<String>,
    verbs: Vec<String>,
    namespaces: Vec<String>,
    urls: Vec<String>,
    resources: Vec<Resources>,
    omit_stages: Vec<String>,
    omit_managed_fields: Option<bool>,
}

#[derive(Clone, Debug)]
struct Resources {
    group: String,
    resources: Vec<String>,
    names: Vec<String>,
}

/// What the policy says of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Decision {
    pub(super) level: Level,
    pub(super) omit_stages: Vec<String>,
    pub(super) omit_managed_fields: bool,
}

fn strings(value: &Value) -> Vec<String> {
    let values = value.as_array().into_iter().flatten();
    values.filter_map(|v| v.as_str().map(str::to_owned)).collect()
}

impl AuditPolicy {
    /// Reads a policy in YAML or JSON.
    pub fn parse(text: &str) -> Result<Self, AuditPolicyError> {
        let value: Value = serde_yaml_ng::from_str(text)?;
        let invalid = |why: &str| AuditPolicyError::Invalid(why.to_owned());
        if value["kind"] != "Policy" || value["apiVersion"] != "audit.k8s.io/v1" {
            return Err(invalid("expected kind Policy of audit.k8s.io/v1"));
        }
        let rules = value["rules"].as_array().filter(|r| !r.is_empty());
        let rules = rules.ok_or_else(|| invalid("loaded illegal policy with 0 rules"))?;
        let rules = rules.iter().enumerate().map(|(at, rule)| {
            Rule::parse(rule).map_err(|why| AuditPolicyError::Invalid(format!("rules[{at}]{why}")))
        });
        Ok(Self {
            rules: rules.collect::<Result<_, _>>()?,
            omit_stages: strings(&value["omitStages"]),
            omit_managed_fields: value["omitManagedFields"] == true,
        })
    }

    pub(super) fn decide(&self, user: &UserInfo, request: &RequestInfo) -> Decision {
        let rule = self.rules.iter().find(|rule| rule.matches(user, request));
        let mut decision = Decision {
            level: Level::None,
            omit_stages: self.omit_stages.clone(),
            omit_managed_fields: self.omit_managed_fields,
        };
        if let Some(rule) = rule {
            decision.level = rule.level;
            decision.omit_stages.extend(rule.omit_stages.iter().cloned());
            if let Some(omit) = rule.omit_managed_fields {
                decision.omit_managed_fields = omit;
            }
        }
        decision
    }
}

impl Rule {
    fn parse(value: &Value) -> Result<Self, String> {
        let text = value["level"].as_str().unwrap_or_default();
        let level = Level::parse(text).ok_or_else(|| {
            format!(
                ".level: Unsupported value: {text:?}: supported values: \"None\", \"Metadata\", \"Request\", \"RequestResponse\""
            )
        })?;
        let resources = value["resources"].as_array().into_iter().flatten();
        let rule = Self {
            level,
            users: strings(&value["users"]),
            groups: strings(&value["userGroups"]),
            verbs: strings(&value["verbs"]),
            namespaces: strings(&value["namespaces"]),
            urls: strings(&value["nonResourceURLs"]),
            resources: resources
                .map(|r| Resources {
                    group: r["group"].as_str().unwrap_or_default().to_owned(),
                    resources: strings(&r["resources"]),
                    names: strings(&r["resourceNames"]),
                })
                .collect(),
            omit_stages: strings(&value["omitStages"]),
            omit_managed_fields: value["omitManagedFields"].as_bool(),
        };
        if !rule.urls.is_empty() && (!rule.resources.is_empty() || !rule.namespaces.is_empty()) {
            return Err(
                ".nonResourceURLs: rules cannot apply to both regular resources and non-resource URLs"
                    .to_owned(),
            );
        }
        Ok(rule)
    }

    fn matches(&self, user: &UserInfo, request: &RequestInfo) -> bool {
        let any = |list: &[String], wanted: &str| list.is_empty() || list.iter().any(|v| v == wanted);
        if !any(&self.users, &user.name)
            || !any(&self.verbs, &request.verb)
            || !(self.groups.is_empty() || self.groups.iter().any(|g| user.in_group(g)))
        {
            return false;
        }
        if !self.namespaces.is_empty() || !self.resources.is_empty() {
            return request.is_resource && self.matches_resource(request);
        }
        if !self.urls.is_empty() {
            return !request.is_resource
                && self.urls.iter().any(|url| match url.strip_suffix('*') {
                    Some(prefix) => request.path.starts_with(prefix),
                    None => *url == request.path,
                });
        }
        true
    }

    fn matches_resource(&self, request: &RequestInfo) -> bool {
        if !self.namespaces.is_empty() && !self.namespaces.contains(&request.namespace) {
            return false;
        }
        let full = if request.subresource.is_empty() {
            request.resource.clone()
        } else {
            format!("{}/{}", request.resource, request.subresource)
        };
        self.resources.is_empty()
            || self.resources.iter().any(|rule| {
                let named = rule.names.is_empty() || rule.names.contains(&request.name);
                let listed = rule.resources.is_empty()
                    || rule.resources.iter().any(|r| {
                        r == "*"
                            || *r == full
                            || r.strip_prefix("*/")
                                .is_some_and(|sub| sub == request.subresource && !sub.is_empty())
                            || (!request.subresource.is_empty()
                                && r.strip_suffix("/*") == Some(request.resource.as_str()))
                    });
                rule.group == request.api_group && named && listed
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::query::Query;
    use http::Method;

    const POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - level: None
    users: ["system:kube-proxy"]
    verbs: [watch]
  - level: Metadata
    resources: [{group: "", resources: [secrets, "pods/*"]}]
  - level: RequestResponse
    namespaces: [prod]
    omitManagedFields: true
  - level: None
    nonResourceURLs: ["/healthz*"]
  - level: Request
    userGroups: [dev]
    omitStages: [ResponseStarted]
"#;

    fn check(user: &UserInfo, line: &str, expected: Level, stages: usize) {
        let policy = AuditPolicy::parse(POLICY).unwrap();
        let (path, query) = line.split_once('?').unwrap_or((line, ""));
        let request = RequestInfo::parse(&Method::GET, path, &Query::new(query)).unwrap();
        let got = policy.decide(user, &request);
        assert_eq!((got.level, got.omit_stages.len()), (expected, stages), "{line}");
    }

    #[test]
    fn the_first_rule_counts() {
        let (proxy, jane) = (
            UserInfo::new("system:kube-proxy", &[]),
            UserInfo::new("jane", &["dev"]),
        );
        check(&proxy, "/api/v1/endpoints?watch=1", Level::None, 1);
        check(&proxy, "/api/v1/endpoints", Level::None, 1);
        check(&jane, "/api/v1/namespaces/prod/secrets/a", Level::Metadata, 1);
        check(&jane, "/api/v1/namespaces/a/pods/p/log", Level::Metadata, 1);
        check(&jane, "/api/v1/namespaces/prod/pods", Level::RequestResponse, 1);
        check(&jane, "/api/v1/namespaces/a/pods", Level::Request, 2);
        check(&jane, "/healthz/ping", Level::None, 1);
        check(&jane, "/version", Level::Request, 2);
    }

    #[test]
    fn mistakes_are_named() {
        for (rules, expected) in [
            ("[]", "loaded illegal policy with 0 rules"),
            ("[{level: Some}]", "rules[0].level: Unsupported value: \"Some\""),
            (
                "[{level: None, namespaces: [a], nonResourceURLs: [/x]}]",
                "rules[0].nonResourceURLs: rules cannot apply to both",
            ),
        ] {
            let text = format!("{{apiVersion: audit.k8s.io/v1, kind: Policy, rules: {rules}}}");
            let got = AuditPolicy::parse(&text).unwrap_err().to_string();
            assert!(got.contains(expected), "{got}");
        }
    }
}
