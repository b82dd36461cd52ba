//! `resource.Quantity`: fixed-point numbers with SI suffixes, in upstream's canonical form.
//!
//! Upstream rounds to whole nanos (away from zero) and caps at 2^63 - 1, so that an exact quantity is an `i128` of
//! nanos and no big numbers are needed.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

const NANOS: i128 = 1_000_000_000;
const MAX: i128 = i64::MAX as i128 * NANOS;
const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
const DECIMAL: [(&str, i32); 10] = [
    ("n", -9),
    ("u", -6),
    ("m", -3),
    ("", 0),
    ("k", 3),
    ("M", 6),
    ("G", 9),
    ("T", 12),
    ("P", 15),
    ("E", 18),
];

/// The notation that a quantity was written in and is printed in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Format {
    /// `12e6`
    DecimalExponent,
    /// `12Mi`
    BinarySI,
    /// `12M`
    #[default]
    DecimalSI,
}

/// A quantity.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

/// Why a text is not a quantity; the texts are upstream's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Not of the form of a quantity.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// The number is malformed.
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    /// The suffix is unknown.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

impl Quantity {
    /// The quantity zero.
    pub const ZERO: Self = Self {
        nanos: 0,
        format: Format::DecimalSI,
    };

    /// A whole number.
    pub fn from_value(value: i64, format: Format) -> Self {
        Self {
            nanos: i128::from(value) * NANOS,
            format,
        }
    }

    /// A number of thousandths.
    pub fn from_milli(milli: i64, format: Format) -> Self {
        Self {
            nanos: i128::from(milli) * 1_000_000,
            format,
        }
    }

    /// Parses a quantity.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let (negative, rest) = match text.as_bytes().first() {
            None => return Err(ParseError::Format),
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            Some(_) => (false, text),
        };
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (whole, rest) = rest.split_at(digits);
        let (fraction, suffix, dot) = match rest.strip_prefix('.') {
            None => ("", rest, false),
            Some(rest) => {
                let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
                let (fraction, suffix) = rest.split_at(digits);
                (fraction, suffix, true)
            }
        };
        if !well_formed_suffix(suffix) || (whole.is_empty() && fraction.is_empty() && !dot) {
            return Err(ParseError::Format);
        }
        if whole.is_empty() && fraction.is_empty() {
            return Err(ParseError::Numeric);
        }
        let (base, exponent, mut format) = interpret_suffix(suffix)?;
        let magnitude = match base {
            2 => binary_nanos(whole, fraction, exponent),
            _ => decimal_nanos(whole, fraction, exponent),
        };
        if format == Format::BinarySI && magnitude > 0 && magnitude < NANOS {
            format = Format::DecimalSI;
        }
        Ok(Self {
            nanos: if negative { -magnitude } else { magnitude },
            format,
        })
    }

    /// The notation it is printed in.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The same number in another notation.
    #[must_use]
    pub fn with_format(self, format: Format) -> Self {
        Self { format, ..self }
    }

    /// The exact number of nanos.
    pub fn nanos(&self) -> i128 {
        self.nanos
    }

    /// The number rounded up (away from zero) to a whole one.
    pub fn value(&self) -> i64 {
        round_up(self.nanos, NANOS)
    }

    /// The number of thousandths, rounded up (away from zero).
    pub fn milli_value(&self) -> i64 {
        round_up(self.nanos, 1_000_000)
    }

    /// The number as a float, approximately.
    #[expect(clippy::cast_precision_loss, reason = "approximate by contract")]
    pub fn as_f64(&self) -> f64 {
        self.nanos as f64 / NANOS as f64
    }

    /// Whether it is zero.
    pub fn is_zero(&self) -> bool {
        self.nanos == 0
    }

    /// -1, 0 or 1.
    pub fn sign(&self) -> i32 {
        match self.nanos.cmp(&0) {
            Ordering::Less => -1,
            Ordering::Equal => 0,
            Ordering::Greater => 1,
        }
    }

    /// The sum, in the notation of the first that is not zero; caps at the largest quantity.
    #[must_use]
    #[expect(
        clippy::should_implement_trait,
        reason = "keeps a notation and caps, which an operator would hide"
    )]
    pub fn add(self, other: Self) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        Self {
            nanos: (self.nanos + other.nanos).clamp(-MAX, MAX),
            format,
        }
    }

    /// The difference, in the notation of the first that is not zero.
    #[must_use]
    #[expect(
        clippy::should_implement_trait,
        reason = "keeps a notation and caps, which an operator would hide"
    )]
    pub fn sub(self, other: Self) -> Self {
        self.add(Self {
            nanos: -other.nanos,
            format: other.format,
        })
    }

    /// The product with a whole number; caps at the largest quantity.
    #[must_use]
    #[expect(
        clippy::should_implement_trait,
        reason = "keeps a notation and caps, which an operator would hide"
    )]
    pub fn mul(self, factor: i64) -> Self {
        let nanos = self.nanos.saturating_mul(i128::from(factor)).clamp(-MAX, MAX);
        Self {
            nanos,
            format: self.format,
        }
    }

    /// Rounds up to a multiple of 10^`scale` (at least nano, at most whole numbers), as CPU is to milli.
    #[must_use]
    pub fn round_up(self, scale: i32) -> Self {
        let unit = pow10(u32::try_from((scale + 9).clamp(0, 9)).unwrap_or(0));
        Self {
            nanos: div_away(self.nanos, unit) * unit,
            format: self.format,
        }
    }
}

