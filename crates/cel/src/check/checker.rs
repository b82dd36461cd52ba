//! The type checker. It also resolves names: qualified names of variables and functions become one node, so that
//! everything after works on a resolved tree.

use std::collections::HashMap;
use std::sync::Arc;

use super::signatures::{Function, Overload, function};
use super::types::{Type, signature};
use super::unify::{Substitution, most_general};
use crate::error::{Issue, Issues};
use crate::syntax::{Comprehension, Expr, ExprId, Kind, Literal, Parsed};

/// Looks up the variables of an environment.
pub(crate) trait Scope {
    /// The type of a variable.
    fn variable(&self, name: &str) -> Option<Type>;
    /// The object type that a message literal names.
    fn object(&self, name: &str) -> Option<Type>;
}

/// A checked expression.
#[derive(Debug)]
pub(crate) struct Typed {
    pub(crate) parsed: Parsed,
    pub(crate) result: Type,
    types: Vec<Type>,
    overloads: HashMap<ExprId, Vec<&'static Overload>>,
    /// Names of the environment's variables that the expression uses.
    pub(crate) variables: Vec<String>,
}

impl Typed {
    /// The type of a node.
    pub(crate) fn type_of(&self, id: ExprId) -> &Type {
        self.types.get(id as usize).unwrap_or(&Type::Dyn)
    }

    /// The overloads that a call may use.
    pub(crate) fn overloads(&self, id: ExprId) -> &[&'static Overload] {
        self.overloads.get(&id).map(Vec::as_slice).unwrap_or_default()
    }
}

/// Names that stand for types.
pub(crate) fn type_constant(name: &str) -> Option<Type> {
    Some(match name {
        "bool" => Type::Bool,
        "bytes" => Type::Bytes,
        "double" => Type::Double,
        "dyn" => Type::Dyn,
        "int" => Type::Int,
        "list" => Type::List(Arc::new(Type::Dyn)),
        "map" => Type::Map(Arc::new(Type::Dyn), Arc::new(Type::Dyn)),
        "null_type" => Type::Null,
        "string" => Type::String,
        "type" => Type::Type(None),
        "uint" => Type::Uint,
        "optional_type" => Type::Optional(Arc::new(Type::Dyn)),
        "google.protobuf.Timestamp" => Type::Timestamp,
        "google.protobuf.Duration" => Type::Duration,
        _ => return None,
    })
}

/// Checks the types of an expression.
///
/// # Errors
/// Everything that is wrong, in order of position.
pub(crate) fn check(mut parsed: Parsed, scope: &dyn Scope) -> Result<Typed, Issues> {
    let mut root = std::mem::replace(
        &mut parsed.root,
        Expr {
            id: 0,
            kind: Kind::Literal(Literal::Null),
        },
    );
    let mut checker = Checker {
        parsed: &parsed,
        scope,
        locals: Vec::new(),
        substitution: Substitution::default(),
        types: vec![Type::Error; parsed.positions.len()],
        overloads: HashMap::new(),
        variables: Vec::new(),
        issues: Vec::new(),
    };
    checker.check(&mut root);
    let mut types = std::mem::take(&mut checker.types);
    for ty in &mut types {
        *ty = checker.substitution.resolve(ty, true);
    }
    if checker.substitution.exhausted() {
        checker.report(root.id, "the types of the expression are too complex");
    }
    let Checker {
        overloads,
        variables,
        mut issues,
        ..
    } = checker;
    if !issues.is_empty() {
        issues.sort_by_key(|issue| (issue.line, issue.column));
        return Err(Issues(issues));
    }
    parsed.root = root;
    Ok(Typed {
        result: types[parsed.root.id as usize].clone(),
        parsed,
        types,
        overloads,
        variables,
    })
}

struct Checker<'c> {
    parsed: &'c Parsed,
    scope: &'c dyn Scope,
    /// Variables of comprehensions, innermost last.
    locals: Vec<(String, Type)>,
    substitution: Substitution,
    types: Vec<Type>,
    overloads: HashMap<ExprId, Vec<&'static Overload>>,
    variables: Vec<String>,
    issues: Vec<Issue>,
}

