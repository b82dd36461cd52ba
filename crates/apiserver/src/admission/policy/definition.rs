//! What is refused of webhook configurations, policies and bindings when they are written: everything about their
//! expressions, and of policies and bindings also the rest. Enumerations are judged with the schema.

use keelson_api::field::{Error, ErrorList, Path};
use keelson_api::names;
use keelson_api::selector::LabelSelector;
use serde_json::Value;

use crate::admission::expressions::{Compiler, Expression, Returns, Surroundings, environment};
use crate::admission::object::{list, text};
use crate::registry::{Kind, metadata};

const MAX_MATCH_CONDITIONS: usize = 64;
const MAX_AUDIT_ANNOTATIONS: usize = 20;
const MAX_VALUE_EXPRESSION: usize = 5 * 1024;

/// What is wrong with an object of `admissionregistration.k8s.io`. What an update leaves as it was is not judged again.
pub(crate) fn validate_registration(kind: &Kind, new: &Value, old: Option<&Value>) -> ErrorList {
    let mut errors = ErrorList::new();
    if kind.info.group != "admissionregistration.k8s.io" {
        return errors;
    }
    let changed = |field: &str| old.is_none_or(|old| old[field] != new[field]);
    let spec = Path::new("spec");
    match kind.gvk.kind.as_ref() {
        "ValidatingWebhookConfiguration" | "MutatingWebhookConfiguration" if changed("webhooks") => {
            webhooks(&mut errors, new, old);
        }
        "ValidatingAdmissionPolicy" if changed("spec") => policy(&mut errors, &spec, new, false),
        "MutatingAdmissionPolicy" if changed("spec") => policy(&mut errors, &spec, new, true),
        "ValidatingAdmissionPolicyBinding" if changed("spec") => {
            binding(&mut errors, &spec, &new["spec"]);
            actions(&mut errors, &spec.child("validationActions"), &new["spec"]);
        }
        "MutatingAdmissionPolicyBinding" if changed("spec") => {
            binding(&mut errors, &spec, &new["spec"]);
        }
        _ => {}
    }
    errors
}

fn webhooks(errors: &mut ErrorList, new: &Value, old: Option<&Value>) {
    let hooks = |object: &Value| -> Vec<Value> { list(object, "/webhooks").to_vec() };
    let conditions = |object: &Value| -> Vec<Value> {
        hooks(object)
            .iter()
            .map(|hook| hook["matchConditions"].clone())
            .collect()
    };
    if old.is_some_and(|old| conditions(old) == conditions(new)) {
        return;
    }
    for (at, hook) in hooks(new).iter().enumerate() {
        let path = Path::new("webhooks").index(at).child("matchConditions");
        match_conditions(errors, &path, &hook["matchConditions"], false);
    }
}

fn match_conditions(errors: &mut ErrorList, path: &Path, conditions: &Value, params: bool) {
    let conditions = conditions.as_array().map(Vec::as_slice).unwrap_or_default();
    if conditions.is_empty() {
        return;
    }
    if conditions.len() > MAX_MATCH_CONDITIONS {
        errors.push(Error::too_many(path, conditions.len(), MAX_MATCH_CONDITIONS));
    }
    let surroundings = Surroundings {
        params,
        authorizer: true,
        patches: false,
    };
    let compiler = Compiler::new(environment(surroundings, None, None));
    let mut seen = Vec::new();
    for (at, condition) in conditions.iter().enumerate() {
        let path = path.index(at);
        let (name, expression) = (text(condition, "/name"), text(condition, "/expression").trim());
        if expression.is_empty() {
            errors.push(Error::required(&path.child("expression"), ""));
        } else {
            let compiled = compiler.compile(expression, Returns::Bool);
            report(errors, &path.child("expression"), &compiled);
        }
        if name.is_empty() {
            errors.push(Error::required(&path.child("name"), ""));
        } else {
            qualified(errors, &path.child("name"), name);
            if seen.contains(&name) {
                errors.push(Error::duplicate(&path.child("name"), name));
            }
            seen.push(name);
        }
    }
}

fn report(errors: &mut ErrorList, path: &Path, compiled: &Expression) {
    if let Err(problem) = &compiled.program {
        errors.push(Error::invalid(path, compiled.text.as_str(), problem.as_str()));
    }
}

fn qualified(errors: &mut ErrorList, path: &Path, name: &str) {
    for problem in names::qualified_name(name) {
        errors.push(Error::invalid(path, name, problem));
    }
}

