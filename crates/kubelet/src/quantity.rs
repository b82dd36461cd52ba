//! Numbers of resource quantities, for arithmetic on the node.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Resource name to quantity, as pod and node specs have it.
pub(crate) type ResourceList = BTreeMap<String, Quantity>;

/// The value in thousandths, rounded up; `None` when the text is no quantity.
pub(crate) fn milli(text: &str) -> Option<i128> {
    let text = text.trim();
    let end = text
        .find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-')))
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (numerator, denominator): (i128, i128) = match suffix {
        "" => (1, 1),
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1000),
        "k" => (1000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        exponent => {
            let exponent: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            let power = 10i128.checked_pow(exponent.unsigned_abs())?;
            if exponent < 0 { (1, power) } else { (power, 1) }
        }
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let negative = whole.starts_with('-');
    let digits = format!("{}{fraction}", whole.trim_start_matches(['+', '-']));
    let value: i128 = digits.parse().ok()?;
    let scale = 10i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let numerator = value.checked_mul(numerator)?.checked_mul(1000)?;
    let denominator = denominator.checked_mul(scale)?;
    let rounded = numerator / denominator + i128::from(numerator % denominator != 0);
    Some(if negative { -rounded } else { rounded })
}

/// The value, rounded up.
pub(crate) fn value(text: &str) -> Option<i64> {
    let milli = milli(text)?;
    i64::try_from(milli / 1000 + i128::from(milli % 1000 > 0)).ok()
}

/// The named quantity of `list` in thousandths; 0 when it is absent.
pub(crate) fn milli_of(list: Option<&ResourceList>, name: &str) -> i64 {
    let found = list
        .and_then(|list| list.get(name))
        .and_then(|quantity| milli(&quantity.0));
    found
        .and_then(|milli| i64::try_from(milli).ok())
        .unwrap_or_default()
}

/// The named quantity of `list`; 0 when it is absent.
pub(crate) fn value_of(list: Option<&ResourceList>, name: &str) -> i64 {
    list.and_then(|list| list.get(name))
        .and_then(|quantity| value(&quantity.0))
        .unwrap_or_default()
}

/// Thousandths as a canonical quantity.
pub(crate) fn from_milli(milli: i64) -> Quantity {
    Quantity(if milli % 1000 == 0 {
        format!("{}", milli / 1000)
    } else {
        format!("{milli}m")
    })
}

/// Bytes as upstream prints a node's memory and storage: in `Ki` where that is exact.
pub(crate) fn from_bytes(bytes: u64) -> Quantity {
    Quantity(if bytes != 0 && bytes.is_multiple_of(1024) {
        format!("{}Ki", bytes / 1024)
    } else {
        bytes.to_string()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_have_the_value_upstream_gives_them() {
        for (text, milli_expected, value_expected) in [
            ("0", 0, 0),
            ("100m", 100, 1),
            ("1", 1000, 1),
            ("1.5", 1500, 2),
            ("0.5Gi", 536_870_912_000, 536_870_912),
            ("128Mi", 134_217_728_000, 134_217_728),
            ("1e3", 1_000_000, 1000),
            ("5E", 5_000_000_000_000_000_000_000, 5_000_000_000_000_000_000),
            ("100n", 1, 1),
        ] {
            assert_eq!(milli(text), Some(milli_expected), "{text}");
            assert_eq!(value(text), Some(value_expected), "{text}");
        }
        for text in ["", "abc", "1Qi", "1.2.3"] {
            assert_eq!(milli(text), None, "{text}");
        }
    }
}
