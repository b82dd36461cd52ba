//! Does a set of rules cover another: nobody grants what he does not hold.

use std::collections::BTreeMap;

use super::PolicyRule;
use super::rules::url_matches;

/// The parts of `wanted` that `held` does not allow, one verb, group, resource and name each, put together again where
/// they differ in verbs alone. Empty when all is covered.
pub(crate) fn uncovered(held: &[PolicyRule], wanted: &[PolicyRule]) -> Vec<PolicyRule> {
    let missing = wanted
        .iter()
        .flat_map(split)
        .filter(|part| !held.iter().any(|rule| covers(rule, part)));
    compact(missing)
}

/// Single-valued parts; a rule without names stays without names.
fn split(rule: &PolicyRule) -> Vec<PolicyRule> {
    let mut parts = Vec::new();
    for verb in &rule.verbs {
        for group in &rule.api_groups {
            for resource in &rule.resources {
                let part = PolicyRule {
                    api_groups: vec![group.clone()],
                    resources: vec![resource.clone()],
                    verbs: vec![verb.clone()],
                    ..PolicyRule::default()
                };
                if rule.resource_names.is_empty() {
                    parts.push(part);
                    continue;
                }
                for name in &rule.resource_names {
                    parts.push(PolicyRule {
                        resource_names: vec![name.clone()],
                        ..part.clone()
                    });
                }
            }
        }
        for url in &rule.non_resource_urls {
            parts.push(PolicyRule {
                non_resource_urls: vec![url.clone()],
                verbs: vec![verb.clone()],
                ..PolicyRule::default()
            });
        }
    }
    parts
}

fn covers(held: &PolicyRule, part: &PolicyRule) -> bool {
    let has = |list: &[String], wanted: &str| list.iter().any(|item| item == "*" || item == wanted);
    if !has(&held.verbs, &part.verbs[0]) {
        return false;
    }
    if let Some(url) = part.non_resource_urls.first() {
        return held.non_resource_urls.iter().any(|rule| url_matches(rule, url));
    }
    let resource = &part.resources[0];
    let resource_covered = held.resources.iter().any(|rule| {
        rule == "*"
            || rule == resource
            || rule
                .strip_prefix("*/")
                .is_some_and(|s| resource.split_once('/').is_some_and(|(_, r)| r == s))
    });
    let name_covered = held.resource_names.is_empty()
        || part
            .resource_names
            .first()
            .is_some_and(|name| held.resource_names.contains(name));
    has(&held.api_groups, &part.api_groups[0]) && resource_covered && name_covered
}

fn compact(parts: impl Iterator<Item = PolicyRule>) -> Vec<PolicyRule> {
    let mut by_rest: BTreeMap<PolicyRule, Vec<String>> = BTreeMap::new();
    for mut part in parts {
        let verbs = std::mem::take(&mut part.verbs);
        let all = by_rest.entry(part).or_default();
        for verb in verbs {
            if !all.contains(&verb) {
                all.push(verb);
            }
        }
    }
    by_rest
        .into_iter()
        .map(|(rest, verbs)| PolicyRule { verbs, ..rest })
        .collect()
}

/// `{APIGroups:[""], Resources:["pods"], Verbs:["get"]}`, as upstream prints it.
pub(super) fn describe(rule: &PolicyRule) -> String {
    let fields = [
        ("APIGroups", &rule.api_groups),
        ("Resources", &rule.resources),
        ("NonResourceURLs", &rule.non_resource_urls),
        ("ResourceNames", &rule.resource_names),
        ("Verbs", &rule.verbs),
    ];
    let parts: Vec<String> = fields
        .iter()
        .filter(|(_, values)| !values.is_empty())
        .map(|(name, values)| {
            let quoted: Vec<String> = values.iter().map(|v| format!("{v:?}")).collect();
            format!("{name}:[{}]", quoted.join(" "))
        })
        .collect();
    format!("{{{}}}", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn check(held: Value, wanted: Value, missing: &str) {
        let rules = |rules: Value| PolicyRule::of_role(&json!({ "rules": rules }));
        let got: Vec<String> = uncovered(&rules(held), &rules(wanted))
            .iter()
            .map(describe)
            .collect();
        assert_eq!(got.join(" "), missing);
    }

    #[test]
    fn coverage() {
        let rule = |g: &str, r: &[&str], v: &[&str]| json!({"apiGroups": [g], "resources": r, "verbs": v});
        check(
            json!([rule("", &["pods"], &["get", "list"])]),
            json!([rule("", &["pods"], &["get", "list", "watch", "delete"])]),
            r#"{APIGroups:[""], Resources:["pods"], Verbs:["watch" "delete"]}"#,
        );
        check(
            json!([rule("", &["pods"], &["get"]), rule("", &["secrets"], &["get"])]),
            json!([rule("", &["pods", "secrets"], &["get"])]),
            "",
        );
        check(
            json!([rule("*", &["*"], &["*"])]),
            json!([rule("apps", &["x/y"], &["z"])]),
            "",
        );
        check(
            json!([rule("apps", &["*"], &["get"])]),
            json!([rule("*", &["*"], &["get"])]),
            r#"{APIGroups:["*"], Resources:["*"], Verbs:["get"]}"#,
        );
        check(
            json!([rule("", &["*/scale"], &["get"])]),
            json!([rule("", &["a/scale"], &["get"])]),
            "",
        );
        let named =
            json!([{"apiGroups": [""], "resources": ["a"], "resourceNames": ["n"], "verbs": ["get"]}]);
        check(
            named.clone(),
            json!([rule("", &["a"], &["get"])]),
            r#"{APIGroups:[""], Resources:["a"], Verbs:["get"]}"#,
        );
        check(json!([rule("", &["a"], &["get"])]), named, "");
        check(
            json!([{"nonResourceURLs": ["/a/*"], "verbs": ["get"]}]),
            json!([{"nonResourceURLs": ["/a/b", "/c"], "verbs": ["get"]}]),
            r#"{NonResourceURLs:["/c"], Verbs:["get"]}"#,
        );
    }
}
