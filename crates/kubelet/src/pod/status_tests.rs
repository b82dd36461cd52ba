//! Statuses as tables: a pod, what the runtime has, and what the API shows.

use serde_json::{Value, json};

use super::super::actions::{ProbeResults, Verdict};
use super::super::container_status::StartError;
use super::super::runtime_status::{ContainerRecord, Sandbox, State};
use super::*;

struct Probes(Verdict);

impl ProbeResults for Probes {
    fn liveness(&self, _id: &str) -> Verdict {
        self.0
    }

    fn startup(&self, _id: &str) -> Verdict {
        self.0
    }
}

impl ReadinessResults for Probes {
    fn readiness(&self, _id: &str) -> Verdict {
        self.0
    }
}

fn pod(spec: Value) -> Pod {
    let meta = json!({"name": "p", "namespace": "n", "uid": "u", "generation": 3});
    serde_json::from_value(json!({"metadata": meta, "spec": spec})).unwrap()
}

/// `name:state[:code[:restarts]]`
fn record(text: &str) -> ContainerRecord {
    let parts: Vec<&str> = text.split(':').collect();
    let number = |index: usize| parts.get(index).map_or(0, |text| text.parse().unwrap());
    ContainerRecord {
        id: format!("{}-{}", parts[0], number(3)),
        name: parts[0].into(),
        sandbox_id: "s0".into(),
        state: match parts[1] {
            "running" => State::Running,
            "exited" => State::Exited,
            _ => State::Created,
        },
        created_at: i64::from(number(3)) + 1,
        started_at: 1_000_000_000,
        finished_at: if parts[1] == "exited" { 2_000_000_000 } else { 0 },
        exit_code: number(2),
        reason: String::new(),
        message: String::new(),
        image: "i".into(),
        image_id: "sha256:1".into(),
        hash: String::new(),
        restart_count: number(3),
        log_path: String::new(),
        grace_period: None,
        user: None,
        stop_signal: 0,
    }
}

struct Case<'a> {
    spec: Value,
    records: &'a [&'a str],
    errors: &'a [(&'a str, &'a str)],
    ending: bool,
    old: Option<PodStatus>,
    readiness: Verdict,
}

impl Default for Case<'_> {
    fn default() -> Self {
        let spec = json!({"containers": [{"name": "a", "image": "i"}]});
        Self {
            spec,
            records: &[],
            errors: &[],
            ending: false,
            old: None,
            readiness: Verdict::Unknown,
        }
    }
}

fn run(case: &Case<'_>) -> PodStatus {
    let pod = pod(case.spec.clone());
    let sandbox = Sandbox {
        id: "s0".into(),
        ready: true,
        created_at: 1,
        attempt: 0,
        host_network: false,
        ips: vec!["10.0.0.1".into()],
    };
    let mut containers: Vec<ContainerRecord> = case.records.iter().map(|text| record(text)).collect();
    containers.sort_by_key(|record| std::cmp::Reverse(record.created_at));
    let runtime = PodRuntimeStatus {
        sandboxes: vec![sandbox],
        containers,
        ..PodRuntimeStatus::default()
    };
    let errors = case
        .errors
        .iter()
        .map(|(name, reason)| {
            (
                (*name).to_owned(),
                StartError {
                    reason: (*reason).to_owned(),
                    message: "m".into(),
                },
            )
        })
        .collect();
    generate(&StatusInput {
        pod: &pod,
        runtime: &runtime,
        runtime_name: "rt",
        old: case.old.as_ref(),
        errors: &errors,
        probes: &Probes(case.readiness),
        resources: &PodResources::of_spec(&pod),
        resize: &ResizeState::default(),
        host_ips: &["192.168.0.1".to_owned()],
        ending: case.ending,
        failure: None,
        now: Timestamp::from_second(10).unwrap(),
    })
}

