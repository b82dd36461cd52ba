//! The judgement, the decision about pods and the counts, by tables.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::assess::{Assessment, Snapshot, assess};
use super::indexes::{COMPLETION_INDEX, index_of};
use super::scale::{Scale, scale};
use super::status::{condition, finish, note, settle};
use super::template::pod_of;
use crate::shared::owner::uid;

const NOW: &str = "2026-01-01T01:00:00Z";

/// `<name>[@index]:<state>` with state `r` running, `s` succeeded, `f` failed, `t` terminating; upper case: no finalizer.
fn pod(text: &str) -> Arc<Pod> {
    let (name, state) = text.split_once(':').unwrap();
    let index = name.split_once('@').map(|(_, index)| index);
    let phase = match state.to_lowercase().as_str() {
        "s" => "Succeeded",
        "f" => "Failed",
        _ => "Running",
    };
    let mut value = json!({
        "metadata": {"name": name, "uid": name, "creationTimestamp": "2026-01-01T00:00:00Z"},
        "status": {"phase": phase, "containerStatuses": [
            {"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
             "state": {"terminated": {"exitCode": 1, "finishedAt": "2026-01-01T00:59:55Z"}}}]}
    });
    if state.chars().all(char::is_lowercase) {
        value["metadata"]["finalizers"] = json!([super::FINALIZER]);
    }
    if state == "t" {
        value["metadata"]["deletionTimestamp"] = json!(NOW);
    }
    if let Some(index) = index {
        value["metadata"]["annotations"] = json!({COMPLETION_INDEX: index});
    }
    Arc::new(serde_json::from_value(value).unwrap())
}

