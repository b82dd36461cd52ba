//! Hashes in names and labels: `pod-template-hash`, `controller-revision-hash`.
//!
//! Upstream feeds Go's dump of the struct to FNV-32a; any function that is stable across restarts and versions serves
//! its contract. Here it is the canonical JSON (keys sorted, absent fields absent) of the object.

use serde::Serialize;
use serde_json::Value;

const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// FNV-1a, 32 bits.
pub fn fnv32a(bytes: impl IntoIterator<Item = u8>) -> u32 {
    bytes.into_iter().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

/// Upstream's `SafeEncodeString`: no vowels and no look-alikes, so that no words come out.
pub fn safe_encode(text: &str) -> String {
    text.bytes()
        .map(|byte| char::from(ALPHABET[usize::from(byte) % ALPHABET.len()]))
        .collect()
}

/// The hash of `object`, changed by `collision_count` when its name was taken by something else.
pub fn compute<T: Serialize>(object: &T, collision_count: Option<i32>) -> String {
    // `Value` keeps its keys sorted unless a crate turns on `preserve_order`; sort for certain.
    let value = serde_json::to_value(object).unwrap_or_default();
    let mut bytes = Vec::new();
    canonical(&value, &mut bytes);
    bytes.extend(collision_count.into_iter().flat_map(i32::to_le_bytes));
    safe_encode(&fnv32a(bytes).to_string())
}

fn canonical(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Object(map) => {
            let mut keys: Vec<_> = map.iter().filter(|(_, value)| !value.is_null()).collect();
            keys.sort_unstable_by_key(|(key, _)| key.as_str());
            out.push(b'{');
            for (key, value) in keys {
                out.extend(key.bytes());
                out.push(b':');
                canonical(value, out);
            }
            out.push(b'}');
        }
        Value::Array(items) => {
            out.push(b'[');
            items.iter().for_each(|item| {
                canonical(item, out);
                out.push(b',');
            });
            out.push(b']');
        }
        other => out.extend(other.to_string().bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn known_values() {
        assert_eq!(fnv32a(*b""), 0x811c_9dc5);
        assert_eq!(fnv32a(*b"foobar"), 0xbf9c_f968);
        assert_eq!(safe_encode("0123456789"), "456789bcdf");
    }

    #[test]
    fn stable_and_sensitive() {
        let a = compute(&json!({"b": 1, "a": {"y": 2, "x": null}}), None);
        assert_eq!(a, compute(&json!({"a": {"y": 2}, "b": 1}), None));
        assert_ne!(a, compute(&json!({"a": {"y": 3}, "b": 1}), None));
        assert_ne!(a, compute(&json!({"a": {"y": 2}, "b": 1}), Some(1)));
    }
}
