//! The last two points of nodes and containers, and the usage between them.

use std::collections::HashMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// Between two scrapes.
pub(crate) const RESOLUTION: Duration = Duration::from_secs(15);
/// A container younger than the resolution and older than this counts from its start.
const FRESH: SignedDuration = SignedDuration::from_secs(10);

/// What a kubelet said at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Point {
    /// When the container started; the epoch for nodes.
    pub(crate) start: Timestamp,
    /// When the point was taken.
    pub(crate) at: Timestamp,
    /// CPU time so far, in nanoseconds.
    pub(crate) cpu: u64,
    /// Working set in bytes.
    pub(crate) memory: u64,
}

/// Containers of a pod by name.
pub(crate) type PodPoints = HashMap<String, Point>;

/// Namespace and name.
pub(crate) type PodName = (String, String);

/// What one kubelet said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NodePoints {
    pub(crate) node: Option<Point>,
    pub(crate) pods: HashMap<PodName, PodPoints>,
}

/// Usage in a window of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Usage {
    /// CPU in billionths of a core.
    pub(crate) cpu: u64,
    /// Working set in bytes.
    pub(crate) memory: u64,
    /// End of the window.
    pub(crate) at: Timestamp,
    /// Its length.
    pub(crate) window: SignedDuration,
}

/// Usage of a pod's containers, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodUsage {
    pub(crate) containers: Vec<(String, Usage)>,
    pub(crate) at: Timestamp,
    pub(crate) window: SignedDuration,
}

/// Last and previous points.
#[derive(Debug, Default)]
pub(crate) struct Storage {
    nodes: Pair<String, Point>,
    pods: Pair<PodName, PodPoints>,
}

#[derive(Debug)]
struct Pair<K, V> {
    last: HashMap<K, V>,
    previous: HashMap<K, V>,
}

impl<K, V> Default for Pair<K, V> {
    fn default() -> Self {
        Self {
            last: HashMap::new(),
            previous: HashMap::new(),
        }
    }
}

impl Storage {
    /// Takes in what all kubelets said; what is not among it any more is forgotten.
    pub(crate) fn store(&mut self, batch: HashMap<String, NodePoints>) {
        let mut nodes = Pair::default();
        let mut pods: Pair<PodName, PodPoints> = Pair::default();
        for (name, points) in batch {
            if let Some(point) = points.node {
                let before = self.nodes.last.get(&name).filter(|last| point.at > last.at);
                if let Some(before) = before.or_else(|| self.nodes.previous.get(&name)) {
                    nodes.previous.insert(name.clone(), *before);
                }
                nodes.last.insert(name, point);
            }
            for (pod, containers) in points.pods {
                let previous = self.previous_of(&pod, &containers);
                if !previous.is_empty() {
                    pods.previous.insert(pod.clone(), previous);
                }
                pods.last.insert(pod, containers);
            }
        }
        self.nodes = nodes;
        self.pods = pods;
    }

    fn previous_of(&self, pod: &PodName, containers: &PodPoints) -> PodPoints {
        let known = |pair: &HashMap<PodName, PodPoints>, name: &str| pair.get(pod)?.get(name).copied();
        let mut previous = PodPoints::new();
        for (name, point) in containers {
            let last = known(&self.pods.last, name);
            let before = match last {
                // The same point again: what was before stays before.
                Some(last) if point.at <= last.at => known(&self.pods.previous, name),
                // Restarted: the rate across the restart means nothing.
                Some(last) if last.start < point.start => None,
                other => other,
            };
            let age = point.at.duration_since(point.start);
            let resolution = SignedDuration::try_from(RESOLUTION).unwrap_or(FRESH);
            let fresh = (age >= FRESH && age < resolution).then_some(Point {
                start: point.start,
                at: point.start,
                cpu: 0,
                memory: point.memory,
            });
            if let Some(before) = before.or(fresh) {
                previous.insert(name.clone(), before);
            }
        }
        previous
    }

    /// Usage of a node; `None` before there are two points.
    pub(crate) fn node(&self, name: &str) -> Option<Usage> {
        usage(self.nodes.last.get(name)?, self.nodes.previous.get(name)?)
    }

