//! What an AuthenticationConfiguration may say: upstream's validation, in its words. Expressions are compiled on the way.

use std::collections::HashSet;

use keelson_api::field::{Error, ErrorList, Path};
use keelson_api::names::dns1123_subdomain;
use keelson_pki::Certificate;
use serde_json::json;
use url::Url;

use super::configuration::{
    AuthenticationConfiguration, ClaimMappings, ClaimValidationRule, Issuer, JwtAuthenticator, Mapping,
    UserValidationRule,
};
use super::expressions::{About, Expression};

/// Most issuers.
const MOST_ISSUERS: usize = 64;

/// The expressions of one issuer.
#[derive(Default)]
pub(super) struct Programs {
    pub(super) claim_rules: Vec<(Expression, String)>,
    pub(super) user_rules: Vec<(Expression, String)>,
    pub(super) username: Option<Expression>,
    pub(super) groups: Option<Expression>,
    pub(super) uid: Option<Expression>,
    pub(super) extra: Vec<(String, Expression)>,
}

/// Judges a whole configuration; `disallowed` are the issuers of service account tokens.
///
/// # Errors
/// Everything that is wrong.
pub(super) fn validate(
    configuration: &AuthenticationConfiguration,
    disallowed: &[String],
) -> Result<Vec<Programs>, ErrorList> {
    let mut errors = ErrorList::new();
    let root = Path::new("jwt");
    if configuration.jwt.len() > MOST_ISSUERS {
        return Err(vec![Error::too_many(
            &root,
            configuration.jwt.len(),
            MOST_ISSUERS,
        )]);
    }
    let (mut issuers, mut discovery_urls) = (HashSet::new(), HashSet::new());
    let mut all = Vec::new();
    for (at, authenticator) in configuration.jwt.iter().enumerate() {
        let path = root.index(at);
        all.push(programs(authenticator, disallowed, &path, &mut errors));
        let Issuer {
            url, discovery_url, ..
        } = &authenticator.issuer;
        if !issuers.insert(url) {
            errors.push(Error::duplicate(&path.children(&["issuer", "url"]), url.as_str()));
        }
        if !discovery_url.is_empty() && !discovery_urls.insert(discovery_url) {
            let path = path.children(&["issuer", "discoveryURL"]);
            errors.push(Error::duplicate(&path, discovery_url.as_str()));
        }
    }
    if let Some(anonymous) = &configuration.anonymous
        && !anonymous.enabled
        && !anonymous.conditions.is_empty()
    {
        let paths: Vec<_> = anonymous
            .conditions
            .iter()
            .map(|c| json!({"path": c.path}))
            .collect();
        errors.push(Error::invalid(
            &Path::new("anonymous").child("conditions"),
            json!(paths),
            "enabled should be set to true when conditions are defined",
        ));
    }
    if errors.is_empty() { Ok(all) } else { Err(errors) }
}

fn programs(
    authenticator: &JwtAuthenticator,
    disallowed: &[String],
    path: &Path,
    errors: &mut ErrorList,
) -> Programs {
    let mut programs = Programs::default();
    issuer(&authenticator.issuer, disallowed, &path.child("issuer"), errors);
    let rules = &authenticator.claim_validation_rules;
    claim_rules(rules, &path.child("claimValidationRules"), &mut programs, errors);
    mappings(
        &authenticator.claim_mappings,
        &path.child("claimMappings"),
        &mut programs,
        errors,
    );
    let rules = &authenticator.user_validation_rules;
    user_rules(rules, &path.child("userValidationRules"), &mut programs, errors);
    programs
}

