//! Instants and lengths of time.

use jiff::civil::Date;
use jiff::tz::{Offset, TimeZone};
use jiff::{Timestamp, Zoned};

use super::Outcome;
use super::strings::text;
use crate::error::EvalError;
use crate::value::Value;

const SECOND: i64 = 1_000_000_000;

/// Reads Go's notation of durations: `1h30m`, `-1.5s`, `300ms`. Gives nanoseconds.
pub(crate) fn parse_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let end = rest.find(|character: char| !character.is_ascii_digit() && character != '.')?;
        let (number, after) = rest.split_at(end);
        let unit_end = after
            .find(|character: char| character.is_ascii_digit() || character == '.')
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let scale: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => i128::from(SECOND),
            "m" => 60 * i128::from(SECOND),
            "h" => 3600 * i128::from(SECOND),
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() || fraction.contains('.') || whole.len() > 20 {
            return None;
        }
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        total += whole * scale;
        let mut digit_value = scale;
        for digit in fraction.bytes() {
            digit_value /= 10;
            total += i128::from(digit.checked_sub(b'0')?) * digit_value;
        }
        rest = after;
    }
    i64::try_from(if negative { -total } else { total }).ok()
}

/// Reads RFC 3339.
pub(crate) fn parse_timestamp(text: &str) -> Option<Timestamp> {
    // The clock and calendar library accepts more forms than RFC 3339 has.
    let bytes = text.as_bytes();
    let shaped =
        bytes.len() >= 20 && bytes[4] == b'-' && matches!(bytes[10], b'T' | b't') && bytes[13] == b':';
    let zoned = text.ends_with(['Z', 'z']) || bytes.len() >= 25 && bytes[bytes.len() - 3] == b':';
    if !shaped || !zoned || text.contains('[') {
        return None;
    }
    let timestamp: Timestamp = text.parse().ok()?;
    in_range(timestamp)
}

/// Reads `2006-01-02` as midnight in UTC.
pub(crate) fn parse_date(text: &str) -> Option<Timestamp> {
    if text.len() != 10 {
        return None;
    }
    let date: Date = text.parse().ok()?;
    date.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
}

/// The language knows the years 1 to 9999.
fn in_range(timestamp: Timestamp) -> Option<Timestamp> {
    const FIRST: i64 = -62_135_596_800;
    const LAST: i64 = 253_402_300_799;
    (FIRST..=LAST)
        .contains(&timestamp.as_second())
        .then_some(timestamp)
}

/// RFC 3339 with as many digits of the fraction as there are.
pub(crate) fn format_timestamp(timestamp: Timestamp) -> String {
    timestamp.to_string()
}

/// Seconds with as many digits of the fraction as there are: `90s`, `0.5s`.
pub(super) fn format_seconds(nanoseconds: i64) -> String {
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let magnitude = nanoseconds.unsigned_abs();
    let (seconds, fraction) = (magnitude / 1_000_000_000, magnitude % 1_000_000_000);
    if fraction == 0 {
        return format!("{sign}{seconds}s");
    }
    let fraction = format!("{fraction:09}");
    format!("{sign}{seconds}.{}s", fraction.trim_end_matches('0'))
}

/// A duration in Go's notation: `1h30m0s`.
pub(crate) fn format_duration(nanoseconds: i64) -> String {
    let magnitude = nanoseconds.unsigned_abs();
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let (minutes, rest) = (magnitude / 60_000_000_000, magnitude % 60_000_000_000);
    if magnitude == 0 {
        return "0s".to_owned();
    }
    if minutes == 0 && rest < 1_000_000_000 {
        let (unit, scale) = match rest {
            0..1_000 => ("ns", 1),
            1_000..1_000_000 => ("µs", 1_000),
            _ => ("ms", 1_000_000),
        };
        let (whole, fraction) = (rest / scale, rest % scale);
        if fraction == 0 {
            return format!("{sign}{whole}{unit}");
        }
        let width = scale.ilog10() as usize;
        let fraction = format!("{fraction:0width$}");
        return format!("{sign}{whole}.{}{unit}", fraction.trim_end_matches('0'));
    }
    let seconds = format_seconds(i64::try_from(rest).unwrap_or_default());
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{sign}{seconds}"),
        (0, minutes) => format!("{sign}{minutes}m{seconds}"),
        (hours, minutes) => format!("{sign}{hours}h{minutes}m{seconds}"),
    }
}

/// `timestamp(a)`
pub(super) fn to_timestamp<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    match args {
        [Value::Timestamp(timestamp)] => Ok(Value::Timestamp(*timestamp)),
        [Value::Int(seconds)] => Timestamp::from_second(*seconds)
            .ok()
            .and_then(in_range)
            .map(Value::Timestamp)
            .ok_or_else(|| EvalError::new("timestamp overflow")),
        [Value::String(text)] => parse_timestamp(text).map(Value::Timestamp).ok_or_else(|| {
            EvalError::new("type conversion error from 'string' to 'google.protobuf.Timestamp'")
        }),
        _ => Err(EvalError::no_such_overload()),
    }
}

