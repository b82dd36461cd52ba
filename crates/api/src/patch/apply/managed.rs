//! `metadata.managedFields`: reading, writing and bounding it.

use serde_json::{Map, Value, json};

use super::field_set::{FieldSet, ParseError};

/// Most entries of managers that update; older ones are folded together.
const MAX_UPDATE_MANAGERS: usize = 10;

/// The manager that folded entries go to.
const OLD_UPDATES: &str = "ancient-changes";

/// How a manager came to own its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// By server-side apply.
    Apply,
    /// By create, update or another patch.
    Update,
}

impl Operation {
    fn text(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Update => "Update",
        }
    }
}

/// One entry: a manager and what it owns.
#[derive(Clone, Debug, PartialEq)]
pub struct ManagedEntry {
    /// Name of the manager.
    pub manager: String,
    /// How it came to own the fields.
    pub operation: Operation,
    /// Version that the fields are of.
    pub api_version: String,
    /// Subresource through which it wrote; empty for none.
    pub subresource: String,
    /// When it last changed something (RFC 3339), if known.
    pub time: Option<String>,
    /// The fields.
    pub fields: FieldSet,
}

impl ManagedEntry {
    /// Whether both name the same manager: appliers regardless of the version they applied.
    pub(super) fn is_same_manager(&self, other: &Self) -> bool {
        self.manager == other.manager
            && self.operation == other.operation
            && self.subresource == other.subresource
            && (self.operation == Operation::Apply || self.api_version == other.api_version)
    }

    /// The manager as conflict messages name it.
    pub(super) fn display(&self) -> String {
        let mut text = crate::field::quote(&self.manager);
        if !self.subresource.is_empty() {
            text.push_str(&format!(
                " with subresource {}",
                crate::field::quote(&self.subresource)
            ));
        }
        if self.operation == Operation::Update {
            text.push_str(&format!(" using {}", self.api_version));
        }
        text
    }
}

/// All entries of an object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Managed {
    /// The entries.
    pub entries: Vec<ManagedEntry>,
}

impl Managed {
    /// Reads `metadata.managedFields` of an object; absent is empty.
    pub fn of(object: &Value) -> Result<Self, ParseError> {
        let list = object
            .get("metadata")
            .and_then(|metadata| metadata.get("managedFields"));
        list.cloned().map_or(Ok(Self::default()), Self::read)
    }

    /// Reads a `managedFields` list.
    pub(super) fn read(list: Value) -> Result<Self, ParseError> {
        let mut managed = Self::default();
        let Value::Array(list) = list else {
            return Ok(managed);
        };
        for mut entry in list {
            let fields = entry.get_mut("fieldsV1").map(Value::take);
            let text = |name: &str| {
                entry
                    .get(name)
                    .and_then(Value::as_str)
                    .unwrap_or_default()
                    .to_owned()
            };
            let operation = match text("operation").as_str() {
                "Apply" => Operation::Apply,
                "Update" => Operation::Update,
                other => {
                    return Err(ParseError::new(format!(
                        "operation must be `Apply` or `Update`: {other:.64}"
                    )));
                }
            };
            if text("fieldsType") != "FieldsV1" {
                return Err(ParseError::new(format!(
                    "unsupported fieldsType {:.64}",
                    text("fieldsType")
                )));
            }
            managed.entries.push(ManagedEntry {
                manager: text("manager"),
                operation,
                api_version: text("apiVersion"),
                subresource: text("subresource"),
                time: Some(text("time")).filter(|time| !time.is_empty()),
                fields: fields.map_or(Ok(FieldSet::new()), FieldSet::from_wire)?,
            });
        }
        Ok(managed)
    }

    /// Whether a client asks to forget all managers: exactly one empty entry.
    pub(super) fn is_reset(list: &Value) -> bool {
        matches!(list.as_array().map(Vec::as_slice), Some([Value::Object(entry)]) if entry.is_empty())
    }

    /// Writes `metadata.managedFields` of an object; none when there are no entries.
    pub fn write(self, object: &mut Value) {
        take(object);
        let mut entries = self.entries;
        entries.retain(|entry| !entry.fields.is_empty());
        if entries.is_empty() {
            return;
        }
        entries.sort_by(|a, b| {
            let key = |e: &ManagedEntry| {
                (
                    e.operation,
                    e.time.clone(),
                    e.manager.clone(),
                    e.api_version.clone(),
                    e.subresource.clone(),
                )
            };
            key(a).cmp(&key(b))
        });
        let list = entries.into_iter().map(|entry| {
            let mut value = json!({
                "manager": entry.manager,
                "operation": entry.operation.text(),
                "apiVersion": entry.api_version,
                "fieldsType": "FieldsV1",
                "fieldsV1": entry.fields.into_wire(),
            });
            if let Some(time) = &entry.time {
                value["time"] = json!(time);
            }
            if !entry.subresource.is_empty() {
                value["subresource"] = json!(entry.subresource);
            }
            value
        });
        put(object, list.collect());
    }

    pub(super) fn position(&self, like: &ManagedEntry) -> Option<usize> {
        self.entries.iter().position(|entry| entry.is_same_manager(like))
    }

    /// Folds the oldest updating managers into one per version until there are few enough.
    pub(super) fn cap(&mut self) {
        let mut updaters: Vec<ManagedEntry> = self
            .entries
            .extract_if(.., |entry| entry.operation == Operation::Update)
            .collect();
        updaters.sort_by(|a, b| (&a.time, &a.manager).cmp(&(&b.time, &b.manager)));
        let mut kept: Vec<ManagedEntry> = Vec::new();
        let mut count = updaters.len();
        for mut entry in updaters {
            if count <= MAX_UPDATE_MANAGERS {
                kept.push(entry);
                continue;
            }
            match kept
                .iter_mut()
                .find(|bucket| bucket.api_version == entry.api_version)
            {
                Some(bucket) => {
                    OLD_UPDATES.clone_into(&mut bucket.manager);
                    bucket.subresource.clear();
                    bucket.fields = bucket.fields.union(&entry.fields);
                    bucket.time = entry.time.take();
                    count -= 1;
                }
                None => kept.push(entry),
            }
        }
        self.entries.append(&mut kept);
    }
}

/// Takes `metadata.managedFields` off an object.
pub(super) fn take(object: &mut Value) -> Option<Value> {
    object
        .get_mut("metadata")?
        .as_object_mut()?
        .remove("managedFields")
}

/// Sets `metadata.managedFields` of an object.
pub(super) fn put(object: &mut Value, list: Value) {
    if let Value::Object(object) = object {
        let metadata = object
            .entry("metadata")
            .or_insert_with(|| Value::Object(Map::new()));
        if let Value::Object(metadata) = metadata {
            metadata.insert("managedFields".to_owned(), list);
        }
    }
}
