//! ImageLocality: nodes that have the pod's images already are better, the more so the larger and the wider spread they are.

use std::sync::Arc;

use crate::cache::{NodeInfo, PodInfo, Snapshot};
use crate::framework::{CycleState, Framework, MAX_NODE_SCORE, Plugin, ScorePlugin};

const MIB: i64 = 1024 * 1024;
/// Sums of image sizes below this count as nothing.
const MIN_THRESHOLD: i64 = 23 * MIB;
/// Sums of image sizes beyond this, per container, count no more.
const MAX_CONTAINER_THRESHOLD: i64 = 1000 * MIB;

struct ImageLocality;

pub(super) fn register(framework: &mut Framework, weight: i64) {
    framework.score(&Arc::new(ImageLocality), weight);
}

impl Plugin for ImageLocality {
    fn name(&self) -> &'static str {
        "ImageLocality"
    }
}

/// The name as the kubelet reports it: with a tag.
fn normalized(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains(':') || last.contains('@') {
        image.to_owned()
    } else {
        format!("{image}:latest")
    }
}

impl ScorePlugin for ImageLocality {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "a score, as upstream computes it"
    )]
    fn score(&self, _state: &CycleState, pod: &PodInfo, node: &NodeInfo, snapshot: &Snapshot) -> i64 {
        let Some(spec) = pod.spec() else { return 0 };
        if node.images.is_empty() {
            return 0;
        }
        let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
        let (mut sum, mut count) = (0, 0);
        for container in containers {
            count += 1;
            let image = normalized(container.image.as_deref().unwrap_or_default());
            if let Some(size) = node.images.get(&image) {
                let spread = snapshot.image_nodes.get(&image).copied().unwrap_or_default();
                sum += (*size as f64 * (spread as f64 / snapshot.len().max(1) as f64)) as i64;
            }
        }
        let most = MAX_CONTAINER_THRESHOLD * count;
        MAX_NODE_SCORE * (sum.clamp(MIN_THRESHOLD, most.max(MIN_THRESHOLD)) - MIN_THRESHOLD)
            / (most - MIN_THRESHOLD).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::normalized;

    #[test]
    fn images_without_a_tag_are_latest() {
        for (image, expected) in [
            ("nginx", "nginx:latest"),
            ("nginx:1", "nginx:1"),
            ("host:5000/nginx", "host:5000/nginx:latest"),
            ("host:5000/nginx@sha256:ab", "host:5000/nginx@sha256:ab"),
        ] {
            assert_eq!(normalized(image), expected);
        }
    }
}