    /// Usage of a pod; `None` unless there are two points of every container.
    pub(crate) fn pod(&self, namespace: &str, name: &str) -> Option<PodUsage> {
        let key = (namespace.to_owned(), name.to_owned());
        let (last, previous) = (self.pods.last.get(&key)?, self.pods.previous.get(&key)?);
        let mut containers = Vec::with_capacity(last.len());
        for (name, point) in last {
            containers.push((name.clone(), usage(point, previous.get(name)?)?));
        }
        containers.sort_by(|a, b| a.0.cmp(&b.0));
        let earliest = containers.iter().map(|(_, u)| u).min_by_key(|u| u.at)?;
        Some(PodUsage {
            at: earliest.at,
            window: earliest.window,
            containers,
        })
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

fn usage(last: &Point, previous: &Point) -> Option<Usage> {
    if last.start < previous.start || last.cpu < previous.cpu {
        return None;
    }
    let window = last.at.duration_since(previous.at);
    let nanoseconds = u128::try_from(window.as_nanos()).ok().filter(|n| *n > 0)?;
    let cpu = u128::from(last.cpu - previous.cpu) * 1_000_000_000 / nanoseconds;
    Some(Usage {
        cpu: u64::try_from(cpu).ok()?,
        memory: last.memory,
        at: last.at,
        window,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(start: i64, at: i64, cpu_seconds: u64) -> Point {
        Point {
            start: Timestamp::from_second(start).unwrap(),
            at: Timestamp::from_second(at).unwrap(),
            cpu: cpu_seconds * 1_000_000_000,
            memory: 1024,
        }
    }

    /// Stores points of one container one after another; CPU in thousandths and the window in seconds at the end.
    fn check(points: &[Point], expected: Option<(u64, i64)>) {
        let mut storage = Storage::default();
        for point in points {
            let pod = ("ns".to_owned(), "p".to_owned());
            let containers = PodPoints::from([("c".to_owned(), *point)]);
            let node = NodePoints {
                node: Some(*point),
                pods: HashMap::from([(pod, containers)]),
            };
            storage.store(HashMap::from([("n".to_owned(), node)]));
        }
        let got = storage
            .pod("ns", "p")
            .map(|p| (p.containers[0].1.cpu / 1_000_000, p.window.as_secs()));
        assert_eq!(got, expected, "{points:?}");
    }

    #[test]
    fn rates_between_two_points() {
        check(&[point(0, 1000, 5)], None);
        check(&[point(0, 1000, 5), point(0, 1010, 10)], Some((500, 10)));
        // The same point twice is one point.
        check(&[point(0, 1000, 5), point(0, 1000, 5)], None);
        check(
            &[point(0, 1000, 5), point(0, 1010, 10), point(0, 1010, 10)],
            Some((500, 10)),
        );
        check(
            &[point(0, 1000, 5), point(0, 1010, 10), point(0, 1020, 11)],
            Some((100, 10)),
        );
        // Restarted, and then known again.
        check(&[point(0, 1000, 5), point(1005, 1010, 1)], None);
        check(
            &[point(0, 1000, 5), point(1005, 1010, 1), point(1005, 1020, 6)],
            Some((500, 10)),
        );
        // Young, and old enough to count from its start.
        check(&[point(1000, 1012, 6)], Some((500, 12)));
        check(&[point(1000, 1005, 6)], None);
        // A counter that went backwards.
        check(&[point(0, 1000, 5), point(0, 1010, 4)], None);
    }

    #[test]
    fn what_is_gone_is_forgotten() {
        let mut storage = Storage::default();
        let node = |at, cpu| NodePoints {
            node: Some(point(0, at, cpu)),
            ..NodePoints::default()
        };
        storage.store(HashMap::from([
            ("a".to_owned(), node(10, 1)),
            ("b".to_owned(), node(10, 1)),
        ]));
        storage.store(HashMap::from([("a".to_owned(), node(20, 2))]));
        assert_eq!(storage.node("a").map(|u| u.cpu), Some(100_000_000));
        assert_eq!(storage.node("b"), None);
        storage.clear();
        assert_eq!(storage.node("a"), None);
    }
}
