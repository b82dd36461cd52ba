//! The decisions as tables: a pod, what the runtime has, and what comes next.

use serde_json::{Value, json};

use super::super::runtime_status::Sandbox;
use super::*;

#[derive(Default)]
struct Probes {
    unhealthy: Vec<&'static str>,
    started: Vec<&'static str>,
    not_started: Vec<&'static str>,
}

impl ProbeResults for Probes {
    fn liveness(&self, id: &str) -> Verdict {
        if self.unhealthy.contains(&id) {
            Verdict::Failure
        } else {
            Verdict::Unknown
        }
    }

    fn startup(&self, id: &str) -> Verdict {
        match id {
            id if self.started.contains(&id) => Verdict::Success,
            id if self.not_started.contains(&id) => Verdict::Failure,
            _ => Verdict::Unknown,
        }
    }
}

fn pod(spec: Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec}))
        .unwrap()
}

fn sandbox(attempt: u32, ready: bool) -> Sandbox {
    Sandbox {
        id: format!("s{attempt}"),
        ready,
        created_at: i64::from(attempt),
        attempt,
        host_network: false,
        ips: vec!["10.0.0.1".into()],
    }
}

/// `name:state[:code]`, with ID `<name>-id` in sandbox s0.
fn record(pod: &Pod, text: &str) -> ContainerRecord {
    let mut parts = text.split(':');
    let name = parts.next().unwrap().to_owned();
    let state = match parts.next().unwrap() {
        "created" => State::Created,
        "running" => State::Running,
        "exited" => State::Exited,
        _ => State::Unknown,
    };
    let container = spec::container(pod, &name).unwrap();
    ContainerRecord {
        id: format!("{name}-id"),
        hash: spec::container_hash(&container),
        name,
        sandbox_id: "s0".into(),
        state,
        created_at: 1,
        started_at: 1,
        finished_at: 2,
        exit_code: parts.next().map_or(0, |code| code.parse().unwrap()),
        reason: String::new(),
        message: String::new(),
        image: String::new(),
        image_id: String::new(),
        restart_count: 0,
        log_path: String::new(),
        grace_period: None,
        user: None,
        stop_signal: 0,
    }
}

/// A short form of actions: `kill sandbox:1 init:0 start:0,1 end:c eph:0`.
fn show(actions: &PodActions) -> String {
    let list = |list: &[usize]| list.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
    let mut parts = Vec::new();
    if actions.kill_pod {
        parts.push("kill".to_owned());
    }
    if actions.create_sandbox {
        parts.push(format!("sandbox:{}", actions.attempt));
    }
    for (name, indexes) in [
        ("init", &actions.init_to_start),
        ("start", &actions.containers_to_start),
        ("eph", &actions.ephemeral_to_start),
    ] {
        if !indexes.is_empty() {
            parts.push(format!("{name}:{}", list(indexes)));
        }
    }
    if !actions.to_kill.is_empty() {
        let names: Vec<&str> = actions.to_kill.iter().map(|kill| kill.name.as_str()).collect();
        parts.push(format!("end:{}", names.join(",")));
    }
    parts.join(" ")
}

fn check(spec: Value, sandboxes: &[Sandbox], records: &[&str], probes: &Probes, expected: &str) {
    let pod = pod(spec.clone());
    let runtime = PodRuntimeStatus {
        sandboxes: sandboxes.to_vec(),
        containers: records.iter().map(|text| record(&pod, text)).collect(),
        ..PodRuntimeStatus::default()
    };
    let actions = compute_pod_actions(&pod, &runtime, probes, &OfContainers::new());
    assert_eq!(show(&actions), expected, "{spec} with {records:?}");
}

