//! `x-kubernetes-validations`: rules compiled once per definition, beside the structure of their schema.

use std::collections::BTreeMap;
use std::sync::Arc;

use keelson_cel::limits::STATIC_ESTIMATED_COST_LIMIT;
use keelson_cel::{Decl, Env, Program, Type, escape};
use serde_json::Value;

/// The rules at a place of a schema and below it.
pub(crate) struct RuleNode {
    pub(super) decl: Arc<Decl>,
    /// The schema's `type`, as errors show it.
    pub(super) type_name: String,
    pub(super) rules: Vec<Rule>,
    pub(super) properties: BTreeMap<String, RuleNode>,
    pub(super) items: Option<Box<RuleNode>>,
    pub(super) values: Option<Box<RuleNode>>,
    /// Keys of a keyed list, by which old and new elements correspond.
    pub(super) list_keys: Option<Vec<String>>,
}

/// One rule.
pub(super) struct Rule {
    pub(super) text: String,
    pub(super) message: String,
    pub(super) reason: Option<String>,
    /// Names below the place of the rule that the error is about.
    pub(super) field_path: Vec<FieldStep>,
    pub(super) optional_old_self: bool,
    pub(super) uses_old_self: bool,
    pub(super) program: Result<Program, String>,
    pub(super) message_program: Option<Result<Program, String>>,
}

/// A step of a rule's `fieldPath`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FieldStep {
    /// A property.
    Child(String),
    /// A key of a map.
    Key(String),
}

impl Rule {
    /// What the rule and its message may cost at most, without how often they run.
    pub(super) fn cost(&self) -> u64 {
        let cost = |program: &Program| program.estimated_cost().max;
        self.program.as_ref().map_or(0, cost)
    }

    /// How errors name the rule.
    pub(super) fn shown(&self) -> &str {
        let message = self.message.trim();
        if message.is_empty() {
            self.text.trim()
        } else {
            message
        }
    }
}

/// Compiles the rules of a schema; nothing when there are none.
pub(super) fn compile(props: &Value, resource: bool) -> Option<RuleNode> {
    let decl = Decl::from_schema(props, resource, "selfType")?;
    node(props, &Arc::new(decl))
}

fn node(props: &Value, decl: &Arc<Decl>) -> Option<RuleNode> {
    let mut found = RuleNode {
        decl: Arc::clone(decl),
        type_name: props["type"].as_str().unwrap_or("object").to_owned(),
        rules: rules(props, decl),
        properties: BTreeMap::new(),
        items: None,
        values: None,
        list_keys: list_keys(props),
    };
    for (name, sub) in props["properties"].as_object().into_iter().flatten() {
        let declared =
            escape(name).and_then(|escaped| decl.field(&escaped).map(|field| Arc::clone(&field.decl)));
        let declared = declared.or_else(|| {
            let resource = sub["x-kubernetes-embedded-resource"] == true;
            Decl::from_schema(sub, resource, "selfType").map(Arc::new)
        });
        if let Some(sub) = declared.and_then(|declared| node(sub, &declared)) {
            found.properties.insert(name.clone(), sub);
        }
    }
    let element = |sub: &Value| {
        let declared = match &decl.kind {
            keelson_cel::DeclKind::List(element, _) | keelson_cel::DeclKind::Map(element) => {
                Arc::clone(element)
            }
            _ => return None,
        };
        node(sub, &declared).map(Box::new)
    };
    found.items = element(&props["items"]).filter(|_| props["items"].is_object());
    found.values =
        element(&props["additionalProperties"]).filter(|_| props["additionalProperties"].is_object());
    let empty = found.rules.is_empty()
        && found.properties.is_empty()
        && found.items.is_none()
        && found.values.is_none();
    (!empty).then_some(found)
}

fn list_keys(props: &Value) -> Option<Vec<String>> {
    if props["x-kubernetes-list-type"] != "map" {
        return None;
    }
    let keys = props["x-kubernetes-list-map-keys"]
        .as_array()
        .into_iter()
        .flatten();
    Some(keys.filter_map(|key| Some(key.as_str()?.to_owned())).collect())
}