fn well_formed_suffix(suffix: &str) -> bool {
    let letters = suffix.bytes().take_while(|b| b"eEinumkKMGTP".contains(b)).count();
    let rest = suffix[letters..]
        .strip_prefix(['-', '+'])
        .unwrap_or(&suffix[letters..]);
    rest.bytes().all(|b| b.is_ascii_digit())
}

/// Base, exponent and notation of a suffix.
fn interpret_suffix(suffix: &str) -> Result<(u32, i64, Format), ParseError> {
    if let Some((_, exponent)) = DECIMAL.iter().find(|(name, _)| *name == suffix) {
        return Ok((10, i64::from(*exponent), Format::DecimalSI));
    }
    if let Some(at) = BINARY.iter().position(|name| *name == suffix) {
        return Ok((2, i64::try_from(at).unwrap_or(0) * 10, Format::BinarySI));
    }
    match suffix.strip_prefix(['e', 'E']) {
        Some(exponent) => match exponent.parse::<i64>() {
            Ok(exponent) => Ok((10, exponent, Format::DecimalExponent)),
            Err(_) => Err(ParseError::Suffix),
        },
        None => Err(ParseError::Suffix),
    }
}

fn pow10(exponent: u32) -> i128 {
    10_i128.pow(exponent)
}

/// Nanos of `whole.fraction` x 10^`exponent`, rounded up, capped.
fn decimal_nanos(whole: &str, fraction: &str, exponent: i64) -> i128 {
    let digits: Vec<u8> = whole
        .bytes()
        .chain(fraction.bytes())
        .skip_while(|b| *b == b'0')
        .map(|b| b - b'0')
        .collect();
    if digits.is_empty() {
        return 0;
    }
    let length = i64::try_from(digits.len()).unwrap_or(i64::MAX);
    // The number is 0.d1d2d3... x 10^point nanos.
    let scale = exponent
        .saturating_sub(i64::try_from(fraction.len()).unwrap_or(i64::MAX))
        .saturating_add(9);
    let point = length.saturating_add(scale);
    if point > 29 {
        return MAX;
    }
    let keep = usize::try_from(point.clamp(0, length)).unwrap_or(0);
    let mut nanos: i128 = digits[..keep].iter().fold(0, |n, d| n * 10 + i128::from(*d));
    if digits[keep..].iter().any(|d| *d != 0) {
        nanos += 1;
    } else if scale > 0 {
        nanos *= pow10(u32::try_from(scale).unwrap_or(0));
    }
    nanos.min(MAX)
}

/// Nanos of `whole.fraction` x 2^`exponent`, rounded up, capped.
fn binary_nanos(whole: &str, fraction: &str, exponent: i64) -> i128 {
    let whole = whole.trim_start_matches('0');
    if whole.len() > 19 {
        return MAX;
    }
    let whole: i128 = whole.bytes().fold(0, |n, d| n * 10 + i128::from(d - b'0'));
    let factor = 1_i128 << exponent.clamp(0, 60);
    let shifted = whole.saturating_mul(factor);
    if shifted > i128::from(i64::MAX) {
        return MAX;
    }
    let digits = fraction.len().min(18);
    let mut part: i128 = fraction
        .bytes()
        .take(18)
        .fold(0, |n, d| n * 10 + i128::from(d - b'0'));
    if fraction.bytes().skip(18).any(|d| d != b'0') {
        part += 1;
    }
    // part x 10^-digits x 2^exponent in nanos, rounded up.
    let nanos = if digits <= 9 {
        part * factor * pow10(9 - u32::try_from(digits).unwrap_or(0))
    } else {
        div_away(part * factor, pow10(u32::try_from(digits).unwrap_or(0) - 9))
    };
    (shifted * NANOS + nanos).min(MAX)
}

fn div_away(n: i128, by: i128) -> i128 {
    let (quotient, remainder) = (n / by, n % by);
    if remainder == 0 {
        quotient
    } else {
        quotient + n.signum()
    }
}

