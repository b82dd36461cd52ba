//! Literals that only a function gives a meaning: regular expressions, durations, timestamps.

use crate::error::Issue;
use crate::functions::time::{parse_duration, parse_timestamp};
use crate::pattern::compile_pattern;
use crate::syntax::{Expr, Kind, Literal, Parsed};

/// What is wrong with the literals of an expression.
pub(crate) fn check_literals(parsed: &Parsed) -> Vec<Issue> {
    let mut issues = Vec::new();
    let mut stack: Vec<&Expr> = vec![&parsed.root];
    while let Some(expr) = stack.pop() {
        if let Kind::Call {
            function,
            target,
            args,
        } = &expr.kind
        {
            let literal = match (function.as_str(), target, args.as_slice()) {
                ("matches", Some(_), [arg]) | ("matches", None, [_, arg]) => Some(arg),
                ("duration" | "timestamp", None, [arg]) => Some(arg),
                _ => None,
            };
            if let Some(arg) = literal
                && let Kind::Literal(Literal::String(text)) = &arg.kind
            {
                let valid = match function.as_str() {
                    "matches" => compile_pattern(text).is_ok(),
                    "duration" => parse_duration(text).is_some(),
                    _ => parse_timestamp(text).is_some(),
                };
                if !valid {
                    issues.push(parsed.issue(arg.id, format!("invalid {function} argument")));
                }
            }
        }
        stack.extend(expr.children());
    }
    issues.sort_by_key(|issue| (issue.line, issue.column));
    issues
}
