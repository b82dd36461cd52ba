//! Merging an apply configuration into an object without anybody owning anything, as mutating admission policies do.

use serde_json::Value;

use super::field_set::{PathElement, display};
use super::merge::merge;
use super::typed::{Atom, Type, validate};
use crate::schema::{ListType, Schema};

/// The live object with everything that the configuration says.
///
/// # Errors
/// The configuration does not fit the schema, or it has an atomic list, map or struct: merging that would remove what it
/// does not name. The texts are upstream's.
pub fn merge_configuration(schema: &Schema, live: &Value, configuration: &Value) -> Result<Value, String> {
    let ty = Type::new(schema);
    validate(ty, configuration)
        .map_err(|error| format!("failed to convert patch object to typed object: {error}"))?;
    let mut found = Vec::new();
    atomics(ty, configuration, &mut Vec::new(), &mut found);
    if !found.is_empty() {
        return Err(format!(
            "invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {}",
            found.join(", ")
        ));
    }
    Ok(merge(ty, Some(live), Some(configuration)).unwrap_or_default())
}

/// Paths of the atomic lists, maps and structs in a value.
fn atomics(ty: Type<'_>, value: &Value, path: &mut Vec<PathElement>, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            if matches!(ty.atom(value), Atom::Leaf) {
                found.push(display(path));
            }
            for (name, below) in fields {
                let (ty, declared) = ty.entry(name);
                if declared {
                    path.push(PathElement::field(name));
                    atomics(ty, below, path, found);
                    path.pop();
                }
            }
        }
        Value::Array(items) => {
            let Atom::List(list_type, items_type) = ty.atom(value) else {
                found.push(display(path));
                return;
            };
            if *list_type == ListType::Set {
                return;
            }
            for (index, item) in items.iter().enumerate() {
                path.push(PathElement::index(index));
                atomics(items_type, item, path, found);
                path.pop();
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::registry;
    use serde_json::json;

    fn check(configuration: Value, expected: Result<Value, &str>) {
        let live =
            json!({"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [{"name": "a", "image": "i"}]}});
        let schema = registry().by_gvk("", "v1", "Pod").unwrap();
        let merged =
            merge_configuration(schema, &live, &configuration).map(|mut merged| merged["spec"].take());
        assert_eq!(merged, expected.map_err(str::to_owned), "{configuration}");
    }

    #[test]
    fn configurations_merge_or_are_refused() {
        check(
            json!({"spec": {"containers": [{"name": "b", "image": "j"}, {"name": "a", "tty": true}]}}),
            Ok(
                json!({"containers": [{"name": "b", "image": "j"}, {"name": "a", "image": "i", "tty": true}]}),
            ),
        );
        check(
            json!({"spec": {"nodeSelector": {"a": "b"}}}),
            Err(
                "invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: .spec.nodeSelector",
            ),
        );
        check(
            json!({"spec": {"containers": [{"name": "a", "args": ["x"]}]}}),
            Err(
                "invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: .spec.containers[0].args",
            ),
        );
        check(
            json!({"spec": {"nothing": 1}}),
            Err(
                "failed to convert patch object to typed object: .spec.nothing: field not declared in schema",
            ),
        );
    }
}
