//! Compiled expressions, and the variables that a policy's expressions share.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use keelson_cel::{Decl, DeclKind, Env, Program, Type};

use super::environment::patch_list;

/// What the result of an expression has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::admission) enum Returns {
    /// A boolean.
    Bool,
    /// Text.
    Text,
    /// Text or null.
    TextOrNull,
    /// Anything.
    Any,
    /// An apply configuration.
    Object,
    /// Operations of a JSON patch.
    Patches,
}

impl Returns {
    fn accepts(self, ty: &Type) -> bool {
        match self {
            Self::Bool => *ty == Type::Bool,
            Self::Text => *ty == Type::String,
            Self::TextOrNull => matches!(ty, Type::String | Type::Null),
            Self::Any => true,
            Self::Object => matches!(ty, Type::Object(object) if object.name == "Object"),
            Self::Patches => *ty == patch_list(),
        }
    }

    /// In upstream's words.
    fn complaint(self) -> String {
        let expected = match self {
            Self::Bool => "bool",
            Self::Text => "string",
            Self::TextOrNull => "one of [string null_type]",
            Self::Any => "any",
            Self::Object => "Object",
            Self::Patches => "list(JSONPatch)",
        };
        format!("must evaluate to {expected}")
    }
}

/// An expression, compiled once and run for many requests.
#[derive(Debug)]
pub(in crate::admission) struct Expression {
    /// The text as it was given.
    pub(in crate::admission) text: String,
    /// What runs, or what is wrong with the text.
    pub(in crate::admission) program: Result<Program, String>,
}

/// A variable that expressions refer to as `variables.name`.
#[derive(Debug)]
pub(super) struct Variable {
    pub(super) name: String,
    pub(super) expression: Expression,
    /// Computed before anything that may refer to it, so that chains of variables do not nest without bound.
    pub(super) early: bool,
}

/// The variables of one policy, in their order.
#[derive(Debug, Default)]
pub(in crate::admission) struct VariableSet {
    pub(super) list: Vec<Variable>,
    by_name: HashMap<String, usize>,
}

impl VariableSet {
    /// The place of the variable that a name means: the last of that name.
    pub(super) fn position(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }
}

/// How deep variables may nest in one another before one of them is computed early, in nodes of their trees.
const MAX_NESTING: usize = 160;

/// How many variables are declared as fields of one type.
const MAX_DECLARED: usize = 256;

/// Compiles the expressions of one policy.
pub(in crate::admission) struct Compiler {
    variables: Vec<Variable>,
    /// Types of the variables so far, and the depth to which they nest.
    known: BTreeMap<String, (Type, usize)>,
    /// With the variables so far.
    env: Env,
}

impl Compiler {
    /// Without variables at first.
    pub(in crate::admission) fn new(env: Env) -> Self {
        Self {
            env,
            variables: Vec::new(),
            known: BTreeMap::new(),
        }
    }

    /// Compiles an expression that sees the variables so far.
    pub(in crate::admission) fn compile(&self, text: &str, returns: Returns) -> Expression {
        let program = match self.env.compile(text) {
            Err(issues) => Err(format!("compilation failed: {issues}")),
            Ok(program) if !returns.accepts(program.result()) => Err(returns.complaint()),
            Ok(program) => Ok(program),
        };
        Expression {
            text: text.to_owned(),
            program,
        }
    }

    /// The type of an expression that sees the variables so far, or what is wrong with it.
    pub(in crate::admission) fn type_check(&self, text: &str) -> Result<(), String> {
        self.env
            .check(text)
            .map(|_| ())
            .map_err(|issues| issues.to_string())
    }

    /// Adds a variable; it sees those before it.
    pub(in crate::admission) fn add(&mut self, name: &str, text: &str) -> Result<(), String> {
        let expression = self.compile(text, Returns::Any);
        let problem = expression.program.as_ref().err().cloned();
        let (ty, below) = match &expression.program {
            Ok(program) => {
                let used = program.variables().iter();
                let depths = used.filter_map(|used| {
                    let name = used.strip_prefix("variables.")?;
                    self.known.get(name).map(|(_, depth)| *depth)
                });
                (program.result().clone(), depths.max().unwrap_or(0))
            }
            Err(_) => (Type::Dyn, 0),
        };
        let depth = nesting(text) + below;
        let early = depth > MAX_NESTING;
        self.known
            .insert(name.to_owned(), (ty, if early { 0 } else { depth }));
        self.variables.push(Variable {
            name: name.to_owned(),
            expression,
            early,
        });
        self.declare(name);
        problem.map_or(Ok(()), Err)
    }

    /// Declares the variable that another compiler just added, for expressions that see less but the same variables.
    pub(in crate::admission) fn declare_as(&mut self, name: &str, other: &Self) {
        if let Some(known) = other.known.get(name) {
            self.known.insert(name.to_owned(), known.clone());
            self.declare(name);
        }
    }

    /// Declares the variable that was just added by its qualified name, and anew the type of all together, which tells what
    /// there is from what there is not. With very many variables only the names are left of it.
    fn declare(&mut self, name: &str) {
        let mut env = std::mem::take(&mut self.env);
        if self.known.len() <= MAX_DECLARED {
            let types = self.known.iter().map(|(name, (ty, _))| {
                let decl = Decl {
                    kind: DeclKind::Dyn,
                    ty: ty.clone(),
                    ..Decl::any().as_ref().clone()
                };
                (name.clone(), Arc::new(decl))
            });
            let all = Decl::object("kubernetes.variables", types);
            env = env.variable("variables", Arc::new(all));
        }
        let ty = self.known.get(name).map_or(Type::Dyn, |(ty, _)| ty.clone());
        self.env = env.typed_variable(&format!("variables.{name}"), ty);
    }

    /// The variables, when nothing more is to be compiled.
    pub(in crate::admission) fn finish(self) -> VariableSet {
        let names = self.variables.iter().enumerate();
        VariableSet {
            by_name: names.map(|(at, variable)| (variable.name.clone(), at)).collect(),
            list: self.variables,
        }
    }
}

/// An upper bound of the depth of an expression's tree: one more than the signs that can make it deeper.
fn nesting(text: &str) -> usize {
    1 + text
        .bytes()
        .filter(|byte| b".[({?!-+*/%<>=&|".contains(byte))
        .count()
}
