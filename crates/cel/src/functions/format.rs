//! `string.format`: `%s %d %f %e %b %o %x %X %%`, with a precision for `%f` and `%e`.

use super::numbers::go_exponent;
use super::strings::text;
use super::{Outcome, display};
use crate::error::EvalError;
use crate::value::{List, Steps, Value};

const DEFAULT_PRECISION: usize = 6;
/// Go prints no more digits than this.
const MAX_PRECISION: usize = 1000;

/// `s.format(list)`
pub(super) fn format<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let template = text(args, 0)?;
    let Some(Value::List(values)) = args.get(1) else {
        return Err(EvalError::no_such_overload());
    };
    let mut steps = Steps::default();
    let mut out = String::new();
    let mut rest: &str = template;
    let mut next = 0;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let Some(verb) = rest.chars().next() else {
            return Err(EvalError::new("unexpected end of string"));
        };
        if verb == '%' {
            out.push('%');
            rest = &rest[1..];
            continue;
        }
        let mut precision = None;
        if let Some(after) = rest.strip_prefix('.') {
            let digits = after.bytes().take_while(u8::is_ascii_digit).count();
            let parsed: usize = after[..digits].parse().unwrap_or(0);
            precision = Some(parsed.min(MAX_PRECISION));
            rest = &after[digits..];
        }
        let Some(verb) = rest.chars().next() else {
            return Err(EvalError::new("could not find end of precision specifier"));
        };
        rest = &rest[verb.len_utf8()..];
        let value = values
            .get(next)
            .ok_or_else(|| EvalError::new(format!("index {next} out of range")))??;
        next += 1;
        out.push_str(&clause(verb, precision, &value, &mut steps)?);
    }
    out.push_str(rest);
    Ok(Value::text(out))
}

fn clause(
    verb: char,
    precision: Option<usize>,
    value: &Value<'_>,
    steps: &mut Steps,
) -> Result<String, EvalError> {
    let refuse = |wanted: &str| {
        Err(EvalError::new(format!(
            "error during formatting: {wanted} clause can only be used on {}, was given {}",
            match verb {
                'd' => "integers",
                'f' | 'e' => "doubles",
                'b' => "integers and bools",
                'o' => "integers",
                _ => "integers, byte buffers, and strings",
            },
            value.type_name()
        )))
    };
    match verb {
        's' => shown(value, steps),
        'd' => match value {
            Value::Int(value) => Ok(value.to_string()),
            Value::Uint(value) => Ok(value.to_string()),
            Value::Double(value) if !value.is_finite() => Ok(infinite(*value)),
            _ => refuse("decimal"),
        },
        'f' | 'e' => {
            let Some(value) = as_double(value) else {
                return refuse(if verb == 'f' { "fixed-point" } else { "scientific" });
            };
            if !value.is_finite() {
                return Ok(infinite(value));
            }
            let precision = precision.unwrap_or(DEFAULT_PRECISION);
            if verb == 'f' {
                return Ok(format!("{value:.precision$}"));
            }
            let scientific = format!("{value:.precision$e}");
            let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
            Ok(go_exponent(digits, exponent.parse().unwrap_or(0)))
        }
        'b' => match value {
            Value::Int(value) => Ok(signed(*value, |magnitude| format!("{magnitude:b}"))),
            Value::Uint(value) => Ok(format!("{value:b}")),
            Value::Bool(value) => Ok(u8::from(*value).to_string()),
            _ => refuse("binary"),
        },
        'o' => match value {
            Value::Int(value) => Ok(signed(*value, |magnitude| format!("{magnitude:o}"))),
            Value::Uint(value) => Ok(format!("{value:o}")),
            _ => refuse("octal"),
        },
        'x' | 'X' => {
            let hex = match value {
                Value::Int(value) => signed(*value, |magnitude| format!("{magnitude:x}")),
                Value::Uint(value) => format!("{value:x}"),
                Value::String(text) => text.bytes().map(|byte| format!("{byte:02x}")).collect(),
                Value::Bytes(bytes) => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
                _ => return refuse("hex"),
            };
            Ok(if verb == 'X' { hex.to_uppercase() } else { hex })
        }
        _ => Err(EvalError::new(format!(
            "could not parse formatting clause: unrecognized formatting clause \"{verb}\""
        ))),
    }
}

fn signed(value: i64, print: fn(u64) -> String) -> String {
    let sign = if value < 0 { "-" } else { "" };
    format!("{sign}{}", print(value.unsigned_abs()))
}

fn infinite(value: f64) -> String {
    if value.is_nan() {
        "NaN".to_owned()
    } else if value > 0.0 {
        "Infinity".to_owned()
    } else {
        "-Infinity".to_owned()
    }
}

#[expect(clippy::cast_precision_loss, reason = "numbers are printed as doubles here")]
fn as_double(value: &Value<'_>) -> Option<f64> {
    match value {
        Value::Double(value) => Some(*value),
        Value::Int(value) => Some(*value as f64),
        Value::Uint(value) => Some(*value as f64),
        Value::String(text) => match &**text {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            _ => None,
        },
        _ => None,
    }
}

/// `%s`: lists and maps in brackets and braces, everything else as `string()` writes it.
fn shown(value: &Value<'_>, steps: &mut Steps) -> Result<String, EvalError> {
    steps.take()?;
    Ok(match value {
        Value::List(list) => format!("[{}]", elements(list, steps)?.join(", ")),
        Value::Map(map) => {
            let mut entries = Vec::new();
            for (key, value) in map.entries()? {
                entries.push(format!(
                    "{}: {}",
                    shown(&key.value(), steps)?,
                    shown(&value, steps)?
                ));
            }
            entries.sort();
            format!("{{{}}}", entries.join(", "))
        }
        Value::Double(value) if !value.is_finite() => infinite(*value),
        Value::Double(value) => format!("{value}"),
        Value::Null => "null".to_owned(),
        other => display(other),
    })
}

fn elements(list: &List<'_>, steps: &mut Steps) -> Result<Vec<String>, EvalError> {
    list.iter().map(|item| shown(&item?, steps)).collect()
}