/// Both kinds of policies.
fn policy(errors: &mut ErrorList, path: &Path, object: &Value, mutating: bool) {
    let spec = &object["spec"];
    if text(spec, "/failurePolicy").is_empty() {
        errors.push(Error::required(&path.child("failurePolicy"), ""));
    }
    let params = spec["paramKind"].is_object();
    if params {
        param_kind(errors, &path.child("paramKind"), &spec["paramKind"]);
    }
    let constraints = path.child("matchConstraints");
    if spec["matchConstraints"].is_object() {
        match_resources(errors, &constraints, &spec["matchConstraints"]);
        if list(spec, "/matchConstraints/resourceRules").is_empty() {
            errors.push(Error::required(&constraints.child("resourceRules"), ""));
        }
    } else {
        errors.push(Error::required(&constraints, ""));
    }
    match_conditions(
        errors,
        &path.child("matchConditions"),
        &spec["matchConditions"],
        params,
    );
    let surroundings = Surroundings {
        params,
        authorizer: true,
        patches: mutating,
    };
    let mut compiler = Compiler::new(environment(surroundings, None, None));
    // Messages do not see the authorizer; variables may have used it.
    let quiet = Surroundings {
        authorizer: false,
        ..surroundings
    };
    let mut messages = Compiler::new(environment(quiet, None, None));
    for (at, variable) in list(spec, "/variables").iter().enumerate() {
        let path = path.child("variables").index(at);
        self::variable(errors, &path, variable, &mut compiler, &mut messages);
    }
    if mutating {
        mutations(errors, path, spec, &compiler);
        return;
    }
    if list(spec, "/validations").is_empty() && list(spec, "/auditAnnotations").is_empty() {
        for field in ["validations", "auditAnnotations"] {
            let why = "validations or auditAnnotations must contain at least one item";
            errors.push(Error::required(&path.child(field), why));
        }
    }
    for (at, given) in list(spec, "/validations").iter().enumerate() {
        let path = path.child("validations").index(at);
        validation(errors, &path, given, &compiler, &messages);
    }
    audit_annotations(errors, &path.child("auditAnnotations"), object, &compiler);
}

fn param_kind(errors: &mut ErrorList, path: &Path, given: &Value) {
    let (version, kind) = (text(given, "/apiVersion"), text(given, "/kind"));
    let version_path = path.child("apiVersion");
    let mut parts: Vec<&str> = version.split('/').collect();
    if version.is_empty() {
        errors.push(Error::required(&version_path, ""));
    } else if parts.len() > 2 {
        let why = format!("unexpected GroupVersion string: {version}");
        errors.push(Error::invalid(&version_path, version, why));
    } else {
        let own = parts.pop().unwrap_or_default();
        let group = parts.pop().unwrap_or_default();
        let mut problems = names::dns1123_subdomain(group);
        if !group.is_empty() && !problems.is_empty() {
            errors.push(Error::invalid(&version_path, group, problems.join(",")));
        }
        problems = names::dns1035_label(own);
        if own.is_empty() {
            let why = "version must be specified";
            errors.push(Error::invalid(&version_path, version, why));
        } else if !problems.is_empty() {
            errors.push(Error::invalid(&version_path, own, problems.join(",")));
        }
    }
    let problems = names::dns1035_label(&kind.to_lowercase());
    if kind.is_empty() {
        errors.push(Error::required(&path.child("kind"), ""));
    } else if !problems.is_empty() {
        let why = format!(
            "may have mixed case, but should otherwise match: {}",
            problems.join(",")
        );
        errors.push(Error::invalid(&path.child("kind"), kind, why));
    }
}

fn selector(errors: &mut ErrorList, path: &Path, given: &Value) {
    if let Err(problem) = LabelSelector::from_label_selector_value(given) {
        errors.push(Error::invalid(path, given.clone(), problem.to_string()));
    }
}

fn match_resources(errors: &mut ErrorList, path: &Path, resources: &Value) {
    for field in ["namespaceSelector", "objectSelector"] {
        if resources[field].is_object() {
            selector(errors, &path.child(field), &resources[field]);
        }
    }
    for field in ["resourceRules", "excludeResourceRules"] {
        let rules = resources[field].as_array().into_iter().flatten();
        for (at, rule) in rules.enumerate() {
            self::rule(errors, &path.child(field).index(at), rule);
        }
    }
}

