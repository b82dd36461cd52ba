//! What calls cost when they run, from the sizes of what they got; the units are those of the static estimate.

use crate::check::scale;
use crate::value::{Value, traversal};

const STRING_FACTOR: f64 = 0.1;
const REGEX_FACTOR: f64 = 0.25;

/// The cost of a call beside its arguments.
pub(super) fn call_cost(name: &str, overload: &str, args: &[Value<'_>], result: Option<&Value<'_>>) -> u64 {
    let size = |index: usize| args.get(index).map_or(1, Value::size);
    let text = |index: usize| scale(size(index), STRING_FACTOR);
    match name {
        "check" => 350_000,
        "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" => args.first().map_or(0, traversal),
        "url" | "lowerAscii" | "upperAscii" | "substring" | "trim" | "cidr" | "isIP" | "isCIDR"
        | "quantity" | "isQuantity" => text(0),
        "ip" if overload == "cidr_ip" => 1,
        "ip" => text(0),
        "ip.isCanonical" | "replace" | "split" => scale(size(0), 2.0 * STRING_FACTOR),
        "join" => scale(result.map_or(1, Value::size), 2.0 * STRING_FACTOR),
        "find" | "findAll" | "matches" => {
            scale(size(0).saturating_add(1), STRING_FACTOR).saturating_mul(scale(size(1), REGEX_FACTOR))
        }
        "containsIP" | "containsCIDR" => {
            let mut cost = scale(2 * size(0), STRING_FACTOR);
            if name == "containsCIDR" {
                cost += text(0) + 1;
            }
            if matches!(args.get(1), Some(Value::String(_))) {
                cost += text(1);
            }
            cost
        }
        "startsWith" | "endsWith" | "format" | "strings.quote" => text(0),
        "bytes" | "string"
            if matches!(args, [Value::String(_) | Value::Bytes(_)]) && is_transcoding(overload) =>
        {
            text(0)
        }
        "@in" if matches!(args.get(1), Some(Value::List(_))) => size(1),
        "_==_" | "_!=_" => scale(size(0).min(size(1)), STRING_FACTOR),
        "_<_" | "_<=_" | "_>_" | "_>=_" if matches!(args, [Value::String(_) | Value::Bytes(_), _]) => {
            scale(size(0).min(size(1)), STRING_FACTOR)
        }
        "_+_" if matches!(args, [Value::String(_) | Value::Bytes(_), _]) => {
            scale(size(0).saturating_add(size(1)), STRING_FACTOR)
        }
        "contains" => text(0).saturating_mul(text(1)),
        _ => 1,
    }
}

fn is_transcoding(overload: &str) -> bool {
    matches!(overload, "string_to_bytes" | "bytes_to_string" | "")
}