/// State of the container as `waiting:Reason`, `running` or `terminated:Reason:code`.
fn state(status: &PodStatus, name: &str) -> String {
    let lists = [&status.init_container_statuses, &status.container_statuses];
    let container = lists
        .into_iter()
        .flatten()
        .flatten()
        .find(|status| status.name == name)
        .unwrap();
    let state = container.state.clone().unwrap();
    if let Some(waiting) = state.waiting {
        format!("waiting:{}", waiting.reason.unwrap())
    } else if let Some(terminated) = state.terminated {
        format!(
            "terminated:{}:{}",
            terminated.reason.unwrap(),
            terminated.exit_code
        )
    } else {
        "running".into()
    }
}

fn condition(status: &PodStatus, kind: &str) -> String {
    let found = status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == kind)
        .unwrap();
    [
        Some(found.status.clone()),
        found.reason.clone(),
        found.message.clone(),
    ]
    .into_iter()
    .flatten()
    .collect::<Vec<_>>()
    .join("|")
}

#[test]
fn phases_and_states() {
    let spec = |policy: &str| json!({"restartPolicy": policy, "containers": [{"name": "a", "image": "i"}]});
    for (case, phase, expected) in [
        (Case::default(), "Pending", "waiting:ContainerCreating"),
        (
            Case {
                errors: &[("a", "ErrImagePull")],
                ..Case::default()
            },
            "Pending",
            "waiting:ErrImagePull",
        ),
        (
            Case {
                records: &["a:running"],
                ..Case::default()
            },
            "Running",
            "running",
        ),
        (
            Case {
                records: &["a:exited:1"],
                ..Case::default()
            },
            "Running",
            "terminated:Error:1",
        ),
        (
            Case {
                records: &["a:exited:1"],
                errors: &[("a", "CrashLoopBackOff")],
                ..Case::default()
            },
            "Running",
            "waiting:CrashLoopBackOff",
        ),
        (
            Case {
                records: &["a:exited:0"],
                spec: spec("Never"),
                ..Case::default()
            },
            "Succeeded",
            "terminated:Completed:0",
        ),
        (
            Case {
                records: &["a:exited:2"],
                spec: spec("Never"),
                ..Case::default()
            },
            "Failed",
            "terminated:Error:2",
        ),
        (
            Case {
                records: &["a:exited:2"],
                spec: spec("OnFailure"),
                ..Case::default()
            },
            "Running",
            "terminated:Error:2",
        ),
        (
            Case {
                records: &["a:exited:137"],
                ending: true,
                ..Case::default()
            },
            "Failed",
            "terminated:Error:137",
        ),
        (
            Case {
                records: &["a:exited:0"],
                ending: true,
                ..Case::default()
            },
            "Succeeded",
            "terminated:Completed:0",
        ),
    ] {
        let status = run(&case);
        assert_eq!(
            (status.phase.as_deref(), state(&status, "a").as_str()),
            (Some(phase), expected),
            "{:?}",
            case.records
        );
    }
}

#[test]
fn init_containers_hold_the_pod_back() {
    let spec = |policy: &str| json!({"restartPolicy": policy, "initContainers": [{"name": "i", "image": "i"}], "containers": [{"name": "a", "image": "i"}]});
    let status = run(&Case {
        spec: spec("Always"),
        records: &["i:running"],
        ..Case::default()
    });
    assert_eq!(status.phase.as_deref(), Some("Pending"));
    assert_eq!(state(&status, "a"), "waiting:PodInitializing");
    assert_eq!(
        condition(&status, "Initialized"),
        "False|ContainersNotInitialized|containers with incomplete status: [i]"
    );
    let not_started = run(&Case {
        spec: spec("Always"),
        ..Case::default()
    });
    assert_eq!(state(&not_started, "i"), "waiting:PodInitializing");
    let status = run(&Case {
        spec: spec("Always"),
        records: &["i:exited:0", "a:running"],
        ..Case::default()
    });
    assert_eq!(
        (
            status.phase.as_deref(),
            condition(&status, "Initialized").as_str()
        ),
        (Some("Running"), "True")
    );
    let status = run(&Case {
        spec: spec("Never"),
        records: &["i:exited:1"],
        ..Case::default()
    });
    assert_eq!(status.phase.as_deref(), Some("Failed"));
    let failing = Case {
        spec: spec("Always"),
        records: &["i:exited:1"],
        errors: &[("i", "CrashLoopBackOff")],
        ..Case::default()
    };
    let status = run(&failing);
    assert_eq!(
        (status.phase.as_deref(), state(&status, "i").as_str()),
        (Some("Pending"), "waiting:CrashLoopBackOff")
    );
}

