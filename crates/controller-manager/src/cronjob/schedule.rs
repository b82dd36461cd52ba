//! Cron schedules: five fields, macros and `@every`, with the syntax of the library that upstream uses.
//!
//! A day matches if its day of month and its day of week match, or one of them if neither is a star. Hours that a
//! change of the clock skips are skipped; hours that it repeats come twice.

use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// How far ahead a time is looked for: a schedule like `0 0 30 2 *` never comes.
const HORIZON: SignedDuration = SignedDuration::from_hours(5 * 366 * 24);

const MONTHS: [&str; 12] = [
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// Why a schedule is not valid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Error {
    #[error("empty spec string")]
    Empty,
    #[error("expected exactly 5 fields, found {0}: {1:?}")]
    Fields(usize, Vec<String>),
    #[error("unrecognized descriptor: {0}")]
    Descriptor(String),
    #[error("failed to parse duration {0}")]
    Every(String),
    #[error("failed to parse int from {0}")]
    Number(String),
    #[error("{what} ({value}) {relation} {than} ({limit}): {text}")]
    Range {
        what: &'static str,
        value: u32,
        relation: &'static str,
        than: &'static str,
        limit: u32,
        text: String,
    },
    #[error("step of range should be a positive number: {0}")]
    Step(String),
    #[error("too many {0}: {1}")]
    TooMany(&'static str, String),
}

/// A field: a bit per value, and whether it was a star.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Field {
    bits: u64,
    star: bool,
}

impl Field {
    fn has(self, value: i8) -> bool {
        u32::try_from(value).is_ok_and(|value| self.bits & (1 << value) != 0)
    }
}

/// A schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Schedule {
    Fields(Box<Fields>),
    /// `@every`, in whole seconds.
    Every(Duration),
}

/// The five fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fields {
    minute: Field,
    hour: Field,
    day: Field,
    month: Field,
    weekday: Field,
}

impl Schedule {
    /// Reads a schedule.
    pub(super) fn parse(text: &str) -> Result<Self, Error> {
        let text = text.trim();
        let fields = match text {
            "" => return Err(Error::Empty),
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            _ => text,
        };
        if let Some(every) = fields.strip_prefix("@every ") {
            let duration: SignedDuration = every
                .trim()
                .parse()
                .map_err(|_| Error::Every(fields.to_owned()))?;
            let seconds = u64::try_from(duration.as_secs()).unwrap_or(0).max(1);
            return Ok(Self::Every(Duration::from_secs(seconds)));
        }
        if fields.starts_with('@') {
            return Err(Error::Descriptor(fields.to_owned()));
        }
        let parts: Vec<_> = fields.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = parts[..] else {
            return Err(Error::Fields(
                parts.len(),
                parts.into_iter().map(str::to_owned).collect(),
            ));
        };
        Ok(Self::Fields(Box::new(Fields {
            minute: field(minute, 0, 59, &[])?,
            hour: field(hour, 0, 23, &[])?,
            day: field(day, 1, 31, &[])?,
            month: field(month, 1, 12, &MONTHS)?,
            weekday: field(weekday, 0, 6, &DAYS)?,
        })))
    }

    /// The first time after `after`; `None` if there is none within five years.
    pub(super) fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Self::Every(period) => {
                let period = SignedDuration::try_from(*period).ok()?;
                Timestamp::from_second(after.as_second())
                    .ok()?
                    .checked_add(period)
                    .ok()
            }
            Self::Fields(fields) => fields.next(after, zone),
        }
    }

    /// The last time that is not after `now` but after `earliest`.
    pub(super) fn last(&self, earliest: Timestamp, now: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let mut back = SignedDuration::from_mins(1);
        let mut found = loop {
            let from = now
                .checked_sub(back)
                .ok()
                .filter(|from| *from > earliest)
                .unwrap_or(earliest);
            match self.next(from, zone).filter(|next| *next <= now) {
                Some(next) => break next,
                None if from == earliest => return None,
                None => back = back.saturating_mul(2),
            }
        };
        while let Some(next) = self.next(found, zone).filter(|next| *next <= now) {
            found = next;
        }
        Some(found)
    }
}

