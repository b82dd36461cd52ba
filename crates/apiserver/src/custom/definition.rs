//! What definitions must be: structural schemas, and rules that compile and do not cost too much.

use std::sync::Arc;

use keelson_api::field::{Error, ErrorList, Path};
use keelson_cel::limits::STATIC_ESTIMATED_CRD_COST_LIMIT;
use keelson_cel::{Decl, compile_pattern, escape, max_cardinality};
use serde_json::Value;

use super::rules::{self, field_path, over_budget, rule_over_budget};

/// Judges the schemas of a definition. What an older version of the definition already had is left alone.
pub(crate) fn validate_definition(crd: &Value, old: Option<&Value>) -> ErrorList {
    let mut errors = Vec::new();
    if crd["spec"]["preserveUnknownFields"] == true && old.is_none() {
        let path = Path::new("spec").child("preserveUnknownFields");
        errors.push(Error::invalid(&path, true, "must be false"));
    }
    super::declared::validate(crd, &mut errors);
    super::approval::validate(crd, old, &mut errors);
    let empty = Vec::new();
    let versions = crd["spec"]["versions"].as_array().unwrap_or(&empty);
    let schema = |version: &Value| version["schema"]["openAPIV3Schema"].clone();
    let one = versions
        .windows(2)
        .all(|pair| schema(&pair[0]) == schema(&pair[1]));
    for (at, version) in versions.iter().enumerate() {
        let props = &version["schema"]["openAPIV3Schema"];
        if !props.is_object() {
            continue;
        }
        // As upstream, a schema that all versions share is named by its place in the older form.
        let path = if one {
            Path::new("spec").children(&["validation", "openAPIV3Schema"])
        } else {
            Path::new("spec")
                .child("versions")
                .index(at)
                .children(&["schema", "openAPIV3Schema"])
        };
        let known = old
            .and_then(|old| old["spec"]["versions"].as_array())
            .is_some_and(|old| old.iter().any(|old| schema(old) == *props));
        if !known {
            judge(props, &path, &mut errors);
        }
        if one {
            break;
        }
    }
    errors
}

fn judge(props: &Value, path: &Path, errors: &mut ErrorList) {
    if props["type"] != "object" {
        let given = props["type"].as_str().unwrap_or_default();
        if given.is_empty() {
            errors.push(Error::required(
                &path.child("type"),
                "must not be empty at the root",
            ));
        } else {
            errors.push(Error::invalid(
                &path.child("type"),
                given,
                "must be object at the root",
            ));
        }
    }
    structural(props, path, true, errors);
    let mut judge = Judge { errors, total: 0 };
    if let Some(decl) = Decl::from_schema(props, true, "selfType") {
        judge.rules(props, &Arc::new(decl), path, Some(1), None);
    }
    let total = judge.total;
    let what = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
    if let Some(detail) = over_budget(what, total, STATIC_ESTIMATED_CRD_COST_LIMIT) {
        errors.push(Error::forbidden(path, detail));
    }
}

/// The rules of structural schemas, for a node and what is below it.
fn structural(props: &Value, path: &Path, root: bool, errors: &mut ErrorList) {
    let kind = props["type"].as_str().unwrap_or_default();
    let int_or_string = props["x-kubernetes-int-or-string"] == true;
    let preserves = props["x-kubernetes-preserve-unknown-fields"] == true;
    if kind.is_empty() && !int_or_string && !preserves && !root {
        errors.push(Error::required(
            &path.child("type"),
            "must not be empty for specified object fields",
        ));
    }
    if int_or_string && !kind.is_empty() {
        let why = "must be empty if x-kubernetes-int-or-string is true";
        errors.push(Error::invalid(&path.child("type"), kind, why));
    }
    for (field, why) in [
        ("$ref", "$ref is not supported"),
        ("definitions", "definitions is not supported"),
        ("dependencies", "dependencies is not supported"),
        ("id", "id is not supported"),
    ] {
        if !keelson_is_empty(&props[field]) {
            errors.push(Error::forbidden(&path.child_owned(field), why));
        }
    }
    if props["uniqueItems"] == true {
        let why = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        errors.push(Error::forbidden(&path.child("uniqueItems"), why));
    }
    if let Some(pattern) = props["pattern"].as_str()
        && let Err(problem) = compile_pattern(pattern)
    {
        let why = format!("must be a valid regular expression, but isn't: {problem}");
        errors.push(Error::invalid(&path.child("pattern"), pattern, why));
    }
    let has_properties = props["properties"]
        .as_object()
        .is_some_and(|fields| !fields.is_empty());
    if has_properties && props["additionalProperties"].is_object() {
        let why = "additionalProperties and properties are mutual exclusive";
        errors.push(Error::forbidden(&path.child("additionalProperties"), why));
    }
    if props["additionalProperties"] == false {
        let why = "additionalProperties cannot be set to false";
        errors.push(Error::forbidden(&path.child("additionalProperties"), why));
    }
    if root && props["additionalProperties"].is_object() {
        let why = "additionalProperties cannot be used at the root";
        errors.push(Error::forbidden(&path.child("additionalProperties"), why));
    }
    list_rules(props, path, kind, errors);
    if kind == "array" && !props["items"].is_object() {
        errors.push(Error::required(&path.child("items"), "must be specified"));
    }
    for (name, sub) in props["properties"].as_object().into_iter().flatten() {
        let below = path.child("properties").key(name.as_str());
        if root && name == "metadata" {
            metadata(sub, &below, errors);
            continue;
        }
        structural(sub, &below, false, errors);
    }
    if props["items"].is_object() {
        structural(&props["items"], &path.child("items"), false, errors);
    }
    if props["additionalProperties"].is_object() && !root {
        structural(
            &props["additionalProperties"],
            &path.child("additionalProperties"),
            false,
            errors,
        );
    }
    default_fits(props, path, errors);
}

