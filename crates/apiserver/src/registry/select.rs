//! Label and field selectors against cached objects.

use keelson_api::selector::{FieldSelector, LabelSelector};
use keelson_api::status::Status;

use super::kind::Kind;
use crate::http::query::Query;
use crate::watch_cache::CachedObject;

/// A label and a field selector, bound to one kind.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    labels: LabelSelector,
    /// What remains of the field selector once name and namespace are taken out.
    fields: Vec<(Slot, String, bool)>,
    /// Only this name.
    pub name: Option<String>,
    /// Only this namespace.
    pub namespace: Option<String>,
}

#[derive(Clone, Copy, Debug)]
enum Slot {
    Name,
    Namespace,
    Field(usize),
}

impl Selection {
    /// Reads `labelSelector` and `fieldSelector`.
    pub fn parse(query: &Query<'_>, kind: &Kind) -> Result<Self, Status> {
        let labels = query.get("labelSelector").unwrap_or_default();
        let fields = query.get("fieldSelector").unwrap_or_default();
        Self::new(&labels, &fields, kind)
    }

    /// A selection from the selectors' texts.
    pub fn new(labels: &str, fields: &str, kind: &Kind) -> Result<Self, Status> {
        let labels = LabelSelector::parse(labels)
            .map_err(|e| Status::bad_request(format!("unable to parse requirement: {e}")))?;
        let mut selection = Self {
            labels,
            ..Self::default()
        };
        if fields.is_empty() {
            return Ok(selection);
        }
        let fields = FieldSelector::parse(fields).map_err(|e| Status::bad_request(e.to_string()))?;
        let extractor = kind
            .cache
            .as_ref()
            .map(|c| c.spec().extractor.fields())
            .unwrap_or_default();
        for requirement in fields.requirements() {
            let label = kind.conversion.selector_label(&requirement.field);
            let slot = match label.as_str() {
                "metadata.name" => Slot::Name,
                "metadata.namespace" => Slot::Namespace,
                other => match extractor.iter().position(|f| f.label == other) {
                    Some(at) if is_selectable(kind, other) => Slot::Field(at),
                    _ => return Err(unsupported(kind, &requirement.field, extractor.is_empty())),
                },
            };
            match slot {
                Slot::Name if !requirement.negated => selection.name = Some(requirement.value.clone()),
                Slot::Namespace if !requirement.negated => {
                    selection.namespace = Some(requirement.value.clone())
                }
                _ => {}
            }
            selection
                .fields
                .push((slot, requirement.value.clone(), requirement.negated));
        }
        Ok(selection)
    }

    /// A selectable field that must have one value.
    pub fn equal_field(&self) -> Option<(usize, &str)> {
        self.fields.iter().find_map(|(slot, value, negated)| match slot {
            Slot::Field(at) if !negated => Some((*at, value.as_str())),
            _ => None,
        })
    }

    /// Whether every object matches.
    pub fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_empty()
    }

    /// Whether this object matches.
    pub fn matches(&self, object: &CachedObject) -> bool {
        self.fields.iter().all(|(slot, value, negated)| {
            let actual = match slot {
                Slot::Name => object.name(),
                Slot::Namespace => object.namespace(),
                Slot::Field(at) => object.field(*at),
            };
            (actual == value) != *negated
        }) && (self.labels.is_everything() || self.labels.matches_by(|key| object.label(key)))
    }
}

/// A version of a custom resource has selectable fields of its own, of all that the cache knows.
fn is_selectable(kind: &Kind, label: &str) -> bool {
    let custom = kind.custom.as_ref();
    custom.is_none_or(|custom| custom.selectable.iter().any(|field| field == label))
}

fn unsupported(kind: &Kind, field: &str, only_metadata: bool) -> Status {
    if !only_metadata || kind.info.group.is_empty() || kind.is_custom() {
        return Status::bad_request(format!("field label not supported: {field}"));
    }
    Status::bad_request(format!(
        "{field:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
    ))
}
