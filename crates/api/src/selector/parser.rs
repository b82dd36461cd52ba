//! The syntax of label selectors.

use super::label::{LabelSelectorError, Operator, Requirement, check_key, error};
use crate::field::Path;

/// Parses the requirements of a selector, in the order of the text.
pub(super) fn parse(text: &str) -> Result<Vec<Requirement>, LabelSelectorError> {
    Parser {
        tokens: scan(text),
        at: 0,
    }
    .parse()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Error,
    End,
    ClosedPar,
    Comma,
    DoesNotExist,
    Identifier,
    OpenPar,
    Operator(Operator),
}

type Token = (Kind, String);

fn keyword(text: &str) -> Option<Kind> {
    Some(match text {
        ")" => Kind::ClosedPar,
        "," => Kind::Comma,
        "!" => Kind::DoesNotExist,
        "(" => Kind::OpenPar,
        "==" => Kind::Operator(Operator::DoubleEquals),
        "=" => Kind::Operator(Operator::Equals),
        ">" => Kind::Operator(Operator::GreaterThan),
        "<" => Kind::Operator(Operator::LessThan),
        "!=" => Kind::Operator(Operator::NotEquals),
        "in" => Kind::Operator(Operator::In),
        "notin" => Kind::Operator(Operator::NotIn),
        _ => return None,
    })
}

fn scan(text: &str) -> Vec<Token> {
    let special = |c: char| matches!(c, '=' | '!' | '(' | ')' | ',' | '>' | '<');
    let blank = |c: char| matches!(c, ' ' | '\t' | '\r' | '\n');
    // A NUL ends the text, as it does upstream.
    let mut rest = text.split('\0').next().unwrap_or_default();
    let mut tokens = Vec::new();
    loop {
        rest = rest.trim_start_matches(blank);
        let Some(first) = rest.chars().next() else {
            tokens.push((Kind::End, String::new()));
            return tokens;
        };
        let length = if special(first) {
            let run = rest.find(|c| !special(c)).unwrap_or(rest.len()).min(2);
            // The longest known symbol; every special character alone is known.
            if run == 2 && keyword(&rest[..2]).is_some() {
                2
            } else {
                1
            }
        } else {
            rest.find(|c| special(c) || blank(c)).unwrap_or(rest.len())
        };
        let (literal, after) = rest.split_at(length);
        let otherwise = if special(first) {
            Kind::Error
        } else {
            Kind::Identifier
        };
        tokens.push((keyword(literal).unwrap_or(otherwise), literal.to_owned()));
        rest = after;
    }
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

impl Parser {
    /// The token ahead, where `in` and `notin` count as values.
    fn ahead(&self) -> (Kind, &str) {
        let (kind, literal) = self
            .tokens
            .get(self.at)
            .or(self.tokens.last())
            .expect("invariant: ends in a token");
        let kind = match kind {
            Kind::Operator(Operator::In | Operator::NotIn) => Kind::Identifier,
            kind => *kind,
        };
        (kind, literal)
    }

    fn next(&mut self) -> (Kind, String) {
        let (kind, literal) = self.ahead();
        let token = (kind, literal.to_owned());
        self.at += 1;
        token
    }

    fn parse(mut self) -> Result<Vec<Requirement>, LabelSelectorError> {
        let mut requirements = Vec::new();
        loop {
            match self.ahead() {
                (Kind::Identifier | Kind::DoesNotExist, _) => {
                    let requirement = self
                        .requirement()
                        .map_err(|e| LabelSelectorError(format!("unable to parse requirement: {e}")))?;
                    requirements.push(requirement);
                    match self.next() {
                        (Kind::End, _) => return Ok(requirements),
                        (Kind::Comma, _) => match self.ahead() {
                            (Kind::Identifier | Kind::DoesNotExist, _) => {}
                            (_, found) => {
                                return error(format!("found '{found}', expected: identifier after ','"));
                            }
                        },
                        (_, found) => {
                            return error(format!("found '{found}', expected: ',' or 'end of string'"));
                        }
                    }
                }
                (Kind::End, _) => return Ok(requirements),
                (_, found) => {
                    return error(format!(
                        "found '{found}', expected: !, identifier, or 'end of string'"
                    ));
                }
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, LabelSelectorError> {
        let mut operator = None;
        let (mut kind, mut key) = self.next();
        if kind == Kind::DoesNotExist {
            operator = Some(Operator::DoesNotExist);
            (kind, key) = self.next();
        }
        if kind != Kind::Identifier {
            return error(format!("found '{key}', expected: identifier"));
        }
        if let Some(wrong) = check_key(&key, &Path::root()) {
            return error(wrong.to_string());
        }
        if matches!(self.ahead().0, Kind::End | Kind::Comma) {
            operator = operator.or(Some(Operator::Exists));
        }
        if let Some(operator) = operator {
            return Requirement::new(&key, operator, Vec::new());
        }
        let operator = self.operator()?;
        let mut values = match operator {
            Operator::In | Operator::NotIn => self.values()?,
            _ => self.exact_value()?,
        };
        values.sort();
        values.dedup();
        Requirement::new(&key, operator, values)
    }

    fn operator(&mut self) -> Result<Operator, LabelSelectorError> {
        let token = self
            .tokens
            .get(self.at)
            .or(self.tokens.last())
            .expect("invariant: ends in a token");
        match token {
            (Kind::Operator(operator), _) => {
                self.at += 1;
                Ok(*operator)
            }
            (_, found) => error(format!("found '{found}', expected: in, notin, =, ==, !=, gt, lt")),
        }
    }

    fn values(&mut self) -> Result<Vec<String>, LabelSelectorError> {
        let (kind, found) = self.next();
        if kind != Kind::OpenPar {
            return error(format!("found '{found}' expected: '('"));
        }
        match self.ahead() {
            (Kind::Identifier | Kind::Comma, _) => {}
            (Kind::ClosedPar, _) => {
                self.at += 1;
                return Ok(vec![String::new()]);
            }
            (_, found) => return error(format!("found '{found}', expected: ',', ')' or identifier")),
        }
        let mut values = Vec::new();
        loop {
            match self.next() {
                (Kind::Identifier, value) => {
                    values.push(value);
                    match self.ahead() {
                        (Kind::Comma, _) => {}
                        (Kind::ClosedPar, _) => break,
                        (_, found) => return error(format!("found '{found}', expected: ',' or ')'")),
                    }
                }
                (Kind::Comma, _) => {
                    if values.is_empty() {
                        values.push(String::new());
                    }
                    match self.ahead().0 {
                        Kind::ClosedPar => {
                            values.push(String::new());
                            break;
                        }
                        Kind::Comma => values.push(String::new()),
                        _ => {}
                    }
                }
                (_, found) => return error(format!("found '{found}', expected: ',', or identifier")),
            }
        }
        self.at += 1;
        Ok(values)
    }

    fn exact_value(&mut self) -> Result<Vec<String>, LabelSelectorError> {
        if matches!(self.ahead().0, Kind::End | Kind::Comma) {
            return Ok(vec![String::new()]);
        }
        match self.next() {
            (Kind::Identifier, value) => Ok(vec![value]),
            (_, found) => error(format!("found '{found}', expected: identifier")),
        }
    }
}