impl Fields {
    fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let horizon = after.checked_add(HORIZON).ok()?;
        let minute = 60;
        let mut at = Timestamp::from_second((after.as_second().div_euclid(minute) + 1) * minute).ok()?;
        while at <= horizon {
            let local = at.to_zoned(zone.clone());
            let next = if !self.month.has(local.month()) {
                local
                    .last_of_month()
                    .ok()?
                    .tomorrow()
                    .ok()?
                    .start_of_day()
                    .ok()?
                    .timestamp()
            } else if !self.day_matches(&local) {
                local.tomorrow().ok()?.start_of_day().ok()?.timestamp()
            } else if !self.hour.has(local.hour()) {
                let left = 60 - i64::from(local.minute());
                Timestamp::from_second(at.as_second() + left * minute).ok()?
            } else if !self.minute.has(local.minute()) {
                Timestamp::from_second(at.as_second() + minute).ok()?
            } else {
                return Some(at);
            };
            at = next;
        }
        None
    }

    fn day_matches(&self, local: &jiff::Zoned) -> bool {
        let day = self.day.has(local.day());
        let weekday = self.weekday.has(local.weekday().to_sunday_zero_offset());
        if self.day.star || self.weekday.star {
            day && weekday
        } else {
            day || weekday
        }
    }
}

fn field(text: &str, min: u32, max: u32, names: &[&str]) -> Result<Field, Error> {
    let mut field = Field { bits: 0, star: false };
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (bits, star) = range(part, min, max, names)?;
        field.bits |= bits;
        field.star |= star;
    }
    if field.bits == 0 {
        Err(Error::Number(text.to_owned()))
    } else {
        Ok(field)
    }
}

/// `*`, `a`, `a-b`, each with `/step`; `a/step` reaches to the end.
fn range(text: &str, min: u32, max: u32, names: &[&str]) -> Result<(u64, bool), Error> {
    let parts: Vec<_> = text.split('/').collect();
    let (span, step) = match parts[..] {
        [span] => (span, None),
        [span, step] => (span, Some(step)),
        _ => return Err(Error::TooMany("slashes", text.to_owned())),
    };
    let ends: Vec<_> = span.split('-').collect();
    let mut star = false;
    let (first, mut last) = match ends[..] {
        ["*" | "?"] => {
            star = true;
            (min, max)
        }
        [one] => {
            let one = number(one, min, names)?;
            (one, one)
        }
        [first, last] => (number(first, min, names)?, number(last, min, names)?),
        _ => return Err(Error::TooMany("hyphens", text.to_owned())),
    };
    let step = match step {
        None => 1,
        Some(step) => {
            let step = step.parse::<u32>().map_err(|_| Error::Number(step.to_owned()))?;
            if ends.len() == 1 {
                last = max;
            }
            if step > 1 {
                star = false;
            }
            step
        }
    };
    let error = |what, value, relation, than, limit| Error::Range {
        what,
        value,
        relation,
        than,
        limit,
        text: text.to_owned(),
    };
    if first < min {
        return Err(error("beginning of range", first, "below", "minimum", min));
    }
    if last > max {
        return Err(error("end of range", last, "above", "maximum", max));
    }
    if first > last {
        return Err(error("beginning of range", first, "beyond", "end of range", last));
    }
    if step == 0 {
        return Err(Error::Step(text.to_owned()));
    }
    let values = (first..=last).step_by(usize::try_from(step).unwrap_or(usize::MAX));
    Ok((values.fold(0, |bits, value| bits | 1 << value), star))
}

