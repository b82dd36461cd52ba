//! Macros: calls that the parser rewrites. The expansions are cel-go's, node by node, because costs are counted on
//! them.

use super::ast::{ACCUMULATOR, Comprehension, Entry, Expr, Kind, Literal};
use super::parser::Parser;
use crate::limits::MAX_EXPRESSION_CHARS;

/// Expands a global macro, or makes the call.
pub(super) fn global(parser: &mut Parser<'_>, at: usize, name: String, mut args: Vec<Expr>) -> Expr {
    if name == "has" && args.len() == 1 {
        let arg = args.remove(0);
        let position = parser.position(&arg);
        return match arg.kind {
            Kind::Select {
                operand,
                field,
                test_only: false,
            } => parser.node(
                at,
                Kind::Select {
                    operand,
                    field,
                    test_only: true,
                },
            ),
            _ => {
                parser.report(position, "invalid argument to has() macro");
                parser.node(at, Kind::Literal(Literal::Bool(false)))
            }
        };
    }
    parser.node(
        at,
        Kind::Call {
            function: name,
            target: None,
            args,
        },
    )
}

/// Expands a member macro, or makes the call.
pub(super) fn member(
    parser: &mut Parser<'_>,
    at: usize,
    target: Expr,
    name: String,
    args: Vec<Expr>,
) -> Expr {
    let quantifier = match name.as_str() {
        "all" => Some(Quantifier::All),
        "exists" => Some(Quantifier::Exists),
        "exists_one" | "existsOne" => Some(Quantifier::ExistsOne),
        _ => None,
    };
    let mut expansion = Expansion { parser, at };
    let expanded = match (quantifier, name.as_str(), args.len()) {
        (Some(quantifier), _, 2) => expansion.quantifier(quantifier, target, args, false),
        (Some(quantifier), _, 3) => expansion.quantifier(quantifier, target, args, true),
        (_, "map", 2 | 3) | (_, "filter", 2) => expansion.transform(&name, target, args, false),
        (_, "transformList" | "transformMap" | "transformMapEntry", 3 | 4) => {
            expansion.transform(&name, target, args, true)
        }
        (_, "optMap" | "optFlatMap", 2) => expansion.opt_map(&name, target, args),
        _ => {
            return parser.node(
                at,
                Kind::Call {
                    function: name,
                    target: Some(Box::new(target)),
                    args,
                },
            );
        }
    };
    expanded.unwrap_or_else(|(position, message)| {
        parser.report(position, message);
        parser.node(at, Kind::Literal(Literal::Bool(false)))
    })
}

#[derive(Clone, Copy)]
enum Quantifier {
    All,
    Exists,
    ExistsOne,
}

type Expanded = Result<Expr, (usize, String)>;

struct Expansion<'p, 's> {
    parser: &'p mut Parser<'s>,
    at: usize,
}

impl Expansion<'_, '_> {
    fn literal(&mut self, literal: Literal) -> Expr {
        self.parser.node(self.at, Kind::Literal(literal))
    }

    fn ident(&mut self, name: &str) -> Expr {
        self.parser.node(self.at, Kind::Ident(name.to_owned()))
    }

    fn accu(&mut self) -> Expr {
        self.ident(ACCUMULATOR)
    }

    fn list(&mut self, elements: Vec<Expr>) -> Expr {
        let optional = vec![false; elements.len()];
        self.parser.node(self.at, Kind::List { elements, optional })
    }

    fn call(&mut self, function: &str, args: Vec<Expr>) -> Expr {
        self.parser.node(
            self.at,
            Kind::Call {
                function: function.to_owned(),
                target: None,
                args,
            },
        )
    }

    fn member_call(&mut self, target: Expr, function: &str) -> Expr {
        self.parser.node(
            self.at,
            Kind::Call {
                function: function.to_owned(),
                target: Some(Box::new(target)),
                args: Vec::new(),
            },
        )
    }

