//! Numbers of resource lists, for arithmetic on the node. The parser is `api`'s.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

const NANOS_PER_MILLI: i128 = 1_000_000;

/// Resource name to quantity, as pod and node specs have it.
pub(crate) type ResourceList = BTreeMap<String, Quantity>;

/// The value in thousandths, rounded up; `None` when the text is no quantity.
pub(crate) fn milli(text: &str) -> Option<i128> {
    let nanos = keelson_api::quantity::Quantity::parse(text).ok()?.nanos();
    let milli = nanos / NANOS_PER_MILLI;
    Some(milli + i128::from(nanos % NANOS_PER_MILLI > 0))
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