fn with<T>(spec: Value, status: Value, pods: &str, judge: impl FnOnce(&Snapshot<'_>, &Assessment) -> T) -> T {
    let mut object =
        json!({"metadata": {"name": "j", "uid": "j"}, "spec": {"template": {}}, "status": status});
    object["spec"]
        .as_object_mut()
        .unwrap()
        .extend(spec.as_object().unwrap().clone());
    let job: Job = serde_json::from_value(object).unwrap();
    let pods: Vec<_> = pods.split_whitespace().map(pod).collect();
    let removed = HashSet::new();
    let now: Timestamp = NOW.parse().unwrap();
    let seen = Snapshot {
        job: &job,
        spec: job.spec.as_ref().unwrap(),
        pods: &pods,
        removed: &removed,
        now,
    };
    judge(&seen, &assess(&seen))
}

#[test]
fn verdicts() {
    let check = |spec: Value, status: Value, pods: &str, expected: Option<&str>| {
        let reason = with(spec.clone(), status, pods, |_, found| {
            found.verdict.clone().map(|verdict| verdict.reason)
        });
        assert_eq!(reason.as_deref(), expected, "{spec} {pods}");
    };
    let none = json!({});
    check(json!({"completions": 2}), none.clone(), "a:s b:r", None);
    check(
        json!({"completions": 2}),
        none.clone(),
        "a:s b:s",
        Some("CompletionsReached"),
    );
    check(json!({"completions": 2}), none.clone(), "a:s b:s c:r", None);
    check(
        json!({"completions": 2}),
        json!({"succeeded": 1}),
        "a:S b:s",
        Some("CompletionsReached"),
    );
    check(
        json!({"completions": 0}),
        none.clone(),
        "",
        Some("CompletionsReached"),
    );
    check(json!({"parallelism": 2}), none.clone(), "a:s b:r", None);
    check(
        json!({"parallelism": 2}),
        none.clone(),
        "a:s b:f",
        Some("CompletionsReached"),
    );
    check(json!({"backoffLimit": 1}), none.clone(), "a:f", None);
    check(
        json!({"backoffLimit": 1}),
        none.clone(),
        "a:f b:f",
        Some("BackoffLimitExceeded"),
    );
    check(
        json!({"backoffLimit": 1}),
        json!({"failed": 1}),
        "a:F b:f",
        Some("BackoffLimitExceeded"),
    );
    check(
        json!({"backoffLimit": 0}),
        json!({"uncountedTerminatedPods": {"failed": ["a"]}}),
        "a:f",
        Some("BackoffLimitExceeded"),
    );
    check(
        json!({"backoffLimit": 0}),
        none.clone(),
        "a:t",
        Some("BackoffLimitExceeded"),
    );
    check(
        json!({"backoffLimit": 0, "podReplacementPolicy": "Failed"}),
        none.clone(),
        "a:t",
        None,
    );
    let started = json!({"startTime": "2026-01-01T00:59:00Z"});
    check(
        json!({"activeDeadlineSeconds": 60}),
        started.clone(),
        "a:r",
        Some("DeadlineExceeded"),
    );
    check(json!({"activeDeadlineSeconds": 61}), started, "a:r", None);
    let ignore = json!({"rules": [{"action": "Ignore", "onExitCodes": {"operator": "In", "values": [1]}}]});
    check(
        json!({"backoffLimit": 0, "podFailurePolicy": ignore}),
        none.clone(),
        "a:f",
        None,
    );
    let policy = json!({"completionMode": "Indexed", "completions": 3, "successPolicy": {"rules": [{"succeededIndexes": "1"}]}});
    check(policy, none.clone(), "a@1:s b@2:r", Some("SuccessPolicy"));
    let per_index = |most: Value| json!({"completionMode": "Indexed", "completions": 3, "backoffLimitPerIndex": 0, "maxFailedIndexes": most});
    check(per_index(Value::Null), none.clone(), "a@0:f b@1:r", None);
    check(
        per_index(Value::Null),
        none.clone(),
        "a@0:f b@1:s c@2:s",
        Some("FailedIndexes"),
    );
    check(
        per_index(json!(0)),
        none.clone(),
        "a@0:f b@1:r",
        Some("MaxFailedIndexesExceeded"),
    );
    let target = json!({"conditions": [{"type": "FailureTarget", "status": "True", "reason": "Before"}]});
    check(json!({}), target, "a:s", Some("Before"));
}

#[test]
fn pods_to_make_and_delete() {
    let check = |spec: Value,
                 status: Value,
                 pods: &str,
                 create: &[Option<i32>],
                 delete: &[&str],
                 wait: Option<u64>| {
        let Scale {
            create: made,
            delete: gone,
            wait: waits,
        } = with(spec.clone(), status, pods, scale);
        let gone: Vec<_> = gone.iter().map(|pod| uid(pod.as_ref()).to_owned()).collect();
        assert_eq!(
            (made.as_slice(), gone.as_slice()),
            (
                create,
                delete
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .as_slice()
            ),
            "{spec} {pods}"
        );
        assert_eq!(waits, wait.map(Duration::from_secs), "{spec} {pods}");
    };
    let none = json!({});
    check(
        json!({"completions": 5, "parallelism": 2}),
        none.clone(),
        "",
        &[None, None],
        &[],
        None,
    );
    check(
        json!({"completions": 5, "parallelism": 2}),
        none.clone(),
        "a:s b:r",
        &[None],
        &[],
        None,
    );
    check(
        json!({"completions": 2, "parallelism": 2}),
        none.clone(),
        "a:s b:r",
        &[],
        &[],
        None,
    );
    check(
        json!({"completions": 5, "parallelism": 1}),
        none.clone(),
        "a:r b:r",
        &[],
        &["a"],
        None,
    );
    check(
        json!({"completions": 1, "parallelism": 1}),
        none.clone(),
        "a:f",
        &[],
        &[],
        Some(5),
    );
    check(
        json!({"completions": 1, "parallelism": 1}),
        none.clone(),
        "a:f b:f",
        &[],
        &[],
        Some(15),
    );
    check(
        json!({"completions": 1, "suspend": true}),
        none.clone(),
        "a:r",
        &[],
        &["a"],
        None,
    );
    check(json!({"parallelism": 3}), none.clone(), "a:s b:r", &[], &[], None);
    check(
        json!({"completions": 1, "podReplacementPolicy": "Failed"}),
        none.clone(),
        "a:t",
        &[],
        &[],
        None,
    );
    let indexed =
        |parallelism: i32| json!({"completionMode": "Indexed", "completions": 4, "parallelism": parallelism});
    check(
        indexed(2),
        json!({"completedIndexes": "0"}),
        "a@2:r",
        &[Some(1)],
        &[],
        None,
    );
    check(
        indexed(4),
        none.clone(),
        "a@1:r b@1:r c@7:r",
        &[],
        &["b@1", "c@7"],
        None,
    );
    let per_index =
        json!({"completionMode": "Indexed", "completions": 2, "parallelism": 2, "backoffLimitPerIndex": 2});
    check(per_index, none, "a@0:f", &[Some(1)], &[], Some(5));
}

#[test]
fn everything_is_counted_once() {
    let spec = json!({"completions": 3});
    let before = json!({"succeeded": 1, "uncountedTerminatedPods": {"succeeded": ["b"], "failed": ["x"]}});
    let (mut status, release) = with(spec, before.clone(), "a:S b:s c:s d:f e:r", |seen, found| {
        let before: JobStatus = serde_json::from_value(before).unwrap();
        let release: Vec<_> = found
            .release
            .iter()
            .map(|pod| uid(pod.as_ref()).to_owned())
            .collect();
        (note(seen, found, before, 1, 0), release)
    });
    assert_eq!(release, ["b", "c", "d"]);
    let uncounted = status.uncounted_terminated_pods.clone().unwrap();
    assert_eq!(uncounted.succeeded.unwrap(), ["b", "c"]);
    assert_eq!(uncounted.failed.unwrap(), ["x", "d"]);
    // The finalizer of c could not be removed yet.
    settle(&mut status, &HashSet::from(["c".to_owned(), "e".to_owned()]));
    assert_eq!((status.succeeded, status.failed), (Some(2), Some(2)));
    settle(&mut status, &HashSet::new());
    settle(&mut status, &HashSet::new());
    assert_eq!((status.succeeded, status.failed), (Some(3), Some(2)));
}

#[test]
fn a_job_ends_when_all_is_counted_and_no_pod_is_left() {
    let now: Timestamp = NOW.parse().unwrap();
    let verdict = with(json!({"completions": 1}), json!({}), "a:s", |_, found| {
        found.verdict.clone()
    });
    let check = |status: Value, expected: bool| {
        let mut status: JobStatus = serde_json::from_value(status).unwrap();
        assert_eq!(finish(&mut status, verdict.as_ref(), now), expected);
        assert_eq!(condition(&status, "Complete").is_some(), expected);
    };
    check(json!({"uncountedTerminatedPods": {}}), true);
    check(json!({"uncountedTerminatedPods": {"failed": ["a"]}}), false);
    check(json!({"active": 1}), false);
    check(json!({"terminating": 1}), false);
    assert!(!finish(&mut JobStatus::default(), None, now));
}

#[test]
fn an_indexed_pod_knows_its_index_and_failures() {
    let spec = json!({"completionMode": "Indexed", "completions": 2, "backoffLimitPerIndex": 3,
        "template": {"spec": {"containers": [{"name": "c"}]}}});
    let made = with(spec, json!({}), "", |seen, _| {
        let first = pod_of(seen, Some(1), None);
        let second = pod_of(seen, Some(1), Some(&first));
        pod_of(seen, Some(1), Some(&second))
    });
    assert_eq!(index_of(&made), Some(1));
    assert_eq!(super::template::failure_count(&made), 2);
    assert_eq!(made.metadata.generate_name.as_deref(), Some("j-1-"));
    let spec = made.spec.unwrap();
    assert_eq!(spec.hostname.as_deref(), Some("j-1"));
    assert_eq!(
        spec.containers[0].env.as_ref().unwrap()[0].name,
        "JOB_COMPLETION_INDEX"
    );
    assert_eq!(made.metadata.finalizers.unwrap(), [super::FINALIZER]);
}
