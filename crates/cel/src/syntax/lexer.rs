//! Text to tokens.

use super::source::Source;
use crate::error::Issue;

/// A token; `text` is a range of bytes of the source, `at` the offset in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Token<'s> {
    pub(super) kind: TokenKind,
    pub(super) text: &'s str,
    pub(super) at: usize,
}

/// Kinds of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenKind {
    Ident,
    EscapedIdent,
    Int,
    Uint,
    Float,
    String,
    Bytes,
    /// Operators, punctuation and the words `in`, `true`, `false`, `null`.
    Symbol,
    End,
}

const SYMBOLS: &[&str] = &[
    "==", "!=", "<=", ">=", "&&", "||", "[", "]", "{", "}", "(", ")", ".", ",", "-", "!", "?", ":", "+", "*",
    "/", "%", "<", ">",
];

struct Lexer<'s> {
    text: &'s str,
    /// Byte offset.
    byte: usize,
    /// Character offset.
    at: usize,
}

/// Splits the source into tokens; the last is [`TokenKind::End`].
pub(super) fn lex<'s>(text: &'s str, source: &Source) -> Result<Vec<Token<'s>>, Vec<Issue>> {
    let mut lexer = Lexer { text, byte: 0, at: 0 };
    let mut tokens = Vec::new();
    let mut issues = Vec::new();
    loop {
        lexer.skip_blank();
        let (start, at) = (lexer.byte, lexer.at);
        let rest = lexer.rest();
        if rest.is_empty() {
            tokens.push(Token {
                kind: TokenKind::End,
                text: "<EOF>",
                at,
            });
            break;
        }
        match lexer.token() {
            Some(kind) => tokens.push(Token {
                kind,
                text: &text[start..lexer.byte],
                at,
            }),
            None => {
                let character = rest.chars().next().unwrap_or_default();
                let shown = if matches!(character, '"' | '\'') {
                    rest.split('\n').next().unwrap_or(rest).to_owned()
                } else {
                    character.to_string()
                };
                lexer.advance(shown.len().max(character.len_utf8()));
                issues.push(source.issue(at, format!("Syntax error: token recognition error at: '{shown}'")));
            }
        }
    }
    if issues.is_empty() {
        Ok(tokens)
    } else {
        Err(issues)
    }
}

impl<'s> Lexer<'s> {
    fn rest(&self) -> &'s str {
        &self.text[self.byte..]
    }

    fn advance(&mut self, bytes: usize) {
        self.at += self.text[self.byte..self.byte + bytes].chars().count();
        self.byte += bytes;
    }

    fn skip_blank(&mut self) {
        loop {
            let rest = self.rest();
            let blank = rest.len() - rest.trim_start_matches(['\t', ' ', '\r', '\n', '\u{c}']).len();
            self.advance(blank);
            if self.rest().starts_with("//") {
                let line = self.rest().find('\n').unwrap_or(self.rest().len());
                self.advance(line);
            } else if blank == 0 {
                return;
            }
        }
    }

    /// Consumes one token, or nothing when there is none.
    fn token(&mut self) -> Option<TokenKind> {
        let rest = self.rest();
        let first = rest.chars().next()?;
        if let Some((length, bytes)) = string_length(rest) {
            self.advance(length);
            return Some(if bytes {
                TokenKind::Bytes
            } else {
                TokenKind::String
            });
        }
        if first.is_ascii_alphabetic() || first == '_' {
            let length = rest
                .find(|character: char| !character.is_ascii_alphanumeric() && character != '_')
                .unwrap_or(rest.len());
            self.advance(length);
            return Some(match &rest[..length] {
                "in" | "true" | "false" | "null" => TokenKind::Symbol,
                _ => TokenKind::Ident,
            });
        }
        let dotted = rest.strip_prefix('.').and_then(|after| after.chars().next());
        if first.is_ascii_digit() || dotted.is_some_and(|digit| digit.is_ascii_digit()) {
            let (length, kind) = number_length(rest);
            self.advance(length);
            return Some(kind);
        }
        if first == '`' {
            let inner = &rest[1..];
            let end = inner.find('`')?;
            let valid = |character: char| character.is_ascii_alphanumeric() || "_.-/ ".contains(character);
            if end == 0 || !inner[..end].chars().all(valid) {
                return None;
            }
            self.advance(end + 2);
            return Some(TokenKind::EscapedIdent);
        }
        let symbol = SYMBOLS.iter().find(|symbol| rest.starts_with(**symbol))?;
        self.advance(symbol.len());
        Some(TokenKind::Symbol)
    }
}

/// The length of the number at the start, and what it is.
fn number_length(text: &str) -> (usize, TokenKind) {
    let digits = |from: usize| text[from..].bytes().take_while(u8::is_ascii_digit).count();
    let unsigned = |at: usize| matches!(text.as_bytes().get(at), Some(b'u' | b'U'));
    if let Some(hex) = text.strip_prefix("0x") {
        let length = hex.bytes().take_while(u8::is_ascii_hexdigit).count();
        if length > 0 {
            let end = 2 + length;
            return if unsigned(end) {
                (end + 1, TokenKind::Uint)
            } else {
                (end, TokenKind::Int)
            };
        }
    }
    let mut end = digits(0);
    let mut float = false;
    if text.as_bytes().get(end) == Some(&b'.') && digits(end + 1) > 0 {
        end += 1 + digits(end + 1);
        float = true;
    }
    if matches!(text.as_bytes().get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(text.as_bytes().get(end + 1), Some(b'+' | b'-')));
        let exponent = digits((end + 1 + sign).min(text.len()));
        if exponent > 0 {
            end += 1 + sign + exponent;
            float = true;
        }
    }
    if float {
        (end, TokenKind::Float)
    } else if unsigned(end) {
        (end + 1, TokenKind::Uint)
    } else {
        (end, TokenKind::Int)
    }
}

/// The length of the string or bytes literal at the start, and whether it is bytes.
fn string_length(text: &str) -> Option<(usize, bool)> {
    let prefix = text
        .bytes()
        .take(2)
        .take_while(|byte| matches!(byte, b'r' | b'R' | b'b' | b'B'))
        .count();
    let letters = text[..prefix].to_ascii_lowercase();
    if letters == "rr" || letters == "bb" || letters == "rb" {
        return None;
    }
    let raw = letters.contains('r');
    let body = &text[prefix..];
    let quote = body.chars().next().filter(|quote| matches!(quote, '"' | '\''))?;
    let triple: String = std::iter::repeat_n(quote, 3).collect();
    let (open, close) = if body.starts_with(&triple) {
        (3, triple)
    } else {
        (1, quote.to_string())
    };
    let mut at = open;
    while at < body.len() {
        let rest = &body[at..];
        if rest.starts_with(&close) {
            return Some((prefix + at + close.len(), letters.contains('b')));
        }
        let character = rest.chars().next()?;
        if open == 1 && matches!(character, '\n' | '\r') {
            return None;
        }
        at += character.len_utf8();
        if character == '\\' && !raw {
            at += body[at..].chars().next()?.len_utf8();
        }
    }
    None
}
