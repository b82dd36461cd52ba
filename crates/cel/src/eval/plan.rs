//! From the checked tree to nodes that run: functions looked up, local variables numbered, patterns compiled.

use std::sync::Arc;

use regex::Regex;

use crate::check::Typed;
use crate::functions::{Builtin, builtin};
use crate::pattern::compile_pattern;
use crate::syntax::{ACCUMULATOR, Comprehension, Expr, Kind, Literal};
use crate::value::{Text, Value};

/// A runnable expression.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(super) root: Node,
}

/// A step of a plan.
#[derive(Debug)]
pub(super) enum Node {
    Const(Value<'static>),
    /// A variable of the environment.
    Variable(String),
    /// A variable of a comprehension, by its place on the stack.
    Local(usize),
    Select {
        operand: Box<Node>,
        field: String,
        optional: bool,
    },
    Has {
        operand: Box<Node>,
        field: String,
    },
    Index {
        operand: Box<Node>,
        index: Box<Node>,
        optional: bool,
    },
    And(Box<Node>, Box<Node>),
    Or(Box<Node>, Box<Node>),
    Conditional(Box<[Node; 3]>),
    NotStrictlyFalse(Box<Node>),
    Call {
        name: &'static str,
        overload: &'static str,
        run: Builtin,
        args: Vec<Node>,
        /// The compiled pattern when it is a literal.
        regex: Option<Arc<Regex>>,
    },
    List(Vec<(Node, bool)>),
    Map(Vec<(Node, Node, bool)>),
    Struct(Vec<(String, Node, bool)>),
    /// `accumulator + [element]`, done in place.
    Append(usize, Box<Node>),
    /// `cel.@mapInsert(accumulator, key, value)`, done in place.
    Insert(usize, Box<Node>, Box<Node>),
    Fold(Box<Fold>),
    Bind(Box<Bind>),
    /// A call whose function has no implementation; it fails when it runs.
    Missing(String),
}

/// A comprehension. The accumulator is at `slot`, the variables after it.
#[derive(Debug)]
pub(super) struct Fold {
    pub(super) range: Node,
    pub(super) slot: usize,
    pub(super) two: bool,
    pub(super) init: Node,
    pub(super) condition: Node,
    pub(super) step: Node,
    pub(super) result: Node,
}

/// A name for a value.
#[derive(Debug)]
pub(super) struct Bind {
    pub(super) value: Node,
    pub(super) slot: usize,
    pub(super) body: Node,
}

impl Plan {
    /// Plans a checked expression.
    pub(crate) fn new(typed: &Typed) -> Self {
        let mut planner = Planner {
            typed,
            locals: Vec::new(),
        };
        Self {
            root: planner.node(&typed.parsed.root),
        }
    }
}

struct Planner<'t> {
    typed: &'t Typed,
    locals: Vec<String>,
}

