//! Prometheus' text format, version 0.0.4.

use std::fmt::{Display, Write};
use std::time::Duration;

/// Text that grows family by family.
#[derive(Debug, Default)]
pub(crate) struct Exposition {
    text: String,
}

/// Label values may hold anything; backslash, quote and newline are written with a backslash.
fn escape(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

impl Exposition {
    /// Begins a family; `help` starts with the stability level where upstream has one.
    pub(crate) fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.push(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    /// A sample without a time.
    pub(crate) fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.sample_at(name, labels, value, 0);
    }

    /// A sample of the time `at`, in nanoseconds since the epoch; 0 is no time.
    pub(crate) fn sample_at(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display, at: i64) {
        self.text.push_str(name);
        for (index, (key, value)) in labels.iter().enumerate() {
            let before = if index == 0 { "{" } else { "," };
            self.push(format_args!("{before}{key}=\"{}\"", escape(value)));
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        self.push(format_args!(" {value}"));
        if at != 0 {
            self.push(format_args!(" {}", at / 1_000_000));
        }
        self.text.push('\n');
    }

    fn push(&mut self, arguments: std::fmt::Arguments<'_>) {
        self.text
            .write_fmt(arguments)
            .expect("invariant: writing to a String does not fail");
    }

    /// The whole text.
    pub(crate) fn finish(self) -> String {
        self.text
    }
}

/// Seconds with nanoseconds, exactly.
pub(super) fn seconds(nanoseconds: u64) -> String {
    format!(
        "{}.{:09}",
        nanoseconds / 1_000_000_000,
        nanoseconds % 1_000_000_000
    )
}

/// Upper bounds of the buckets in milliseconds: the default ones of Prometheus' clients.
const BOUNDS: [u64; 11] = [5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000];

/// Durations in the default buckets.
#[derive(Clone, Debug, Default)]
pub(crate) struct Histogram {
    buckets: [u64; BOUNDS.len()],
    count: u64,
    sum: Duration,
}

impl Histogram {
    /// Counts one duration.
    pub(crate) fn observe(&mut self, duration: Duration) {
        for (bucket, bound) in self.buckets.iter_mut().zip(BOUNDS) {
            *bucket += u64::from(duration <= Duration::from_millis(bound));
        }
        self.count += 1;
        self.sum += duration;
    }

    /// Writes the samples of the family `name`.
    pub(crate) fn write(&self, out: &mut Exposition, name: &str, labels: &[(&str, &str)]) {
        let bucket = format!("{name}_bucket");
        let bounds = BOUNDS.map(|bound| Duration::from_millis(bound).as_secs_f64().to_string());
        let all = bounds.iter().map(String::as_str).zip(self.buckets);
        for (bound, count) in all.chain([("+Inf", self.count)]) {
            let labels: Vec<(&str, &str)> = labels.iter().copied().chain([("le", bound)]).collect();
            out.sample(&bucket, &labels, count);
        }
        out.sample(&format!("{name}_sum"), labels, self.sum.as_secs_f64());
        out.sample(&format!("{name}_count"), labels, self.count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_what_prometheus_reads() {
        let mut out = Exposition::default();
        out.family("a_total", "counter", "Help.");
        out.sample("a_total", &[], 3);
        out.sample_at(
            "a_total",
            &[("x", "q\"\\\n"), ("y", "")],
            seconds(1_500_000_000),
            2_000_000,
        );
        let mut histogram = Histogram::default();
        histogram.observe(Duration::from_millis(7));
        histogram.observe(Duration::from_secs(60));
        histogram.write(&mut out, "b", &[("x", "1")]);
        let text = out.finish();
        let expected = "# HELP a_total Help.\n# TYPE a_total counter\na_total 3\n\
                        a_total{x=\"q\\\"\\\\\\n\",y=\"\"} 1.500000000 2\n\
                        b_bucket{x=\"1\",le=\"0.005\"} 0\nb_bucket{x=\"1\",le=\"0.01\"} 1\n";
        assert!(text.starts_with(expected), "{text}");
        let end = "b_bucket{x=\"1\",le=\"10\"} 1\nb_bucket{x=\"1\",le=\"+Inf\"} 2\nb_sum{x=\"1\"} 60.007\nb_count{x=\"1\"} 2\n";
        assert!(text.ends_with(end), "{text}");
    }
}
