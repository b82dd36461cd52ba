//! JSON patch (RFC 6902) and JSON merge patch (RFC 7386), with upstream's limits and errors.

use json_patch::{Patch, PatchOperation};
use serde_json::Value;

use crate::status::{Reason, Status, StatusDetails};

/// Most operations that a JSON patch may have.
pub const MAX_OPERATIONS: usize = 10_000;

/// Most bytes by which `copy` operations may grow an object.
const MAX_COPIED: usize = 3 * 1024 * 1024;

/// Deepest document that a patch may make: what JSON decoding accepts again.
const MAX_DEPTH: usize = 120;

/// Most values that the operations of one patch may look at or shift: moving a large value around, or inserting at the
/// front of a long list, costs its size each time.
const MAX_WORK: usize = 50_000_000;

/// How deep a value is; counts the values that it looks at.
fn depth(value: &Value, work: &mut usize) -> usize {
    *work += 1;
    match value {
        Value::Array(items) => 1 + items.iter().map(|item| depth(item, work)).max().unwrap_or(0),
        Value::Object(fields) => 1 + fields.values().map(|field| depth(field, work)).max().unwrap_or(0),
        _ => 0,
    }
}

/// How many elements a list has that the last part of a path inserts into or removes from.
fn shifted(document: &Value, path: &str) -> usize {
    let list = path.rsplit_once('/').and_then(|(list, _)| document.pointer(list));
    list.and_then(Value::as_array).map_or(0, Vec::len)
}

/// Applies a JSON patch; the document is unchanged on error.
///
/// Errors: 400 when it is no patch, 413 when it has too many operations, 422 when it does not apply.
pub fn json_patch(document: &mut Value, patch: &Value) -> Result<(), Status> {
    if let Value::Array(operations) = patch
        && operations.len() > MAX_OPERATIONS
    {
        return Err(Status::request_entity_too_large(format_args!(
            "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
            operations.len()
        )));
    }
    let patch: Patch = serde_json::from_value(patch.clone())
        .map_err(|error| Status::bad_request(format!("error decoding patch: {error}")))?;
    let mut patched = document.clone();
    let (mut copied, mut work) = (0, 0);
    for operation in &patch.0 {
        let (path, value) = match operation {
            PatchOperation::Add(add) => (add.path.as_str(), Some(&add.value)),
            PatchOperation::Replace(replace) => (replace.path.as_str(), Some(&replace.value)),
            PatchOperation::Copy(copy) => (copy.path.as_str(), patched.pointer(copy.from.as_str())),
            PatchOperation::Move(shift) => (shift.path.as_str(), patched.pointer(shift.from.as_str())),
            PatchOperation::Remove(_) | PatchOperation::Test(_) => ("", None),
        };
        if let (PatchOperation::Copy(_), Some(value)) = (operation, value) {
            copied += value.to_string().len();
        }
        let deepest = path.matches('/').count() + value.map_or(0, |value| depth(value, &mut work));
        work += match operation {
            PatchOperation::Add(_) | PatchOperation::Copy(_) => shifted(&patched, path),
            PatchOperation::Remove(remove) => shifted(&patched, remove.path.as_str()),
            PatchOperation::Move(shift) => shifted(&patched, path) + shifted(&patched, shift.from.as_str()),
            PatchOperation::Replace(_) | PatchOperation::Test(_) => 0,
        };
        if copied > MAX_COPIED || deepest > MAX_DEPTH || work > MAX_WORK {
            return Err(rejected());
        }
        json_patch::patch(&mut patched, std::slice::from_ref(operation)).map_err(|_| rejected())?;
    }
    *document = patched;
    Ok(())
}

/// What upstream answers when a patch does not apply: the cause stays out of the message.
fn rejected() -> Status {
    let message = "the server rejected our request due to an error in our request";
    Status::failure(422, Reason::Invalid, message).with_details(StatusDetails::default())
}

