//! Maps and objects.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value as Json;

use super::data::{Extension, Value};
use super::json::from_json;
use super::text::Text;
use crate::decl::{Decl, DeclKind};
use crate::error::EvalError;

/// A key of a map. Integers are equal whether they are signed or not.
#[derive(Debug, Clone)]
pub enum Key<'a> {
    /// A boolean.
    Bool(bool),
    /// A signed integer.
    Int(i64),
    /// An unsigned integer.
    Uint(u64),
    /// Text.
    String(Text<'a>),
}

impl<'a> Key<'a> {
    /// The key that a value is, if it can be one.
    pub(crate) fn of(value: &Value<'a>) -> Option<Self> {
        match value {
            Value::Bool(value) => Some(Self::Bool(*value)),
            Value::Int(value) => Some(Self::Int(*value)),
            Value::Uint(value) => Some(Self::Uint(*value)),
            Value::String(text) => Some(Self::String(text.clone())),
            Value::Double(value) => {
                #[expect(clippy::cast_possible_truncation, reason = "checked to be exact below")]
                let whole = *value as i64;
                #[expect(clippy::cast_precision_loss, reason = "the comparison is what checks it")]
                let exact = whole as f64 == *value;
                exact.then_some(Self::Int(whole))
            }
            _ => None,
        }
    }

    /// The value that the key is.
    pub(crate) fn value(&self) -> Value<'a> {
        match self {
            Self::Bool(value) => Value::Bool(*value),
            Self::Int(value) => Value::Int(*value),
            Self::Uint(value) => Value::Uint(*value),
            Self::String(text) => Value::String(text.clone()),
        }
    }
}

impl PartialEq for Key<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Key<'_> {}

impl PartialOrd for Key<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        let number = |key: &Self| match key {
            Self::Int(value) => Some(i128::from(*value)),
            Self::Uint(value) => Some(i128::from(*value)),
            _ => None,
        };
        match (self, other) {
            (Self::Bool(one), Self::Bool(other)) => one.cmp(other),
            (Self::String(one), Self::String(other)) => one.cmp(other),
            (Self::Bool(_), _) | (_, Self::String(_)) => Ordering::Less,
            (_, Self::Bool(_)) | (Self::String(_), _) => Ordering::Greater,
            _ => number(self).cmp(&number(other)),
        }
    }
}

/// A map: a view of a JSON object, or entries.
#[derive(Debug, Clone)]
pub struct Map<'a>(Entries<'a>);

#[derive(Debug, Clone)]
enum Entries<'a> {
    Json(&'a serde_json::Map<String, Json>, &'a Decl),
    Values(Arc<BTreeMap<Key<'a>, Value<'a>>>),
}

impl<'a> From<BTreeMap<Key<'a>, Value<'a>>> for Map<'a> {
    fn from(entries: BTreeMap<Key<'a>, Value<'a>>) -> Self {
        Self(Entries::Values(Arc::new(entries)))
    }
}

impl<'a> Map<'a> {
    pub(super) fn view(object: &'a serde_json::Map<String, Json>, decl: &'a Decl) -> Self {
        Self(Entries::Json(object, decl))
    }

    /// The number of entries.
    pub fn len(&self) -> usize {
        match &self.0 {
            Entries::Json(
                object,
                Decl {
                    kind: DeclKind::Object(ty),
                    ..
                },
            ) => ty
                .fields
                .values()
                .filter(|field| object.contains_key(&field.property))
                .count(),
            Entries::Json(object, _) => object.len(),
            Entries::Values(entries) => entries.len(),
        }
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value of a text key.
    pub fn get_str(&self, key: &str) -> Option<Result<Value<'a>, EvalError>> {
        match &self.0 {
            Entries::Json(object, decl) => match &decl.kind {
                DeclKind::Object(ty) => {
                    let field = ty.fields.get(key)?;
                    Some(from_json(object.get(&field.property)?, &field.decl))
                }
                DeclKind::Map(values) => Some(from_json(object.get(key)?, values)),
                _ => Some(from_json(object.get(key)?, decl)),
            },
            Entries::Values(entries) => entries
                .get(&Key::String(Text::from(key.to_owned())))
                .cloned()
                .map(Ok),
        }
    }

    /// The value of a key.
    pub(crate) fn get(&self, key: &Value<'a>) -> Option<Result<Value<'a>, EvalError>> {
        if let Value::String(text) = key {
            return self.get_str(text);
        }
        match &self.0 {
            Entries::Json(..) => None,
            Entries::Values(entries) => entries.get(&Key::of(key)?).cloned().map(Ok),
        }
    }

    /// The keys.
    pub fn keys(&self) -> Vec<Key<'a>> {
        let text = |text: &'a str| Key::String(Text::Borrowed(text));
        match &self.0 {
            Entries::Json(
                object,
                Decl {
                    kind: DeclKind::Object(ty),
                    ..
                },
            ) => {
                let visible = ty
                    .fields
                    .iter()
                    .filter(|(_, field)| object.contains_key(&field.property));
                visible.map(|(name, _)| text(name)).collect()
            }
            Entries::Json(object, _) => object.keys().map(|key| text(key)).collect(),
            Entries::Values(entries) => entries.keys().cloned().collect(),
        }
    }

    /// The entries.
    pub(crate) fn entries(&self) -> Result<Vec<(Key<'a>, Value<'a>)>, EvalError> {
        match &self.0 {
            Entries::Values(entries) => Ok(entries
                .iter()
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect()),
            Entries::Json(..) => self
                .keys()
                .into_iter()
                .filter_map(|key| {
                    let value = self.get(&key.value())?;
                    Some(value.map(|value| (key, value)))
                })
                .collect(),
        }
    }

    /// What a schema does not describe: properties of an object without a declaration.
    pub(super) fn undeclared(&self) -> Vec<(&'a str, Value<'a>)> {
        match &self.0 {
            Entries::Json(
                object,
                Decl {
                    kind: DeclKind::Object(ty),
                    ..
                },
            ) => object
                .iter()
                .filter(|(name, _)| !ty.fields.values().any(|field| field.property == **name))
                .map(|(name, value)| (name.as_str(), Value::Extension(Extension::Unknown(value))))
                .collect(),
            _ => Vec::new(),
        }
    }

    /// Adds an entry in place if nobody else has the map.
    pub(crate) fn insert(&mut self, key: &Value<'a>, value: Value<'a>) -> Result<(), EvalError> {
        let parsed = Key::of(key)
            .ok_or_else(|| EvalError::new(format!("unsupported key type: {}", key.type_name())))?;
        if matches!(self.0, Entries::Json(..)) {
            self.0 = Entries::Values(Arc::new(self.entries()?.into_iter().collect()));
        }
        if let Entries::Values(entries) = &mut self.0
            && Arc::make_mut(entries).insert(parsed, value).is_some()
        {
            let shown = crate::functions::display(key);
            return Err(EvalError::new(format!(
                "insert failed: key {shown} already exists"
            )));
        }
        Ok(())
    }
}
