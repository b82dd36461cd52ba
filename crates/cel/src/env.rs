//! Environments: what an expression may refer to, and what comes of compiling it.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::check::{CostEstimate, Scope, Type, Typed, check, check_literals, estimate};
use crate::decl::{Decl, DeclKind, ObjectType};
use crate::error::Issues;
use crate::eval::{Activation, Evaluated, Plan};
use crate::syntax::{Expr, Kind, Literal, parse};

/// Declared variables and message types.
#[derive(Debug, Clone, Default)]
pub struct Env {
    variables: BTreeMap<String, Arc<Decl>>,
    opaque: BTreeMap<String, Type>,
    objects: BTreeMap<String, Arc<ObjectType>>,
    /// Prefixes of names of message types whose fields are not declared.
    open_objects: Option<Arc<ObjectType>>,
}

/// A checked expression, before it is made runnable.
#[derive(Debug)]
pub struct Checked {
    typed: Typed,
}

/// A compiled expression. It can be shared between threads and evaluated any number of times.
#[derive(Debug)]
pub struct Program {
    plan: Plan,
    result: Type,
    variables: Vec<String>,
    cost: CostEstimate,
}

impl Env {
    /// An environment without variables.
    pub fn new() -> Self {
        Self::default()
    }

    /// Declares a variable whose data has this declaration. The name may be qualified: `variables.foo`.
    #[must_use]
    pub fn variable(mut self, name: &str, decl: Arc<Decl>) -> Self {
        self.variables.insert(name.to_owned(), decl);
        self
    }

    /// Declares a variable of a type without data behind it.
    #[must_use]
    pub fn typed_variable(mut self, name: &str, ty: Type) -> Self {
        self.opaque.insert(name.to_owned(), ty);
        self
    }

    /// Declares the variable of the authorizer.
    #[must_use]
    pub fn authorizer(self, name: &str) -> Self {
        self.typed_variable(name, object_type("kubernetes.authorization.Authorizer"))
    }

    /// Declares the variable of a check that is already made for one resource.
    #[must_use]
    pub fn resource_check(self, name: &str) -> Self {
        self.typed_variable(name, object_type("kubernetes.authorization.ResourceCheck"))
    }

    /// Declares a message type, which literals may then build.
    #[must_use]
    pub fn object(mut self, decl: &Decl) -> Self {
        if let DeclKind::Object(object) = &decl.kind {
            self.objects.insert(object.name.clone(), Arc::clone(object));
        }
        self
    }

    /// Allows literals of the message type `Object` and all below it (`Object.spec`), with any fields.
    #[must_use]
    pub fn open_objects(mut self) -> Self {
        self.open_objects = Some(open_object("Object"));
        self
    }

    /// Parses and checks an expression.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn check(&self, text: &str) -> Result<Checked, Issues> {
        let typed = check(parse(text)?, self)?;
        let issues = check_literals(&typed.parsed);
        if issues.is_empty() {
            Ok(Checked { typed })
        } else {
            Err(Issues(issues))
        }
    }

    /// Parses, checks and plans an expression.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn compile(&self, text: &str) -> Result<Program, Issues> {
        self.check(text).map(|checked| checked.program(self))
    }
}

impl Checked {
    /// The type of the result.
    pub fn result(&self) -> &Type {
        &self.typed.result
    }

    /// Whether the expression reads `field` of a variable: `variable.field`, `variable.?field` or `has(variable.field)`.
    pub fn selects(&self, variable: &str, field: &str) -> bool {
        let is_variable = |expr: &Expr| matches!(&expr.kind, Kind::Ident(name) if name == variable);
        let is_field =
            |expr: &Expr| matches!(&expr.kind, Kind::Literal(Literal::String(name)) if name == field);
        let mut waiting = vec![&self.typed.parsed.root];
        while let Some(expr) = waiting.pop() {
            let found = match &expr.kind {
                Kind::Select {
                    operand, field: name, ..
                } => name == field && is_variable(operand),
                Kind::Call {
                    function,
                    target: None,
                    args,
                } => {
                    function == "_?._"
                        && matches!(args.as_slice(), [of, name] if is_variable(of) && is_field(name))
                }
                _ => false,
            };
            if found {
                return true;
            }
            waiting.extend(expr.children());
        }
        false
    }

    /// Makes the expression runnable.
    pub fn program(self, env: &Env) -> Program {
        let declaration = |name: &str| env.variables.get(name).map(|decl| decl.as_ref().clone());
        let cost = estimate(&self.typed, &declaration);
        Program {
            plan: Plan::new(&self.typed),
            cost,
            result: self.typed.result,
            variables: self.typed.variables,
        }
    }
}

impl Program {
    /// The type of the result.
    pub fn result(&self) -> &Type {
        &self.result
    }

    /// The names of the variables that the expression uses.
    pub fn variables(&self) -> &[String] {
        &self.variables
    }

    /// What the expression costs at least and at most.
    pub fn estimated_cost(&self) -> CostEstimate {
        self.cost
    }

    /// Runs the expression. It stops with [`crate::EvalError::CostLimit`] when it has cost more than `limit`.
    pub fn evaluate<'a>(&'a self, variables: &dyn Activation<'a>, limit: u64) -> Evaluated<'a> {
        self.plan.run(variables, limit)
    }
}

impl Scope for Env {
    fn variable(&self, name: &str) -> Option<Type> {
        let declared = self.variables.get(name).map(|decl| decl.ty.clone());
        declared.or_else(|| self.opaque.get(name).cloned())
    }

    fn object(&self, name: &str) -> Option<Type> {
        if let Some(object) = self.objects.get(name) {
            return Some(Type::Object(Arc::clone(object)));
        }
        let open = self.open_objects.as_ref()?;
        if name == open.name {
            return Some(Type::Object(Arc::clone(open)));
        }
        let below = name.strip_prefix(open.name.as_str())?.starts_with('.');
        below.then(|| Type::Object(open_object(name)))
    }
}

fn object_type(name: &str) -> Type {
    Type::Object(Arc::new(ObjectType {
        name: name.to_owned(),
        fields: BTreeMap::new(),
        open: false,
    }))
}

fn open_object(name: &str) -> Arc<ObjectType> {
    Arc::new(ObjectType {
        name: name.to_owned(),
        fields: BTreeMap::new(),
        open: true,
    })
}
