//! Regular expressions: RE2's syntax on the `regex` crate, whose running time is linear in the text.

use regex::{Regex, RegexBuilder};

/// The largest compiled expression, in bytes.
const SIZE_LIMIT: usize = 4 << 20;

/// Compiles a pattern as RE2 understands it: `\d`, `\w`, `\s` and `\b` are ASCII, braces that are no repetition are
/// literal, and brackets and doubled operators inside of classes have no meaning.
///
/// # Errors
/// The pattern is malformed or too large.
pub fn compile_pattern(pattern: &str) -> Result<Regex, String> {
    RegexBuilder::new(&translate(pattern))
        .size_limit(SIZE_LIMIT)
        .build()
        .map_err(|error| match error {
            regex::Error::Syntax(text) => text
                .lines()
                .last()
                .unwrap_or("syntax error")
                .trim_start_matches("error: ")
                .to_owned(),
            other => other.to_string(),
        })
}

fn translate(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len() + 16);
    let mut rest = pattern;
    let mut class = false;
    let mut class_start = false;
    while let Some(character) = rest.chars().next() {
        let length = character.len_utf8();
        let at_start = std::mem::take(&mut class_start);
        match character {
            '\\' => {
                let (piece, consumed) = escape(rest, class);
                out.push_str(&piece);
                rest = &rest[consumed..];
                continue;
            }
            '[' if !class => {
                class = true;
                class_start = true;
                out.push('[');
                if rest[1..].starts_with('^') {
                    out.push('^');
                    rest = &rest[1..];
                }
            }
            '[' => match rest.find(":]").filter(|_| rest.starts_with("[:")) {
                Some(end) => {
                    out.push_str(&rest[..end + 2]);
                    rest = &rest[end + 2..];
                    continue;
                }
                None => out.push_str("\\["),
            },
            ']' if class && at_start => out.push_str("\\]"),
            ']' if class => {
                class = false;
                out.push(']');
            }
            '&' | '~' if class => {
                out.push('\\');
                out.push(character);
            }
            '{' if !class && !is_repetition(rest) => out.push_str("\\{"),
            '}' if !class && !closes_repetition(pattern, pattern.len() - rest.len()) => out.push_str("\\}"),
            _ => out.push(character),
        }
        rest = &rest[length..];
    }
    out
}

/// The translation of the escape at the start, and its length.
fn escape(text: &str, class: bool) -> (String, usize) {
    let Some(next) = text[1..].chars().next() else {
        return ("\\".to_owned(), 1);
    };
    let set = match next {
        'd' | 'D' => Some("0-9"),
        'w' | 'W' => Some("0-9A-Za-z_"),
        's' | 'S' => Some("\\t\\n\\f\\r "),
        _ => None,
    };
    if let Some(set) = set {
        return match (next.is_ascii_uppercase(), class) {
            (true, _) => (format!("[^{set}]"), 2),
            (false, true) => (set.to_owned(), 2),
            (false, false) => (format!("[{set}]"), 2),
        };
    }
    match next {
        'b' | 'B' if !class => (format!("(?-u:\\{next})"), 2),
        'Q' => {
            let body = &text[2..];
            let end = body.find("\\E").unwrap_or(body.len());
            (regex::escape(&body[..end]), (2 + end + 2).min(text.len()))
        }
        'p' | 'P' | 'x' if text[2..].starts_with('{') => {
            let end = text.find('}').map_or(text.len(), |end| end + 1);
            (text[..end].to_owned(), end)
        }
        'C' => ("(?s:.)".to_owned(), 2),
        '<' | '>' => (next.to_string(), 2),
        _ => (text[..1 + next.len_utf8()].to_owned(), 1 + next.len_utf8()),
    }
}

/// Whether the brace at the start opens `{n}`, `{n,}` or `{n,m}`.
fn is_repetition(text: &str) -> bool {
    let Some(end) = text.find('}') else {
        return false;
    };
    let body = &text[1..end];
    let (low, high) = body.split_once(',').unwrap_or((body, ""));
    !low.is_empty()
        && low.bytes().all(|byte| byte.is_ascii_digit())
        && high.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether the brace at an offset closes a repetition.
fn closes_repetition(pattern: &str, at: usize) -> bool {
    let Some(open) = pattern[..at].rfind('{') else {
        return false;
    };
    if pattern[open + 1..at].contains('}') {
        return false;
    }
    is_repetition(&pattern[open..=at])
}
