//! From text to tree: lexer, parser, literals, macros.

mod ast;
mod lexer;
mod literal;
mod macros;
mod parser;
mod source;

pub(crate) use ast::{ACCUMULATOR, Comprehension, Expr, ExprId, Kind, Literal};
pub(crate) use parser::{Parsed, is_keyword, parse};
