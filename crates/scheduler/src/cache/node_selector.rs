//! Node selectors: `nodeSelector` and node affinity, parsed once per pod.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as core;
use keelson_api::selector::{Operator, Requirement};

use super::NodeInfo;

type Labels = BTreeMap<String, String>;

/// A term: all requirements on labels and fields. A term without any matches nothing.
#[derive(Clone, Debug, Default)]
struct Term {
    labels: Vec<Requirement>,
    fields: Vec<Requirement>,
}

/// Any of some terms.
#[derive(Clone, Debug, Default)]
pub(crate) struct NodeSelector {
    terms: Vec<Term>,
}

/// A term with a weight.
#[derive(Clone, Debug)]
pub(crate) struct PreferredTerm {
    term: Term,
    pub(crate) weight: i64,
}

fn requirement(of: &core::NodeSelectorRequirement) -> Result<Requirement, String> {
    let operator = match of.operator.as_str() {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        "Gt" => Operator::GreaterThan,
        "Lt" => Operator::LessThan,
        other => return Err(format!("{other:?} is not a valid node selector operator")),
    };
    let values = of.values.clone().unwrap_or_default();
    Requirement::new(&of.key, operator, values).map_err(|error| error.to_string())
}

impl Term {
    fn parse(term: &core::NodeSelectorTerm) -> Result<Self, String> {
        let all = |list: &Option<Vec<core::NodeSelectorRequirement>>| {
            list.iter()
                .flatten()
                .map(requirement)
                .collect::<Result<Vec<_>, _>>()
        };
        Ok(Self {
            labels: all(&term.match_expressions)?,
            fields: all(&term.match_fields)?,
        })
    }

    fn matches(&self, name: &str, labels: &Labels) -> bool {
        if self.labels.is_empty() && self.fields.is_empty() {
            return false;
        }
        let label = |r: &Requirement| r.matches(labels.get(r.key()).map(String::as_str));
        let field = |r: &Requirement| r.key() == "metadata.name" && r.matches(Some(name));
        self.labels.iter().all(label) && self.fields.iter().all(field)
    }
}

impl NodeSelector {
    /// Parses a selector; the error says which requirement is malformed.
    pub(crate) fn parse(selector: &core::NodeSelector) -> Result<Self, String> {
        let terms = selector
            .node_selector_terms
            .iter()
            .map(Term::parse)
            .collect::<Result<_, _>>()?;
        Ok(Self { terms })
    }

    /// Whether a node of this name and labels is selected.
    pub(crate) fn matches(&self, name: &str, labels: &Labels) -> bool {
        self.terms.iter().any(|term| term.matches(name, labels))
    }

    /// The names of the nodes that the selector restricts itself to, when every term names nodes.
    pub(crate) fn node_names(&self) -> Option<Vec<&str>> {
        let mut names = Vec::new();
        for term in &self.terms {
            let mut of_term: Option<Vec<&str>> = None;
            for field in &term.fields {
                if field.operator() == Operator::In && field.key() == "metadata.name" {
                    let listed: Vec<&str> = field.values().iter().map(String::as_str).collect();
                    of_term = Some(match of_term {
                        Some(known) => known.into_iter().filter(|name| listed.contains(name)).collect(),
                        None => listed,
                    });
                }
            }
            names.extend(of_term?);
        }
        Some(names)
    }
}

impl PreferredTerm {
    /// Parses a preferred term.
    pub(crate) fn parse(term: &core::PreferredSchedulingTerm) -> Result<Self, String> {
        Ok(Self {
            term: Term::parse(&term.preference)?,
            weight: i64::from(term.weight),
        })
    }

    /// Whether the node is preferred; a term without requirements prefers none.
    pub(crate) fn matches(&self, node: &NodeInfo) -> bool {
        self.term.matches(node.name(), node.labels())
    }
}

/// What a pod demands of its node's labels and name.
#[derive(Clone, Debug, Default)]
pub(crate) struct RequiredNodeAffinity {
    labels: Labels,
    /// The selector, or why it cannot be parsed.
    pub(crate) affinity: Option<Result<NodeSelector, String>>,
}

impl RequiredNodeAffinity {
    pub(crate) fn of(spec: &core::PodSpec) -> Self {
        let affinity = spec
            .affinity
            .as_ref()
            .and_then(|affinity| affinity.node_affinity.as_ref());
        let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
        Self {
            labels: spec.node_selector.clone().unwrap_or_default(),
            affinity: required.map(NodeSelector::parse),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.affinity.is_none()
    }

    /// Whether a node of this name and labels will do; a malformed selector accepts none.
    pub(crate) fn matches(&self, name: &str, labels: &Labels) -> bool {
        self.labels
            .iter()
            .all(|(key, value)| labels.get(key) == Some(value))
            && self
                .affinity
                .as_ref()
                .is_none_or(|a| a.as_ref().is_ok_and(|s| s.matches(name, labels)))
    }
}