/// Applies a JSON merge patch: nulls delete, objects merge, everything else replaces.
///
/// Errors: 400 when the patch is not an object.
pub fn merge_patch(document: &mut Value, patch: &Value) -> Result<(), Status> {
    if !patch.is_object() {
        return Err(Status::bad_request("error decoding patch: Invalid JSON Patch"));
    }
    json_patch::merge(document, patch);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn json_patches() {
        let check = |document: Value, patch: Value, expected: Option<Value>| {
            let mut patched = document.clone();
            let result = json_patch(&mut patched, &patch);
            match expected {
                Some(expected) => {
                    result.expect("applies");
                    assert_eq!(patched, expected);
                }
                None => {
                    result.expect_err("does not apply");
                    assert_eq!(patched, document);
                }
            }
        };
        check(
            json!({"a": 1}),
            json!([{"op": "replace", "path": "/a", "value": 2}]),
            Some(json!({"a": 2})),
        );
        check(
            json!({"a": [1]}),
            json!([{"op": "add", "path": "/a/-", "value": 2}]),
            Some(json!({"a": [1, 2]})),
        );
        check(
            json!({"a": 1}),
            json!([{"op": "add", "path": "/b", "value": 1}, {"op": "remove", "path": "/c"}]),
            None,
        );
        check(
            json!({"a": 1}),
            json!([{"op": "test", "path": "/a", "value": 2}]),
            None,
        );
        check(json!({"a": 1}), json!([{"op": "bogus", "path": "/a"}]), None);
        check(json!({"a": 1}), json!({"op": "remove"}), None);
        check(
            json!({"a/b": 1}),
            json!([{"op": "remove", "path": "/a~1b"}]),
            Some(json!({})),
        );
    }

    #[test]
    fn limits() {
        let many = vec![json!({"op": "test", "path": "/a", "value": 1}); MAX_OPERATIONS + 1];
        let error = json_patch(&mut json!({"a": 1}), &Value::Array(many)).expect_err("too many");
        assert_eq!(error.code, 413);
        let deepen: Vec<Value> = (0..9_000)
            .map(|_| json!({"op": "copy", "from": "", "path": "/a"}))
            .collect();
        assert_eq!(
            json_patch(&mut json!({"a": 1, "b": 2}), &Value::Array(deepen))
                .expect_err("deep")
                .code,
            422
        );
        let grow: Vec<Value> = (0..9)
            .map(|n| json!({"op": "copy", "from": "/a", "path": format!("/{n}")}))
            .collect();
        let shift: Vec<Value> = (0..9_000)
            .map(|_| json!({"op": "add", "path": "/a/0", "value": 1}))
            .collect();
        let mut long = json!({"a": vec![0; 100_000]});
        assert_eq!(
            json_patch(&mut long, &Value::Array(shift))
                .expect_err("work")
                .code,
            422
        );
        let shift: Vec<Value> = (0..9_000)
            .map(
                |n| json!({"op": "move", "from": format!("/{}", n % 2), "path": format!("/{}", (n + 1) % 2)}),
            )
            .collect();
        let mut large = json!({"0": vec![0; 100_000]});
        assert_eq!(
            json_patch(&mut large, &Value::Array(shift))
                .expect_err("work")
                .code,
            422
        );
        let mut large = json!({"a": "x".repeat(1 << 20)});
        assert_eq!(
            json_patch(&mut large, &Value::Array(grow))
                .expect_err("large")
                .code,
            422
        );
    }

    #[test]
    fn merge_patches() {
        let mut document = json!({"a": {"b": 1, "c": 2}, "d": [1]});
        merge_patch(
            &mut document,
            &json!({"a": {"b": null, "e": {"f": null}}, "d": [2]}),
        )
        .expect("applies");
        assert_eq!(document, json!({"a": {"c": 2, "e": {}}, "d": [2]}));
        assert_eq!(
            merge_patch(&mut document, &json!([1]))
                .expect_err("no object")
                .code,
            400
        );
    }
}