impl Checker<'_> {
    fn report(&mut self, id: ExprId, message: impl Into<String>) {
        self.issues.push(self.parsed.issue(id, message));
    }

    fn set(&mut self, id: ExprId, ty: Type) {
        self.types[id as usize] = ty;
    }

    fn get(&self, expr: &Expr) -> Type {
        self.types[expr.id as usize].clone()
    }

    fn shown(&mut self, ty: &Type) -> Type {
        self.substitution.resolve(ty, false)
    }

    fn check(&mut self, expr: &mut Expr) {
        let id = expr.id;
        match &mut expr.kind {
            Kind::Literal(literal) => {
                let ty = match literal {
                    Literal::Null => Type::Null,
                    Literal::Bool(_) => Type::Bool,
                    Literal::Int(_) => Type::Int,
                    Literal::Uint(_) => Type::Uint,
                    Literal::Double(_) => Type::Double,
                    Literal::String(_) => Type::String,
                    Literal::Bytes(_) => Type::Bytes,
                };
                self.set(id, ty);
            }
            Kind::Ident(name) => {
                let name = name.clone();
                match self.resolve(&name) {
                    Some((resolved, ty)) => {
                        expr.kind = Kind::Ident(resolved);
                        self.set(id, ty);
                    }
                    None => {
                        self.report(id, format!("undeclared reference to '{name}' (in container '')"));
                    }
                }
            }
            Kind::Select { .. } => self.select(expr),
            Kind::Call { .. } => self.call(expr),
            Kind::List { .. } => self.list(expr),
            Kind::Map(_) => self.map(expr),
            Kind::Struct { .. } => self.message(expr),
            Kind::Comprehension(fold) => {
                let ty = self.comprehension(fold);
                self.set(id, ty);
            }
        }
    }

    /// The variable or type that a name means, with the name it has in the resolved tree.
    fn resolve(&mut self, name: &str) -> Option<(String, Type)> {
        let global = name.strip_prefix('.');
        if global.is_none()
            && let Some((local, ty)) = self.locals.iter().rev().find(|(local, _)| local == name)
        {
            return Some((local.clone(), ty.clone()));
        }
        let bare = global.unwrap_or(name);
        if let Some(ty) = self.scope.variable(bare) {
            if !self.variables.iter().any(|known| known == bare) {
                self.variables.push(bare.to_owned());
            }
            // A dot tells the planner that no local is meant.
            let shadowed = self.locals.iter().any(|(local, _)| local == bare);
            let resolved = if shadowed {
                format!(".{bare}")
            } else {
                bare.to_owned()
            };
            return Some((resolved, ty));
        }
        type_constant(bare).map(|ty| (bare.to_owned(), Type::Type(Some(Arc::new(ty)))))
    }

    fn select(&mut self, expr: &mut Expr) {
        let id = expr.id;
        if let Some(name) = expr.qualified_name() {
            let first = name.split('.').find(|part| !part.is_empty()).unwrap_or_default();
            let local = !name.starts_with('.') && self.locals.iter().any(|(local, _)| local == first);
            if !local && let Some((resolved, ty)) = self.resolve(&name) {
                expr.kind = Kind::Ident(resolved);
                self.set(id, ty);
                return;
            }
        }
        let Kind::Select {
            operand,
            field,
            test_only,
        } = &mut expr.kind
        else {
            return;
        };
        let mut ty = self.select_field(id, operand, field, false);
        if *test_only {
            ty = Type::Bool;
        }
        let ty = self.shown(&ty);
        self.set(id, ty);
    }

    fn select_field(&mut self, id: ExprId, operand: &mut Expr, field: &str, optional: bool) -> Type {
        self.check(operand);
        let operand = self.get(operand);
        let operand = self.shown(&operand);
        let (target, was_optional) = match operand {
            Type::Optional(inner) => (inner.as_ref().clone(), true),
            other => (other, false),
        };
        let result = match &target {
            Type::Map(_, value) => value.as_ref().clone(),
            Type::Object(object) => match object.fields.get(field) {
                Some(found) => found.decl.ty.clone(),
                None if object.open => Type::Dyn,
                None => {
                    self.report(id, format!("undefined field '{field}'"));
                    Type::Error
                }
            },
            Type::Var(_) => {
                self.substitution.assignable(&Type::Dyn, &target);
                Type::Dyn
            }
            Type::Dyn | Type::Error => Type::Dyn,
            other => {
                self.report(id, format!("type '{other}' does not support field selection"));
                Type::Dyn
            }
        };
        if was_optional || optional {
            Type::Optional(Arc::new(result))
        } else {
            result
        }
    }

    fn call(&mut self, expr: &mut Expr) {
        let id = expr.id;
        let Kind::Call {
            function: name,
            target,
            args,
        } = &mut expr.kind
        else {
            return;
        };
        if name == "_?._" {
            if let [operand, field] = args.as_mut_slice()
                && let Kind::Literal(Literal::String(name)) = &field.kind
            {
                let name = name.clone();
                self.set(field.id, Type::String);
                let ty = self.select_field(id, operand, &name, true);
                let ty = self.shown(&ty);
                self.set(id, ty);
            }
            return;
        }
        for arg in args.iter_mut() {
            self.check(arg);
        }
        let namespaced = target
            .as_ref()
            .and_then(|target| target.qualified_name())
            .map(|prefix| format!("{}.{name}", prefix.trim_start_matches('.')))
            .and_then(|full| function(&full));
        if let Some(found) = namespaced {
            found.name.clone_into(name);
            *target = None;
            self.resolve_overload(id, found, None, args);
            return;
        }
        if let Some(target) = target {
            self.check(target);
        }
        match function(name.trim_start_matches('.')) {
            Some(found) => {
                found.name.clone_into(name);
                self.resolve_overload(id, found, target.as_deref(), args);
            }
            None => {
                let message = format!("undeclared reference to '{name}' (in container '')");
                self.report(id, message);
                self.set(id, Type::Error);
            }
        }
    }

    fn resolve_overload(
        &mut self,
        id: ExprId,
        found: &'static Function,
        target: Option<&Expr>,
        args: &[Expr],
    ) {
        let types: Vec<Type> = target.into_iter().chain(args).map(|arg| self.get(arg)).collect();
        if matches!(found.name, "_&&_" | "_||_") {
            let mut failed = false;
            for (arg, ty) in args.iter().zip(&types) {
                if !self.substitution.assignable(ty, &Type::Bool) {
                    let ty = self.shown(ty);
                    self.report(arg.id, format!("expected type 'bool' but found '{ty}'"));
                    failed = true;
                }
            }
            self.overloads.insert(id, found.overloads.iter().collect());
            self.set(id, if failed { Type::Error } else { Type::Bool });
            return;
        }
        let mut result: Option<Type> = None;
        let mut matching = Vec::new();
        for overload in &found.overloads {
            if overload.member != target.is_some() || overload.args.len() != types.len() {
                continue;
            }
            let (params, declared);
            if overload.generic {
                let mut fresh = Vec::new();
                params = overload
                    .args
                    .iter()
                    .map(|arg| self.substitution.instantiate(arg, &mut fresh))
                    .collect::<Vec<_>>();
                declared = self.substitution.instantiate(&overload.result, &mut fresh);
            } else {
                params = overload.args.clone();
                declared = overload.result.clone();
            }
            if self.substitution.assignable_all(&types, &params) {
                matching.push(overload);
                let declared = self.shown(&declared);
                result = Some(match result {
                    None => declared,
                    Some(Type::Dyn) => Type::Dyn,
                    Some(first) if first == declared => first,
                    Some(_) => Type::Dyn,
                });
            }
        }
        match result {
            Some(ty) => {
                self.overloads.insert(id, matching);
                self.set(id, ty);
            }
            None => {
                let types: Vec<Type> = types
                    .iter()
                    .map(|ty| self.substitution.resolve(ty, true))
                    .collect();
                let shown = match target {
                    Some(_) => signature(types.first(), &types[1..]),
                    None => signature(None, &types),
                };
                self.report(
                    id,
                    format!(
                        "found no matching overload for '{}' applied to '{shown}'",
                        found.name
                    ),
                );
                self.set(id, Type::Error);
            }
        }
    }

    /// Joins the type of one more element to that of those before.
    fn join(&mut self, at: ExprId, previous: Option<Type>, current: Type) -> Type {
        let Some(previous) = previous else {
            return current;
        };
        if self.substitution.assignable(&previous, &current) {
            return most_general(&previous, &current);
        }
        let (expected, found) = (self.shown(&previous), self.shown(&current));
        self.report(at, format!("expected type '{expected}' but found '{found}'"));
        Type::Error
    }

    /// The type of an optional element's value.
    fn unwrap_optional(&mut self, at: ExprId, ty: Type) -> Type {
        match self.shown(&ty) {
            Type::Optional(inner) => inner.as_ref().clone(),
            Type::Dyn => Type::Dyn,
            other => {
                self.report(
                    at,
                    format!("expected type 'optional_type({other})' but found '{other}'"),
                );
                other
            }
        }
    }

    fn list(&mut self, expr: &mut Expr) {
        let Kind::List { elements, optional } = &mut expr.kind else {
            return;
        };
        let mut joined = None;
        for (element, optional) in elements.iter_mut().zip(optional) {
            self.check(element);
            let mut ty = self.get(element);
            if *optional {
                ty = self.unwrap_optional(element.id, ty);
            }
            joined = Some(self.join(element.id, joined, ty));
        }
        let element = joined.unwrap_or_else(|| self.substitution.fresh());
        self.set(expr.id, Type::List(Arc::new(element)));
    }

    fn map(&mut self, expr: &mut Expr) {
        let Kind::Map(entries) = &mut expr.kind else {
            return;
        };
        let (mut keys, mut values) = (None, None);
        for entry in entries {
            self.check(&mut entry.key);
            let key = self.get(&entry.key);
            keys = Some(self.join(entry.key.id, keys, key));
            self.check(&mut entry.value);
            let mut value = self.get(&entry.value);
            if entry.optional {
                value = self.unwrap_optional(entry.value.id, value);
            }
            values = Some(self.join(entry.value.id, values, value));
        }
        let key = keys.unwrap_or_else(|| self.substitution.fresh());
        let value = values.unwrap_or_else(|| self.substitution.fresh());
        self.set(expr.id, Type::Map(Arc::new(key), Arc::new(value)));
    }

    fn message(&mut self, expr: &mut Expr) {
        let id = expr.id;
        let Kind::Struct { name, fields } = &mut expr.kind else {
            return;
        };
        let Some(Type::Object(object)) = self.scope.object(name.trim_start_matches('.')) else {
            self.report(id, format!("undeclared reference to '{name}' (in container '')"));
            return;
        };
        for (marker, field, value, optional) in fields {
            self.check(value);
            let mut ty = self.get(value);
            if *optional {
                ty = self.unwrap_optional(value.id, ty);
            }
            match object.fields.get(field.as_str()) {
                None if object.open => {}
                None => self.report(*marker, format!("undefined field '{field}'")),
                Some(declared) => {
                    if !self.substitution.assignable(&declared.decl.ty, &ty) {
                        let ty = self.shown(&ty);
                        let message = format!(
                            "expected type of field '{field}' is '{}' but provided type is '{ty}'",
                            declared.decl.ty
                        );
                        self.report(*marker, message);
                    }
                }
            }
        }
        self.set(id, Type::Object(object));
    }

    fn comprehension(&mut self, fold: &mut Comprehension) -> Type {
        self.check(&mut fold.range);
        self.check(&mut fold.accu_init);
        let range = self.get(&fold.range);
        let range = self.shown(&range);
        let accu = self.get(&fold.accu_init);
        let depth = self.locals.len();
        self.locals.push((fold.accu_var.clone(), accu.clone()));
        let two = fold.var2.is_some();
        let (first, second) = match &range {
            Type::List(element) if two => (Type::Int, element.as_ref().clone()),
            Type::List(element) => (element.as_ref().clone(), Type::Error),
            Type::Map(key, value) => (key.as_ref().clone(), value.as_ref().clone()),
            Type::Dyn | Type::Error | Type::Var(_) => {
                self.substitution.assignable(&Type::Dyn, &range);
                (Type::Dyn, Type::Dyn)
            }
            other => {
                let message = format!(
                    "expression of type '{other}' cannot be range of a comprehension (must be list, map, or dynamic)"
                );
                self.report(fold.range.id, message);
                (Type::Error, Type::Error)
            }
        };
        self.locals.push((fold.var.clone(), first));
        if let Some(var2) = &fold.var2 {
            self.locals.push((var2.clone(), second));
        }
        self.check(&mut fold.condition);
        self.assert(&fold.condition, &Type::Bool);
        self.check(&mut fold.step);
        self.assert(&fold.step, &accu);
        self.locals.truncate(depth + 1);
        self.check(&mut fold.result);
        self.locals.truncate(depth);
        let result = self.get(&fold.result);
        self.shown(&result)
    }

    fn assert(&mut self, expr: &Expr, expected: &Type) {
        let found = self.get(expr);
        if !self.substitution.assignable(expected, &found) {
            let (expected, found) = (self.shown(expected), self.shown(&found));
            self.report(expr.id, format!("expected type '{expected}' but found '{found}'"));
        }
    }
}
