//! Tables: a world, a pod, and where it fits or why nowhere.

mod filters;
mod preemption;
mod scores;
mod topology;
mod volumes;

use serde_json::{Value, json};

use crate::testing::World;

/// What preemption says when no node could be helped by it.
fn hopeless(nodes: usize) -> String {
    format!(
        "no new claims to deallocate, preemption: 0/{nodes} nodes are available: {nodes} Preemption is not helpful for \
         scheduling."
    )
}

/// What preemption says when all nodes could be helped, but have nobody of lower priority.
fn no_victims(nodes: usize) -> String {
    format!(
        "no new claims to deallocate, preemption: 0/{nodes} nodes are available: {nodes} No preemption victims found for \
         incoming pod."
    )
}

/// Checks the feasible nodes, or the message.
#[track_caller]
fn check(what: &str, world: &[Value], pod: Value, expected: Result<&[&str], String>) {
    let found = World::new(world).feasible(pod);
    let expected = expected.map(|names| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
    assert_eq!(found, expected, "{what}");
}

/// A node with changes merged in.
fn with(mut node: Value, patch: Value) -> Value {
    merge(&mut node, patch);
    node
}

fn merge(target: &mut Value, patch: Value) {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => {
            for (key, value) in patch {
                merge(target.entry(key).or_insert(json!(null)), value);
            }
        }
        (target, patch) => *target = patch,
    }
}