fn keelson_is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// Of metadata a schema may restrict name and generateName only.
fn metadata(props: &Value, path: &Path, errors: &mut ErrorList) {
    if props["type"].as_str().is_some_and(|kind| kind != "object") {
        errors.push(Error::invalid(
            &path.child("type"),
            props["type"].clone(),
            "must be object",
        ));
    }
    for name in props["properties"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, _)| name)
    {
        if name != "name" && name != "generateName" {
            let why = "must not specify anything other than name and generateName, but metadata is implicitly specified";
            errors.push(Error::forbidden(path, why));
        }
    }
}

fn list_rules(props: &Value, path: &Path, kind: &str, errors: &mut ErrorList) {
    let Some(list_type) = props["x-kubernetes-list-type"].as_str() else {
        return;
    };
    let at = path.child("x-kubernetes-list-type");
    if !matches!(list_type, "atomic" | "set" | "map") {
        errors.push(Error::not_supported(&at, list_type, &["atomic", "map", "set"]));
    } else if kind != "array" {
        errors.push(Error::invalid(
            &path.child("type"),
            kind,
            "must be array if x-kubernetes-list-type is specified",
        ));
    } else if list_type == "map" {
        let keys = props["x-kubernetes-list-map-keys"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        let keys_path = path.child("x-kubernetes-list-map-keys");
        if keys.is_empty() {
            let why = "must not be empty if x-kubernetes-list-type is map";
            errors.push(Error::required(&keys_path, why));
        }
        let items = &props["items"];
        for (at, key) in keys.iter().enumerate() {
            let name = key.as_str().unwrap_or_default();
            if items["properties"].get(name).is_none() {
                let why = "entries must all be names of item properties";
                errors.push(Error::invalid(&keys_path.index(at), name, why));
                continue;
            }
            let required = items["required"]
                .as_array()
                .is_some_and(|names| names.contains(key));
            if !required && items["properties"][name].get("default").is_none() {
                let why = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
                errors.push(Error::required(
                    &path.child("items").child("properties").key(name).child("default"),
                    why,
                ));
            }
        }
    }
}

fn default_fits(props: &Value, path: &Path, errors: &mut ErrorList) {
    let Some(default) = props.get("default").filter(|default| !default.is_null()) else {
        return;
    };
    let mut found = Vec::new();
    super::validate::check(props, default, None, &path.child("default"), &mut found);
    errors.extend(found);
}

struct Judge<'e> {
    errors: &'e mut ErrorList,
    total: u64,
}