    /// The name of an iteration variable.
    fn variable(&mut self, arg: &Expr, problem: &str) -> Result<String, (usize, String)> {
        let position = self.parser.position(arg);
        match &arg.kind {
            Kind::Ident(name) if name == ACCUMULATOR || name == "__result__" => Err((
                position,
                "iteration variable overwrites accumulator variable".to_owned(),
            )),
            Kind::Ident(name) if !name.starts_with('.') => Ok(name.clone()),
            _ => Err((position, problem.to_owned())),
        }
    }

    fn variables(
        &mut self,
        args: &mut std::vec::IntoIter<Expr>,
        two: bool,
        problem: &str,
    ) -> Result<(String, Option<String>), (usize, String)> {
        let first = args
            .next()
            .expect("invariant: the number of arguments was matched");
        let var = self.variable(&first, problem)?;
        if !two {
            return Ok((var, None));
        }
        let second = args
            .next()
            .expect("invariant: the number of arguments was matched");
        let var2 = self.variable(&second, problem)?;
        if var == var2 {
            let position = self.parser.position(&second);
            return Err((position, format!("duplicate variable name: {var}")));
        }
        Ok((var, Some(var2)))
    }

    fn quantifier(&mut self, quantifier: Quantifier, target: Expr, args: Vec<Expr>, two: bool) -> Expanded {
        let mut args = args.into_iter();
        let (var, var2) = self.variables(&mut args, two, "argument must be a simple name")?;
        let predicate = args
            .next()
            .expect("invariant: the number of arguments was matched");
        let (accu_init, condition, step, result) = match quantifier {
            Quantifier::All => {
                let init = self.literal(Literal::Bool(true));
                let accu = self.accu();
                let condition = self.call("@not_strictly_false", vec![accu]);
                let accu = self.accu();
                let step = self.call("_&&_", vec![accu, predicate]);
                (init, condition, step, self.accu())
            }
            Quantifier::Exists => {
                let init = self.literal(Literal::Bool(false));
                let accu = self.accu();
                let not = self.call("!_", vec![accu]);
                let condition = self.call("@not_strictly_false", vec![not]);
                let accu = self.accu();
                let step = self.call("_||_", vec![accu, predicate]);
                (init, condition, step, self.accu())
            }
            Quantifier::ExistsOne => {
                let init = self.literal(Literal::Int(0));
                let condition = self.literal(Literal::Bool(true));
                let (accu, one) = (self.accu(), self.literal(Literal::Int(1)));
                let more = self.call("_+_", vec![accu, one]);
                let accu = self.accu();
                let step = self.call("_?_:_", vec![predicate, more, accu]);
                let (accu, one) = (self.accu(), self.literal(Literal::Int(1)));
                (init, condition, step, self.call("_==_", vec![accu, one]))
            }
        };
        Ok(self.fold(target, var, var2, accu_init, condition, step, result))
    }

    fn transform(&mut self, name: &str, target: Expr, args: Vec<Expr>, two: bool) -> Expanded {
        let problem = if two {
            "argument must be a simple name"
        } else {
            "argument is not an identifier"
        };
        let mut args = args.into_iter();
        let (var, var2) = self.variables(&mut args, two, problem)?;
        let mut rest: Vec<Expr> = args.collect();
        let last = rest
            .pop()
            .expect("invariant: the number of arguments was matched");
        let (filter, transform) = match name {
            "filter" => (Some(last), self.ident(&var)),
            _ => (rest.pop(), last),
        };
        let accu = self.accu();
        let condition = self.literal(Literal::Bool(true));
        let (init, mut step) = match name {
            "transformMap" => {
                let key = self.ident(&var);
                let init = self.parser.node(self.at, Kind::Map(Vec::new()));
                (init, self.call("cel.@mapInsert", vec![accu, key, transform]))
            }
            "transformMapEntry" => {
                let init = self.parser.node(self.at, Kind::Map(Vec::new()));
                (init, self.call("cel.@mapInsert", vec![accu, transform]))
            }
            _ => {
                let list = self.list(vec![transform]);
                (self.list(Vec::new()), self.call("_+_", vec![accu, list]))
            }
        };
        if let Some(filter) = filter {
            let accu = self.accu();
            step = self.call("_?_:_", vec![filter, step, accu]);
        }
        let result = self.accu();
        Ok(self.fold(target, var, var2, init, condition, step, result))
    }