fn round_up(nanos: i128, unit: i128) -> i64 {
    let value = div_away(nanos, unit);
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let whole = self.nanos / NANOS;
        let exact = self.nanos % NANOS == 0;
        if self.format == Format::BinarySI && exact && whole.unsigned_abs() >= 1024 {
            let (mut number, mut at) = (whole, 0);
            while number % 1024 == 0 && at + 1 < BINARY.len() {
                number /= 1024;
                at += 1;
            }
            return write!(f, "{number}{}", BINARY[at]);
        }
        let (mut number, mut exponent) = (self.nanos, -9_i32);
        while number % 1000 == 0 && exponent < 18 {
            number /= 1000;
            exponent += 3;
        }
        if self.format == Format::DecimalExponent {
            return if exponent == 0 {
                write!(f, "{number}")
            } else {
                write!(f, "{number}e{exponent}")
            };
        }
        let suffix = DECIMAL
            .iter()
            .find(|(_, e)| *e == exponent)
            .map_or("", |(name, _)| name);
        write!(f, "{number}{suffix}")
    }
}

impl FromStr for Quantity {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        Self::parse(text)
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

/// The canonical form of a quantity's text.
pub fn canonicalize(text: &str) -> Result<String, ParseError> {
    Quantity::parse(text).map(|quantity| quantity.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_forms() {
        let cases = [
            ("0", "0"),
            ("0n", "0"),
            ("0.0", "0"),
            ("0Gi", "0"),
            ("-0", "0"),
            ("1", "1"),
            ("+1", "1"),
            ("-1", "-1"),
            ("0.25", "250m"),
            (".5", "500m"),
            ("5.", "5"),
            ("1.5", "1500m"),
            ("100m", "100m"),
            ("1000m", "1"),
            ("2000", "2k"),
            ("1024", "1024"),
            ("1Ki", "1Ki"),
            ("1024Ki", "1Mi"),
            ("1024Mi", "1Gi"),
            ("0.5Gi", "512Mi"),
            ("0.5Ki", "512"),
            ("512", "512"),
            ("1023Ki", "1023Ki"),
            ("1.5Gi", "1536Mi"),
            ("0.1Mi", "104857600m"),
            ("64M", "64M"),
            ("1e3", "1e3"),
            ("12e2", "1200"),
            ("1E3", "1e3"),
            ("1E", "1E"),
            ("1e-3", "1e-3"),
            ("100e-9", "100e-9"),
            ("0.1n", "1n"),
            ("1.1n", "2n"),
            ("-0.1n", "-1n"),
            ("1u", "1u"),
            ("0.0001", "100u"),
            ("0012", "12"),
            ("9223372036854775807", "9223372036854775807"),
            ("1e100", "9223372036854775807"),
            ("99999E", "9223372036854775807"),
            ("100Ei", "9223372036854775807"),
            ("1e-100", "1e-9"),
            ("1.000000000000000000000001", "1000000001n"),
            ("0.000000000000000000000Gi", "0"),
            ("3.5Ei", "3584Pi"),
            ("-2048", "-2048"),
            ("-2Ki", "-2Ki"),
        ];
        for (text, canonical) in cases {
            // "1e100" keeps the exponent notation, which prints no suffix for an exponent of zero.
            assert_eq!(canonicalize(text).as_deref(), Ok(canonical), "{text}");
        }
    }

    #[test]
    fn errors() {
        let cases = [
            ("", ParseError::Format),
            ("x", ParseError::Format),
            ("1.2.3", ParseError::Format),
            ("1 Gi", ParseError::Format),
            ("-", ParseError::Format),
            ("1kk", ParseError::Suffix),
            ("1Ki1", ParseError::Suffix),
            ("1e", ParseError::Suffix),
            ("1K", ParseError::Suffix),
            ("é", ParseError::Format),
            ("1e99999999999999999999", ParseError::Suffix),
        ];
        for (text, error) in cases {
            assert_eq!(canonicalize(text), Err(error), "{text}");
        }
    }

    #[test]
    fn arithmetic() {
        let q = |text: &str| Quantity::parse(text).expect("quantity");
        assert_eq!(q("1500m").value(), 2);
        assert_eq!(q("-1500m").value(), -2);
        assert_eq!(q("1u").milli_value(), 1);
        assert_eq!(q("1Gi").value(), 1 << 30);
        assert_eq!(q("100m").add(q("1")).to_string(), "1100m");
        assert_eq!(Quantity::ZERO.add(q("2Gi")).to_string(), "2Gi");
        assert_eq!(q("1Gi").sub(q("512Mi")).to_string(), "512Mi");
        assert_eq!(q("250m").mul(4).to_string(), "1");
        assert_eq!(q("0.5m").round_up(-3).to_string(), "1m");
        assert!(q("1") < q("1001m") && q("1Gi") == q("1073741824"));
    }
}
