//! The static estimate of what an expression costs at least and at most, from the sizes that schemas allow. The
//! arithmetic is cel-go's and Kubernetes': it decides which rules a CustomResourceDefinition may carry.

use std::collections::HashMap;

use super::checker::Typed;
use super::types::Type;
use crate::decl::Decl;
use crate::syntax::{ACCUMULATOR, Comprehension, Expr, ExprId, Kind, Literal};

mod calls;

const STRING_FACTOR: f64 = 0.1;
const REGEX_FACTOR: f64 = 0.25;
const LIST_CREATE: u64 = 10;
const MAP_CREATE: u64 = 30;
const STRUCT_CREATE: u64 = 40;

/// A range of costs or of sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CostEstimate {
    /// At least.
    pub min: u64,
    /// At most.
    pub max: u64,
}

/// Ranges of sizes have the same arithmetic.
type Size = CostEstimate;

impl CostEstimate {
    pub(super) const UNKNOWN: Self = Self {
        min: 0,
        max: u64::MAX,
    };

    pub(super) fn fixed(cost: u64) -> Self {
        Self { min: cost, max: cost }
    }

    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            min: self.min.saturating_add(other.min),
            max: self.max.saturating_add(other.max),
        }
    }

    pub(super) fn times(self, other: Self) -> Self {
        Self {
            min: self.min.saturating_mul(other.min),
            max: self.max.saturating_mul(other.max),
        }
    }

    pub(super) fn scaled(self, factor: f64) -> Self {
        Self {
            min: scale(self.min, factor),
            max: scale(self.max, factor),
        }
    }

    pub(super) fn union(self, other: Self) -> Self {
        Self {
            min: self.min.min(other.min),
            max: self.max.max(other.max),
        }
    }
}

/// Multiplies and rounds up.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "costs are approximate; the cast saturates"
)]
pub(crate) fn scale(value: u64, factor: f64) -> u64 {
    (value as f64 * factor).ceil() as u64
}

/// Where in the data a node points: a variable and steps below it.
type Path = Vec<String>;

/// Sizes of the keys and of the values of a container.
#[derive(Debug, Clone, Copy)]
struct EntrySize {
    list: bool,
    key: Size,
    value: Size,
}

impl EntrySize {
    fn union(self, other: Self) -> Self {
        Self {
            list: self.list,
            key: self.key.union(other.key),
            value: self.value.union(other.value),
        }
    }
}

struct Local {
    name: String,
    path: Path,
    size: Option<Size>,
    entries: Option<EntrySize>,
}

/// Estimates the cost of a checked expression; `declaration` gives the bounds of each variable's data.
pub(crate) fn estimate(typed: &Typed, declaration: &dyn Fn(&str) -> Option<Decl>) -> CostEstimate {
    let roots = typed
        .variables
        .iter()
        .filter_map(|name| Some((name.clone(), declaration(name)?)))
        .collect();
    let mut coster = Coster {
        typed,
        roots,
        paths: HashMap::new(),
        sizes: HashMap::new(),
        entries: HashMap::new(),
        locals: Vec::new(),
    };
    coster.cost(&typed.parsed.root)
}

struct Coster<'t> {
    typed: &'t Typed,
    roots: HashMap<String, Decl>,
    paths: HashMap<ExprId, Path>,
    sizes: HashMap<ExprId, Size>,
    entries: HashMap<ExprId, EntrySize>,
    locals: Vec<Local>,
}

