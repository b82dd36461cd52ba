//! `format` of texts: those that upstream checks; others say nothing.

use std::net::{Ipv4Addr, Ipv6Addr};

use base64::Engine;
use keelson_cel::{Env, NoVariables, Value, compile_pattern};

/// Whether a text has a format.
pub(super) fn is_format(format: &str, text: &str) -> bool {
    match format {
        "date" => text.len() == 10 && cel("timestamp", &format!("{text}T00:00:00Z")),
        "date-time" | "datetime" => cel("timestamp", text),
        "duration" => cel("duration", text),
        "byte" => base64::engine::general_purpose::STANDARD.decode(text).is_ok(),
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "cidr" => cel("cidr", text),
        "mac" => matches(r"^([0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}$", text),
        "uuid" => matches(
            r"(?i)^[0-9A-F]{8}-?[0-9A-F]{4}-?[0-9A-F]{4}-?[0-9A-F]{4}-?[0-9A-F]{12}$",
            text,
        ),
        "uuid3" => matches(
            r"(?i)^[0-9A-F]{8}-?[0-9A-F]{4}-?3[0-9A-F]{3}-?[0-9A-F]{4}-?[0-9A-F]{12}$",
            text,
        ),
        "uuid4" => matches(
            r"(?i)^[0-9A-F]{8}-?[0-9A-F]{4}-?4[0-9A-F]{3}-?[89AB][0-9A-F]{3}-?[0-9A-F]{12}$",
            text,
        ),
        "uuid5" => matches(
            r"(?i)^[0-9A-F]{8}-?[0-9A-F]{4}-?5[0-9A-F]{3}-?[89AB][0-9A-F]{3}-?[0-9A-F]{12}$",
            text,
        ),
        "email" => matches(r"^[^@\s]+@[^@\s]+$", text),
        "hostname" => matches(
            r"^([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*\.?$",
            text,
        ),
        "uri" => text.starts_with('/') || text.parse::<http::Uri>().is_ok_and(|uri| uri.scheme().is_some()),
        "hexcolor" => matches("^#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})$", text),
        "rgbcolor" => matches(r"^rgb\(\s*\d{1,3}\s*,\s*\d{1,3}\s*,\s*\d{1,3}\s*\)$", text),
        "isbn10" => matches(r"^(\d-?){9}[\dXx]$", text),
        "isbn13" => matches(r"^(\d-?){13}$", text),
        "isbn" => matches(r"^((\d-?){9}[\dXx]|(\d-?){13})$", text),
        "ssn" => matches(r"^\d{3}[- ]?\d{2}[- ]?\d{4}$", text),
        "creditcard" => matches(r"^\d{13,19}$", &text.replace(['-', ' '], "")),
        _ => true,
    }
}

fn matches(pattern: &str, text: &str) -> bool {
    compile_pattern(pattern).is_ok_and(|pattern| pattern.is_match(text))
}

/// Whether a conversion of the expression language takes the text.
fn cel(function: &str, text: &str) -> bool {
    let literal = serde_json::Value::from(text).to_string();
    let program = Env::new().compile(&format!("{function}({literal})"));
    program.is_ok_and(|program| {
        !matches!(
            program.evaluate(&NoVariables, 1000).value,
            Ok(Value::Null) | Err(_)
        )
    })
}
