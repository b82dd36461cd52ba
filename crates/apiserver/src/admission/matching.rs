//! Whether a webhook or a policy is asked about a request, and about which version of the object.

use std::sync::Arc;

use keelson_api::gvk::{GroupResource, GroupVersionKind, GroupVersionResource};
use keelson_api::selector::LabelSelector;
use keelson_api::status::Status;
use serde_json::{Map, Value};

use super::Attributes;
use crate::registry::{Kind, KindSource, status_of};
use crate::resources::Reader;
use crate::watch_cache::CachedObject;

/// A rule with operations.
#[derive(Debug)]
struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    /// Resource and subresource.
    resources: Vec<(String, String)>,
    scope: String,
    /// Names of objects; none stands for all.
    names: Vec<String>,
}

impl Rule {
    fn of(value: &Value) -> Self {
        let list = |field: &str| -> Vec<String> {
            let values = value[field].as_array().into_iter().flatten();
            values.filter_map(|v| v.as_str().map(str::to_owned)).collect()
        };
        let resources = list("resources").into_iter().map(|r| match r.split_once('/') {
            Some((resource, sub)) => (resource.to_owned(), sub.to_owned()),
            None => (r, String::new()),
        });
        Self {
            operations: list("operations"),
            groups: list("apiGroups"),
            versions: list("apiVersions"),
            resources: resources.collect(),
            scope: value["scope"].as_str().unwrap_or("*").to_owned(),
            names: list("resourceNames"),
        }
    }

    /// Whether the rule names the request's operation, scope and this resource.
    fn matches(&self, attributes: &Attributes<'_>, resource: &GroupVersionResource) -> bool {
        self.versions.iter().any(|v| v == "*" || *v == *resource.version)
            && self.matches_some_version(attributes, resource)
    }

    /// As [`Self::matches`], of any version of the resource.
    fn matches_some_version(&self, attributes: &Attributes<'_>, resource: &GroupVersionResource) -> bool {
        let any = |list: &[String], wanted: &str| list.iter().any(|v| v == "*" || v == wanted);
        let is_namespace = resource.group.is_empty() && resource.resource == "namespaces";
        let scope = match self.scope.as_str() {
            "Namespaced" => !attributes.namespace.is_empty() && !is_namespace,
            "Cluster" => attributes.namespace.is_empty() || is_namespace,
            _ => true,
        };
        scope
            && any(&self.operations, attributes.operation.as_str())
            && any(&self.groups, &resource.group)
            && (self.names.is_empty() || self.names.iter().any(|name| name == attributes.name))
            && self.resources.iter().any(|(name, sub)| {
                (name == "*" || *name == *resource.resource) && (sub == "*" || sub == attributes.subresource)
            })
    }
}

/// What requests a webhook, a policy or a binding is about.
#[derive(Debug)]
pub(super) struct Criteria {
    rules: Vec<Rule>,
    excluded: Vec<Rule>,
    /// No rules stand for everything instead of nothing.
    everything: bool,
    equivalent: bool,
    namespaces: LabelSelector,
    objects: LabelSelector,
}

impl Criteria {
    /// Of an entry of `webhooks`.
    pub(super) fn of_hook(hook: &Value) -> Self {
        Self::of(hook, false)
    }

    /// Of a `MatchResources`.
    pub(super) fn of_resources(resources: &Value) -> Self {
        Self::of(resources, true)
    }

    fn of(value: &Value, is_policy: bool) -> Self {
        let rules = |field: &str| {
            let rules = value[field].as_array().into_iter().flatten();
            rules.map(Rule::of).collect::<Vec<_>>()
        };
        let selector = |field: &str| {
            // Validation refuses what cannot be read.
            LabelSelector::from_label_selector_value(&value[field])
                .unwrap_or_else(|_| LabelSelector::nothing())
        };
        let own = rules(if is_policy { "resourceRules" } else { "rules" });
        Self {
            everything: is_policy && own.is_empty(),
            rules: own,
            excluded: rules("excludeResourceRules"),
            equivalent: value["matchPolicy"] != "Exact",
            namespaces: selector("namespaceSelector"),
            objects: selector("objectSelector"),
        }
    }
}

/// How a hook is asked: the version it wants, and the rows to convert between when it is another one.
pub(super) struct Invocation {
    pub(super) resource: GroupVersionResource,
    pub(super) kind: GroupVersionKind,
    pub(super) conversion: Option<(Arc<Kind>, Arc<Kind>)>,
}