impl Coster<'_> {
    fn cost(&mut self, expr: &Expr) -> CostEstimate {
        match &expr.kind {
            Kind::Literal(_) => CostEstimate::default(),
            Kind::Ident(name) => {
                let path = match self.local(name) {
                    Some(local) => local.path.clone(),
                    None => vec![name.trim_start_matches('.').to_owned()],
                };
                self.paths.insert(expr.id, path);
                CostEstimate::fixed(1)
            }
            Kind::Select {
                operand,
                field,
                test_only,
            } => {
                let mut sum = self.cost(operand);
                // Kubernetes makes has() free.
                if !test_only {
                    if matches!(
                        self.typed.type_of(operand.id),
                        Type::Map(..) | Type::Object(_) | Type::Var(_)
                    ) {
                        sum = sum.plus(CostEstimate::fixed(1));
                    }
                    let mut path = self.path(operand);
                    path.push(field.clone());
                    self.paths.insert(expr.id, path);
                }
                sum
            }
            Kind::Call {
                function,
                target,
                args,
            } => self.call(expr, function, target.as_deref(), args),
            Kind::List { elements, .. } => {
                let mut sum = CostEstimate::default();
                let mut value: Option<Size> = None;
                for element in elements {
                    sum = sum.plus(self.cost(element));
                    let size = self.size_or_unknown(element);
                    value = Some(value.map_or(size, |value| value.union(size)));
                }
                let value = value.unwrap_or_default();
                let key = Size::fixed(1);
                self.entries.insert(
                    expr.id,
                    EntrySize {
                        list: true,
                        key,
                        value,
                    },
                );
                sum.plus(CostEstimate::fixed(LIST_CREATE))
            }
            Kind::Map(entries) => {
                let mut sum = CostEstimate::default();
                let (mut keys, mut values): (Option<Size>, Option<Size>) = (None, None);
                for entry in entries {
                    sum = sum.plus(self.cost(&entry.key)).plus(self.cost(&entry.value));
                    let (key, value) = (
                        self.size_or_unknown(&entry.key),
                        self.size_or_unknown(&entry.value),
                    );
                    keys = Some(keys.map_or(key, |keys| keys.union(key)));
                    values = Some(values.map_or(value, |values| values.union(value)));
                }
                let (key, value) = (keys.unwrap_or_default(), values.unwrap_or_default());
                self.entries.insert(
                    expr.id,
                    EntrySize {
                        list: false,
                        key,
                        value,
                    },
                );
                sum.plus(CostEstimate::fixed(MAP_CREATE))
            }
            Kind::Struct { fields, .. } => {
                let mut sum = CostEstimate::fixed(STRUCT_CREATE);
                for (_, _, value, _) in fields {
                    sum = sum.plus(self.cost(value));
                }
                sum
            }
            Kind::Comprehension(fold) if fold.is_bind() => self.bind(expr, fold),
            Kind::Comprehension(fold) => self.comprehension(expr, fold),
        }
    }

    fn local(&self, name: &str) -> Option<&Local> {
        self.locals.iter().rev().find(|local| local.name == name)
    }

    fn path(&self, expr: &Expr) -> Path {
        if let Kind::Ident(name) = &expr.kind
            && let Some(local) = self.local(name)
        {
            return local.path.clone();
        }
        self.paths.get(&expr.id).cloned().unwrap_or_default()
    }

    fn bind(&mut self, expr: &Expr, fold: &Comprehension) -> CostEstimate {
        let sum = self.cost(&fold.range).plus(self.cost(&fold.accu_init));
        self.push_value(fold);
        let result = self.cost(&fold.result);
        self.locals.pop();
        self.copy_sizes(expr, &fold.result);
        sum.plus(result)
    }

    fn push_value(&mut self, fold: &Comprehension) {
        let local = Local {
            name: fold.accu_var.clone(),
            path: self.path(&fold.accu_init),
            size: self.size(&fold.accu_init),
            entries: self.entry_size(&fold.accu_init),
        };
        self.locals.push(local);
    }

    fn comprehension(&mut self, expr: &Expr, fold: &Comprehension) -> CostEstimate {
        let mut sum = self.cost(&fold.range).plus(self.cost(&fold.accu_init));
        self.push_value(fold);
        let depth = self.locals.len();
        let entries = self.entry_size(&fold.range);
        let list = entries.map_or_else(
            || matches!(self.typed.type_of(fold.range.id), Type::List(_)),
            |entries| entries.list,
        );
        let range = self.path(&fold.range);
        let mut push = |name: &str, key: bool| {
            let step = match (key, list) {
                (true, true) => "@indices",
                (true, false) => "@keys",
                (false, true) => "@items",
                (false, false) => "@values",
            };
            let mut path = range.clone();
            path.push(step.to_owned());
            self.locals.push(Local {
                name: name.to_owned(),
                path,
                size: entries.map(|entries| if key { entries.key } else { entries.value }),
                entries: None,
            });
        };
        match &fold.var2 {
            None => push(&fold.var, !list),
            Some(var2) => {
                push(&fold.var, true);
                push(var2, false);
            }
        }
        let condition = self.cost(&fold.condition);
        let step = self.cost(&fold.step);
        self.locals.truncate(depth);
        sum = sum.plus(self.cost(&fold.result));
        self.locals.pop();
        let count = self.size_or_unknown(&fold.range);
        sum = sum.plus(count.times(step.plus(condition)));
        match &fold.accu_init.kind {
            Kind::Literal(_) => {
                let size = self.size(&fold.accu_init);
                self.set_size(expr, size);
            }
            Kind::List { .. } | Kind::Map(_) => {
                self.set_size(expr, Some(count));
                if let Some(entries) = self.entry_size(&fold.step) {
                    self.entries.insert(expr.id, entries);
                }
            }
            _ => {}
        }
        sum
    }

    fn set_size(&mut self, expr: &Expr, size: Option<Size>) {
        if let Some(size) = size {
            self.sizes.insert(expr.id, size);
        }
    }

    fn copy_sizes(&mut self, to: &Expr, from: &Expr) {
        let size = self.size(from);
        self.set_size(to, size);
        if let Some(entries) = self.entry_size(from) {
            self.entries.insert(to.id, entries);
        }
    }

    fn entry_size(&self, expr: &Expr) -> Option<EntrySize> {
        if let Some(entries) = self.entries.get(&expr.id) {
            return Some(*entries);
        }
        match &expr.kind {
            Kind::Ident(name) => self.local(name)?.entries,
            _ => None,
        }
    }

    /// What the schema says of the size of the data at a path.
    fn declared_size(&self, path: &[String]) -> Option<Size> {
        let (root, steps) = path.split_first()?;
        if root == ACCUMULATOR {
            return None;
        }
        let mut decl = self.roots.get(root)?;
        for step in steps {
            decl = decl.descend(step)?;
        }
        Some(Size {
            min: 0,
            max: decl.max_elements,
        })
    }

    fn size(&mut self, expr: &Expr) -> Option<Size> {
        if let Some(size) = self.sizes.get(&expr.id) {
            return Some(*size);
        }
        let length = |length: usize| Some(Size::fixed(length as u64));
        match &expr.kind {
            Kind::Literal(Literal::String(text)) => return length(text.chars().count()),
            Kind::Literal(Literal::Bytes(bytes)) => return length(bytes.len()),
            Kind::Literal(_) => return length(1),
            Kind::List { elements, .. } => return length(elements.len()),
            Kind::Map(entries) => return length(entries.len()),
            _ => {}
        }
        let path = self.path(expr);
        if let Some(size) = self.declared_size(&path) {
            self.sizes.insert(expr.id, size);
            return Some(size);
        }
        if self.typed.type_of(expr.id).is_scalar() {
            return length(1);
        }
        match &expr.kind {
            Kind::Ident(name) => self.local(name)?.size,
            _ => None,
        }
    }

    fn size_or_unknown(&mut self, expr: &Expr) -> Size {
        self.size(expr).unwrap_or(Size::UNKNOWN)
    }
}