impl Judge<'_> {
    /// `cardinality` says how often the node can occur, if that is bounded; `uncorrelated` is where old and new stop to
    /// correspond.
    fn rules(
        &mut self,
        props: &Value,
        decl: &Arc<Decl>,
        path: &Path,
        cardinality: Option<u64>,
        uncorrelated: Option<&Path>,
    ) {
        let given = props["x-kubernetes-validations"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        let list = path.child("x-kubernetes-validations");
        for (at, (given, rule)) in given.iter().zip(rules::rules(props, decl)).enumerate() {
            let path = list.index(at);
            self.texts(props, given, &path);
            let times = cardinality.unwrap_or_else(|| max_cardinality(decl.min_serialized_size));
            match &rule.program {
                _ if rule.text.trim().is_empty() => {
                    self.errors
                        .push(Error::required(&path.child("rule"), "rule is not specified"));
                    continue;
                }
                Err(problem) => {
                    self.errors.push(Error::invalid(
                        &path.child("rule"),
                        given.clone(),
                        problem.as_str(),
                    ));
                }
                Ok(_) => {
                    let cost = rule.cost().saturating_mul(times);
                    if let Some(detail) = rule_over_budget("estimated rule cost", cost) {
                        self.errors.push(Error::forbidden(&path.child("rule"), detail));
                    }
                    self.total = self.total.saturating_add(cost);
                }
            }
            match &rule.message_program {
                Some(Err(problem)) => {
                    let path = path.child("messageExpression");
                    self.errors
                        .push(Error::invalid(&path, given.clone(), problem.as_str()));
                }
                Some(Ok(program)) => {
                    let cost = program.estimated_cost().max.saturating_mul(times);
                    if let Some(detail) = rule_over_budget("estimated messageExpression cost", cost) {
                        self.errors
                            .push(Error::forbidden(&path.child("messageExpression"), detail));
                    }
                    self.total = self.total.saturating_add(cost);
                }
                None => {}
            }
            if let (true, Some(place)) = (rule.uses_old_self, uncorrelated) {
                let why = format!(
                    "oldSelf cannot be used on the uncorrelatable portion of the schema within {place}"
                );
                self.errors
                    .push(Error::invalid(&path.child("rule"), given["rule"].clone(), why));
            }
        }
        self.below(props, decl, path, cardinality, uncorrelated);
    }

    fn below(
        &mut self,
        props: &Value,
        decl: &Arc<Decl>,
        path: &Path,
        cardinality: Option<u64>,
        uncorrelated: Option<&Path>,
    ) {
        for (name, sub) in props["properties"].as_object().into_iter().flatten() {
            let declared =
                escape(name).and_then(|escaped| decl.field(&escaped).map(|field| Arc::clone(&field.decl)));
            if let Some(declared) = declared {
                let path = path.child("properties").key(name.as_str());
                self.rules(sub, &declared, &path, cardinality, uncorrelated);
            }
        }
        let (field, limit) = match &decl.kind {
            keelson_cel::DeclKind::List(..) => ("items", "maxItems"),
            keelson_cel::DeclKind::Map(_) => ("additionalProperties", "maxProperties"),
            _ => return,
        };
        let (keelson_cel::DeclKind::List(element, _) | keelson_cel::DeclKind::Map(element)) = &decl.kind
        else {
            return;
        };
        let times = props[limit]
            .as_u64()
            .and_then(|limit| cardinality.map(|cardinality| cardinality.saturating_mul(limit)));
        let path = path.child(field);
        let keyed = field != "items" || props["x-kubernetes-list-type"] == "map";
        let place = uncorrelated.or((!keyed).then_some(&path));
        self.rules(&props[field], element, &path, times, place);
    }

    /// The texts of a rule.
    fn texts(&mut self, props: &Value, given: &Value, path: &Path) {
        if let Some(message) = given["message"].as_str() {
            let at = path.child("message");
            if !message.is_empty() && message.trim().is_empty() {
                self.errors.push(Error::invalid(
                    &at,
                    message,
                    "message must be non-empty if specified",
                ));
            } else if message.trim().contains('\n') {
                self.errors.push(Error::invalid(
                    &at,
                    message,
                    "message must not contain line breaks",
                ));
            }
        }
        let rule = given["rule"].as_str().unwrap_or_default();
        let silent = |field: &str| given[field].as_str().is_none_or(str::is_empty);
        if rule.trim().contains('\n') && silent("message") && silent("messageExpression") {
            let why = "message or messageExpression must be specified if rule contains line breaks";
            self.errors.push(Error::required(&path.child("message"), why));
        }
        const REASONS: [&str; 4] = [
            "FieldValueRequired",
            "FieldValueForbidden",
            "FieldValueInvalid",
            "FieldValueDuplicate",
        ];
        if let Some(reason) = given["reason"]
            .as_str()
            .filter(|reason| !REASONS.contains(reason))
        {
            self.errors
                .push(Error::not_supported(&path.child("reason"), reason, &REASONS));
        }
        if let Some(target) = given["fieldPath"].as_str().filter(|target| !target.is_empty())
            && let Err(problem) = field_path(props, target)
        {
            let why = format!("fieldPath must be a valid path: {problem}");
            self.errors
                .push(Error::invalid(&path.child("fieldPath"), target, why));
        }
    }
}
