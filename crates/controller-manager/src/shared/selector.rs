//! Typed label selectors, matched by the one engine of `keelson-api`.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector as Typed;
use keelson_api::selector::{LabelSelector, LabelSelectorError};

/// The labels of an object.
pub type Labels = BTreeMap<String, String>;

/// The selector in executable form; an empty one matches everything.
pub fn parse(selector: &Typed) -> Result<LabelSelector, LabelSelectorError> {
    let value = serde_json::to_value(selector).unwrap_or_default();
    LabelSelector::from_label_selector_value(&value)
}

/// The selector of a plain map of labels.
pub fn from_labels(labels: &Labels) -> LabelSelector {
    let labels = labels
        .iter()
        .map(|(key, value)| (key.clone(), value.as_str().into()))
        .collect();
    LabelSelector::from_map(&labels)
}

/// Whether `labels` match.
pub fn matches(selector: &LabelSelector, labels: Option<&Labels>) -> bool {
    selector.matches_by(|key| labels.and_then(|labels| labels.get(key)).map(String::as_str))
}
