//! `apiserver.config.k8s.io` AuthorizationConfiguration: its fields and upstream's validation, in its words.

use std::collections::HashSet;
use std::path::{Path as FilePath, PathBuf};
use std::time::Duration;

use keelson_api::duration;
use keelson_api::field::{Error, ErrorList, Path, aggregate};
use keelson_api::names::dns1123_subdomain;
use serde::Deserialize;

use super::match_conditions::MatchConditions;
use super::{AuthorizationMode, AuthorizationWebhookConfig};

/// Versions that can be read; they have the same fields.
const VERSIONS: [&str; 3] = [
    "apiserver.config.k8s.io/v1",
    "apiserver.config.k8s.io/v1beta1",
    "apiserver.config.k8s.io/v1alpha1",
];
/// Longest timeout of a webhook, and the one of `--authorization-webhook-config-file`.
const MAX_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    api_version: String,
    kind: String,
    #[serde(default)]
    authorizers: Vec<WrittenAuthorizer>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct WrittenAuthorizer {
    #[serde(rename = "type")]
    kind: String,
    name: String,
    webhook: Option<WrittenWebhook>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct WrittenWebhook {
    #[serde(rename = "authorizedTTL")]
    authorized_ttl: Option<String>,
    cache_authorized_requests: Option<bool>,
    #[serde(rename = "unauthorizedTTL")]
    unauthorized_ttl: Option<String>,
    cache_unauthorized_requests: Option<bool>,
    timeout: Option<String>,
    subject_access_review_version: String,
    match_condition_subject_access_review_version: String,
    failure_policy: String,
    connection_info: ConnectionInfo,
    match_conditions: Vec<WrittenCondition>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct ConnectionInfo {
    #[serde(rename = "type")]
    kind: String,
    kube_config_file: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct WrittenCondition {
    expression: String,
}

/// One authorizer of a configuration that was found good.
pub(super) enum Configured {
    /// One that needs no settings.
    Plain(AuthorizationMode),
    /// A webhook.
    Webhook(Box<WebhookSettings>),
}

/// A webhook of a configuration that was found good.
pub(super) struct WebhookSettings {
    pub(super) name: String,
    pub(super) authorized_ttl: Duration,
    pub(super) unauthorized_ttl: Duration,
    pub(super) timeout: Duration,
    /// `v1` or `v1beta1`.
    pub(super) version: String,
    /// `failurePolicy: Deny`.
    pub(super) denies_on_error: bool,
    pub(super) kubeconfig: PathBuf,
    pub(super) conditions: MatchConditions,
}

impl Configured {
    /// Its kind.
    pub(super) fn mode(&self) -> AuthorizationMode {
        match self {
            Self::Plain(mode) => *mode,
            Self::Webhook(_) => AuthorizationMode::Webhook,
        }
    }
}

/// Reads and judges a file's text.
///
/// # Errors
/// Everything that is wrong with it, for people.
pub(super) fn parse(text: &str) -> Result<Vec<Configured>, String> {
    let document: Document = serde_yaml_ng::from_str(text).map_err(|e| e.to_string())?;
    let Document {
        api_version,
        kind,
        authorizers,
    } = document;
    if kind != "AuthorizationConfiguration" || !VERSIONS.contains(&api_version.as_str()) {
        return Err(format!(
            "expected AuthorizationConfiguration of apiserver.config.k8s.io/v1, found {kind:?} of {api_version:?}"
        ));
    }
    let mut errors = ErrorList::new();
    let path = Path::new("authorizers");
    if authorizers.is_empty() {
        errors.push(Error::required(
            &path,
            "at least one authorization mode must be defined",
        ));
    }
    let (mut types, mut names) = (HashSet::new(), HashSet::new());
    let mut all = Vec::new();
    for (at, authorizer) in authorizers.into_iter().enumerate() {
        let path = path.index(at);
        let Some(mode) = mode(&authorizer.kind, &mut types, &path.child("type"), &mut errors) else {
            continue;
        };
        name(&authorizer.name, &mut names, &path.child("name"), &mut errors);
        match (mode, authorizer.webhook) {
            (AuthorizationMode::Webhook, None) => {
                errors.push(Error::required(
                    &path.child("webhook"),
                    "required when type=Webhook",
                ));
            }
            (AuthorizationMode::Webhook, Some(written)) => {
                let settings = webhook(authorizer.name, written, &path, &mut errors);
                all.extend(settings.map(|settings| Configured::Webhook(Box::new(settings))));
            }
            (_, Some(_)) => {
                let detail = "may only be specified when type=Webhook";
                errors.push(Error::invalid(&path.child("webhook"), "non-null", detail));
            }
            (mode, None) => all.push(Configured::Plain(mode)),
        }
    }
    if errors.is_empty() {
        Ok(all)
    } else {
        Err(aggregate(&errors))
    }
}

/// What `--authorization-mode` and `--authorization-webhook-*` mean.
///
/// # Errors
/// What does not fit together.
pub(super) fn of_modes(
    modes: &[AuthorizationMode],
    webhook: Option<&AuthorizationWebhookConfig>,
) -> Result<Vec<Configured>, String> {
    if modes.is_empty() {
        return Err("at least one authorization-mode must be passed".to_owned());
    }
    if webhook.is_some() && !modes.contains(&AuthorizationMode::Webhook) {
        return Err("cannot specify --authorization-webhook-config-file without mode Webhook".to_owned());
    }
    let mut all = Vec::new();
    for (at, mode) in modes.iter().enumerate() {
        if modes[..at].contains(mode) {
            return Err(format!(
                "authorization-mode {} has mode specified more than once",
                mode.name()
            ));
        }
        all.push(match (mode, webhook) {
            (AuthorizationMode::Webhook, Some(webhook)) => {
                if !["v1", "v1beta1"].contains(&webhook.version.as_str()) {
                    return Err(format!(
                        "unsupported webhook authorizer version {:?}, supported versions are \"v1\", \"v1beta1\"",
                        webhook.version
                    ));
                }
                Configured::Webhook(Box::new(WebhookSettings {
                    name: "default".to_owned(),
                    authorized_ttl: webhook.authorized_ttl,
                    unauthorized_ttl: webhook.unauthorized_ttl,
                    timeout: MAX_TIMEOUT,
                    version: webhook.version.clone(),
                    denies_on_error: false,
                    kubeconfig: webhook.config_file.clone(),
                    conditions: MatchConditions::default(),
                }))
            }
            (AuthorizationMode::Webhook, None) => {
                return Err("authorization-mode Webhook's authorization config file not passed".to_owned());
            }
            (mode, _) => Configured::Plain(*mode),
        });
    }
    Ok(all)
}

fn mode(
    kind: &str,
    seen: &mut HashSet<AuthorizationMode>,
    path: &Path,
    errors: &mut ErrorList,
) -> Option<AuthorizationMode> {
    if kind.is_empty() {
        errors.push(Error::required(path, ""));
        return None;
    }
    let Some(mode) = AuthorizationMode::ALL
        .into_iter()
        .find(|mode| mode.name() == kind)
    else {
        let known = AuthorizationMode::ALL.map(AuthorizationMode::name);
        errors.push(Error::not_supported(path, kind, &known));
        return None;
    };
    if !seen.insert(mode) && mode != AuthorizationMode::Webhook {
        errors.push(Error::duplicate(path, kind));
        return None;
    }
    Some(mode)
}

fn name(name: &str, seen: &mut HashSet<String>, path: &Path, errors: &mut ErrorList) {
    let wrong = dns1123_subdomain(name);
    if name.is_empty() {
        errors.push(Error::required(path, ""));
    } else if !seen.insert(name.to_owned()) {
        errors.push(Error::duplicate(path, name));
    } else if !wrong.is_empty() {
        let detail = format!("authorizer name is invalid: {}", wrong.join(", "));
        errors.push(Error::invalid(path, name, detail));
    }
}

/// `path` is the authorizer's, as upstream has it: its errors leave `webhook` out.
fn webhook(
    name: String,
    written: WrittenWebhook,
    path: &Path,
    errors: &mut ErrorList,
) -> Option<WebhookSettings> {
    let before = errors.len();
    let positive = "must be > 0s";
    let timeout = time(
        written.timeout.as_deref(),
        None,
        &path.child("timeout"),
        "must be > 0s and <= 30s",
        errors,
    );
    if timeout > MAX_TIMEOUT {
        let text = duration::format(timeout);
        errors.push(Error::invalid(
            &path.child("timeout"),
            text,
            "must be > 0s and <= 30s",
        ));
    }
    let mut ttl = |text: Option<String>, default: u64, cached: Option<bool>, field: &'static str| {
        let default = Some(Duration::from_secs(default));
        let ttl = time(text.as_deref(), default, &path.child(field), positive, errors);
        if cached == Some(false) {
            Duration::ZERO
        } else {
            ttl
        }
    };
    let authorized_ttl = ttl(
        written.authorized_ttl,
        300,
        written.cache_authorized_requests,
        "authorizedTTL",
    );
    let cached = written.cache_unauthorized_requests;
    let unauthorized_ttl = ttl(written.unauthorized_ttl, 30, cached, "unauthorizedTTL");
    one_of(
        &written.subject_access_review_version,
        &["v1", "v1beta1"],
        &path.child("subjectAccessReviewVersion"),
        errors,
    );
    let of_conditions = written.match_condition_subject_access_review_version.as_str();
    let version_path = path.child("matchConditionSubjectAccessReviewVersion");
    if !of_conditions.is_empty() {
        one_of(of_conditions, &["v1"], &version_path, errors);
    } else if !written.match_conditions.is_empty() {
        errors.push(Error::required(
            &version_path,
            "required if match conditions are specified",
        ));
    }
    one_of(
        &written.failure_policy,
        &["NoOpinion", "Deny"],
        &path.child("failurePolicy"),
        errors,
    );
    let kubeconfig = connection(&written.connection_info, &path.child("connectionInfo"), errors);
    let texts: Vec<String> = written
        .match_conditions
        .into_iter()
        .map(|c| c.expression)
        .collect();
    let conditions = MatchConditions::compile(&texts, path, errors);
    (errors.len() == before).then_some(WebhookSettings {
        name,
        authorized_ttl,
        unauthorized_ttl,
        timeout,
        version: written.subject_access_review_version,
        denies_on_error: written.failure_policy == "Deny",
        kubeconfig,
        conditions,
    })
}

/// A positive duration; without a default it is required.
fn time(
    text: Option<&str>,
    default: Option<Duration>,
    path: &Path,
    detail: &str,
    errors: &mut ErrorList,
) -> Duration {
    let nanos = text.map(duration::parse_nanos).transpose();
    match (nanos, default) {
        (Ok(Some(nanos)), _) if nanos > 0 => return Duration::from_nanos(nanos.unsigned_abs()),
        (Ok(Some(nanos)), _) if nanos < 0 => {
            errors.push(Error::invalid(path, text.unwrap_or_default(), detail))
        }
        // Zero is what an unset field is.
        (Ok(_), Some(default)) => return default,
        (Ok(_), None) => errors.push(Error::required(path, "")),
        (Err(error), _) => errors.push(Error::invalid(path, text.unwrap_or_default(), error.to_string())),
    }
    Duration::ZERO
}

fn one_of(value: &str, known: &[&str], path: &Path, errors: &mut ErrorList) {
    if value.is_empty() {
        errors.push(Error::required(path, ""));
    } else if !known.contains(&value) {
        errors.push(Error::not_supported(path, value, known));
    }
}

fn connection(info: &ConnectionInfo, path: &Path, errors: &mut ErrorList) -> PathBuf {
    let file_path = path.child("kubeConfigFile");
    let file = info.kube_config_file.as_deref().unwrap_or_default();
    let mut wrong = |detail: String| errors.push(Error::invalid(&file_path, file, detail));
    match info.kind.as_str() {
        "KubeConfigFile" if file.is_empty() => errors.push(Error::required(&file_path, "")),
        "KubeConfigFile" if !FilePath::new(file).is_absolute() => {
            wrong("must be an absolute path".to_owned())
        }
        "KubeConfigFile" => match std::fs::metadata(file) {
            Err(error) => wrong(format!("error loading file: {error}")),
            Ok(found) if !found.is_file() => wrong("must be a regular file".to_owned()),
            Ok(_) => {}
        },
        "InClusterConfig" => errors.push(Error::invalid(
            &path.child("type"),
            "InClusterConfig",
            "the API server has no in-cluster configuration: use KubeConfigFile",
        )),
        kind => one_of(
            kind,
            &["InClusterConfig", "KubeConfigFile"],
            &path.child("type"),
            errors,
        ),
    }
    PathBuf::from(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn judged(authorizers: &Value) -> Result<usize, String> {
        let text = json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthorizationConfiguration",
            "authorizers": authorizers});
        parse(&text.to_string()).map(|all| all.len())
    }

    fn webhook(field: &str, value: Value) -> Value {
        let mut webhook = json!({"timeout": "3s", "subjectAccessReviewVersion": "v1", "failurePolicy": "Deny",
            "matchConditionSubjectAccessReviewVersion": "v1",
            "connectionInfo": {"type": "KubeConfigFile", "kubeConfigFile": "/proc/self/cmdline"}});
        webhook[field] = value;
        json!([{"type": "Webhook", "name": "a", "webhook": webhook}])
    }

    #[test]
    fn authorizers() {
        let check = |authorizers: Value, wanted: Result<usize, &str>| {
            assert_eq!(
                judged(&authorizers),
                wanted.map_err(str::to_owned),
                "{authorizers}"
            );
        };
        let of = |kind: &str, name: &str| json!({"type": kind, "name": name});
        check(
            json!([]),
            Err("authorizers: Required value: at least one authorization mode must be defined"),
        );
        check(json!([of("Node", "node"), of("RBAC", "rbac")]), Ok(2));
        check(json!([of("", "a")]), Err("authorizers[0].type: Required value"));
        check(
            json!([of("ABAC", "a")]),
            Err(
                "authorizers[0].type: Unsupported value: \"ABAC\": supported values: \"AlwaysAllow\", \"AlwaysDeny\", \
                 \"Node\", \"RBAC\", \"Webhook\"",
            ),
        );
        check(
            json!([of("RBAC", "a"), of("RBAC", "b")]),
            Err("authorizers[1].type: Duplicate value: \"RBAC\""),
        );
        check(
            json!([of("RBAC", "a"), of("Node", "a")]),
            Err("authorizers[1].name: Duplicate value: \"a\""),
        );
        check(
            json!([of("RBAC", "")]),
            Err("authorizers[0].name: Required value"),
        );
        check(
            json!([of("Webhook", "a")]),
            Err("authorizers[0].webhook: Required value: required when type=Webhook"),
        );
        check(
            json!([{"type": "RBAC", "name": "a", "webhook": {}}]),
            Err(
                "authorizers[0].webhook: Invalid value: \"non-null\": may only be specified when type=Webhook",
            ),
        );
    }

    #[test]
    fn webhooks() {
        let check = |field: &str, value: Value, wanted: &str| match judged(&webhook(field, value)) {
            Ok(count) => assert_eq!((count, wanted), (1, ""), "{field}"),
            Err(error) => assert!(!wanted.is_empty() && error.contains(wanted), "{field}: {error}"),
        };
        check("timeout", json!("30s"), "");
        check("timeout", json!("0s"), "authorizers[0].timeout: Required value");
        check(
            "timeout",
            json!("31s"),
            "authorizers[0].timeout: Invalid value: \"31s\": must be > 0s and <= 30s",
        );
        check("timeout", json!("-1s"), "must be > 0s and <= 30s");
        check("timeout", json!("soon"), "time: invalid duration \"soon\"");
        check(
            "authorizedTTL",
            json!("-1s"),
            "authorizers[0].authorizedTTL: Invalid value: \"-1s\": must be > 0s",
        );
        check(
            "subjectAccessReviewVersion",
            json!("v2"),
            "supported values: \"v1\", \"v1beta1\"",
        );
        check(
            "failurePolicy",
            json!(""),
            "authorizers[0].failurePolicy: Required value",
        );
        check(
            "failurePolicy",
            json!("Allow"),
            "supported values: \"NoOpinion\", \"Deny\"",
        );
        let connection = |info: Value, wanted: &str| check("connectionInfo", info, wanted);
        connection(json!({}), "authorizers[0].connectionInfo.type: Required value");
        connection(json!({"type": "InClusterConfig"}), "use KubeConfigFile");
        let file = |path: &str| json!({"type": "KubeConfigFile", "kubeConfigFile": path});
        connection(
            file(""),
            "authorizers[0].connectionInfo.kubeConfigFile: Required value",
        );
        connection(file("a"), "must be an absolute path");
        connection(file("/proc/self"), "must be a regular file");
        connection(file("/no/such/file"), "error loading file");
        let condition =
            |text: &str, wanted: &str| check("matchConditions", json!([{"expression": text}]), wanted);
        condition(
            "request.user == 'a' && request.resourceAttributes.fieldSelector.requirements.exists(r, r.key == 'b')",
            "",
        );
        condition("", "authorizers[0].matchConditions[0].expression: Required value");
        condition("request.user", "must evaluate to bool but got string");
        condition("request.nobody == ''", "undefined field 'nobody'");
        check(
            "matchConditions",
            json!([{"expression": "true"}, {"expression": "true"}]),
            "authorizers[0].matchConditions[1].expression: Duplicate value",
        );
        let mut unversioned = webhook("matchConditions", json!([{"expression": "true"}]));
        unversioned[0]["webhook"]["matchConditionSubjectAccessReviewVersion"] = json!("");
        assert!(
            judged(&unversioned)
                .unwrap_err()
                .contains("required if match conditions are specified")
        );
    }

    #[test]
    fn lifetimes() {
        let settings = |field: &str, value: Value| {
            let text = json!({"apiVersion": "apiserver.config.k8s.io/v1beta1", "kind": "AuthorizationConfiguration",
                "authorizers": webhook(field, value)});
            let Configured::Webhook(settings) = parse(&text.to_string()).unwrap().remove(0) else {
                panic!("no webhook")
            };
            (
                settings.authorized_ttl.as_secs(),
                settings.unauthorized_ttl.as_secs(),
            )
        };
        assert_eq!(settings("authorizedTTL", Value::Null), (300, 30));
        assert_eq!(settings("authorizedTTL", json!("1m")), (60, 30));
        assert_eq!(settings("cacheAuthorizedRequests", json!(false)), (0, 30));
        assert_eq!(settings("cacheUnauthorizedRequests", json!(false)), (300, 0));
    }
}
