//! Lists.

use std::sync::Arc;

use serde_json::Value as Json;

use super::data::Value;
use super::json::from_json;
use crate::decl::{Decl, ListType};
use crate::error::EvalError;

static ATOMIC: ListType = ListType::Atomic;

/// A list: a view of JSON, or values.
#[derive(Debug, Clone)]
pub struct List<'a> {
    items: Items<'a>,
    list_type: &'a ListType,
}

#[derive(Debug, Clone)]
enum Items<'a> {
    Json(&'a [Json], &'a Decl),
    Values(Arc<Vec<Value<'a>>>),
}

impl<'a> From<Vec<Value<'a>>> for List<'a> {
    fn from(items: Vec<Value<'a>>) -> Self {
        Self {
            items: Items::Values(Arc::new(items)),
            list_type: &ATOMIC,
        }
    }
}

impl<'a> List<'a> {
    pub(super) fn view(items: &'a [Json], element: &'a Decl, list_type: &'a ListType) -> Self {
        Self {
            items: Items::Json(items, element),
            list_type,
        }
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        match &self.items {
            Items::Json(items, _) => items.len(),
            Items::Values(items) => items.len(),
        }
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What equality and addition mean.
    pub(super) fn list_type(&self) -> &'a ListType {
        self.list_type
    }

    /// The element at an index, if there is one.
    ///
    /// # Errors
    /// The JSON is not what its schema says.
    pub fn get(&self, index: usize) -> Option<Result<Value<'a>, EvalError>> {
        match &self.items {
            Items::Json(items, decl) => items.get(index).map(|item| from_json(item, decl)),
            Items::Values(items) => items.get(index).cloned().map(Ok),
        }
    }

    /// The elements in order.
    pub fn iter(&self) -> impl Iterator<Item = Result<Value<'a>, EvalError>> + '_ {
        (0..self.len()).filter_map(|index| self.get(index))
    }

    /// All elements.
    pub(crate) fn values(&self) -> Result<Vec<Value<'a>>, EvalError> {
        self.iter().collect()
    }

    /// Appends to the list in place if nobody else has it.
    pub(crate) fn push(&mut self, value: Value<'a>) -> Result<(), EvalError> {
        if let Items::Values(items) = &mut self.items {
            Arc::make_mut(items).push(value);
            return Ok(());
        }
        let mut items = self.values()?;
        items.push(value);
        self.items = Items::Values(Arc::new(items));
        Ok(())
    }

    /// This list and then the other's elements; sets are united and keyed lists merged.
    pub(crate) fn concat(&self, other: &List<'a>) -> Result<List<'a>, EvalError> {
        use super::compare::{Steps, equal, same_keys};
        let mut items = self.values()?;
        let own = items.len();
        let mut steps = Steps::default();
        for value in other.iter() {
            let value = value?;
            match self.list_type {
                ListType::Atomic => items.push(value),
                ListType::Set => {
                    let mut known = false;
                    for item in &items {
                        known = known || equal(item, &value, &mut steps)?;
                    }
                    if !known {
                        items.push(value);
                    }
                }
                ListType::Map(keys) => {
                    let mut at = None;
                    for (index, item) in items.iter().take(own).enumerate() {
                        if same_keys(item, &value, keys, &mut steps)? {
                            at = Some(index);
                            break;
                        }
                    }
                    match at {
                        Some(index) => items[index] = value,
                        None => items.push(value),
                    }
                }
            }
        }
        Ok(Self {
            items: Items::Values(Arc::new(items)),
            list_type: self.list_type,
        })
    }
}