impl Planner<'_> {
    fn boxed(&mut self, expr: &Expr) -> Box<Node> {
        Box::new(self.node(expr))
    }

    fn node(&mut self, expr: &Expr) -> Node {
        match &expr.kind {
            Kind::Literal(literal) => Node::Const(constant(literal)),
            Kind::Ident(name) => self.ident(name, expr),
            Kind::Select {
                operand,
                field,
                test_only,
            } => {
                let operand = self.boxed(operand);
                let field = field.clone();
                if *test_only {
                    Node::Has { operand, field }
                } else {
                    Node::Select {
                        operand,
                        field,
                        optional: false,
                    }
                }
            }
            Kind::Call {
                function,
                target,
                args,
            } => self.call(expr, function, target.as_deref(), args),
            Kind::List { elements, optional } => {
                let pairs = elements.iter().zip(optional);
                Node::List(
                    pairs
                        .map(|(element, optional)| (self.node(element), *optional))
                        .collect(),
                )
            }
            Kind::Map(entries) => Node::Map(
                entries
                    .iter()
                    .map(|entry| (self.node(&entry.key), self.node(&entry.value), entry.optional))
                    .collect(),
            ),
            Kind::Struct { fields, .. } => Node::Struct(
                fields
                    .iter()
                    .map(|(_, field, value, optional)| (field.clone(), self.node(value), *optional))
                    .collect(),
            ),
            Kind::Comprehension(fold) if fold.is_bind() => {
                let value = self.node(&fold.accu_init);
                let slot = self.locals.len();
                self.locals.push(fold.accu_var.clone());
                let body = self.node(&fold.result);
                self.locals.truncate(slot);
                Node::Bind(Box::new(Bind { value, slot, body }))
            }
            Kind::Comprehension(fold) => self.fold(fold),
        }
    }

    fn ident(&mut self, name: &str, expr: &Expr) -> Node {
        if let Some(slot) = self.locals.iter().rposition(|local| local == name) {
            return Node::Local(slot);
        }
        let bare = name.trim_start_matches('.');
        if self.typed.variables.iter().any(|known| known == bare) {
            return Node::Variable(bare.to_owned());
        }
        match self.typed.type_of(expr.id) {
            crate::check::Type::Type(_) => Node::Const(Value::Type(Text::from(bare.to_owned()))),
            _ => Node::Variable(bare.to_owned()),
        }
    }

    fn call(&mut self, expr: &Expr, function: &str, target: Option<&Expr>, args: &[Expr]) -> Node {
        match (function, target, args) {
            ("_&&_", None, [left, right]) => return Node::And(self.boxed(left), self.boxed(right)),
            ("_||_", None, [left, right]) => return Node::Or(self.boxed(left), self.boxed(right)),
            ("_?_:_", None, [condition, yes, no]) => {
                return Node::Conditional(Box::new([self.node(condition), self.node(yes), self.node(no)]));
            }
            ("@not_strictly_false", None, [arg]) => return Node::NotStrictlyFalse(self.boxed(arg)),
            ("_[_]" | "_[?_]", None, [operand, index]) => {
                return Node::Index {
                    operand: self.boxed(operand),
                    index: self.boxed(index),
                    optional: function == "_[?_]",
                };
            }
            ("_?._", None, [operand, field]) => {
                if let Kind::Literal(Literal::String(field)) = &field.kind {
                    return Node::Select {
                        operand: self.boxed(operand),
                        field: field.clone(),
                        optional: true,
                    };
                }
            }
            ("_+_", None, [accu, list]) => {
                if let (Some(slot), Kind::List { elements, optional }) = (self.accumulator(accu), &list.kind)
                    && let ([element], [false]) = (elements.as_slice(), optional.as_slice())
                {
                    return Node::Append(slot, self.boxed(element));
                }
            }
            ("cel.@mapInsert", None, [accu, key, value]) => {
                if let Some(slot) = self.accumulator(accu) {
                    return Node::Insert(slot, self.boxed(key), self.boxed(value));
                }
            }
            _ => {}
        }
        let Some((name, run)) = builtin(function) else {
            return Node::Missing(function.to_owned());
        };
        let overload = match self.typed.overloads(expr.id) {
            [only] => only.id,
            _ => "",
        };
        let pattern = match (name, target.is_some(), args) {
            ("matches", false, [_, pattern]) => Some(pattern),
            ("matches" | "find" | "findAll", true, [pattern, ..]) => Some(pattern),
            _ => None,
        };
        let regex = pattern.and_then(|pattern| match &pattern.kind {
            Kind::Literal(Literal::String(text)) => compile_pattern(text).ok().map(Arc::new),
            _ => None,
        });
        Node::Call {
            name,
            overload,
            run,
            args: target.into_iter().chain(args).map(|arg| self.node(arg)).collect(),
            regex,
        }
    }

    /// The slot of the innermost accumulator, if that is what the expression names.
    fn accumulator(&self, expr: &Expr) -> Option<usize> {
        match &expr.kind {
            Kind::Ident(name) if name == ACCUMULATOR => self.locals.iter().rposition(|local| local == name),
            _ => None,
        }
    }

    fn fold(&mut self, fold: &Comprehension) -> Node {
        let range = self.node(&fold.range);
        let init = self.node(&fold.accu_init);
        let slot = self.locals.len();
        self.locals.push(fold.accu_var.clone());
        self.locals.push(fold.var.clone());
        self.locals.extend(fold.var2.clone());
        let condition = self.node(&fold.condition);
        let step = self.node(&fold.step);
        self.locals.truncate(slot + 1);
        let result = self.node(&fold.result);
        self.locals.truncate(slot);
        Node::Fold(Box::new(Fold {
            range,
            slot,
            two: fold.var2.is_some(),
            init,
            condition,
            step,
            result,
        }))
    }
}

fn constant(literal: &Literal) -> Value<'static> {
    match literal {
        Literal::Null => Value::Null,
        Literal::Bool(value) => Value::Bool(*value),
        Literal::Int(value) => Value::Int(*value),
        Literal::Uint(value) => Value::Uint(*value),
        Literal::Double(value) => Value::Double(*value),
        Literal::String(text) => Value::text(text.clone()),
        Literal::Bytes(bytes) => Value::Bytes(bytes.as_slice().into()),
    }
}
