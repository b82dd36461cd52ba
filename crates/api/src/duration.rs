//! Durations as Go writes them: `1h30m`, `1.5s`, `300ms`; `metav1.Duration` holds the same text.

use std::time::Duration;

use crate::field::quote;

/// A text is not a duration; the texts are Go's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Malformed or out of range.
    #[error("time: invalid duration {}", quote(.0))]
    Invalid(String),
    /// A number without a unit.
    #[error("time: missing unit in duration {}", quote(.0))]
    MissingUnit(String),
    /// A unit that does not exist.
    #[error("time: unknown unit {} in duration {}", quote(.unit), quote(.text))]
    UnknownUnit {
        /// The unit.
        unit: String,
        /// The whole text.
        text: String,
    },
    /// Durations here are never negative.
    #[error("negative duration {}", quote(.0))]
    Negative(String),
}

/// Parses a duration that is not negative.
pub fn parse(text: &str) -> Result<Duration, ParseError> {
    let nanos = parse_nanos(text)?;
    u64::try_from(nanos)
        .map(Duration::from_nanos)
        .map_err(|_| ParseError::Negative(text.to_owned()))
}

/// Parses a duration into nanoseconds, which may be negative.
pub fn parse_nanos(text: &str) -> Result<i64, ParseError> {
    let invalid = || ParseError::Invalid(text.to_owned());
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let whole_length = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (whole, after) = rest.split_at(whole_length);
        let (fraction, after) = match after.strip_prefix('.') {
            None => ("", after),
            Some(after) => after.split_at(after.bytes().take_while(u8::is_ascii_digit).count()),
        };
        if (whole.is_empty() && fraction.is_empty()) || whole.len() > 19 {
            return Err(invalid());
        }
        let unit_length = after
            .bytes()
            .take_while(|b| *b != b'.' && !b.is_ascii_digit())
            .count();
        let (unit, after) = after.split_at(unit_length);
        let scale: i128 = match unit {
            "" => return Err(ParseError::MissingUnit(text.to_owned())),
            "ns" => 1,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            unit => {
                return Err(ParseError::UnknownUnit {
                    unit: unit.to_owned(),
                    text: text.to_owned(),
                });
            }
        };
        let digits = |s: &str| s.bytes().fold(0_i128, |n, d| n * 10 + i128::from(d - b'0'));
        total += digits(whole) * scale;
        let kept = &fraction[..fraction.len().min(15)];
        total += digits(kept) * scale / 10_i128.pow(u32::try_from(kept.len()).unwrap_or(0));
        if total > i128::from(i64::MAX) {
            return Err(invalid());
        }
        rest = after;
    }
    i64::try_from(if negative { -total } else { total }).map_err(|_| invalid())
}

/// Formats as Go's `Duration.String` does: `1h0m0s`, `1.5s`, `300ms`, `0s`.
pub fn format(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    let point = |value: u128, unit: u128, name: &str| {
        let (whole, part) = (value / unit, value % unit);
        if part == 0 {
            return format!("{whole}{name}");
        }
        let width = unit.to_string().len() - 1;
        let part = format!("{part:0width$}");
        format!("{whole}.{}{name}", part.trim_end_matches('0'))
    };
    match nanos {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => point(nanos, 1_000, "\u{b5}s"),
        1_000_000..1_000_000_000 => point(nanos, 1_000_000, "ms"),
        _ => {
            let minutes = nanos / 60_000_000_000;
            let seconds = point(nanos % 60_000_000_000, 1_000_000_000, "s");
            match minutes {
                0 => seconds,
                1..60 => format!("{minutes}m{seconds}"),
                _ => format!("{}h{}m{seconds}", minutes / 60, minutes % 60),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips() {
        let cases = [
            ("0", 0, "0s"),
            ("1s", 1_000_000_000, "1s"),
            ("1h", 3_600_000_000_000, "1h0m0s"),
            ("90s", 90_000_000_000, "1m30s"),
            ("1.5s", 1_500_000_000, "1.5s"),
            ("300ms", 300_000_000, "300ms"),
            ("1h30m", 5_400_000_000_000, "1h30m0s"),
            ("1us", 1_000, "1\u{b5}s"),
            ("15ns", 15, "15ns"),
            (".5m", 30_000_000_000, "30s"),
            ("1.000000001s", 1_000_000_001, "1.000000001s"),
        ];
        for (text, nanos, printed) in cases {
            let duration = parse(text).expect("duration");
            assert_eq!(
                (duration.as_nanos(), format(duration).as_str()),
                (nanos, printed),
                "{text}"
            );
        }
    }

    #[test]
    fn errors() {
        let check = |text: &str, error: &str| assert_eq!(parse(text).expect_err("error").to_string(), error);
        check("", "time: invalid duration \"\"");
        check("1", "time: missing unit in duration \"1\"");
        check("1x", "time: unknown unit \"x\" in duration \"1x\"");
        check("-1s", "negative duration \"-1s\"");
        check("99999999999h", "time: invalid duration \"99999999999h\"");
        assert_eq!(parse_nanos("-1s"), Ok(-1_000_000_000));
    }
}
