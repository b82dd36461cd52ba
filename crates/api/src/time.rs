//! Timestamps: `metav1.Time` (whole seconds) and `metav1.MicroTime` (six digits), both RFC 3339 in UTC.

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// A text is not a timestamp.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "parsing time {quoted} as \"{layout}\": cannot parse {quoted} as \"2006\"",
    quoted = crate::field::quote(text)
)]
pub struct ParseError {
    text: String,
    layout: &'static str,
}

const SECONDS: &str = "2006-01-02T15:04:05Z07:00";
const MICROS: &str = "2006-01-02T15:04:05.000000Z07:00";

/// Parses RFC 3339.
pub fn parse(text: &str) -> Result<Timestamp, ParseError> {
    parse_as(text, SECONDS)
}

/// Parses RFC 3339 as `MicroTime` does.
pub fn parse_micro(text: &str) -> Result<Timestamp, ParseError> {
    parse_as(text, MICROS)
}

fn parse_as(text: &str, layout: &'static str) -> Result<Timestamp, ParseError> {
    let bytes = text.as_bytes();
    let shaped = bytes.len() >= 20 && bytes.len() <= 64 && bytes[4] == b'-' && bytes[10] == b'T';
    shaped
        .then(|| text.parse().ok())
        .flatten()
        .ok_or_else(|| ParseError {
            text: text.to_owned(),
            layout,
        })
}

/// Formats as `metav1.Time`: whole seconds, UTC.
pub fn format(time: Timestamp) -> String {
    time.to_zoned(TimeZone::UTC)
        .strftime("%Y-%m-%dT%H:%M:%SZ")
        .to_string()
}

/// Formats as `metav1.MicroTime`: microseconds, UTC.
pub fn format_micro(time: Timestamp) -> String {
    time.to_zoned(TimeZone::UTC)
        .strftime("%Y-%m-%dT%H:%M:%S.%6fZ")
        .to_string()
}

/// The canonical form of a `metav1.Time`; `None` when the text is canonical already.
pub fn canonicalize(text: &str) -> Result<Option<String>, ParseError> {
    canonical(text, parse, format)
}

/// The canonical form of a `metav1.MicroTime`; `None` when the text is canonical already.
pub fn canonicalize_micro(text: &str) -> Result<Option<String>, ParseError> {
    canonical(text, parse_micro, format_micro)
}

fn canonical(
    text: &str,
    parse: fn(&str) -> Result<Timestamp, ParseError>,
    format: fn(Timestamp) -> String,
) -> Result<Option<String>, ParseError> {
    let formatted = format(parse(text)?);
    Ok((formatted != text).then_some(formatted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_forms() {
        let check = |text: &str, seconds: &str, micros: &str| {
            assert_eq!(format(parse(text).expect("time")), seconds);
            assert_eq!(format_micro(parse(text).expect("time")), micros);
        };
        check(
            "2026-01-02T03:04:05Z",
            "2026-01-02T03:04:05Z",
            "2026-01-02T03:04:05.000000Z",
        );
        check(
            "2026-01-02T03:04:05.123456789+02:00",
            "2026-01-02T01:04:05Z",
            "2026-01-02T01:04:05.123456Z",
        );
        assert_eq!(canonicalize("2026-01-02T03:04:05Z"), Ok(None));
    }

    #[test]
    fn errors() {
        for text in [
            "",
            "x",
            "2026-01-02",
            "2026-13-02T03:04:05Z",
            "2026-01-02 03:04:05Z",
            "éééééééééééééééééééé",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!(
            parse("x").expect_err("no time").to_string(),
            "parsing time \"x\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"x\" as \"2006\""
        );
    }
}