fn rule(errors: &mut ErrorList, path: &Path, rule: &Value) {
    let mut seen = Vec::new();
    for (at, name) in list(rule, "/resourceNames").iter().enumerate() {
        let path = path.child("resourceNames").index(at);
        let name = name.as_str().unwrap_or_default();
        for problem in names::path_segment_name(name) {
            errors.push(Error::invalid(&path, name, problem));
        }
        if seen.contains(&name) {
            errors.push(Error::duplicate(&path, name));
        }
        seen.push(name);
    }
    for (field, what) in [
        ("operations", "operations"),
        ("apiGroups", "API groups"),
        ("apiVersions", "API versions"),
        ("resources", ""),
    ] {
        let given = rule[field].as_array().map(Vec::as_slice).unwrap_or_default();
        if given.is_empty() {
            errors.push(Error::required(&path.child(field), ""));
        } else if given.len() > 1 && !what.is_empty() && given.iter().any(|v| v == "*") {
            let why = format!("if '*' is present, must not specify other {what}");
            errors.push(Error::invalid(&path.child(field), rule[field].clone(), why));
        }
    }
    for (at, version) in list(rule, "/apiVersions").iter().enumerate() {
        if version == "" {
            errors.push(Error::required(&path.child("apiVersions").index(at), ""));
        }
    }
}

fn is_identifier(name: &str) -> bool {
    let mut characters = name.chars();
    let is_keyword = keelson_cel::escape(name) == Some(format!("__{name}__"));
    characters
        .next()
        .is_some_and(|c| c == '_' || c.is_ascii_alphabetic())
        && characters.all(|c| c == '_' || c.is_ascii_alphanumeric())
        && !is_keyword
}

fn variable(
    errors: &mut ErrorList,
    path: &Path,
    given: &Value,
    compiler: &mut Compiler,
    messages: &mut Compiler,
) {
    let (name, expression) = (text(given, "/name"), text(given, "/expression"));
    if name.trim().is_empty() {
        errors.push(Error::required(&path.child("name"), "name is not specified"));
    } else if !is_identifier(name) {
        let why = "name is not a valid CEL identifier";
        errors.push(Error::invalid(&path.child("name"), name, why));
    }
    let path = path.child("expression");
    if expression.trim().is_empty() {
        errors.push(Error::required(&path, "expression is not specified"));
        return;
    }
    if let Err(problem) = compiler.add(name, expression) {
        errors.push(Error::invalid(&path, expression, problem));
    }
    messages.declare_as(name, compiler);
}

fn validation(errors: &mut ErrorList, path: &Path, given: &Value, compiler: &Compiler, messages: &Compiler) {
    let expression = text(given, "/expression");
    if expression.trim().is_empty() {
        let why = "expression is not specified";
        errors.push(Error::required(&path.child("expression"), why));
    } else {
        let compiled = compiler.compile(expression, Returns::Bool);
        report(errors, &path.child("expression"), &compiled);
    }
    let expression = text(given, "/messageExpression");
    if !expression.is_empty() && expression.trim().is_empty() {
        let why = "must be non-empty if specified";
        errors.push(Error::invalid(&path.child("messageExpression"), expression, why));
    } else if !expression.is_empty() {
        let compiled = messages.compile(expression, Returns::Text);
        report(errors, &path.child("messageExpression"), &compiled);
    }
    let message = text(given, "/message");
    if !message.is_empty() && message.trim().is_empty() {
        let why = "message must be non-empty if specified";
        errors.push(Error::invalid(&path.child("message"), message, why));
    } else if message.trim().contains(['\n', '\r']) {
        let why = "message must not contain line breaks";
        errors.push(Error::invalid(&path.child("message"), message, why));
    }
    const REASONS: &[&str] = &["Forbidden", "Invalid", "RequestEntityTooLarge"];
    if let Some(reason) = given["reason"].as_str()
        && !REASONS.contains(&reason)
    {
        errors.push(Error::not_supported(&path.child("reason"), reason, REASONS));
    }
}

fn audit_annotations(errors: &mut ErrorList, path: &Path, object: &Value, compiler: &Compiler) {
    let annotations = list(object, "/spec/auditAnnotations");
    if annotations.len() > MAX_AUDIT_ANNOTATIONS {
        let why = format!("must not have more than {MAX_AUDIT_ANNOTATIONS} auditAnnotations");
        errors.push(Error::invalid(path, annotations.to_vec(), why));
    }
    let policy = metadata::text(object, "name");
    let mut seen = Vec::new();
    for (at, annotation) in annotations.iter().enumerate() {
        let path = path.index(at);
        let (key, expression) = (text(annotation, "/key"), text(annotation, "/valueExpression"));
        if policy.is_empty() {
            let why = "requires metadata.name be non-empty";
            errors.push(Error::invalid(&path.child("key"), key, why));
        } else {
            qualified(errors, &path.child("key"), &format!("{policy}/{key}"));
        }
        let expression_path = path.child("valueExpression");
        if expression.trim().is_empty() {
            let why = "valueExpression is not specified";
            errors.push(Error::required(&expression_path, why));
        } else if expression.trim().len() > MAX_VALUE_EXPRESSION {
            let why = format!("must not exceed {MAX_VALUE_EXPRESSION} bytes in length");
            errors.push(Error::required(&expression_path, why));
        } else {
            let compiled = compiler.compile(expression, Returns::TextOrNull);
            report(errors, &expression_path, &compiled);
        }
        if seen.contains(&key) {
            errors.push(Error::duplicate(&path.child("key"), key));
        }
        seen.push(key);
    }
}

