//! The pods of a Job.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Container, EnvVar, EnvVarSource, ObjectFieldSelector, Pod};

use super::FINALIZER;
use super::assess::Snapshot;
use super::indexes::COMPLETION_INDEX;
use super::policy::{self, Judgement};
use crate::shared::owner::{name, uid};
use crate::shared::pod::{annotation, from_template};

/// How often earlier pods of the index failed, as far as that counts.
const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
/// How often they failed without counting.
const IGNORED_FAILURES: &str = "batch.kubernetes.io/job-index-ignored-failure-count";
/// The index, in the environment of every container.
const INDEX_VARIABLE: &str = "JOB_COMPLETION_INDEX";

/// How often the index had failed before this pod.
pub(super) fn failure_count(pod: &Pod) -> i32 {
    annotation(pod, FAILURES)
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

fn ignored_failure_count(pod: &Pod) -> i32 {
    annotation(pod, IGNORED_FAILURES)
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

/// Both kinds of failures of the index, with this pod's own.
pub(super) fn absolute_failure_count(pod: &Pod) -> i32 {
    failure_count(pod) + ignored_failure_count(pod) + 1
}

/// A pod of the Job, for `index` if it is indexed.
pub(super) fn pod_of(seen: &Snapshot<'_>, index: Option<i32>, predecessor: Option<&Pod>) -> Pod {
    let mut pod = from_template(&seen.spec.template, seen.job);
    pod.metadata
        .finalizers
        .get_or_insert_default()
        .push(FINALIZER.into());
    if seen.spec.manual_selector != Some(true) {
        label(&mut pod, seen.job);
    }
    if let Some(index) = index {
        let text = index.to_string();
        pod.metadata.generate_name = Some(generate_name(name(seen.job), &text));
        pod.metadata
            .labels
            .get_or_insert_default()
            .insert(COMPLETION_INDEX.into(), text.clone());
        let annotations = pod.metadata.annotations.get_or_insert_default();
        annotations.insert(COMPLETION_INDEX.into(), text);
        if seen.spec.backoff_limit_per_index.is_some() {
            let (mut failures, mut ignored) =
                predecessor.map_or((0, 0), |pod| (failure_count(pod), ignored_failure_count(pod)));
            if let Some(predecessor) = predecessor {
                match policy::judge(seen.spec.pod_failure_policy.as_ref(), predecessor) {
                    Judgement::Ignore => ignored += 1,
                    _ => failures += 1,
                }
            }
            annotations.insert(FAILURES.into(), failures.to_string());
            if ignored > 0 {
                annotations.insert(IGNORED_FAILURES.into(), ignored.to_string());
            }
        }
        let spec = pod.spec.get_or_insert_default();
        spec.hostname = Some(format!("{}-{index}", name(seen.job)));
        spec.containers
            .iter_mut()
            .chain(spec.init_containers.iter_mut().flatten())
            .for_each(add_index_variable);
    }
    pod
}

/// The labels of the generated selector; the API server puts them into the template.
fn label(pod: &mut Pod, job: &Job) {
    let labels = pod.metadata.labels.get_or_insert_default();
    for key in ["batch.kubernetes.io/controller-uid", "controller-uid"] {
        labels.insert(key.into(), uid(job).to_owned());
    }
    for key in ["batch.kubernetes.io/job-name", "job-name"] {
        // Names of Jobs that are too long for a label were refused at creation.
        labels.entry(key.into()).or_insert_with(|| name(job).to_owned());
    }
}

/// `<job>-<index>-`, cut so that the server can add its five characters.
fn generate_name(job: &str, index: &str) -> String {
    let suffix = format!("-{index}-");
    let most = 63_usize.saturating_sub(5 + suffix.len());
    let cut = job.char_indices().nth(most).map_or(job.len(), |(at, _)| at);
    format!("{}{suffix}", &job[..cut])
}

fn add_index_variable(container: &mut Container) {
    let variables = container.env.get_or_insert_default();
    if variables.iter().any(|variable| variable.name == INDEX_VARIABLE) {
        return;
    }
    let field = ObjectFieldSelector {
        api_version: None,
        field_path: format!("metadata.labels['{COMPLETION_INDEX}']"),
    };
    let source = EnvVarSource {
        field_ref: Some(field),
        ..EnvVarSource::default()
    };
    variables.push(EnvVar {
        name: INDEX_VARIABLE.into(),
        value: None,
        value_from: Some(source),
    });
}
