//! Field selectors: `metadata.name=a,status.phase!=Running`, with `\` escaping `\`, `,` and `=`.

use std::fmt;

/// One condition on one field.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FieldRequirement {
    /// The field's path, as the resource names it.
    pub field: String,
    /// Its value.
    pub value: String,
    /// Whether the field must not have the value.
    pub negated: bool,
}

/// All of some conditions on fields.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct FieldSelector {
    requirements: Vec<FieldRequirement>,
}

/// A selector cannot be parsed; the texts are upstream's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldSelectorError {
    /// A term has no operator.
    #[error("invalid selector: '{selector}'; can't understand '{term}'")]
    Term {
        /// The whole selector.
        selector: String,
        /// The term.
        term: String,
    },
    /// A backslash before something that needs none.
    #[error("invalid field selector: invalid escape sequence: {0}")]
    Escape(String),
    /// A character that needs a backslash.
    #[error("invalid field selector: unescaped character in value: {}", u32::from(*.0))]
    Unescaped(char),
}

impl FieldSelector {
    /// The selector that every object matches.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Parses a selector; terms are put in order.
    pub fn parse(text: &str) -> Result<Self, FieldSelectorError> {
        let mut terms = split_terms(text);
        terms.sort_unstable();
        let mut requirements = Vec::new();
        for term in terms.into_iter().filter(|term| !term.is_empty()) {
            let Some((field, operator, value)) = split_term(term) else {
                return Err(FieldSelectorError::Term {
                    selector: text.to_owned(),
                    term: term.to_owned(),
                });
            };
            requirements.push(FieldRequirement {
                field: field.to_owned(),
                value: unescape(value)?,
                negated: operator == "!=",
            });
        }
        Ok(Self { requirements })
    }

    /// Whether every object matches.
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty()
    }

    /// The conditions.
    pub fn requirements(&self) -> &[FieldRequirement] {
        &self.requirements
    }

    /// The value that a field must have to match, if the selector says so.
    pub fn requires_exact(&self, field: &str) -> Option<&str> {
        self.requirements
            .iter()
            .find(|r| !r.negated && r.field == field)
            .map(|r| r.value.as_str())
    }

    /// Whether fields, looked up by path (absent ones are empty), match.
    pub fn matches<S: AsRef<str>>(&self, field: impl Fn(&str) -> S) -> bool {
        self.requirements
            .iter()
            .all(|r| (field(&r.field).as_ref() == r.value) != r.negated)
    }
}

impl std::str::FromStr for FieldSelector {
    type Err = FieldSelectorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, requirement) in self.requirements.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            let operator = if requirement.negated { "!=" } else { "=" };
            write!(
                f,
                "{comma}{}{operator}{}",
                requirement.field,
                escape(&requirement.value)
            )?;
        }
        Ok(())
    }
}

fn escape(value: &str) -> String {
    value.replace('\\', r"\\").replace(',', r"\,").replace('=', r"\=")
}

fn unescape(value: &str) -> Result<String, FieldSelectorError> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(next @ ('\\' | ',' | '=')) => out.push(next),
                Some(next) => return Err(FieldSelectorError::Escape(format!("\\{next}"))),
                None => return Err(FieldSelectorError::Escape("\\".to_owned())),
            },
            ',' | '=' => return Err(FieldSelectorError::Unescaped(c)),
            c => out.push(c),
        }
    }
    Ok(out)
}

fn split_terms(text: &str) -> Vec<&str> {
    let (mut terms, mut start, mut escaped) = (Vec::new(), 0, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b',' => {
                terms.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

fn split_term(term: &str) -> Option<(&str, &str, &str)> {
    (0..term.len())
        .filter(|at| term.is_char_boundary(*at))
        .find_map(|at| {
            ["!=", "==", "="]
                .iter()
                .find(|operator| term[at..].starts_with(**operator))
                .map(|operator| (&term[..at], *operator, &term[at + operator.len()..]))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_and_matches() {
        let selector = FieldSelector::parse("status.phase!=Running,metadata.name==a").expect("selector");
        assert_eq!(selector.to_string(), "metadata.name=a,status.phase!=Running");
        assert_eq!(selector.requires_exact("metadata.name"), Some("a"));
        assert_eq!(selector.requires_exact("status.phase"), None);
        assert!(selector.matches(|field| if field == "metadata.name" { "a" } else { "" }));
        assert!(!selector.matches(|_| "Running"));
        let escaped = FieldSelector::parse(r"a=b\,c\=d\\").expect("selector");
        assert_eq!(escaped.requirements()[0].value, r"b,c=d\");
        assert_eq!(escaped.to_string(), r"a=b\,c\=d\\");
        assert!(FieldSelector::parse("").expect("empty").is_everything());
    }

    #[test]
    fn errors() {
        let check = |text: &str, error: &str| {
            assert_eq!(FieldSelector::parse(text).expect_err(text).to_string(), error);
        };
        check("abc", "invalid selector: 'abc'; can't understand 'abc'");
        check(r"a=b\c", r"invalid field selector: invalid escape sequence: \c");
        check(
            "a=b=c",
            "invalid field selector: unescaped character in value: 61",
        );
        check("é", "invalid selector: 'é'; can't understand 'é'");
    }
}
