//! The machine that runs plans.

use std::collections::BTreeMap;

use super::activation::{Activation, Evaluated};
use super::cost::call_cost;
use super::plan::{Bind, Fold, Node, Plan};
use crate::error::EvalError;
use crate::functions::{display, regex_call};
use crate::value::{Key, List, Map, Text, Value};

const LIST_CREATE: u64 = 10;
const MAP_CREATE: u64 = 30;
const STRUCT_CREATE: u64 = 40;

type Outcome<'a> = Result<Value<'a>, EvalError>;

impl Plan {
    /// Runs the plan.
    pub(crate) fn run<'a>(&'a self, activation: &dyn Activation<'a>, limit: u64) -> Evaluated<'a> {
        let mut machine = Machine {
            activation,
            locals: Vec::new(),
            cost: 0,
            limit,
        };
        let value = machine.eval(&self.root);
        Evaluated {
            value,
            cost: machine.cost,
        }
    }
}

struct Machine<'a, 'm> {
    activation: &'m dyn Activation<'a>,
    /// Variables of comprehensions. Accumulators may hold errors, which later iterations can absorb.
    locals: Vec<Outcome<'a>>,
    cost: u64,
    limit: u64,
}

impl<'a> Machine<'a, '_> {
    fn charge(&mut self, cost: u64) -> Result<(), EvalError> {
        self.cost = self.cost.saturating_add(cost);
        if self.cost > self.limit {
            return Err(EvalError::CostLimit);
        }
        Ok(())
    }

    fn eval(&mut self, node: &'a Node) -> Outcome<'a> {
        match node {
            Node::Const(value) => Ok(value.clone()),
            Node::Variable(name) => {
                self.charge(1)?;
                self.activation
                    .resolve(name)
                    .unwrap_or_else(|| Err(EvalError::new(format!("no such attribute(s): {name}"))))
            }
            Node::Local(slot) => {
                self.charge(1)?;
                self.locals[*slot].clone()
            }
            Node::Select {
                operand,
                field,
                optional,
            } => {
                let operand = self.eval(operand)?;
                self.charge(1)?;
                select(operand, field, *optional)
            }
            Node::Has { operand, field } => {
                let operand = self.eval(operand)?;
                has(&operand, field).map(Value::Bool)
            }
            Node::Index {
                operand,
                index,
                optional,
            } => {
                let operand = self.eval(operand)?;
                let index = self.eval(index)?;
                self.charge(1)?;
                element(operand, &index, *optional)
            }
            Node::And(left, right) => self.logical(left, right, false),
            Node::Or(left, right) => self.logical(left, right, true),
            Node::Conditional(parts) => {
                let [condition, yes, no] = parts.as_ref();
                match self.eval(condition)? {
                    Value::Bool(true) => self.eval(yes),
                    Value::Bool(false) => self.eval(no),
                    _ => Err(EvalError::no_such_overload()),
                }
            }
            Node::NotStrictlyFalse(arg) => match self.eval(arg) {
                Err(EvalError::CostLimit) => Err(EvalError::CostLimit),
                outcome => {
                    self.charge(1)?;
                    Ok(Value::Bool(!matches!(outcome, Ok(Value::Bool(false)))))
                }
            },
            Node::Call {
                name,
                overload,
                run,
                args,
                regex,
            } => {
                let mut values = Vec::with_capacity(args.len());
                for arg in args {
                    values.push(self.eval(arg)?);
                }
                let outcome = match regex {
                    Some(regex) => regex_call(name, regex, &values),
                    None => run(&values),
                };
                self.charge(call_cost(name, overload, &values, outcome.as_ref().ok()))?;
                outcome
            }
            Node::List(elements) => self.list(elements),
            Node::Map(entries) => self.map(entries),
            Node::Struct(fields) => self.object(fields),
            Node::Append(slot, element) => {
                self.charge(1)?;
                let element = self.eval(element)?;
                self.charge(LIST_CREATE + 1)?;
                let mut accumulator = self.take(*slot)?;
                let Value::List(list) = &mut accumulator else {
                    return Err(EvalError::no_such_overload());
                };
                list.push(element)?;
                Ok(accumulator)
            }
            Node::Insert(slot, key, value) => {
                self.charge(1)?;
                let key = self.eval(key)?;
                let value = self.eval(value)?;
                self.charge(1)?;
                let mut accumulator = self.take(*slot)?;
                let Value::Map(map) = &mut accumulator else {
                    return Err(EvalError::no_such_overload());
                };
                map.insert(&key, value)?;
                Ok(accumulator)
            }
            Node::Fold(fold) => self.fold(fold),
            Node::Bind(bind) => self.bind(bind),
            Node::Missing(name) => Err(EvalError::new(format!("no such function: {name}"))),
        }
    }

    /// Takes an accumulator off its slot, so that it can be changed in place; the step's outcome is put there next.
    fn take(&mut self, slot: usize) -> Outcome<'a> {
        std::mem::replace(&mut self.locals[slot], Ok(Value::Null))
    }

    /// `&&` (decided by false) and `||` (decided by true): the deciding value wins over an error on the other side.
    fn logical(&mut self, left: &'a Node, right: &'a Node, deciding: bool) -> Outcome<'a> {
        let verdict = |outcome: Outcome<'a>| match outcome {
            Ok(Value::Bool(value)) => Ok(value),
            Ok(_) => Err(EvalError::no_such_overload()),
            Err(error) => Err(error),
        };
        let left = verdict(self.eval(left));
        match left {
            Ok(value) if value == deciding => return Ok(Value::Bool(deciding)),
            Err(EvalError::CostLimit) => return Err(EvalError::CostLimit),
            _ => {}
        }
        match (left, verdict(self.eval(right))) {
            (_, Ok(value)) if value == deciding => Ok(Value::Bool(deciding)),
            (_, Err(EvalError::CostLimit)) => Err(EvalError::CostLimit),
            (Err(error), _) | (Ok(_), Err(error)) => Err(error),
            (Ok(_), Ok(value)) => Ok(Value::Bool(value)),
        }
    }

    /// The value of an element or entry that may be optional; nothing when it is absent.
    fn element(&mut self, node: &'a Node, optional: bool) -> Result<Option<Value<'a>>, EvalError> {
        let value = self.eval(node)?;
        match (optional, value) {
            (false, value) => Ok(Some(value)),
            (true, Value::Optional(inner)) => Ok(inner.map(|inner| inner.as_ref().clone())),
            (true, other) => Err(EvalError::new(format!(
                "cannot initialize optional list element from non-optional value {}",
                display(&other)
            ))),
        }
    }

    fn list(&mut self, elements: &'a [(Node, bool)]) -> Outcome<'a> {
        let mut items = Vec::with_capacity(elements.len());
        for (node, optional) in elements {
            items.extend(self.element(node, *optional)?);
        }
        self.charge(LIST_CREATE)?;
        Ok(Value::List(List::from(items)))
    }

    fn map(&mut self, entries: &'a [(Node, Node, bool)]) -> Outcome<'a> {
        let mut map = BTreeMap::new();
        for (key, value, optional) in entries {
            let key = self.eval(key)?;
            let Some(value) = self.element(value, *optional)? else {
                continue;
            };
            let parsed = Key::of(&key)
                .filter(|_| !matches!(key, Value::Double(_)))
                .ok_or_else(|| EvalError::new(format!("unsupported key type: {}", key.type_name())))?;
            if map.insert(parsed, value).is_some() {
                return Err(EvalError::new(format!(
                    "Failed with repeated key: {}",
                    display(&key)
                )));
            }
        }
        self.charge(MAP_CREATE)?;
        Ok(Value::Map(Map::from(map)))
    }

    fn object(&mut self, fields: &'a [(String, Node, bool)]) -> Outcome<'a> {
        let mut map = BTreeMap::new();
        for (field, node, optional) in fields {
            if let Some(value) = self.element(node, *optional)? {
                map.insert(Key::String(Text::Borrowed(field)), value);
            }
        }
        self.charge(STRUCT_CREATE)?;
        Ok(Value::Map(Map::from(map)))
    }

    fn bind(&mut self, bind: &'a Bind) -> Outcome<'a> {
        let value = self.eval(&bind.value);
        if matches!(value, Err(EvalError::CostLimit)) {
            return value;
        }
        self.charge(LIST_CREATE)?;
        self.locals.truncate(bind.slot);
        self.locals.push(value);
        let outcome = self.eval(&bind.body);
        self.locals.truncate(bind.slot);
        outcome
    }

    fn fold(&mut self, fold: &'a Fold) -> Outcome<'a> {
        let range = self.eval(&fold.range)?;
        let init = self.eval(&fold.init)?;
        debug_assert_eq!(
            self.locals.len(),
            fold.slot,
            "slots are numbered as the stack grows"
        );
        self.locals.push(Ok(init));
        let outcome = match range {
            Value::List(list) => self.fold_list(fold, &list),
            Value::Map(map) => self.fold_map(fold, &map),
            other => Err(EvalError::new(format!(
                "got '{}', expected iterable type",
                other.type_name()
            ))),
        };
        self.locals.truncate(fold.slot + 1);
        let outcome = outcome.and_then(|()| self.eval(&fold.result));
        self.locals.truncate(fold.slot);
        outcome
    }

    fn fold_list(&mut self, fold: &'a Fold, list: &List<'a>) -> Result<(), EvalError> {
        for (index, item) in list.iter().enumerate() {
            let item = item?;
            let more = if fold.two {
                let index = i64::try_from(index).unwrap_or(i64::MAX);
                self.iterate(fold, Value::Int(index), Some(item))?
            } else {
                self.iterate(fold, item, None)?
            };
            if !more {
                break;
            }
        }
        Ok(())
    }

    fn fold_map(&mut self, fold: &'a Fold, map: &Map<'a>) -> Result<(), EvalError> {
        for key in map.keys() {
            let key = key.value();
            let value = if fold.two {
                map.get(&key).transpose()?
            } else {
                None
            };
            if !self.iterate(fold, key, value)? {
                break;
            }
        }
        Ok(())
    }

    /// One iteration; says whether to go on.
    fn iterate(
        &mut self,
        fold: &'a Fold,
        first: Value<'a>,
        second: Option<Value<'a>>,
    ) -> Result<bool, EvalError> {
        self.locals.truncate(fold.slot + 1);
        self.locals.push(Ok(first));
        if let Some(second) = second {
            self.locals.push(Ok(second));
        }
        if matches!(self.eval(&fold.condition)?, Value::Bool(false)) {
            return Ok(false);
        }
        let step = self.eval(&fold.step);
        if matches!(step, Err(EvalError::CostLimit)) {
            return Err(EvalError::CostLimit);
        }
        self.locals[fold.slot] = step;
        Ok(true)
    }
}

fn select<'a>(operand: Value<'a>, field: &str, optional: bool) -> Outcome<'a> {
    match operand {
        Value::Map(map) => match (map.get_str(field), optional) {
            (Some(value), false) => value,
            (Some(value), true) => value.map(Value::some),
            (None, true) => Ok(Value::Optional(None)),
            (None, false) => Err(EvalError::new(format!("no such key: {field}"))),
        },
        Value::Optional(None) => Ok(Value::Optional(None)),
        Value::Optional(Some(inner)) => select(inner.as_ref().clone(), field, true),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn has(operand: &Value<'_>, field: &str) -> Result<bool, EvalError> {
    match operand {
        Value::Map(map) => Ok(map.get_str(field).is_some()),
        Value::Optional(None) => Ok(false),
        Value::Optional(Some(inner)) => has(inner, field),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn element<'a>(operand: Value<'a>, index: &Value<'a>, optional: bool) -> Outcome<'a> {
    let found = match &operand {
        Value::Optional(None) => return Ok(Value::Optional(None)),
        Value::Optional(Some(inner)) => return element(inner.as_ref().clone(), index, true),
        Value::List(list) => match Key::of(index) {
            Some(Key::Int(at)) => usize::try_from(at).ok().and_then(|at| list.get(at)),
            Some(Key::Uint(at)) => usize::try_from(at).ok().and_then(|at| list.get(at)),
            _ => {
                return Err(EvalError::new(format!(
                    "unsupported index type '{}' in list",
                    index.type_name()
                )));
            }
        },
        Value::Map(map) => map.get(index),
        _ => return Err(EvalError::no_such_overload()),
    };
    match (found, optional, &operand) {
        (Some(value), false, _) => value,
        (Some(value), true, _) => value.map(Value::some),
        (None, true, _) => Ok(Value::Optional(None)),
        (None, false, Value::List(_)) => {
            Err(EvalError::new(format!("index out of bounds: {}", display(index))))
        }
        (None, false, _) => Err(EvalError::new(format!("no such key: {}", display(index)))),
    }
}
