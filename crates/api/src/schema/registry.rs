//! The built-in definitions, parsed at first use.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::model::{DefId, Object, Schema};
use super::table;

/// All built-in definitions.
#[derive(Debug)]
pub struct Registry {
    definitions: Vec<Object>,
    by_name: HashMap<&'static str, DefId>,
    by_kind: HashMap<(&'static str, &'static str, &'static str), DefId>,
    schemas: Vec<Schema>,
}

static REGISTRY: LazyLock<Registry> = LazyLock::new(|| {
    let parsed = table::parse(include_str!("../data/schema.tsv"));
    let mut registry = Registry {
        schemas: (0..parsed.definitions.len())
            .map(|at| Schema::Def(table::id(at)))
            .collect(),
        definitions: parsed.definitions,
        by_name: parsed.by_name,
        by_kind: HashMap::new(),
    };
    for (group, version, kind, id) in parsed.kinds {
        registry.by_kind.insert((group, version, kind), id);
    }
    registry
});

/// The registry of built-in definitions.
pub fn registry() -> &'static Registry {
    &REGISTRY
}

impl Registry {
    /// The struct of a definition.
    pub fn definition(&self, id: DefId) -> &Object {
        &self.definitions[usize::from(id.0)]
    }

    /// All definitions in order of their names.
    pub fn definitions(&self) -> &[Object] {
        &self.definitions
    }

    /// The schema of a kind.
    pub fn by_gvk(&self, group: &str, version: &str, kind: &str) -> Option<&Schema> {
        kind_id(&self.by_kind, group, version, kind).map(|id| &self.schemas[usize::from(id.0)])
    }

    /// The schema of a definition (`io.k8s.api.core.v1.PodSpec`).
    pub fn by_name(&self, name: &str) -> Option<&Schema> {
        self.by_name.get(name).map(|id| &self.schemas[usize::from(id.0)])
    }
}

fn kind_id<'a>(
    map: &HashMap<(&'a str, &'a str, &'a str), DefId>,
    group: &'a str,
    version: &'a str,
    kind: &'a str,
) -> Option<DefId> {
    map.get(&(group, version, kind)).copied()
}