/// Objects that decide about admission are not judged by it.
pub(super) fn is_exempt(attributes: &Attributes<'_>) -> bool {
    attributes.resource.group == "admissionregistration.k8s.io"
}

/// What a decision reads.
pub(super) struct Matcher {
    pub(super) namespaces: Reader,
    pub(super) kinds: KindSource,
}

impl Matcher {
    /// `None` when the request is none of those that are meant.
    ///
    /// # Errors
    /// The request's namespace cannot be found.
    pub(super) async fn invocation(
        &self,
        criteria: &Criteria,
        attributes: &Attributes<'_>,
        object: Option<&Value>,
    ) -> Result<Option<Invocation>, Status> {
        if !object_matches(&criteria.objects, object, attributes.old_object) {
            return Ok(None);
        }
        let direct = || Invocation {
            resource: attributes.resource.clone(),
            kind: attributes.kind.clone(),
            conversion: None,
        };
        let invocation = if criteria.everything {
            Some(direct())
        } else {
            self.rules(&criteria.rules, criteria.equivalent, attributes, direct)
        };
        let Some(invocation) = invocation else {
            return Ok(None);
        };
        if self
            .rules(&criteria.excluded, criteria.equivalent, attributes, direct)
            .is_some()
        {
            return Ok(None);
        }
        let matches = self.namespace_matches(&criteria.namespaces, attributes, object);
        Ok(matches.await?.then_some(invocation))
    }

    fn rules(
        &self,
        rules: &[Rule],
        equivalent: bool,
        attributes: &Attributes<'_>,
        direct: impl Fn() -> Invocation,
    ) -> Option<Invocation> {
        if rules
            .iter()
            .any(|rule| rule.matches(attributes, attributes.resource))
        {
            return Some(direct());
        }
        // Other subresources than `status` have kinds of their own, which exist in one version.
        if !equivalent || !matches!(attributes.subresource, "" | "status") {
            return None;
        }
        let given = attributes.resource;
        if !rules
            .iter()
            .any(|rule| rule.matches_some_version(attributes, given))
        {
            return None;
        }
        let table = self.kinds.load();
        let own = table.get(&given.group, &given.version, &given.resource)?;
        let others = || {
            table.rows().iter().filter(|row| {
                row.gvr.group == given.group
                    && row.gvr.resource == given.resource
                    && row.gvr.version != given.version
            })
        };
        rules.iter().find_map(|rule| {
            let other = others().find(|row| rule.matches(attributes, &row.gvr))?;
            Some(Invocation {
                resource: other.gvr.clone(),
                kind: other.gvk.clone(),
                conversion: Some((own.clone(), other.clone())),
            })
        })
    }

    /// The namespace, also when it was made a moment ago.
    ///
    /// # Errors
    /// 404: there is none.
    pub(super) async fn namespace(&self, name: &str) -> Result<Arc<CachedObject>, Status> {
        let found = match self.namespaces.get("", name) {
            Some(found) => Some(found),
            None => self
                .namespaces
                .get_latest("", name)
                .await
                .map_err(|e| status_of(&e))?,
        };
        found.ok_or_else(|| Status::not_found(&GroupResource::new("", "namespaces"), name))
    }

    async fn namespace_matches(
        &self,
        selector: &LabelSelector,
        attributes: &Attributes<'_>,
        object: Option<&Value>,
    ) -> Result<bool, Status> {
        if selector.is_everything() {
            return Ok(true);
        }
        let is_namespace =
            attributes.resource.group.is_empty() && attributes.resource.resource == "namespaces";
        if is_namespace
            && attributes.subresource.is_empty()
            && let Some(object) = object
        {
            return Ok(selector.matches_object(object));
        }
        let name = if is_namespace {
            attributes.name
        } else {
            attributes.namespace
        };
        if name.is_empty() {
            return Ok(true);
        }
        Ok(selector.matches_object(self.namespace(name).await?.value()))
    }
}

/// Either the new or the old object must match; what has no metadata matches nothing.
fn object_matches(selector: &LabelSelector, object: Option<&Value>, old: Option<&Value>) -> bool {
    let matches = |value: &Value| match value.get("metadata").and_then(Value::as_object) {
        Some(metadata) => match metadata.get("labels").and_then(Value::as_object) {
            Some(labels) => selector.matches(labels),
            None => selector.matches(&Map::new()),
        },
        None => false,
    };
    selector.is_everything() || object.is_some_and(matches) || old.is_some_and(matches)
}

