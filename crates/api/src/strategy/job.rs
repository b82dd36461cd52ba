//! The selector and labels that a job gets unless its author manages them.

use serde_json::Value;

use crate::access::{flag, text};

/// Labels that hold a job's uid and name, the old ones first.
const UID_LABELS: [&str; 2] = ["controller-uid", "batch.kubernetes.io/controller-uid"];
const NAME_LABELS: [&str; 2] = ["job-name", "batch.kubernetes.io/job-name"];

/// Labels the template with the job's uid and name, and selects by the uid.
pub(super) fn generate_selector(job: &mut Value) {
    if flag(&job["spec"], "manualSelector") || !job["spec"].is_object() {
        return;
    }
    let uid = text(&job["metadata"], "uid").to_owned();
    let name = text(&job["metadata"], "name").to_owned();
    let labels = &mut job["spec"]["template"]["metadata"]["labels"];
    for (keys, value) in [(UID_LABELS, &uid), (NAME_LABELS, &name)] {
        for key in keys {
            if labels[key].is_null() {
                labels[key] = Value::from(value.as_str());
            }
        }
    }
    let selector = &mut job["spec"]["selector"]["matchLabels"];
    if selector[UID_LABELS[1]].is_null() {
        selector[UID_LABELS[1]] = Value::from(uid);
    }
}
