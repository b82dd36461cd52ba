//! What functions on numbers share: errors and Go's notation of floating-point numbers.

use crate::error::EvalError;

/// A signed integer is out of range.
pub(super) fn overflow() -> EvalError {
    EvalError::new("integer overflow")
}

/// An unsigned integer is out of range.
pub(super) fn unsigned_overflow() -> EvalError {
    EvalError::new("unsigned integer overflow")
}

/// The shortest decimal that reads back as the number, with an exponent where Go's `%g` has one.
pub(super) fn format_double(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let scientific = format!("{value:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else {
        return scientific;
    };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if value == 0.0 || (-4..6).contains(&exponent) {
        return format!("{value}");
    }
    go_exponent(digits, exponent)
}

/// Digits with an exponent of at least two digits and a sign.
pub(super) fn go_exponent(digits: &str, exponent: i32) -> String {
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.unsigned_abs())
}
