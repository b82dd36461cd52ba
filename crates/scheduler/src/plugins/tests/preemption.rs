//! Who has to go.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::framework::CycleState;
use crate::plugins::preemption_candidates::{Candidate, select_candidate};
use crate::schedule_one::{Algorithm, ScheduleError};
use crate::testing::{World, node, pod, requesting};

/// The node that is nominated for a pod that fits nowhere.
fn nominated(world: &[Value], incoming: Value) -> String {
    let world = World::new(world);
    let incoming = pod(incoming);
    let mut state = CycleState::default();
    let found = Algorithm::new(100).find_feasible(&world.framework, &world.snapshot, &mut state, &incoming);
    let Err(ScheduleError::Fit(error, state)) = found else {
        panic!("it fits somewhere")
    };
    let (result, _) = world
        .framework
        .run_post_filter(&state, &incoming, &world.snapshot, &error.diagnosis);
    result.map(|result| result.nominated_node).unwrap_or_default()
}

fn cpu(name: &str, node: &str, priority: i32, amount: &str) -> Value {
    requesting(name, node, priority, json!({"cpu": amount}))
}

#[tokio::test]
async fn the_cheapest_node_is_chosen() {
    let two = || vec![node("a", ""), node("b", "")];
    let new = || cpu("new", "", 100, "3");
    for (what, pods, expected) in [
        (
            "lower priority",
            vec![cpu("p", "a", 50, "4"), cpu("q", "b", 10, "4")],
            "b",
        ),
        (
            "fewer pods",
            vec![
                cpu("p", "a", 10, "2"),
                cpu("q", "a", 10, "2"),
                cpu("r", "b", 10, "4"),
            ],
            "b",
        ),
        (
            "only where it helps",
            vec![
                cpu("p", "a", 10, "4"),
                cpu("q", "b", 100, "2"),
                cpu("r", "b", 1, "2"),
            ],
            "a",
        ),
        (
            "nobody is lower",
            vec![cpu("p", "a", 100, "4"), cpu("q", "b", 200, "4")],
            "",
        ),
    ] {
        assert_eq!(nominated(&[two(), pods].concat(), new()), expected, "{what}");
    }
}

#[tokio::test]
async fn budgets_are_respected_where_there_is_a_choice() {
    let guarded = |name: &str, node: &str| {
        let mut pod = cpu(name, node, 10, "4");
        pod["metadata"]["labels"] = json!({"app": "guarded"});
        pod
    };
    let budget = json!({"kind": "PodDisruptionBudget", "metadata": {"name": "b", "namespace": "default"},
        "spec": {"selector": {"matchLabels": {"app": "guarded"}}},
        "status": {"disruptionsAllowed": 0, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1}});
    let world = [
        node("a", ""),
        node("b", ""),
        guarded("g", "a"),
        cpu("free", "b", 20, "4"),
        budget.clone(),
    ];
    assert_eq!(
        nominated(&world, cpu("new", "", 100, "3")),
        "b",
        "although its pod is more important"
    );
    let world = [node("a", ""), guarded("g", "a"), budget];
    assert_eq!(
        nominated(&world, cpu("new", "", 100, "3")),
        "a",
        "without a choice the budget gives way"
    );
}

#[tokio::test]
async fn policies_and_unresolvable_reasons_stop_it() {
    let mut never = cpu("new", "", 100, "3");
    never["spec"]["preemptionPolicy"] = json!("Never");
    let world = [node("a", ""), cpu("p", "a", 1, "4")];
    let message = World::new(&world).feasible(never).unwrap_err();
    let expected = "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: not eligible due \
        to preemptionPolicy=Never.";
    assert_eq!(message, expected);
    let mut elsewhere = cpu("new", "", 100, "3");
    elsewhere["spec"]["nodeSelector"] = json!({"no": "where"});
    assert_eq!(nominated(&world, elsewhere), "");
}

#[tokio::test]
async fn anti_affinity_is_resolved_by_removing_who_is_in_the_way() {
    let mut hermit = cpu("hermit", "a", 1, "1");
    hermit["spec"]["affinity"] = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "new"}}}]}});
    let mut new = cpu("new", "", 100, "1");
    new["metadata"]["labels"] = json!({"app": "new"});
    assert_eq!(nominated(&[node("a", ""), hermit], new), "a");
}

#[tokio::test]
async fn a_nominated_pod_keeps_its_place_against_lower_ones() {
    let world = World::new(&[node("a", "")]);
    let waiting = pod(cpu("waiting", "", 100, "3"));
    world.framework.nominator.add(&waiting, "a");
    let message = world.feasible(cpu("low", "", 10, "2")).unwrap_err();
    assert!(
        message.starts_with("0/1 nodes are available: 1 Insufficient cpu."),
        "{message}"
    );
    assert_eq!(
        world.feasible(cpu("higher", "", 200, "2")),
        Ok(vec!["a".to_owned()])
    );
    world.framework.nominator.remove(&waiting.uid);
    assert_eq!(world.feasible(cpu("low", "", 10, "2")), Ok(vec!["a".to_owned()]));
}

#[test]
fn later_starts_are_cheaper() {
    let candidate = |node: &str, start: &str| {
        let mut victim = cpu(node, node, 1, "1");
        victim["status"] = json!({"startTime": start});
        Candidate {
            node: Arc::from(node),
            victims: vec![pod(victim)],
            violations: 0,
        }
    };
    let early = candidate("early", "2026-01-01T00:00:00Z");
    let late = candidate("late", "2026-01-02T00:00:00Z");
    assert_eq!(&*select_candidate(vec![early, late]).node, "late");
}
