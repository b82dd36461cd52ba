//! The form of `data/schema.tsv`: tab-separated, one line per definition or field.
//!
//! `=  NAME  [KINDS]  [A]`: a definition, its kinds (`group/version/Kind`, blank-separated; `*` for every group
//! version) and whether it is atomic. Then one line per field, in order of names: `NAME  TYPE  TAGS  ATTRIBUTES…`.
//!
//! Types: `s` string, `b` bool, `i` int32, `l` int64, `d` double, `y` bytes, `q` Quantity, `t` Time, `u` MicroTime,
//! `x` IntOrString, `r` RawExtension, `f` FieldsV1, `j` JSON, `ja`/`jb`/`js` JSONSchemaPropsOrArray, OrBool and
//! OrStringArray, `@NAME` a struct, `[T` a list, `{T` a map from strings.
//!
//! Tags: protobuf tags from the message to the field, through inlined messages, joined by dots.
//!
//! Attributes: `!` required, `z` zero value left out, `la`/`ls`/`lm` list type, `k=` list map keys, `ma`/`mg` map type,
//! `ps=` patch strategy, `pk=` patch merge key, `e=` enumeration (by `|`), `d=` default.

use std::collections::HashMap;

use serde_json::Value;

use super::model::{
    DefId, Field, FieldExtra, List, ListType, Map, MapType, Object, PatchStrategy, Schema, TagPath,
};
use crate::gvk::{GroupVersionKind, Str};

const PREFIXES: [(&str, &str); 4] = [
    ("io.k8s.api.", ""),
    ("io.k8s.apimachinery.pkg.apis.meta.", "meta."),
    ("io.k8s.apiextensions-apiserver.pkg.apis.", ""),
    ("io.k8s.kube-aggregator.pkg.apis.", ""),
];

pub(super) struct Parsed {
    pub(super) definitions: Vec<Object>,
    pub(super) by_name: HashMap<&'static str, DefId>,
    pub(super) kinds: Vec<(&'static str, &'static str, &'static str, DefId)>,
}

pub(super) fn id(at: usize) -> DefId {
    DefId(u16::try_from(at).expect("invariant: fewer than 65,536 definitions"))
}

fn short(name: &'static str) -> Str {
    for (prefix, to) in PREFIXES {
        if let Some(rest) = name.strip_prefix(prefix) {
            return if to.is_empty() {
                rest.into()
            } else {
                format!("{to}{rest}").into()
            };
        }
    }
    name.into()
}

pub(super) fn parse(text: &'static str) -> Parsed {
    let mut by_name = HashMap::new();
    let mut by_short: HashMap<Str, DefId> = HashMap::new();
    for (at, line) in text.lines().filter(|line| line.starts_with('=')).enumerate() {
        let name = line
            .split('\t')
            .nth(1)
            .expect("invariant: a definition has a name");
        by_name.insert(name, id(at));
        by_short.insert(short(name), id(at));
    }
    let mut definitions: Vec<Object> = Vec::with_capacity(by_name.len());
    let mut kinds = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let mut columns = line.split('\t');
        let name = columns.next().unwrap_or_default();
        if name == "=" {
            let at = id(definitions.len());
            definitions.push(parse_definition(columns, at, &mut kinds));
        } else {
            let object = definitions
                .last_mut()
                .expect("invariant: a field stands below a definition");
            object.fields.push(parse_field(name, columns, &by_short));
        }
    }
    for object in &mut definitions {
        object.fields.shrink_to_fit();
        object.index_tags();
        object.always = object
            .fields
            .iter()
            .enumerate()
            .filter(|(_, field)| field.omit_zero && matches!(field.schema, Schema::Def(_) | Schema::Quantity))
            .map(|(at, _)| u16::try_from(at).expect("invariant: fewer than 65,536 fields"))
            .collect();
    }
    mark_defaults(&mut definitions);
    Parsed {
        definitions,
        by_name,
        kinds,
    }
}

