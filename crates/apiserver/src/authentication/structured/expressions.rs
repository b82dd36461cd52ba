//! CEL in AuthenticationConfiguration: `claims` is the token's content, `user` what came of it.

use std::sync::{Arc, LazyLock};

use keelson_api::field::{Error, ErrorList, Path};
use keelson_cel::limits::PER_CALL_LIMIT;
use keelson_cel::{Decl, Env, Program, Type, Value, Variables};
use serde_json::Value as Json;

static CLAIMS: LazyLock<Arc<Decl>> = LazyLock::new(|| Arc::new(Decl::map(Decl::any().clone())));

static USER: LazyLock<Arc<Decl>> = LazyLock::new(|| {
    let text = || Arc::new(Decl::string());
    let texts = || Arc::new(Decl::list(text()));
    Arc::new(Decl::object(
        "kubernetes.UserInfo",
        [
            ("username".to_owned(), text()),
            ("uid".to_owned(), text()),
            ("groups".to_owned(), texts()),
            ("extra".to_owned(), Arc::new(Decl::map(texts()))),
        ],
    ))
});

/// What an expression looks at.
#[derive(Clone, Copy)]
pub(super) enum About {
    /// `claims`.
    Claims,
    /// `user`.
    User,
}

impl About {
    fn variable(self) -> (&'static str, &'static Arc<Decl>) {
        match self {
            Self::Claims => ("claims", &CLAIMS),
            Self::User => ("user", &USER),
        }
    }
}

/// A compiled expression.
pub(super) struct Expression {
    program: Program,
    about: About,
    uses_email: bool,
    uses_email_verified: bool,
}

impl Expression {
    /// Compiles; `condition` demands a boolean. What is wrong goes to `errors`.
    pub(super) fn compile(
        about: About,
        text: &str,
        condition: bool,
        path: &Path,
        errors: &mut ErrorList,
    ) -> Option<Self> {
        let (name, decl) = about.variable();
        let env = Env::new().variable(name, decl.clone());
        let checked = match env.check(text) {
            Ok(checked) => checked,
            Err(issues) => {
                errors.push(Error::invalid(
                    path,
                    text,
                    format!("compilation failed: {issues}"),
                ));
                return None;
            }
        };
        if condition && *checked.result() != Type::Bool {
            errors.push(Error::invalid(path, text, "must evaluate to bool"));
            return None;
        }
        Some(Self {
            uses_email: checked.selects("claims", "email"),
            uses_email_verified: checked.selects("claims", "email_verified"),
            program: checked.program(&env),
            about,
        })
    }

    /// Whether it reads `claims.email`.
    pub(super) fn uses_email(&self) -> bool {
        self.uses_email
    }

    /// Whether it reads `claims.email_verified`.
    pub(super) fn uses_email_verified(&self) -> bool {
        self.uses_email_verified
    }

    fn evaluate<T>(&self, data: &Json, read: impl FnOnce(&Value<'_>) -> T) -> Result<T, String> {
        let (name, decl) = self.about.variable();
        let value = Value::typed(data, decl).map_err(|e| e.to_string())?;
        let variables = Variables(vec![(name, value)]);
        let outcome = self.program.evaluate(&variables, PER_CALL_LIMIT).value;
        outcome.map(|value| read(&value)).map_err(|e| e.to_string())
    }

    /// The value of a condition.
    pub(super) fn holds(&self, data: &Json) -> Result<bool, String> {
        self.evaluate(data, |value| match value {
            Value::Bool(holds) => Ok(*holds),
            _ => Err("validation expression must return a boolean".to_owned()),
        })?
    }

    /// The value, which must be a string.
    pub(super) fn text(&self, data: &Json, what: &str) -> Result<String, String> {
        self.evaluate(data, |value| match value.as_str() {
            Some(text) => Ok(text.to_owned()),
            None => Err(format!("{what} claim expression must return a string")),
        })?
    }

    /// The value, which must be a string or a list of strings. Empty strings are left out; `null` is nothing.
    pub(super) fn texts(&self, data: &Json) -> Result<Vec<String>, String> {
        let wrong = || "expression must return a string or a list of strings".to_owned();
        let value = self.evaluate(data, |value| value.to_json())?;
        let texts = match value.map_err(|_| wrong())? {
            Json::Null => Vec::new(),
            Json::String(text) => vec![text],
            Json::Array(items) => items
                .into_iter()
                .map(|item| match item {
                    Json::String(text) => Ok(text),
                    _ => Err(wrong()),
                })
                .collect::<Result<_, _>>()?,
            _ => return Err(wrong()),
        };
        Ok(texts.into_iter().filter(|text| !text.is_empty()).collect())
    }
}