#[test]
fn main_containers() {
    let spec = |policy: &str| json!({"restartPolicy": policy, "containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "i"}]});
    let (ready, none) = ([sandbox(0, true)], Probes::default());
    for (policy, records, expected) in [
        ("Always", vec![], "start:0,1"),
        ("Always", vec!["a:running", "b:running"], ""),
        ("Always", vec!["a:running", "b:exited:0"], "start:1"),
        ("Always", vec!["a:running", "b:created"], "start:1"),
        ("OnFailure", vec!["a:running", "b:exited:0"], ""),
        ("OnFailure", vec!["a:exited:1", "b:exited:0"], "start:0"),
        ("OnFailure", vec!["a:exited:0", "b:exited:0"], "kill"),
        ("Never", vec!["a:running", "b:exited:1"], ""),
        ("Never", vec!["a:exited:1", "b:exited:1"], "kill"),
        ("Always", vec!["a:running", "b:unknown"], "start:1 end:b"),
        ("Never", vec!["a:running", "b:unknown"], ""),
    ] {
        check(spec(policy), &ready, &records, &none, expected);
    }
}

#[test]
fn sandboxes() {
    let spec = |policy: &str| json!({"restartPolicy": policy, "containers": [{"name": "a", "image": "i"}]});
    let none = Probes::default();
    for (policy, sandboxes, records, expected) in [
        ("Always", vec![], vec![], "kill sandbox:0 start:0"),
        (
            "Always",
            vec![sandbox(0, false)],
            vec!["a:exited:1"],
            "kill sandbox:1 start:0",
        ),
        ("Never", vec![sandbox(0, false)], vec!["a:exited:1"], "kill"),
        ("OnFailure", vec![sandbox(0, false)], vec!["a:exited:0"], "kill"),
        (
            "OnFailure",
            vec![sandbox(0, false)],
            vec!["a:exited:2"],
            "kill sandbox:1 start:0",
        ),
        (
            "Always",
            vec![sandbox(1, true), sandbox(0, true)],
            vec!["a:running"],
            "kill sandbox:2 start:0",
        ),
        (
            "Always",
            vec![sandbox(1, true), sandbox(0, false)],
            vec!["a:running"],
            "",
        ),
    ] {
        check(spec(policy), &sandboxes, &records, &none, expected);
    }
    let mut bare = sandbox(0, true);
    bare.ips.clear();
    check(
        spec("Always"),
        &[bare],
        &["a:running"],
        &none,
        "kill sandbox:1 start:0",
    );
}

#[test]
fn init_containers_run_one_after_the_other() {
    let spec = |policy: &str| {
        json!({"restartPolicy": policy, "initContainers": [{"name": "i0", "image": "i"}, {"name": "i1", "image": "i"}],
            "containers": [{"name": "a", "image": "i"}]})
    };
    let (ready, none) = ([sandbox(0, true)], Probes::default());
    for (policy, records, expected) in [
        ("Always", vec![], "init:0"),
        ("Always", vec!["i0:running"], ""),
        ("Always", vec!["i0:exited:0"], "init:1"),
        ("Always", vec!["i0:exited:1"], "init:0"),
        ("Never", vec!["i0:exited:1"], "kill"),
        ("OnFailure", vec!["i0:exited:0", "i1:exited:1"], "init:1"),
        ("Always", vec!["i0:exited:0", "i1:exited:0"], "start:0"),
        // Once a main container exists, removed init containers do not run again.
        ("Always", vec!["a:running"], ""),
        ("Always", vec!["i1:exited:0", "a:exited:1"], "start:0"),
    ] {
        check(spec(policy), &ready, &records, &none, expected);
    }
    check(spec("Always"), &[], &[], &none, "kill sandbox:0 init:0");
    // Those of the old sandbox do not count in the new one.
    let pod = pod(spec("Always"));
    let runtime = PodRuntimeStatus {
        sandboxes: vec![sandbox(1, true), sandbox(0, false)],
        containers: vec![
            record(&pod, "i0:exited:0"),
            record(&pod, "i1:exited:0"),
            record(&pod, "a:exited:1"),
        ],
        ..PodRuntimeStatus::default()
    };
    assert_eq!(
        show(&compute_pod_actions(&pod, &runtime, &none, &OfContainers::new())),
        "init:0"
    );
}

#[test]
fn sidecars_are_kept_running_beside_what_comes_after_them() {
    let spec = |policy: &str| {
        json!({"restartPolicy": policy,
            "initContainers": [{"name": "s", "image": "i", "restartPolicy": "Always", "startupProbe": {"exec": {}}}, {"name": "i1", "image": "i"}],
            "containers": [{"name": "a", "image": "i"}]})
    };
    let ready = [sandbox(0, true)];
    let started = || Probes {
        started: vec!["s-id"],
        ..Probes::default()
    };
    for (policy, records, probes, expected) in [
        ("Always", vec!["s:running"], Probes::default(), ""),
        ("Always", vec!["s:running"], started(), "init:1"),
        ("Always", vec!["s:running", "i1:running"], started(), ""),
        ("Always", vec!["s:exited:0", "i1:running"], started(), "init:0"),
        ("Always", vec!["s:running", "i1:exited:0"], started(), "start:0"),
        (
            "Never",
            vec!["s:exited:1", "i1:exited:0", "a:running"],
            started(),
            "init:0",
        ),
        // The pod is over when its main containers are.
        (
            "Never",
            vec!["s:running", "i1:exited:0", "a:exited:0"],
            started(),
            "kill",
        ),
        (
            "Never",
            vec!["s:exited:1", "i1:exited:0", "a:exited:0"],
            started(),
            "kill",
        ),
        (
            "Always",
            vec!["s:running"],
            Probes {
                not_started: vec!["s-id"],
                ..Probes::default()
            },
            "init:0 end:s",
        ),
    ] {
        check(spec(policy), &ready, &records, &probes, expected);
    }
}

#[test]
fn probes_and_changes_end_containers() {
    let spec = |policy: &str| json!({"restartPolicy": policy, "containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "i"}]});
    let ready = [sandbox(0, true)];
    let sick = || Probes {
        unhealthy: vec!["a-id"],
        ..Probes::default()
    };
    check(
        spec("Always"),
        &ready,
        &["a:running", "b:running"],
        &sick(),
        "start:0 end:a",
    );
    check(
        spec("OnFailure"),
        &ready,
        &["a:running", "b:running"],
        &sick(),
        "start:0 end:a",
    );
    check(
        spec("Never"),
        &ready,
        &["a:running", "b:running"],
        &sick(),
        "end:a",
    );
    let pod = pod(spec("Always"));
    let mut changed = record(&pod, "a:running");
    changed.hash = "other".into();
    let runtime = PodRuntimeStatus {
        sandboxes: ready.to_vec(),
        containers: vec![changed, record(&pod, "b:running")],
        ..PodRuntimeStatus::default()
    };
    let actions = compute_pod_actions(&pod, &runtime, &Probes::default(), &OfContainers::new());
    assert_eq!(
        actions.to_kill[0].message,
        "Container a definition changed, will be restarted"
    );
    assert_eq!(show(&actions), "start:0 end:a");
}

#[test]
fn ephemeral_containers_start_once() {
    let spec = json!({"containers": [{"name": "a", "image": "i"}], "ephemeralContainers": [{"name": "d", "image": "i"}]});
    let ready = [sandbox(0, true)];
    check(spec.clone(), &ready, &["a:running"], &Probes::default(), "eph:0");
    check(spec, &ready, &["a:running", "d:exited:1"], &Probes::default(), "");
}

#[test]
fn restart_rules_come_before_the_policy() {
    let spec = json!({"restartPolicy": "Never", "containers": [{"name": "a", "image": "i", "restartPolicy": "Never",
        "restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]}]});
    let ready = [sandbox(0, true)];
    check(
        spec.clone(),
        &ready,
        &["a:exited:42"],
        &Probes::default(),
        "start:0",
    );
    check(spec, &ready, &["a:exited:1"], &Probes::default(), "kill");
}

#[test]
fn running_containers_are_resized_or_restarted_as_their_policy_says() {
    let resources = |cpu: &str| json!({"requests": {"cpu": cpu}});
    let pod = pod(json!({
        "initContainers": [{"name": "s", "restartPolicy": "Always", "resources": resources("2")}],
        "containers": [
            {"name": "a", "resources": resources("2")},
            {"name": "b", "resources": resources("2"),
             "resizePolicy": [{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]},
            {"name": "c", "resources": resources("1")},
        ],
    }));
    let runtime = PodRuntimeStatus {
        sandboxes: vec![sandbox(0, true)],
        containers: ["s:running", "a:running", "b:running", "c:running"]
            .iter()
            .map(|text| record(&pod, text))
            .collect(),
        ..PodRuntimeStatus::default()
    };
    let has: OfContainers = ["s", "a", "b", "c"]
        .into_iter()
        .map(|name| {
            (
                name.to_owned(),
                serde_json::from_value(resources("1000m")).unwrap(),
            )
        })
        .collect();
    let actions = compute_pod_actions(&pod, &runtime, &Probes::default(), &has);
    let resized: Vec<&str> = actions.to_resize.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(resized, ["s", "a"]);
    assert_eq!(
        actions
            .to_kill
            .iter()
            .map(|kill| kill.message.as_str())
            .collect::<Vec<_>>(),
        ["Container b resize requires restart"]
    );
    assert_eq!(actions.containers_to_start, [1]);
}