/// The object as another version of its kind.
pub(super) fn convert(from: &Kind, to: &Kind, object: &Value) -> Result<Value, Status> {
    let mut object = object.clone();
    from.conversion.store(&mut object)?;
    to.conversion.serve(&mut object);
    object["apiVersion"] = Value::from(to.gvk.api_version());
    object["kind"] = Value::from(to.gvk.kind.to_string());
    Ok(object)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::{Notes, Operation};
    use crate::user::UserInfo;
    use serde_json::json;

    /// `resource` is `group/version/resource[/subresource]`.
    fn check(rule: Value, operation: Operation, resource: &str, namespace: &str, expected: bool) {
        let parts: Vec<&str> = resource.split('/').collect();
        let gvr = GroupVersionResource::new(parts[0].to_owned(), parts[1].to_owned(), parts[2].to_owned());
        let gvk = GroupVersionKind::new("", "v1", "X");
        let (user, notes) = (UserInfo::anonymous(), Notes::default());
        let attributes = Attributes {
            operation,
            resource: &gvr,
            kind: &gvk,
            subresource: parts.get(3).copied().unwrap_or_default(),
            namespace,
            name: "n",
            user: &user,
            old_object: None,
            options: &Value::Null,
            dry_run: false,
            notes: &notes,
        };
        let got = Rule::of(&rule).matches(&attributes, &gvr);
        assert_eq!(got, expected, "{rule} {resource} in {namespace:?}");
    }

    #[test]
    fn rules_match() {
        use Operation::{Create, Update};
        let rule = |operations: &[&str], groups: &[&str], resources: &[&str], scope: &str| {
            json!({"operations": operations, "apiGroups": groups, "apiVersions": ["v1"], "resources": resources,
                "scope": scope})
        };
        let pods = |resources: &[&str]| rule(&["CREATE"], &[""], resources, "*");
        check(pods(&["pods"]), Create, "/v1/pods", "a", true);
        check(pods(&["pods"]), Update, "/v1/pods", "a", false);
        check(pods(&["pods"]), Create, "apps/v1/pods", "a", false);
        check(pods(&["pods"]), Create, "/v2/pods", "a", false);
        check(pods(&["pods"]), Create, "/v1/pods/exec", "a", false);
        check(pods(&["*"]), Create, "/v1/pods/exec", "a", false);
        check(pods(&["*/*"]), Create, "/v1/pods/exec", "a", true);
        check(pods(&["*/*"]), Create, "/v1/pods", "a", true);
        check(pods(&["pods/*"]), Create, "/v1/pods/exec", "a", true);
        check(pods(&["*/exec"]), Create, "/v1/pods/exec", "a", true);
        check(pods(&["*/exec"]), Create, "/v1/pods/attach", "a", false);
        check(
            rule(&["*"], &["*"], &["*"], "Namespaced"),
            Update,
            "x/v1/y",
            "a",
            true,
        );
        check(
            rule(&["*"], &["*"], &["*"], "Namespaced"),
            Update,
            "x/v1/y",
            "",
            false,
        );
        check(
            rule(&["*"], &["*"], &["*"], "Cluster"),
            Update,
            "x/v1/y",
            "",
            true,
        );
        check(
            rule(&["*"], &["*"], &["*"], "Cluster"),
            Update,
            "/v1/namespaces",
            "a",
            true,
        );
        check(
            rule(&["*"], &["*"], &["*"], "Namespaced"),
            Update,
            "/v1/namespaces",
            "a",
            false,
        );
    }

    #[test]
    fn objects_are_selected_by_labels() {
        let selector = LabelSelector::parse("a=b").unwrap();
        let (with, without) = (
            json!({"metadata": {"labels": {"a": "b"}}}),
            json!({"metadata": {}}),
        );
        assert!(object_matches(&selector, Some(&with), None));
        assert!(object_matches(&selector, Some(&without), Some(&with)));
        assert!(!object_matches(&selector, Some(&without), None));
        assert!(!object_matches(
            &selector,
            Some(&json!({"kind": "PodExecOptions"})),
            None
        ));
        assert!(object_matches(
            &LabelSelector::everything(),
            Some(&json!({})),
            None
        ));
    }
}