/// `duration(a)`
pub(super) fn to_duration<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    match args {
        [Value::Duration(duration)] => Ok(Value::Duration(*duration)),
        [Value::String(text)] => parse_duration(text).map(Value::Duration).ok_or_else(|| {
            EvalError::new("type conversion error from 'string' to 'google.protobuf.Duration'")
        }),
        _ => Err(EvalError::no_such_overload()),
    }
}

/// An instant and a number of nanoseconds.
pub(super) fn add_duration<'a>(timestamp: Timestamp, nanoseconds: i128) -> Outcome<'a> {
    Timestamp::from_nanosecond(timestamp.as_nanosecond() + nanoseconds)
        .ok()
        .and_then(in_range)
        .map(Value::Timestamp)
        .ok_or_else(|| EvalError::new("timestamp overflow"))
}

/// The time between two instants.
pub(super) fn subtract_timestamps<'a>(one: Timestamp, other: Timestamp) -> Outcome<'a> {
    i64::try_from(one.as_nanosecond() - other.as_nanosecond())
        .map(Value::Duration)
        .map_err(|_| EvalError::new("duration overflow"))
}

/// The time zone of a name or of an offset like `+01:00`.
fn zone(name: &str) -> Result<TimeZone, EvalError> {
    let unknown = || EvalError::new(format!("unknown time zone {name}"));
    if let Some((hours, minutes)) = name.split_once(':') {
        let negative = hours.starts_with('-');
        let hours: i32 = hours
            .trim_start_matches(['+', '-'])
            .parse()
            .map_err(|_| unknown())?;
        let minutes: i32 = minutes.parse().map_err(|_| unknown())?;
        let seconds = hours
            .checked_mul(3600)
            .and_then(|hours| hours.checked_add(minutes.checked_mul(60)?));
        let seconds = seconds.ok_or_else(unknown)?;
        let offset =
            Offset::from_seconds(if negative { -seconds } else { seconds }).map_err(|_| unknown())?;
        return Ok(TimeZone::fixed(offset));
    }
    if name.is_empty() || name == "UTC" {
        return Ok(TimeZone::UTC);
    }
    TimeZone::get(name).map_err(|_| unknown())
}

/// A part of an instant in a time zone (UTC by default).
fn part<'a>(args: &[Value<'a>], read: fn(&Zoned) -> i64) -> Outcome<'a> {
    let Some(Value::Timestamp(timestamp)) = args.first() else {
        return Err(EvalError::no_such_overload());
    };
    let zone = if args.len() > 1 {
        zone(text(args, 1)?)?
    } else {
        TimeZone::UTC
    };
    Ok(Value::Int(read(&timestamp.to_zoned(zone))))
}

/// The same of a duration, by its length in nanoseconds.
fn part_or_total<'a>(args: &[Value<'a>], read: fn(&Zoned) -> i64, unit: i64) -> Outcome<'a> {
    match args {
        [Value::Duration(nanoseconds)] => Ok(Value::Int(nanoseconds / unit)),
        _ => part(args, read),
    }
}

/// `t.getFullYear([tz])`
pub(super) fn get_full_year<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    part(args, |zoned| i64::from(zoned.year()))
}

/// `t.getMonth([tz])`, from zero
pub(super) fn get_month<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    part(args, |zoned| i64::from(zoned.month()) - 1)
}

/// `t.getDayOfYear([tz])`, from zero
pub(super) fn get_day_of_year<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    part(args, |zoned| i64::from(zoned.day_of_year()) - 1)
}

/// `t.getDate([tz])`, from one
pub(super) fn get_date<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    part(args, |zoned| i64::from(zoned.day()))
}

/// `t.getDayOfMonth([tz])`, from zero
pub(super) fn get_day_of_month<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    part(args, |zoned| i64::from(zoned.day()) - 1)
}

/// `t.getDayOfWeek([tz])`, from Sunday, which is zero
pub(super) fn get_day_of_week<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    part(args, |zoned| i64::from(zoned.weekday().to_sunday_zero_offset()))
}

/// `t.getHours([tz])`
pub(super) fn get_hours<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    part_or_total(args, |zoned| i64::from(zoned.hour()), 3600 * SECOND)
}

/// `t.getMinutes([tz])`
pub(super) fn get_minutes<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    part_or_total(args, |zoned| i64::from(zoned.minute()), 60 * SECOND)
}

/// `t.getSeconds([tz])`
pub(super) fn get_seconds<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    part_or_total(args, |zoned| i64::from(zoned.second()), SECOND)
}

/// `t.getMilliseconds([tz])`; of a duration only what is beyond its seconds.
pub(super) fn get_milliseconds<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    match args {
        [Value::Duration(nanoseconds)] => Ok(Value::Int(nanoseconds / 1_000_000 % 1000)),
        _ => part(args, |zoned| i64::from(zoned.subsec_nanosecond()) / 1_000_000),
    }
}
