//! Type checking of validating policies against the kinds that they name: warnings for `status.typeChecking`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use keelson_api::gvk::GroupVersion;
use keelson_api::schema::{DefId, Schema};
use keelson_cel::{Decl, DeclKind, Field, ObjectType, Type, escape};
use serde_json::{Value, json};

use crate::admission::expressions::{Compiler, Surroundings, environment};
use crate::admission::object::{list, text};
use crate::registry::{Kind, KindTable};

/// More kinds than this are not checked.
const MAX_KINDS: usize = 10;

/// The warnings about a policy's expressions; an entry per expression that does not fit some kind.
pub(super) fn warnings(kinds: &KindTable, policy: &Value) -> Vec<Value> {
    let spec = &policy["spec"];
    let params = param_decl(kinds, &spec["paramKind"]);
    let surroundings = Surroundings {
        params: params.is_some(),
        authorizer: true,
        patches: false,
    };
    let checked: Vec<(String, Compiler)> = kinds_of(kinds, spec)
        .into_iter()
        .filter_map(|kind| {
            let object = decl_of(&kind)?;
            let env = environment(surroundings, Some(&object), params.as_ref());
            let mut compiler = Compiler::new(env);
            for variable in list(spec, "/variables") {
                // What is wrong with a variable shows where it is used.
                let _problem = compiler.add(text(variable, "/name"), text(variable, "/expression"));
            }
            Some((kind.gvk.to_string(), compiler))
        })
        .collect();
    let mut warnings = Vec::new();
    for (at, validation) in list(spec, "/validations").iter().enumerate() {
        for field in ["expression", "messageExpression"] {
            let expression = validation[field].as_str().unwrap_or_default();
            if expression.is_empty() {
                continue;
            }
            let problems: Vec<String> = checked
                .iter()
                .filter_map(|(kind, compiler)| {
                    let problem = compiler.type_check(expression).err()?;
                    Some(format!("{kind}: {problem}\n"))
                })
                .collect();
            if !problems.is_empty() {
                warnings.push(json!({"fieldRef": format!("spec.validations[{at}].{field}"),
                    "warning": problems.join("\n")}));
            }
        }
    }
    warnings
}

/// The kinds that the rules name without wildcards, in order.
fn kinds_of(kinds: &KindTable, spec: &Value) -> Vec<Arc<Kind>> {
    let mut found: BTreeSet<(String, String, String)> = BTreeSet::new();
    let mut rows = Vec::new();
    for rule in list(spec, "/matchConstraints/resourceRules") {
        let names = |field: &str| -> Vec<&str> {
            let names = rule[field].as_array().into_iter().flatten();
            names.filter_map(Value::as_str).collect()
        };
        let (groups, versions) = (names("apiGroups"), names("apiVersions"));
        if groups.iter().chain(&versions).any(|name| name.contains('*')) {
            continue;
        }
        for group in groups {
            for version in &versions {
                for resource in names("resources") {
                    let Some(row) = kinds.get(group, version, resource) else {
                        continue;
                    };
                    let key = (group.to_owned(), (*version).to_owned(), row.gvk.kind.to_string());
                    if rows.len() < MAX_KINDS && found.insert(key) {
                        rows.push(Arc::clone(row));
                    }
                }
            }
        }
    }
    let key = |row: &Arc<Kind>| {
        let gvk = &row.gvk;
        (gvk.group.clone(), gvk.version.clone(), gvk.kind.clone())
    };
    rows.sort_by_key(key);
    rows
}

fn param_decl(kinds: &KindTable, given: &Value) -> Option<Arc<Decl>> {
    let version = GroupVersion::parse(given["apiVersion"].as_str()?).ok()?;
    let kind = given["kind"].as_str()?.to_owned();
    decl_of(&*kinds.by_kind(&version.with_kind(kind))?)
}

/// The type of a kind's objects.
fn decl_of(kind: &Kind) -> Option<Arc<Decl>> {
    let schema = kind.schema().ok()?;
    Some(decl(schema, &kind.gvk.kind, &mut Vec::new()))
}

/// The type of what a schema describes. What refers to itself is dynamic from the second time on.
fn decl(schema: &Schema, name: &str, within: &mut Vec<DefId>) -> Arc<Decl> {
    let of = |kind, ty| {
        Arc::new(Decl {
            kind,
            ty,
            ..Decl::any().as_ref().clone()
        })
    };
    match schema {
        Schema::Bool => Arc::new(Decl::bool()),
        Schema::Int32 | Schema::Int64 => Arc::new(Decl::int()),
        Schema::Double => of(DeclKind::Double, Type::Double),
        Schema::String | Schema::Quantity => Arc::new(Decl::string()),
        Schema::Bytes => of(DeclKind::Bytes, Type::Bytes),
        Schema::Time | Schema::MicroTime => of(DeclKind::DateTime, Type::Timestamp),
        Schema::List(list) => Arc::new(Decl::list(decl(&list.items, &format!("{name}.@idx"), within))),
        Schema::Map(map) => Arc::new(Decl::map(decl(&map.values, &format!("{name}.@elem"), within))),
        Schema::Def(id) if within.contains(id) => Arc::clone(Decl::any()),
        Schema::Def(_) | Schema::Object(_) => {
            let own = match schema {
                Schema::Def(id) => Some(*id),
                _ => None,
            };
            within.extend(own);
            let decl = object(schema, name, within);
            within.truncate(within.len() - usize::from(own.is_some()));
            decl
        }
        _ => Arc::clone(Decl::any()),
    }
}

fn object(schema: &Schema, name: &str, within: &mut Vec<DefId>) -> Arc<Decl> {
    let Some(object) = schema.object() else {
        return Arc::clone(Decl::any());
    };
    let fields = object.fields.iter().filter_map(|field| {
        let escaped = escape(&field.name)?;
        let decl = decl(&field.schema, &format!("{name}.{escaped}"), within);
        let property = field.name.to_string();
        Some((escaped, Field { property, decl }))
    });
    let mut fields: BTreeMap<String, Field> = fields.collect();
    if object.embedded_resource {
        for property in ["apiVersion", "kind", "metadata"] {
            fields.entry(property.to_owned()).or_insert_with(|| Field {
                property: property.to_owned(),
                decl: Arc::clone(Decl::any()),
            });
        }
    }
    let ty = Arc::new(ObjectType {
        name: name.to_owned(),
        fields,
        open: object.preserve_unknown,
    });
    Arc::new(Decl {
        kind: DeclKind::Object(Arc::clone(&ty)),
        ty: Type::Object(ty),
        ..Decl::any().as_ref().clone()
    })
}