fn issuer(issuer: &Issuer, disallowed: &[String], path: &Path, errors: &mut ErrorList) {
    if issuer.url.is_empty() {
        errors.push(Error::required(&path.child("url"), ""));
    } else {
        url(&issuer.url, disallowed, &path.child("url"), errors);
    }
    let discovery = &issuer.discovery_url;
    if !discovery.is_empty() {
        let path = path.child("discoveryURL");
        if issuer.url.trim_end_matches('/') == discovery.trim_end_matches('/') {
            errors.push(Error::invalid(
                &path,
                discovery.as_str(),
                "discoveryURL must be different from URL",
            ));
        }
        url(discovery, &[], &path, errors);
    }
    audiences(issuer, path, errors);
    if !issuer.certificate_authority.is_empty() {
        let detail = match Certificate::all_from_pem(&issuer.certificate_authority) {
            Ok(found) if !found.is_empty() => None,
            Ok(_) => Some("data does not contain any valid RSA or ECDSA certificates".to_owned()),
            Err(error) => Some(error.to_string()),
        };
        if let Some(detail) = detail {
            errors.push(Error::invalid(
                &path.child("certificateAuthority"),
                "<omitted>",
                detail,
            ));
        }
    }
    if !issuer.egress_selector_type.is_empty() {
        errors.push(Error::invalid(
            &path.child("egressSelectorType"),
            issuer.egress_selector_type.as_str(),
            "egress selector is not supported: connections are made directly",
        ));
    }
}

