//! Unification: which types may stand for which.

use std::sync::Arc;

use super::types::Type;
use crate::limits::MAX_TYPE_STEPS;

/// What is known of type variables. Failed attempts leave no trace.
#[derive(Debug, Default)]
pub(super) struct Substitution {
    bound: Vec<Option<Type>>,
    /// Earlier bindings, to undo.
    trail: Vec<(u32, Option<Type>)>,
    steps: usize,
}

impl Substitution {
    /// Whether types have grown beyond what an expression may cost to check.
    pub(super) fn exhausted(&self) -> bool {
        self.steps > MAX_TYPE_STEPS
    }

    fn step(&mut self) -> bool {
        self.steps += 1;
        !self.exhausted()
    }

    /// A new variable.
    pub(super) fn fresh(&mut self) -> Type {
        let number = u32::try_from(self.bound.len()).expect("invariant: steps are limited");
        self.bound.push(None);
        Type::Var(number)
    }

    fn find(&self, ty: &Type) -> Option<&Type> {
        match ty {
            Type::Var(number) => self.bound.get(*number as usize)?.as_ref(),
            _ => None,
        }
    }

    fn bind(&mut self, number: u32, ty: Type) {
        let slot = &mut self.bound[number as usize];
        self.trail.push((number, slot.replace(ty)));
    }

    /// Whether every type of the first list is assignable to its partner; bindings stay only if so.
    pub(super) fn assignable_all(&mut self, from: &[Type], to: &[Type]) -> bool {
        let mark = self.trail.len();
        if from.len() == to.len() && from.iter().zip(to).all(|(from, to)| self.unify(from, to)) {
            return true;
        }
        while self.trail.len() > mark {
            if let Some((number, earlier)) = self.trail.pop() {
                self.bound[number as usize] = earlier;
            }
        }
        false
    }

    /// Whether one type is assignable to the other; bindings stay only if so.
    pub(super) fn assignable(&mut self, from: &Type, to: &Type) -> bool {
        self.assignable_all(std::slice::from_ref(from), std::slice::from_ref(to))
    }

    fn unify(&mut self, from: &Type, to: &Type) -> bool {
        if !self.step() {
            return true;
        }
        if let Type::Var(number) = to {
            let (valid, bound) = self.substitutable(from, *number);
            if valid {
                return true;
            }
            if bound {
                return false;
            }
        }
        if let Type::Var(number) = from {
            return self.substitutable(to, *number).0;
        }
        match (from, to) {
            _ if from.is_dyn_or_error() || to.is_dyn_or_error() => true,
            (Type::Null, other) | (other, Type::Null) => matches!(
                other,
                Type::Null | Type::Object(_) | Type::Optional(_) | Type::Duration | Type::Timestamp
            ),
            (Type::Type(_), Type::Type(_)) => true,
            (Type::List(from), Type::List(to)) | (Type::Optional(from), Type::Optional(to)) => {
                self.unify(from, to)
            }
            (Type::Map(from_key, from_value), Type::Map(to_key, to_value)) => {
                self.unify(from_key, to_key) && self.unify(from_value, to_value)
            }
            (
                Type::List(_) | Type::Optional(_) | Type::Map(..) | Type::Type(_),
                Type::List(_) | Type::Optional(_) | Type::Map(..) | Type::Type(_),
            ) => false,
            _ => from == to,
        }
    }

    /// Whether a type may stand for a variable, and whether the variable was bound.
    fn substitutable(&mut self, ty: &Type, number: u32) -> (bool, bool) {
        if matches!(ty, Type::Var(other) if *other == number) {
            return (true, true);
        }
        if let Some(bound) = self.bound[number as usize].clone() {
            if self.unify(ty, &bound) {
                let general = most_general(ty, &bound);
                if self.absent(number, &general) {
                    self.bind(number, general);
                }
                return (true, true);
            }
            return (false, true);
        }
        if self.absent(number, ty) {
            self.bind(number, ty.clone());
            return (true, false);
        }
        (false, false)
    }

    /// The occurs check.
    fn absent(&mut self, number: u32, within: &Type) -> bool {
        if !self.step() {
            return true;
        }
        match within {
            Type::Var(other) if *other == number => false,
            Type::Var(_) => match self.find(within).cloned() {
                Some(bound) => self.absent(number, &bound),
                None => true,
            },
            Type::List(inner) | Type::Optional(inner) | Type::Type(Some(inner)) => self.absent(number, inner),
            Type::Map(key, value) => self.absent(number, key) && self.absent(number, value),
            _ => true,
        }
    }

    /// The type with everything known put in; with `to_dyn` the unknown becomes `dyn`.
    pub(super) fn resolve(&mut self, ty: &Type, to_dyn: bool) -> Type {
        if !self.step() {
            return Type::Dyn;
        }
        if let Some(bound) = self.find(ty).cloned() {
            return self.resolve(&bound, to_dyn);
        }
        match ty {
            Type::Var(_) if to_dyn => Type::Dyn,
            Type::List(inner) => Type::List(Arc::new(self.resolve(inner, to_dyn))),
            Type::Optional(inner) => Type::Optional(Arc::new(self.resolve(inner, to_dyn))),
            Type::Type(Some(inner)) => Type::Type(Some(Arc::new(self.resolve(inner, to_dyn)))),
            Type::Map(key, value) => Type::Map(
                Arc::new(self.resolve(key, to_dyn)),
                Arc::new(self.resolve(value, to_dyn)),
            ),
            _ => ty.clone(),
        }
    }

    /// The type with its parameters replaced by fresh variables.
    pub(super) fn instantiate(&mut self, ty: &Type, fresh: &mut Vec<(char, Type)>) -> Type {
        match ty {
            Type::Param(name) => {
                if let Some((_, var)) = fresh.iter().find(|(known, _)| known == name) {
                    return var.clone();
                }
                let var = self.fresh();
                fresh.push((*name, var.clone()));
                var
            }
            Type::List(inner) => Type::List(Arc::new(self.instantiate(inner, fresh))),
            Type::Optional(inner) => Type::Optional(Arc::new(self.instantiate(inner, fresh))),
            Type::Type(Some(inner)) => Type::Type(Some(Arc::new(self.instantiate(inner, fresh)))),
            Type::Map(key, value) => Type::Map(
                Arc::new(self.instantiate(key, fresh)),
                Arc::new(self.instantiate(value, fresh)),
            ),
            _ => ty.clone(),
        }
    }
}

/// The more general of two types that unify.
pub(super) fn most_general(one: &Type, other: &Type) -> Type {
    if less_specific(one, other) {
        one.clone()
    } else {
        other.clone()
    }
}

fn less_specific(one: &Type, other: &Type) -> bool {
    match (one, other) {
        (Type::Dyn | Type::Var(_), _) => true,
        (_, Type::Dyn | Type::Var(_)) => false,
        (Type::List(one), Type::List(other)) | (Type::Optional(one), Type::Optional(other)) => {
            less_specific(one, other)
        }
        (Type::Map(key, value), Type::Map(other_key, other_value)) => {
            less_specific(key, other_key) && less_specific(value, other_value)
        }
        (Type::Type(_), Type::Type(_)) => true,
        _ => one == other,
    }
}
