//! What can be wrong with an expression, and what can go wrong while it runs.

use std::fmt;

/// One error in an expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issue {
    /// The line, from one.
    pub line: usize,
    /// The column in characters, from zero.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// The line's text and the line that points into it.
    pub(crate) snippet: Option<(String, String)>,
}

impl fmt::Display for Issue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            line,
            column,
            message,
            ..
        } = self;
        write!(f, "ERROR: <input>:{line}:{}: {message}", column + 1)?;
        if let Some((text, pointer)) = &self.snippet {
            write!(f, "\n | {text}\n | {pointer}")?;
        }
        Ok(())
    }
}

/// All errors of an expression, in order of their position; displayed as cel-go does.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Issues(pub Vec<Issue>);

/// More errors than this are counted, not shown.
const SHOWN: usize = 100;

impl fmt::Display for Issues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, issue) in self.0.iter().take(SHOWN).enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{issue}")?;
        }
        if self.0.len() > SHOWN {
            write!(f, "\n{} more errors were truncated", self.0.len() - SHOWN)?;
        }
        Ok(())
    }
}

/// Why an evaluation has no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    /// An error of the expression on these values: `no such key: x`, `division by zero`.
    #[error("{0}")]
    Failed(String),
    /// The evaluation cost more than it may. No operator absorbs this.
    #[error("operation cancelled: actual cost limit exceeded")]
    CostLimit,
}

impl EvalError {
    /// An error with this message.
    pub fn new(message: impl Into<String>) -> Self {
        Self::Failed(message.into())
    }

    /// The arguments have types for which the function is not defined.
    pub(crate) fn no_such_overload() -> Self {
        Self::new("no such overload")
    }
}
