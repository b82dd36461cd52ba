//! Why a pod fits nowhere, in upstream's words.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::{Code, Status};

/// What was learned while no node was found.
#[derive(Clone, Debug)]
pub(crate) struct Diagnosis {
    /// Refusals of the nodes that were asked.
    pub(crate) nodes: HashMap<Arc<str>, Status>,
    /// What holds for all other nodes.
    pub(crate) absent: Status,
    /// Plugins that refused, for the queueing hints.
    pub(crate) plugins: BTreeSet<&'static str>,
    /// Refusal before any node was asked.
    pub(crate) pre_filter: String,
    /// What preemption says.
    pub(crate) post_filter: String,
}

impl Default for Diagnosis {
    fn default() -> Self {
        let absent = Status {
            code: Code::UnschedulableAndUnresolvable,
            reasons: Vec::new(),
            plugin: "",
        };
        Self {
            nodes: HashMap::new(),
            absent,
            plugins: BTreeSet::new(),
            pre_filter: String::new(),
            post_filter: String::new(),
        }
    }
}

impl Diagnosis {
    pub(crate) fn refuse(&mut self, node: Arc<str>, status: Status) {
        if !status.plugin.is_empty() {
            self.plugins.insert(status.plugin);
        }
        self.nodes.insert(node, status);
    }

    /// What `node` said.
    pub(crate) fn of(&self, node: &str) -> &Status {
        self.nodes.get(node).unwrap_or(&self.absent)
    }
}

/// A pod fits on none of the nodes.
#[derive(Clone, Debug)]
pub(crate) struct FitError {
    pub(crate) nodes: usize,
    pub(crate) diagnosis: Diagnosis,
}

impl std::fmt::Display for FitError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let diagnosis = &self.diagnosis;
        write!(f, "0/{} nodes are available:", self.nodes)?;
        if diagnosis.pre_filter.is_empty() {
            let mut histogram: BTreeMap<&Cow<'static, str>, usize> = BTreeMap::new();
            for reason in diagnosis.nodes.values().flat_map(|status| &status.reasons) {
                *histogram.entry(reason).or_default() += 1;
            }
            if let Some(others) = self
                .nodes
                .checked_sub(diagnosis.nodes.len())
                .filter(|others| *others > 0)
            {
                for reason in &diagnosis.absent.reasons {
                    *histogram.entry(reason).or_default() += others;
                }
            }
            let mut lines: Vec<_> = histogram
                .iter()
                .map(|(reason, count)| format!("{count} {reason}"))
                .collect();
            lines.sort_unstable();
            if !lines.is_empty() {
                write!(f, " {}.", lines.join(", "))?;
            }
        } else {
            write!(f, " {}.", diagnosis.pre_filter)?;
        }
        if !diagnosis.post_filter.is_empty() {
            write!(f, " {}", diagnosis.post_filter)?;
        }
        Ok(())
    }
}
