//! One line of the table: a measured value with the values it is held to.

use std::time::Duration;

use serde::Serialize;

/// What a value counts. Values are kept in the unit named here and shown in a readable multiple of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Unit {
    /// Seconds.
    Seconds,
    /// Bytes.
    Bytes,
    /// Bytes per day.
    BytesPerDay,
    /// Parts of one processor core: 0.01 is 1 %.
    Cores,
    /// Operations per second; the only unit of which more is better.
    PerSecond,
}

impl Unit {
    /// `value` for people.
    pub(crate) fn show(self, value: f64) -> String {
        match self {
            Self::Seconds if value < 0.000_1 => format!("{:.0} µs", value * 1e6),
            Self::Seconds if value < 0.01 => format!("{:.1} ms", value * 1e3),
            Self::Seconds if value < 1.0 => format!("{:.0} ms", value * 1e3),
            Self::Seconds => format!("{value:.1} s"),
            Self::Bytes => bytes(value),
            Self::BytesPerDay => format!("{}/day", bytes(value)),
            Self::Cores => format!("{:.2} %", value * 100.0),
            Self::PerSecond if value < 100.0 => format!("{value:.1}/s"),
            Self::PerSecond => format!("{value:.0}/s"),
        }
    }

    /// Whether `value` is as good as `bound` or better.
    pub(crate) fn reaches(self, value: f64, bound: f64) -> bool {
        match self {
            Self::PerSecond => value >= bound,
            _ => value <= bound,
        }
    }
}

/// Decimal multiples, as the figures that are compared use them.
fn bytes(value: f64) -> String {
    match value {
        v if v >= 10e9 => format!("{:.0} GB", v / 1e9),
        v if v >= 1e9 => format!("{:.1} GB", v / 1e9),
        v if v >= 10e6 => format!("{:.0} MB", v / 1e6),
        v if v >= 1e6 => format!("{:.1} MB", v / 1e6),
        v => format!("{:.0} kB", v / 1e3),
    }
}

/// A peer's value, measured in the same run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Peer {
    /// Who and what, e.g. `containerd + runc: sandbox and container`.
    pub(crate) name: String,
    /// In the figure's unit.
    pub(crate) value: f64,
}

/// One line of the table.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Figure {
    /// What it is.
    pub(crate) name: String,
    /// What `value` and the bounds count.
    pub(crate) unit: Unit,
    /// Measured.
    pub(crate) value: f64,
    /// What upstream v1.36 reached on two cores, from the table that this one answers to.
    pub(crate) upstream: Option<f64>,
    /// Must be reached.
    pub(crate) must: Option<f64>,
    /// Is reached for.
    pub(crate) reach: Option<f64>,
    /// Measured in the same run.
    pub(crate) peers: Vec<Peer>,
    /// How often it was measured, and what else the reader must know.
    pub(crate) note: String,
}

impl Figure {
    /// A value that is held to nothing yet.
    pub(crate) fn new(name: impl Into<String>, unit: Unit, value: f64) -> Self {
        Self {
            name: name.into(),
            unit,
            value,
            upstream: None,
            must: None,
            reach: None,
            peers: Vec::new(),
            note: String::new(),
        }
    }

    /// Upstream's value, the one that must be reached, and the one that is reached for.
    pub(crate) fn bounds(mut self, upstream: f64, must: f64, reach: f64) -> Self {
        self.upstream = Some(upstream);
        self.must = Some(must);
        self.reach = Some(reach);
        self
    }

    /// Adds a peer.
    pub(crate) fn peer(mut self, name: impl Into<String>, value: f64) -> Self {
        let name = name.into();
        self.peers.push(Peer { name, value });
        self
    }

    /// Sets the note.
    pub(crate) fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }

    /// `reached`, `must` or `missed`; nothing when it is held to nothing.
    pub(crate) fn verdict(&self) -> &'static str {
        let reaches = |bound: Option<f64>| bound.is_some_and(|bound| self.unit.reaches(self.value, bound));
        match (reaches(self.reach), reaches(self.must), self.must) {
            (true, _, _) => "reached",
            (_, true, _) => "must",
            (_, _, Some(_)) => "MISSED",
            (_, _, None) => "",
        }
    }
}

/// The value below which `share` (0 to 1) of `samples` lie, by nearest rank; NaN without samples.
pub(crate) fn percentile(samples: &[Duration], share: f64) -> f64 {
    let values: Vec<f64> = samples.iter().map(Duration::as_secs_f64).collect();
    percentile_of(&values, share)
}

/// [`percentile`] of numbers.
pub(crate) fn percentile_of(samples: &[f64], share: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted
        .get(rank.clamp(1, sorted.len().max(1)) - 1)
        .copied()
        .unwrap_or(f64::NAN)
}

/// The median.
pub(crate) fn median(samples: &[f64]) -> f64 {
    percentile_of(samples, 0.5)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_rank() {
        let samples = [5.0, 1.0, 4.0, 2.0, 3.0];
        for (share, expected) in [(0.0, 1.0), (0.5, 3.0), (0.8, 4.0), (0.99, 5.0), (1.0, 5.0)] {
            assert_eq!(percentile_of(&samples, share), expected, "{share}");
        }
        assert!(percentile_of(&[], 0.5).is_nan());
    }

    #[test]
    fn verdicts_follow_the_direction_of_the_unit() {
        let check = |unit, value, must, reach, expected| {
            assert_eq!(
                Figure::new("x", unit, value).bounds(0.0, must, reach).verdict(),
                expected
            );
        };
        check(Unit::Seconds, 0.2, 1.0, 0.3, "reached");
        check(Unit::Seconds, 0.5, 1.0, 0.3, "must");
        check(Unit::Seconds, 1.5, 1.0, 0.3, "MISSED");
        check(Unit::PerSecond, 40.0, 20.0, 30.0, "reached");
        check(Unit::PerSecond, 10.0, 20.0, 30.0, "MISSED");
        assert_eq!(Figure::new("x", Unit::Bytes, 1.0).verdict(), "");
    }

    #[test]
    fn values_are_readable() {
        for (unit, value, expected) in [
            (Unit::Seconds, 0.000_05, "50 µs"),
            (Unit::Seconds, 0.0023, "2.3 ms"),
            (Unit::Seconds, 0.25, "250 ms"),
            (Unit::Seconds, 10.7, "10.7 s"),
            (Unit::Bytes, 120e6, "120 MB"),
            (Unit::BytesPerDay, 49e9, "49 GB/day"),
            (Unit::Cores, 0.003, "0.30 %"),
            (Unit::PerSecond, 12_000.0, "12000/s"),
        ] {
            assert_eq!(unit.show(value), expected);
        }
    }
}