fn number(text: &str, min: u32, names: &[&str]) -> Result<u32, Error> {
    let lower = text.to_lowercase();
    if let Some(position) = names.iter().position(|name| *name == lower) {
        return Ok(min + u32::try_from(position).unwrap_or(0));
    }
    text.parse().map_err(|_| Error::Number(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone(name: &str) -> TimeZone {
        // A rule instead of a name: the tests do not depend on the machine's database.
        match name {
            "Berlin" => TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap(),
            _ => TimeZone::UTC,
        }
    }

    #[test]
    fn next_times() {
        let check = |schedule: &str, place: &str, after: &str, expected: Option<&str>| {
            let next = Schedule::parse(schedule)
                .unwrap()
                .next(after.parse().unwrap(), &zone(place));
            assert_eq!(
                next,
                expected.map(|text| text.parse().unwrap()),
                "{schedule} after {after}"
            );
        };
        check(
            "* * * * *",
            "",
            "2026-01-01T00:00:30Z",
            Some("2026-01-01T00:01:00Z"),
        );
        check(
            "*/15 * * * *",
            "",
            "2026-01-01T00:15:00Z",
            Some("2026-01-01T00:30:00Z"),
        );
        check(
            "5/20 * * * *",
            "",
            "2026-01-01T00:26:00Z",
            Some("2026-01-01T00:45:00Z"),
        );
        check(
            "0 12 * * mon-fri",
            "",
            "2026-01-02T12:00:00Z",
            Some("2026-01-05T12:00:00Z"),
        );
        check(
            "0 0 31 * *",
            "",
            "2026-01-31T00:00:00Z",
            Some("2026-03-31T00:00:00Z"),
        );
        check(
            "0 0 29 FEB ?",
            "",
            "2026-01-01T00:00:00Z",
            Some("2028-02-29T00:00:00Z"),
        );
        check("0 0 30 2 *", "", "2026-01-01T00:00:00Z", None);
        // Day of month or day of week: the 13th, and every Friday.
        check(
            "0 0 13 * 5",
            "",
            "2026-01-09T00:00:00Z",
            Some("2026-01-13T00:00:00Z"),
        );
        check(
            "0 0 13 * 5",
            "",
            "2026-01-13T00:00:00Z",
            Some("2026-01-16T00:00:00Z"),
        );
        check(
            "@hourly",
            "",
            "2026-01-01T00:00:00Z",
            Some("2026-01-01T01:00:00Z"),
        );
        check(
            "@yearly",
            "",
            "2026-01-01T00:00:00Z",
            Some("2027-01-01T00:00:00Z"),
        );
        check(
            "@every 1h30m",
            "",
            "2026-01-01T00:00:00.5Z",
            Some("2026-01-01T01:30:00Z"),
        );
        check(
            "30 8 * * *",
            "Berlin",
            "2026-01-01T00:00:00Z",
            Some("2026-01-01T07:30:00Z"),
        );
        check(
            "30 8 * * *",
            "Berlin",
            "2026-07-01T00:00:00Z",
            Some("2026-07-01T06:30:00Z"),
        );
        // 2:30 does not exist on the day that summer time begins, and comes twice on the day that it ends.
        check(
            "30 2 * * *",
            "Berlin",
            "2026-03-28T12:00:00Z",
            Some("2026-03-30T00:30:00Z"),
        );
        check(
            "30 2 * * *",
            "Berlin",
            "2026-10-25T00:30:00Z",
            Some("2026-10-25T01:30:00Z"),
        );
    }

    #[test]
    fn last_times() {
        let check = |schedule: &str, earliest: &str, now: &str, expected: Option<&str>| {
            let schedule = Schedule::parse(schedule).unwrap();
            let last = schedule.last(earliest.parse().unwrap(), now.parse().unwrap(), &TimeZone::UTC);
            assert_eq!(last, expected.map(|text| text.parse().unwrap()));
        };
        check(
            "0 * * * *",
            "2026-01-01T00:00:00Z",
            "2026-01-05T03:59:00Z",
            Some("2026-01-05T03:00:00Z"),
        );
        check("0 * * * *", "2026-01-01T00:00:00Z", "2026-01-01T00:59:59Z", None);
        check(
            "0 * * * *",
            "2026-01-01T00:00:00Z",
            "2026-01-01T01:00:00Z",
            Some("2026-01-01T01:00:00Z"),
        );
        check(
            "0 0 1 1 *",
            "2020-06-01T00:00:00Z",
            "2026-06-01T00:00:00Z",
            Some("2026-01-01T00:00:00Z"),
        );
    }

    #[test]
    fn bad_schedules() {
        let bad = [
            "",
            "* * * *",
            "* * * * * *",
            "60 * * * *",
            "* 24 * * *",
            "* * 0 * *",
            "* * * 13 *",
            "* * * * 7",
            "5-1 * * * *",
            "*/0 * * * *",
            "a * * * *",
            "1-2-3 * * * *",
            "1/2/3 * * * *",
            "@never",
            "@every x",
            "-1 * * * *",
        ];
        for schedule in bad {
            assert!(Schedule::parse(schedule).is_err(), "{schedule}");
        }
        let message = Schedule::parse("60 * * * *").unwrap_err().to_string();
        assert_eq!(message, "end of range (60) above maximum (59): 60");
    }
}