fn url(text: &str, disallowed: &[String], path: &Path, errors: &mut ErrorList) {
    let mut wrong = |detail: String| errors.push(Error::invalid(path, text, detail));
    if disallowed.iter().any(|d| d == text) {
        wrong(format!(
            "URL must not overlap with disallowed issuers: [{}]",
            disallowed.join(" ")
        ));
    }
    let url = match Url::parse(text) {
        Ok(url) => url,
        Err(error) => return wrong(error.to_string()),
    };
    if url.scheme() != "https" {
        wrong("URL scheme must be https".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        wrong("URL must not contain a username or password".to_owned());
    }
    if url.query().is_some_and(|q| !q.is_empty()) {
        wrong("URL must not contain a query".to_owned());
    }
    if url.fragment().is_some_and(|f| !f.is_empty()) {
        wrong("URL must not contain a fragment".to_owned());
    }
}

fn audiences(issuer: &Issuer, path: &Path, errors: &mut ErrorList) {
    let audiences = path.child("audiences");
    if issuer.audiences.is_empty() {
        let detail = format!("at least one {audiences} is required");
        errors.push(Error::required(&audiences, detail));
        return;
    }
    let mut seen = HashSet::new();
    for (at, audience) in issuer.audiences.iter().enumerate() {
        if audience.is_empty() {
            errors.push(Error::required(&audiences.index(at), ""));
        }
        if !seen.insert(audience) {
            errors.push(Error::duplicate(&audiences.index(at), audience.as_str()));
        }
    }
    let policy = issuer.audience_match_policy.as_str();
    let detail = match (issuer.audiences.len(), policy) {
        (_, "MatchAny") | (1, "") => return,
        (1, _) => "audienceMatchPolicy must be empty or MatchAny for single audience",
        _ => "audienceMatchPolicy must be MatchAny for multiple audiences",
    };
    errors.push(Error::invalid(&path.child("audienceMatchPolicy"), policy, detail));
}

fn claim_rules(rules: &[ClaimValidationRule], path: &Path, programs: &mut Programs, errors: &mut ErrorList) {
    let (mut claims, mut expressions) = (HashSet::new(), HashSet::new());
    for (at, rule) in rules.iter().enumerate() {
        let path = path.index(at);
        let (claim, expression) = (rule.claim.as_str(), rule.expression.as_str());
        match (claim.is_empty(), expression.is_empty()) {
            (false, false) => {
                errors.push(Error::invalid(
                    &path,
                    claim,
                    "claim and expression can't both be set",
                ));
            }
            (true, true) => errors.push(Error::required(&path, "claim or expression is required")),
            (false, true) => {
                if !rule.message.is_empty() {
                    let path = path.child("message");
                    let detail = "may not be specified when claim is set";
                    errors.push(Error::invalid(&path, rule.message.as_str(), detail));
                }
                if !claims.insert(claim) {
                    errors.push(Error::duplicate(&path.child("claim"), claim));
                }
            }
            (true, false) => {
                if !rule.required_value.is_empty() {
                    let path = path.child("requiredValue");
                    let detail = "may not be specified when expression is set";
                    errors.push(Error::invalid(&path, rule.required_value.as_str(), detail));
                }
                let path = path.child("expression");
                if !expressions.insert(expression) {
                    errors.push(Error::duplicate(&path, expression));
                    continue;
                }
                let compiled = Expression::compile(About::Claims, expression, true, &path, errors);
                programs
                    .claim_rules
                    .extend(compiled.map(|c| (c, rule.message.clone())));
            }
        }
    }
}

fn user_rules(rules: &[UserValidationRule], path: &Path, programs: &mut Programs, errors: &mut ErrorList) {
    let mut expressions = HashSet::new();
    for (at, rule) in rules.iter().enumerate() {
        let path = path.index(at).child("expression");
        let expression = rule.expression.as_str();
        if expression.is_empty() {
            errors.push(Error::required(&path, ""));
        } else if !expressions.insert(expression) {
            errors.push(Error::duplicate(&path, expression));
        } else {
            let compiled = Expression::compile(About::User, expression, true, &path, errors);
            programs
                .user_rules
                .extend(compiled.map(|c| (c, rule.message.clone())));
        }
    }
}

fn mappings(mappings: &ClaimMappings, path: &Path, programs: &mut Programs, errors: &mut ErrorList) {
    programs.username = mapping(&mappings.username, true, &path.child("username"), errors);
    programs.groups = mapping(&mappings.groups, false, &path.child("groups"), errors);
    let uid = &mappings.uid;
    if !uid.claim.is_empty() && !uid.expression.is_empty() {
        errors.push(Error::invalid(
            &path.child("uid"),
            "",
            "claim and expression can't both be set",
        ));
    } else if !uid.expression.is_empty() {
        let path = path.children(&["uid", "expression"]);
        programs.uid = Expression::compile(About::Claims, &uid.expression, false, &path, errors);
    }
    let mut keys = HashSet::new();
    for (at, mapping) in mappings.extra.iter().enumerate() {
        let path = path.child("extra").index(at);
        let key = mapping.key.as_str();
        extra_key(key, &path.child("key"), errors);
        if !keys.insert(key) {
            errors.push(Error::duplicate(&path.child("key"), key));
            continue;
        }
        let path = path.child("valueExpression");
        if mapping.value_expression.is_empty() {
            errors.push(Error::required(&path, ""));
            continue;
        }
        let compiled = Expression::compile(About::Claims, &mapping.value_expression, false, &path, errors);
        programs.extra.extend(compiled.map(|c| (key.to_owned(), c)));
    }
    let verified = |e: &Expression| e.uses_email_verified();
    if programs.username.as_ref().is_some_and(Expression::uses_email)
        && !programs.username.iter().any(verified)
        && !programs.claim_rules.iter().any(|(e, _)| verified(e))
        && !programs.extra.iter().any(|(_, e)| verified(e))
    {
        errors.push(Error::invalid(
            &path.children(&["username", "expression"]),
            mappings.username.expression.as_str(),
            "claims.email_verified must be used in claimMappings.username.expression or claimMappings.extra[*].valueExpression \
             or claimValidationRules[*].expression when claims.email is used in claimMappings.username.expression",
        ));
    }
}

fn mapping(mapping: &Mapping, required: bool, path: &Path, errors: &mut ErrorList) -> Option<Expression> {
    match (mapping.claim.is_empty(), mapping.expression.is_empty()) {
        (false, false) => {
            errors.push(Error::invalid(path, "", "claim and expression can't both be set"));
            None
        }
        (true, true) => {
            if required {
                errors.push(Error::required(path, "claim or expression is required"));
            }
            None
        }
        (false, true) => {
            if mapping.prefix.is_none() {
                errors.push(Error::required(
                    &path.child("prefix"),
                    "prefix is required when claim is set. It can be set to an empty string to disable prefixing",
                ));
            }
            None
        }
        (true, false) => {
            if let Some(prefix) = &mapping.prefix {
                let detail = "may not be specified when expression is set";
                errors.push(Error::invalid(&path.child("prefix"), prefix.as_str(), detail));
            }
            Expression::compile(
                About::Claims,
                &mapping.expression,
                false,
                &path.child("expression"),
                errors,
            )
        }
    }
}

fn extra_key(key: &str, path: &Path, errors: &mut ErrorList) {
    if key.is_empty() {
        errors.push(Error::required(path, ""));
        return;
    }
    match key.split_once('/') {
        Some((domain, rest)) if !domain.is_empty() && !rest.is_empty() => {
            for detail in dns1123_subdomain(domain) {
                errors.push(Error::invalid(path, domain, detail));
            }
            let fits = |c: char| c.is_ascii_alphanumeric() || "/%-._~!$&'()*+,;=:".contains(c);
            if !rest.chars().all(fits) {
                errors.push(Error::invalid(path, rest, "Invalid path"));
            }
            let reserved = |d: &str| domain == d || domain.ends_with(&format!(".{d}"));
            if reserved("k8s.io") || reserved("kubernetes.io") {
                let detail = "k8s.io, kubernetes.io and their subdomains are reserved for Kubernetes use";
                errors.push(Error::invalid(path, key, detail));
            }
        }
        _ => errors.push(Error::invalid(
            path,
            key,
            "must be a domain-prefixed path (such as \"acme.io/foo\")",
        )),
    }
    if key != key.to_lowercase() {
        errors.push(Error::invalid(path, key, "must be lowercase"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keelson_api::field::aggregate;
    use serde_json::Value;

    fn judged(jwt: &Value) -> Result<usize, String> {
        let text = json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration", "jwt": jwt});
        let configuration = AuthenticationConfiguration::parse(&text.to_string())?;
        let disallowed = ["https://own".to_owned()];
        validate(&configuration, &disallowed)
            .map(|programs| programs.len())
            .map_err(|errors| aggregate(&errors))
    }

    fn good() -> Value {
        json!({"issuer": {"url": "https://a", "audiences": ["me"]},
            "claimMappings": {"username": {"claim": "sub", "prefix": ""}}})
    }

    fn check(pointer: &str, value: Value, wanted: &str) {
        let mut all = json!([good()]);
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        let parent = all[0].pointer_mut(parent).unwrap();
        parent[field] = value;
        match judged(&all) {
            Ok(_) => assert_eq!(wanted, "", "{pointer}"),
            Err(error) => assert!(!wanted.is_empty() && error.contains(wanted), "{pointer}: {error}"),
        }
    }

    #[test]
    fn issuers() {
        assert_eq!(judged(&json!([])), Ok(0));
        assert_eq!(judged(&json!([good()])), Ok(1));
        let twice = judged(&json!([good(), good()])).unwrap_err();
        assert_eq!(twice, "jwt[1].issuer.url: Duplicate value: \"https://a\"");
        let check =
            |field: &str, value: Value, wanted: &str| check(&format!("/issuer/{field}"), value, wanted);
        check(
            "url",
            json!("http://a"),
            "jwt[0].issuer.url: Invalid value: \"http://a\": URL scheme must be https",
        );
        check("url", json!(""), "jwt[0].issuer.url: Required value");
        check(
            "url",
            json!("https://own"),
            "URL must not overlap with disallowed issuers: [https://own]",
        );
        check(
            "url",
            json!("https://u:p@a"),
            "URL must not contain a username or password",
        );
        check("url", json!("https://a?q"), "URL must not contain a query");
        check("url", json!("https://a#f"), "URL must not contain a fragment");
        check(
            "discoveryURL",
            json!("https://a/"),
            "discoveryURL must be different from URL",
        );
        check("discoveryURL", json!("https://b/"), "");
        check(
            "audiences",
            json!([]),
            "at least one jwt[0].issuer.audiences is required",
        );
        check(
            "audiences",
            json!(["a", "b"]),
            "audienceMatchPolicy must be MatchAny for multiple audiences",
        );
        check("audienceMatchPolicy", json!("MatchAny"), "");
        check(
            "audienceMatchPolicy",
            json!("All"),
            "audienceMatchPolicy must be empty or MatchAny for single audience",
        );
        check(
            "certificateAuthority",
            json!("x"),
            "jwt[0].issuer.certificateAuthority: Invalid value: \"<omitted>\"",
        );
        check(
            "egressSelectorType",
            json!("cluster"),
            "egress selector is not supported",
        );
        check("typo", json!(""), "unknown field `typo`");
    }

    #[test]
    fn mappings_and_rules() {
        let username = |value: Value, wanted: &str| check("/claimMappings/username", value, wanted);
        username(
            json!({}),
            "jwt[0].claimMappings.username: Required value: claim or expression is required",
        );
        username(
            json!({"claim": "sub"}),
            "jwt[0].claimMappings.username.prefix: Required value: prefix is required",
        );
        username(
            json!({"claim": "a", "expression": "'b'"}),
            "claim and expression can't both be set",
        );
        username(
            json!({"prefix": "a", "expression": "'b'"}),
            "may not be specified when expression is set",
        );
        username(
            json!({"expression": "claims."}),
            "jwt[0].claimMappings.username.expression: Invalid value: \"claims.\": compilation failed: ERROR: <input>:1:",
        );
        username(
            json!({"expression": "user.name"}),
            "undeclared reference to 'user'",
        );
        let unverified = "claims.email_verified must be used in claimMappings.username.expression or";
        username(json!({"expression": "claims.email"}), unverified);
        username(json!({"expression": "claims.?email.orValue('')"}), unverified);
        username(
            json!({"expression": "claims.email_verified ? claims.email : claims.sub"}),
            "",
        );
        let extra = |key: &str, wanted: &str| {
            check(
                "/claimMappings/extra",
                json!([{"key": key, "valueExpression": "''"}]),
                wanted,
            );
        };
        extra("acme.io/a", "");
        extra("a", "must be a domain-prefixed path (such as \"acme.io/foo\")");
        extra("acme.io/A", "must be lowercase");
        extra("x.k8s.io/a", "reserved for Kubernetes use");
        extra("kubernetes.io/a", "reserved for Kubernetes use");
        check(
            "/claimMappings/uid",
            json!({"claim": "a", "expression": "'b'"}),
            "can't both be set",
        );
        let rule = |rule: Value, wanted: &str| check("/claimValidationRules", json!([rule]), wanted);
        rule(json!({"claim": "hd", "requiredValue": "a"}), "");
        rule(
            json!({"expression": "claims.a"}),
            "jwt[0].claimValidationRules[0].expression: Invalid value: \"claims.a\": must evaluate to bool",
        );
        rule(
            json!({"claim": "a", "message": "m"}),
            "may not be specified when claim is set",
        );
        rule(
            json!({"expression": "true", "requiredValue": "m"}),
            "may not be specified when expression is set",
        );
        let rule =
            |text: &str, wanted: &str| check("/userValidationRules", json!([{"expression": text}]), wanted);
        rule("!user.username.startsWith('system:')", "");
        rule("user.extra['a.b/c'].all(v, v != '')", "");
        rule("user.nobody == ''", "undefined field 'nobody'");
        rule("", "jwt[0].userValidationRules[0].expression: Required value");
    }
}
