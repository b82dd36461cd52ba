//! A kubelet's `/metrics/resource`: the Prometheus text format, as far as kubelets use it.

use std::collections::HashMap;

use jiff::Timestamp;

use crate::storage::{NodePoints, Point};

/// Parts of a point, until all lines were read.
#[derive(Default)]
struct Parts {
    start: Option<Timestamp>,
    at: Option<Timestamp>,
    cpu: Option<u64>,
    memory: Option<u64>,
}

impl Parts {
    fn point(&self, start: Option<Timestamp>) -> Option<Point> {
        Some(Point {
            start: self.start.or(start)?,
            at: self.at?,
            cpu: self.cpu?,
            memory: self.memory?,
        })
    }
}

/// Reads the text; lines that are of no interest or no metrics are passed over. Points without a time of their own are of
/// `now`.
pub(crate) fn parse(text: &str, now: Timestamp) -> NodePoints {
    let mut node = Parts::default();
    let mut containers: HashMap<[String; 3], Parts> = HashMap::new();
    for line in text.lines() {
        let Some(sample) = Sample::parse(line) else {
            continue;
        };
        let at = sample.at.unwrap_or(now);
        if let Some(name) = sample.name.strip_prefix("node_") {
            set(&mut node, name, &sample, at);
        } else if let Some(name) = sample.name.strip_prefix("container_") {
            let label = |wanted: &str| {
                let found = sample.labels.iter().find(|(name, _)| name == wanted);
                found.map(|(_, value)| value.clone()).unwrap_or_default()
            };
            let key = [label("namespace"), label("pod"), label("container")];
            set(containers.entry(key).or_default(), name, &sample, at);
        }
    }
    let mut points = NodePoints {
        node: node.point(Some(Timestamp::UNIX_EPOCH)),
        ..NodePoints::default()
    };
    for ([namespace, pod, container], parts) in containers {
        if let Some(point) = parts.point(Some(Timestamp::UNIX_EPOCH)) {
            points
                .pods
                .entry((namespace, pod))
                .or_default()
                .insert(container, point);
        }
    }
    points
}

fn set(parts: &mut Parts, name: &str, sample: &Sample<'_>, at: Timestamp) {
    match name {
        "cpu_usage_seconds_total" => {
            parts.cpu = nanoseconds(sample.value);
            parts.at = Some(at);
        }
        "memory_working_set_bytes" => parts.memory = whole(sample.value),
        "start_time_seconds" => {
            parts.start =
                nanoseconds(sample.value).and_then(|n| Timestamp::from_nanosecond(i128::from(n)).ok());
        }
        _ => {}
    }
}

/// Seconds as nanoseconds; decimal fractions exactly, everything else as a float.
fn nanoseconds(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
    if !whole.is_empty() && digits(whole) && digits(fraction) {
        let mut nine = fraction.to_owned();
        nine.truncate(9);
        let scale = 10u64.pow(u32::try_from(9 - nine.len()).ok()?);
        let fraction = if nine.is_empty() {
            0
        } else {
            nine.parse::<u64>().ok()? * scale
        };
        return whole
            .parse::<u64>()
            .ok()?
            .checked_mul(1_000_000_000)?
            .checked_add(fraction);
    }
    let seconds: f64 = text.parse().ok()?;
    let duration = std::time::Duration::try_from_secs_f64(seconds).ok()?;
    u64::try_from(duration.as_nanos()).ok()
}

/// A whole number, also as `1.5e+06`.
fn whole(text: &str) -> Option<u64> {
    if let Ok(number) = text.parse() {
        return Some(number);
    }
    let seconds: f64 = text.parse().ok()?;
    Some(std::time::Duration::try_from_secs_f64(seconds).ok()?.as_secs())
}

struct Sample<'a> {
    name: &'a str,
    labels: Vec<(String, String)>,
    value: &'a str,
    at: Option<Timestamp>,
}

impl<'a> Sample<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            return None;
        }
        let end = line.find(['{', ' '])?;
        let name = &line[..end];
        let (labels, rest) = if line[end..].starts_with('{') {
            labels(&line[end + 1..])?
        } else {
            (Vec::new(), &line[end..])
        };
        let mut words = rest.split_whitespace();
        let value = words.next()?;
        let at = words
            .next()
            .and_then(|ms| ms.parse().ok())
            .and_then(|ms| Timestamp::from_millisecond(ms).ok());
        Some(Self {
            name,
            labels,
            value,
            at,
        })
    }
}

/// Labels up to `}`, and what follows.
fn labels(mut rest: &str) -> Option<(Vec<(String, String)>, &str)> {
    let mut found = Vec::new();
    loop {
        rest = rest.trim_start_matches([',', ' ']);
        if let Some(after) = rest.strip_prefix('}') {
            return Some((found, after));
        }
        let (name, value) = rest.split_once("=\"")?;
        let mut text = String::new();
        let mut characters = value.char_indices();
        let end = loop {
            match characters.next()? {
                (at, '"') => break at,
                (_, '\\') => match characters.next()?.1 {
                    'n' => text.push('\n'),
                    other => text.push(other),
                },
                (_, other) => text.push(other),
            }
        };
        found.push((name.trim().to_owned(), text));
        rest = &value[end + 1..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubelets_text() {
        let text = r#"# HELP container_cpu_usage_seconds_total [STABLE] x
# TYPE container_cpu_usage_seconds_total counter
container_cpu_usage_seconds_total{container="c",namespace="ns",pod="p"} 4.710169 1633253812125
container_memory_working_set_bytes{container="c",namespace="ns",pod="p"} 1.253376e+06 1633253812125
container_start_time_seconds{container="c",namespace="ns",pod="p"} 1.633252e+09 1633253812125
container_cpu_usage_seconds_total{container="half",namespace="ns",pod="p"} 1
node_cpu_usage_seconds_total 357.35491 1633253809720
node_memory_working_set_bytes 1.616273408e+09 1633253809720
pod_cpu_usage_seconds_total{namespace="ns",pod="p"} 9
scrape_error 0
odd{a="q\"uo,te}",b="x"} 1
no_value
"#;
        let points = parse(text, Timestamp::UNIX_EPOCH);
        let node = points.node.unwrap();
        assert_eq!((node.cpu, node.memory), (357_354_910_000, 1_616_273_408));
        assert_eq!(node.at.as_millisecond(), 1_633_253_809_720);
        assert_eq!(points.pods.len(), 1);
        let pod = &points.pods[&("ns".to_owned(), "p".to_owned())];
        assert_eq!(pod.len(), 1, "a container without memory is incomplete");
        let container = pod["c"];
        assert_eq!((container.cpu, container.memory), (4_710_169_000, 1_253_376));
        assert_eq!(container.start.as_second(), 1_633_252_000);
    }

    #[test]
    fn numbers() {
        for (text, expected) in [
            ("4.710169", Some(4_710_169_000)),
            ("3", Some(3_000_000_000)),
            ("0.0000000019", Some(1)),
            ("1e-3", Some(1_000_000)),
            ("-1", None),
            ("NaN", None),
            ("x", None),
        ] {
            assert_eq!(nanoseconds(text), expected, "{text}");
        }
    }
}