fn parse_definition(
    mut columns: std::str::Split<'static, char>,
    at: DefId,
    kinds: &mut Vec<(&'static str, &'static str, &'static str, DefId)>,
) -> Object {
    let mut object = Object {
        name: columns.next().unwrap_or_default().into(),
        ..Object::default()
    };
    let gvks = columns.next().unwrap_or_default();
    object.all_kinds = gvks == "*";
    for gvk in gvks.split(' ').filter(|gvk| gvk.contains('/')) {
        let mut parts = gvk.split('/');
        let mut next = || parts.next().expect("invariant: group/version/kind");
        let (group, version, kind) = (next(), next(), next());
        object.kinds.push(GroupVersionKind::new(group, version, kind));
        kinds.push((group, version, kind, at));
    }
    if columns.next() == Some("A") {
        object.map_type = MapType::Atomic;
    }
    object
}

fn parse_field(
    name: &'static str,
    mut columns: std::str::Split<'static, char>,
    by_short: &HashMap<Str, DefId>,
) -> Field {
    let schema = parse_type(columns.next().unwrap_or_default(), by_short);
    let mut field = Field::new(name, schema);
    field.tags = parse_tags(columns.next().unwrap_or_default());
    let mut extra = FieldExtra::default();
    let mut has_extra = false;
    for attribute in columns {
        let (key, value) = attribute.split_once('=').unwrap_or((attribute, ""));
        match key {
            "!" => field.required = true,
            "z" => field.omit_zero = true,
            "la" | "ls" | "lm" | "k" => set_list_type(&mut field.schema, key, value),
            "ma" | "mg" => {
                let map_type = if key == "ma" {
                    MapType::Atomic
                } else {
                    MapType::Granular
                };
                if let Schema::Map(map) = &mut field.schema {
                    map.map_type = map_type;
                }
                (extra.map_type, has_extra) = (Some(map_type), true);
            }
            _ => {
                has_extra = true;
                set_extra(&mut extra, key, value, &field.schema);
            }
        }
    }
    field.omit_zero |=
        !field.required && matches!(field.schema, Schema::List(_) | Schema::Map(_) | Schema::Bytes);
    field.extra = has_extra.then(|| Box::new(extra));
    field
}

fn set_list_type(schema: &mut Schema, key: &str, value: &'static str) {
    let Schema::List(list) = schema else { return };
    list.explicit = true;
    list.list_type = match key {
        "la" => ListType::Atomic,
        "ls" => ListType::Set,
        "lm" => ListType::Map(Vec::new()),
        _ => ListType::Map(value.split(',').map(Str::from).collect()),
    };
}

fn set_extra(extra: &mut FieldExtra, key: &str, value: &'static str, schema: &Schema) {
    match key {
        "ps" => {
            extra.patch_strategy = PatchStrategy {
                merge: value.split(',').any(|s| s == "merge"),
                replace: value.split(',').any(|s| s == "replace"),
                retain_keys: value.split(',').any(|s| s == "retainKeys"),
            };
        }
        "pk" => extra.patch_merge_key = value.into(),
        "e" => extra.enumeration = value.split('|').map(Str::from).collect(),
        "d" => {
            extra.default = Some(match schema {
                Schema::Bool => Value::Bool(value == "true"),
                _ => Value::String(value.to_owned()),
            });
        }
        _ => panic!("invariant: known attribute {key}"),
    }
}

fn parse_type(text: &'static str, by_short: &HashMap<Str, DefId>) -> Schema {
    match text {
        "s" => Schema::String,
        "b" => Schema::Bool,
        "i" => Schema::Int32,
        "l" => Schema::Int64,
        "d" => Schema::Double,
        "y" => Schema::Bytes,
        "q" => Schema::Quantity,
        "t" => Schema::Time,
        "u" => Schema::MicroTime,
        "x" => Schema::IntOrString,
        "r" => Schema::RawExtension,
        "f" => Schema::FieldsV1,
        "j" => Schema::Json,
        "ja" => Schema::JsonSchemaOrArray,
        "jb" => Schema::JsonSchemaOrBool,
        "js" => Schema::JsonSchemaOrStringArray,
        _ => match (&text[..1], &text[1..]) {
            ("[", items) => Schema::List(Box::new(List {
                items: parse_type(items, by_short),
                list_type: ListType::Atomic,
                explicit: false,
            })),
            ("{", values) => Schema::Map(Box::new(Map {
                values: parse_type(values, by_short),
                map_type: MapType::Granular,
            })),
            (_, name) => Schema::Def(
                *by_short
                    .get(name)
                    .expect("invariant: the definition is in the table"),
            ),
        },
    }
}

fn parse_tags(text: &str) -> TagPath {
    let mut tags = TagPath::default();
    for (tag, part) in tags.iter_mut().zip(text.split('.')) {
        *tag = part.parse().unwrap_or_default();
    }
    tags
}

/// Marks the definitions below which a default stands: a fixed point, since definitions may be recursive.
fn mark_defaults(definitions: &mut [Object]) {
    loop {
        let mut changed = false;
        for at in 0..definitions.len() {
            let marked = definitions[at].has_defaults;
            if marked {
                continue;
            }
            let below = definitions[at].fields.iter().any(|field| {
                field.written_default().is_some() || leads_to_default(&field.schema, definitions)
            });
            if below {
                definitions[at].has_defaults = true;
                changed = true;
            }
        }
        if !changed {
            return;
        }
    }
}

fn leads_to_default(schema: &Schema, definitions: &[Object]) -> bool {
    match schema {
        Schema::List(list) => leads_to_default(&list.items, definitions),
        Schema::Map(map) => leads_to_default(&map.values, definitions),
        Schema::Def(id) => definitions[usize::from(id.0)].has_defaults,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ListType, MapType, Schema, registry};
    use crate::resources;

    #[test]
    fn every_resource_has_a_schema() {
        for row in resources::builtin() {
            let schema = registry().by_gvk(&row.group, &row.version, &row.kind);
            assert!(schema.is_some(), "{}", row.gvk());
            for sub in &row.subresources {
                let kind = &sub.kind;
                if kind.kind.ends_with("Options") {
                    continue;
                }
                assert!(
                    registry()
                        .by_gvk(&kind.group, &kind.version, &kind.kind)
                        .is_some(),
                    "{kind}"
                );
            }
        }
    }

    #[test]
    fn facts() {
        let pod = registry().by_gvk("", "v1", "Pod").expect("Pod");
        let containers = pod
            .entry("spec")
            .and_then(|s| s.field("containers"))
            .expect("containers");
        assert!(containers.required);
        assert_eq!(containers.extra().patch_merge_key, "name");
        let list = containers.schema.list().expect("list");
        assert_eq!(list.list_type, ListType::Map(vec!["name".into()]));
        let ports = list
            .items
            .field("ports")
            .expect("ports")
            .schema
            .list()
            .expect("list");
        assert_eq!(
            ports.list_type,
            ListType::Map(vec!["containerPort".into(), "protocol".into()])
        );
        let protocol = ports.items.field("protocol").expect("protocol");
        assert_eq!(protocol.default(), Some(&serde_json::json!("TCP")));
        assert_eq!(protocol.tags, [4, 0, 0]);
        let volumes = pod
            .entry("spec")
            .and_then(|s| s.field("volumes"))
            .expect("volumes");
        assert!(volumes.extra().patch_strategy.retain_keys && volumes.extra().patch_strategy.merge);
        let host_path = volumes
            .schema
            .list()
            .expect("list")
            .items
            .field("hostPath")
            .expect("hostPath");
        assert_eq!(host_path.tags, [2, 1, 0]);
        let selector = registry()
            .by_name("io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector")
            .expect("selector");
        assert_eq!(selector.object().expect("struct").map_type, MapType::Atomic);
        assert!(matches!(
            pod.entry("metadata").and_then(|m| m.entry("creationTimestamp")),
            Some(Schema::Time)
        ));
        assert!(pod.object().expect("struct").has_defaults());
        let secret = registry().by_gvk("", "v1", "Secret").expect("Secret");
        assert!(!secret.object().expect("struct").has_defaults());
    }
}
