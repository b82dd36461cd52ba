//! Terms of inter-pod affinity, parsed once per pod.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use keelson_api::selector::{LabelSelector, Operator, Requirement};

use super::PodInfo;

/// The selector that `selector` stands for, with further requirements; none selects nothing.
pub(crate) fn label_selector(
    selector: Option<&meta::LabelSelector>,
    extra: Vec<Requirement>,
) -> Result<LabelSelector, String> {
    let Some(selector) = selector else {
        return Ok(LabelSelector::nothing());
    };
    let mut requirements = extra;
    let new =
        |key: &str, operator, values| Requirement::new(key, operator, values).map_err(|e| e.to_string());
    for (key, value) in selector.match_labels.iter().flatten() {
        requirements.push(new(key, Operator::Equals, vec![value.clone()])?);
    }
    for expression in selector.match_expressions.iter().flatten() {
        let operator = match expression.operator.as_str() {
            "In" => Operator::In,
            "NotIn" => Operator::NotIn,
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            other => return Err(format!("{other:?} is not a valid label selector operator")),
        };
        requirements.push(new(
            &expression.key,
            operator,
            expression.values.clone().unwrap_or_default(),
        )?);
    }
    Ok(LabelSelector::new(requirements))
}

/// Which pods, within which domain.
#[derive(Clone, Debug)]
pub(crate) struct AffinityTerm {
    namespaces: Vec<String>,
    namespace_selector: LabelSelector,
    selector: LabelSelector,
    pub(crate) topology_key: String,
}

/// A preferred term and its weight.
#[derive(Clone, Debug)]
pub(crate) struct WeightedTerm {
    pub(crate) term: AffinityTerm,
    pub(crate) weight: i64,
}

impl AffinityTerm {
    fn parse(
        term: &core::PodAffinityTerm,
        namespace: &str,
        labels: &BTreeMap<String, String>,
    ) -> Result<Self, String> {
        let mut extra = Vec::new();
        for (keys, operator) in [
            (&term.match_label_keys, Operator::In),
            (&term.mismatch_label_keys, Operator::NotIn),
        ] {
            for key in keys.iter().flatten() {
                if let Some(value) = labels.get(key) {
                    let requirement = Requirement::new(key, operator, vec![value.clone()]);
                    extra.push(requirement.map_err(|error| error.to_string())?);
                }
            }
        }
        let mut namespaces = term.namespaces.clone().unwrap_or_default();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.push(namespace.to_owned());
        }
        Ok(Self {
            namespaces,
            namespace_selector: label_selector(term.namespace_selector.as_ref(), Vec::new())?,
            selector: label_selector(term.label_selector.as_ref(), extra)?,
            topology_key: term.topology_key.clone(),
        })
    }

    /// Whether the term speaks of `pod`, whose namespace has these labels.
    pub(crate) fn matches(&self, pod: &PodInfo, namespace_labels: &BTreeMap<String, String>) -> bool {
        let in_namespace = self.namespaces.iter().any(|name| **name == *pod.key.namespace)
            || self
                .namespace_selector
                .matches_by(|key| namespace_labels.get(key).map(String::as_str));
        in_namespace
            && self
                .selector
                .matches_by(|key| pod.labels().get(key).map(String::as_str))
    }

    /// Whether the term chooses namespaces by their labels.
    pub(crate) fn selects_namespaces(&self) -> bool {
        !self.namespace_selector.is_nothing()
    }
}

/// All terms of a pod.
#[derive(Clone, Debug, Default)]
pub(crate) struct PodAffinities {
    pub(crate) required: Vec<AffinityTerm>,
    pub(crate) required_anti: Vec<AffinityTerm>,
    pub(crate) preferred: Vec<WeightedTerm>,
    pub(crate) preferred_anti: Vec<WeightedTerm>,
}

type Required = Option<Vec<core::PodAffinityTerm>>;
type Preferred = Option<Vec<core::WeightedPodAffinityTerm>>;

impl PodAffinities {
    pub(super) fn parse(pod: &core::Pod) -> Result<Self, String> {
        let Some(affinity) = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref()) else {
            return Ok(Self::default());
        };
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let none = BTreeMap::new();
        let labels = pod.metadata.labels.as_ref().unwrap_or(&none);
        let parse = |term: &core::PodAffinityTerm| AffinityTerm::parse(term, namespace, labels);
        let required = |terms: &Required| terms.iter().flatten().map(parse).collect::<Result<Vec<_>, _>>();
        let weighted = |term: &core::WeightedPodAffinityTerm| {
            Ok(WeightedTerm {
                term: parse(&term.pod_affinity_term)?,
                weight: i64::from(term.weight),
            })
        };
        let preferred = |terms: &Preferred| {
            terms
                .iter()
                .flatten()
                .map(weighted)
                .collect::<Result<Vec<_>, String>>()
        };
        let mut all = Self::default();
        if let Some(affinity) = &affinity.pod_affinity {
            all.required = required(&affinity.required_during_scheduling_ignored_during_execution)?;
            all.preferred = preferred(&affinity.preferred_during_scheduling_ignored_during_execution)?;
        }
        if let Some(affinity) = &affinity.pod_anti_affinity {
            all.required_anti = required(&affinity.required_during_scheduling_ignored_during_execution)?;
            all.preferred_anti = preferred(&affinity.preferred_during_scheduling_ignored_during_execution)?;
        }
        Ok(all)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.required.is_empty()
            && self.required_anti.is_empty()
            && self.preferred.is_empty()
            && self.preferred_anti.is_empty()
    }
}