/// The rules of one place, compiled. Rules below `allOf` stand for the place itself.
pub(super) fn rules(props: &Value, decl: &Arc<Decl>) -> Vec<Rule> {
    let own = props["x-kubernetes-validations"].as_array();
    let nested = props["allOf"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|sub| sub["x-kubernetes-validations"].as_array());
    own.into_iter()
        .chain(nested)
        .flatten()
        .map(|given| rule(props, given, decl))
        .collect()
}

/// Compiles one rule.
fn rule(props: &Value, given: &Value, decl: &Arc<Decl>) -> Rule {
    let text = |field: &str| given[field].as_str().unwrap_or_default().to_owned();
    let optional_old_self = given["optionalOldSelf"] == true;
    let mut env = Env::new().variable("self", Arc::clone(decl));
    env = if optional_old_self {
        env.typed_variable("oldSelf", Type::Optional(Arc::new(decl.ty.clone())))
    } else {
        env.variable("oldSelf", Arc::clone(decl))
    };
    let program = match env.compile(&text("rule")) {
        Err(issues) => Err(format!("compilation failed: {issues}")),
        Ok(program) if *program.result() != Type::Bool => {
            Err("cel expression must evaluate to a bool".to_owned())
        }
        Ok(program) => Ok(program),
    };
    let message_program = given["messageExpression"]
        .as_str()
        .filter(|text| !text.trim().is_empty())
        .map(|text| match env.compile(text) {
            Err(issues) => Err(format!("messageExpression compilation failed: {issues}")),
            Ok(program) if *program.result() != Type::String => {
                Err("messageExpression must evaluate to a string".to_owned())
            }
            Ok(program) => Ok(program),
        });
    let uses_old_self = program
        .as_ref()
        .is_ok_and(|program| program.variables().iter().any(|name| name == "oldSelf"));
    Rule {
        text: text("rule"),
        message: text("message"),
        reason: given["reason"].as_str().map(str::to_owned),
        field_path: field_path(props, &text("fieldPath")).unwrap_or_default(),
        optional_old_self,
        uses_old_self,
        program,
        message_program,
    }
}

/// Reads a `fieldPath` (`.spec['a.b']`) against its schema.
pub(super) fn field_path(props: &Value, path: &str) -> Result<Vec<FieldStep>, String> {
    let mut steps = Vec::new();
    let mut schema = props;
    let mut rest = path;
    while let Some(first) = rest.chars().next() {
        let (name, after) = match first {
            '.' => {
                let end = rest[1..].find(['.', '[', ']']).map_or(rest.len(), |end| end + 1);
                (rest[1..end].to_owned(), &rest[end..])
            }
            '[' => {
                let inner = rest[1..]
                    .strip_prefix('\'')
                    .ok_or_else(|| format!("expected single quoted string but got {}", &rest[1..]))?;
                let end = inner.find("']").ok_or("unexpected end of JSON path")?;
                (
                    inner[..end].replace("\\'", "'").replace("\\\\", "\\"),
                    &inner[end + 2..],
                )
            }
            _ => return Err(format!("expected [ or . but got: {rest}")),
        };
        if name.is_empty() {
            return Err("unexpected end of JSON path".to_owned());
        }
        if schema["properties"].is_object() {
            schema = schema["properties"]
                .get(&name)
                .ok_or("does not refer to a valid field")?;
            steps.push(FieldStep::Child(name));
        } else if schema["additionalProperties"].is_object() {
            schema = &schema["additionalProperties"];
            steps.push(FieldStep::Key(name));
        } else {
            return Err("does not refer to a valid field".to_owned());
        }
        rest = after;
    }
    Ok(steps)
}

/// By how much a cost is over the limit, in upstream's words; nothing when it is not.
pub(super) fn over_budget(what: &str, cost: u64, limit: u64) -> Option<String> {
    if cost <= limit {
        return None;
    }
    #[expect(clippy::cast_precision_loss, reason = "a factor to read")]
    let factor = cost as f64 / limit as f64;
    let factor = if factor > 100.0 {
        "more than 100x".to_owned()
    } else if factor < 1.5 {
        format!("{factor:.6}x")
    } else {
        format!("{factor:.1}x")
    };
    Some(format!(
        "{what} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)"
    ))
}

/// As [`over_budget`], of one rule.
pub(super) fn rule_over_budget(what: &str, cost: u64) -> Option<String> {
    over_budget(what, cost, STATIC_ESTIMATED_COST_LIMIT)
}