#[test]
fn conditions_have_upstreams_reasons_and_keep_their_times() {
    let spec = json!({"containers": [{"name": "a", "image": "i", "readinessProbe": {"exec": {}}}], "readinessGates": [{"conditionType": "gate"}]});
    let first = run(&Case {
        spec: spec.clone(),
        records: &["a:running"],
        ..Case::default()
    });
    assert_eq!(
        condition(&first, "Ready"),
        "False|ContainersNotReady|containers with unready status: [a]"
    );
    assert_eq!(
        condition(&first, "ContainersReady"),
        "False|ContainersNotReady|containers with unready status: [a]"
    );
    assert_eq!(condition(&first, "PodReadyToStartContainers"), "True");
    assert_eq!(condition(&first, "PodScheduled"), "True");
    let second = run(&Case {
        spec,
        records: &["a:running"],
        readiness: Verdict::Success,
        old: Some(first),
        ..Case::default()
    });
    assert_eq!(condition(&second, "ContainersReady"), "True");
    assert_eq!(
        condition(&second, "Ready"),
        "False|ReadinessGatesNotReady|corresponding condition of pod readiness gate \"gate\" does not exist."
    );
    assert!(
        second
            .conditions
            .iter()
            .flatten()
            .all(|condition| condition.observed_generation == Some(3))
    );
    assert_eq!(
        (second.pod_ip.as_deref(), second.host_ip.as_deref()),
        (Some("10.0.0.1"), Some("192.168.0.1"))
    );
    let done = run(&Case {
        spec: json!({"restartPolicy": "Never", "containers": [{"name": "a", "image": "i"}]}),
        records: &["a:exited:0"],
        ..Case::default()
    });
    assert_eq!(condition(&done, "Ready"), "False|PodCompleted");
    assert_eq!(condition(&done, "Initialized"), "True|PodCompleted");
}

#[test]
fn restarts_show_the_last_state_and_lost_containers_are_counted() {
    let status = run(&Case {
        records: &["a:exited:1:0", "a:running:0:1"],
        ..Case::default()
    });
    let container = &status.container_statuses.as_ref().unwrap()[0];
    assert_eq!(
        (container.restart_count, container.container_id.as_deref()),
        (1, Some("rt://a-1"))
    );
    assert_eq!(
        container
            .last_state
            .as_ref()
            .unwrap()
            .terminated
            .as_ref()
            .unwrap()
            .exit_code,
        1
    );
    let before = run(&Case {
        records: &["a:running:0:2"],
        ..Case::default()
    });
    let lost = run(&Case {
        old: Some(before.clone()),
        ..Case::default()
    });
    let container = &lost.container_statuses.as_ref().unwrap()[0];
    assert_eq!(
        (state(&lost, "a").as_str(), container.restart_count),
        ("waiting:ContainerCreating", 3)
    );
    assert_eq!(
        container
            .last_state
            .as_ref()
            .unwrap()
            .terminated
            .as_ref()
            .unwrap()
            .exit_code,
        137
    );
    let gone = run(&Case {
        old: Some(before),
        ending: true,
        ..Case::default()
    });
    assert_eq!(state(&gone, "a"), "terminated:ContainerStatusUnknown:137");
}