    /// `target.optMap(v, e)` is `target.hasValue() ? optional.of(bind v = target.value() in e) : optional.none()`.
    fn opt_map(&mut self, name: &str, target: Expr, args: Vec<Expr>) -> Expanded {
        let mut args = args.into_iter();
        let (var, _) = self.variables(
            &mut args,
            false,
            &format!("{name}() variable name must be a simple identifier"),
        )?;
        let body = args
            .next()
            .expect("invariant: the number of arguments was matched");
        // Copies of copies double with each call in a chain.
        if self.parser.positions.len() > MAX_EXPRESSION_CHARS {
            return Err((self.at, "expression is too large".to_owned()));
        }
        let copy = self.copy(&target);
        let has_value = self.member_call(target, "hasValue");
        let comprehension = Comprehension {
            range: self.list(Vec::new()),
            var: "#unused".to_owned(),
            var2: None,
            accu_init: self.member_call(copy, "value"),
            condition: self.literal(Literal::Bool(false)),
            step: self.ident(&var),
            accu_var: var,
            result: body,
        };
        let mut value = self
            .parser
            .node(self.at, Kind::Comprehension(Box::new(comprehension)));
        if name == "optMap" {
            value = self.call("optional.of", vec![value]);
        }
        let none = self.call("optional.none", Vec::new());
        Ok(self.call("_?_:_", vec![has_value, value, none]))
    }

    /// The same tree with ids of its own.
    fn copy(&mut self, expr: &Expr) -> Expr {
        let at = self.parser.position(expr);
        let kind = match &expr.kind {
            Kind::Literal(_) | Kind::Ident(_) => expr.kind.clone(),
            Kind::Select {
                operand,
                field,
                test_only,
            } => Kind::Select {
                operand: Box::new(self.copy(operand)),
                field: field.clone(),
                test_only: *test_only,
            },
            Kind::Call {
                function,
                target,
                args,
            } => Kind::Call {
                function: function.clone(),
                target: target.as_ref().map(|target| Box::new(self.copy(target))),
                args: args.iter().map(|arg| self.copy(arg)).collect(),
            },
            Kind::List { elements, optional } => Kind::List {
                elements: elements.iter().map(|element| self.copy(element)).collect(),
                optional: optional.clone(),
            },
            Kind::Map(entries) => Kind::Map(
                entries
                    .iter()
                    .map(|entry| Entry {
                        key: self.copy(&entry.key),
                        value: self.copy(&entry.value),
                        optional: entry.optional,
                    })
                    .collect(),
            ),
            Kind::Struct { name, fields } => Kind::Struct {
                name: name.clone(),
                fields: fields
                    .iter()
                    .map(|(id, field, value, optional)| (*id, field.clone(), self.copy(value), *optional))
                    .collect(),
            },
            Kind::Comprehension(fold) => Kind::Comprehension(Box::new(Comprehension {
                range: self.copy(&fold.range),
                var: fold.var.clone(),
                var2: fold.var2.clone(),
                accu_var: fold.accu_var.clone(),
                accu_init: self.copy(&fold.accu_init),
                condition: self.copy(&fold.condition),
                step: self.copy(&fold.step),
                result: self.copy(&fold.result),
            })),
        };
        self.parser.node(at, kind)
    }

    #[expect(clippy::too_many_arguments, reason = "a comprehension has this many parts")]
    fn fold(
        &mut self,
        range: Expr,
        var: String,
        var2: Option<String>,
        accu_init: Expr,
        condition: Expr,
        step: Expr,
        result: Expr,
    ) -> Expr {
        let comprehension = Comprehension {
            range,
            var,
            var2,
            accu_var: ACCUMULATOR.to_owned(),
            accu_init,
            condition,
            step,
            result,
        };
        self.parser
            .node(self.at, Kind::Comprehension(Box::new(comprehension)))
    }
}