fn mutations(errors: &mut ErrorList, path: &Path, spec: &Value, compiler: &Compiler) {
    if text(spec, "/reinvocationPolicy").is_empty() {
        errors.push(Error::required(&path.child("reinvocationPolicy"), ""));
    }
    let path = path.child("mutations");
    if list(spec, "/mutations").is_empty() {
        let why = "mutations must contain at least one item";
        errors.push(Error::required(&path, why));
    }
    for (at, mutation) in list(spec, "/mutations").iter().enumerate() {
        let path = path.index(at);
        let patch_type = text(mutation, "/patchType");
        let (field, other, returns) = match patch_type {
            "ApplyConfiguration" => ("applyConfiguration", "jsonPatch", Returns::Object),
            "JSONPatch" => ("jsonPatch", "applyConfiguration", Returns::Patches),
            "" => {
                errors.push(Error::required(&path.child("patchType"), ""));
                continue;
            }
            // The schema's enumeration refuses it.
            _ => continue,
        };
        if mutation[other].is_object() {
            let why = format!("must not be specified when patchType is {patch_type}");
            errors.push(Error::invalid(&path.child(other), format!("{{{other}}}"), why));
        }
        let expression = mutation[field]["expression"].as_str().unwrap_or_default();
        if !mutation[field].is_object() {
            let why = format!("must be specified when patchType is {patch_type}");
            errors.push(Error::required(&path.child(field), why));
        } else if expression.trim().is_empty() {
            let why = "expression is not specified";
            errors.push(Error::required(&path.child(field).child("expression"), why));
        } else {
            let compiled = compiler.compile(expression, returns);
            report(errors, &path.child(field).child("expression"), &compiled);
        }
    }
}

fn binding(errors: &mut ErrorList, path: &Path, spec: &Value) {
    let name = text(spec, "/policyName");
    if name.is_empty() {
        errors.push(Error::required(&path.child("policyName"), ""));
    } else {
        for problem in names::dns1123_subdomain(name) {
            errors.push(Error::invalid(&path.child("policyName"), name, problem));
        }
    }
    if spec["paramRef"].is_object() {
        param_ref(errors, &path.child("paramRef"), &spec["paramRef"]);
    }
    if spec["matchResources"].is_object() {
        // Upstream's path lacks the letter too.
        match_resources(errors, &path.child("matchResouces"), &spec["matchResources"]);
    }
}

fn param_ref(errors: &mut ErrorList, path: &Path, given: &Value) {
    let (name, selects) = (text(given, "/name"), given["selector"].is_object());
    for problem in Some(name)
        .filter(|name| !name.is_empty())
        .map(names::path_segment_name)
        .unwrap_or_default()
    {
        errors.push(Error::invalid(&path.child("name"), name, problem));
    }
    if selects {
        selector(errors, &path.child("selector"), &given["selector"]);
    }
    if !name.is_empty() && selects {
        for field in ["name", "selector"] {
            let why = "name and selector are mutually exclusive";
            errors.push(Error::forbidden(&path.child(field), why));
        }
    }
    if name.is_empty() && !selects {
        let why = "one of name or selector must be specified";
        errors.push(Error::required(path, why));
    }
    let path = path.child("parameterNotFoundAction");
    match text(given, "/parameterNotFoundAction") {
        "" => errors.push(Error::required(&path, "")),
        "Allow" | "Deny" => {}
        other => errors.push(Error::not_supported(&path, other, &["Deny", "Allow"])),
    }
}

fn actions(errors: &mut ErrorList, path: &Path, spec: &Value) {
    let given = list(spec, "/validationActions");
    let has = |action: &str| given.iter().any(|a| a == action);
    for (at, action) in given.iter().enumerate() {
        if given[..at].contains(action) {
            errors.push(Error::duplicate(&path.index(at), action.clone()));
        }
    }
    if has("Deny") && has("Warn") {
        let why = "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)";
        errors.push(Error::invalid(path, given.to_vec(), why));
    }
    if given.is_empty() {
        let why = "at least one validation action is required";
        errors.push(Error::required(path, why));
    }
}
