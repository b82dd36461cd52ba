//! Label selectors: `app=web,tier in (a,b),!canary,weight>3`.

use std::fmt;

use serde_json::{Map, Value};

use super::parser;
use crate::field::{self, Path, quote};
use crate::names;

/// How a requirement relates a label to its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operator {
    /// `=`
    Equals,
    /// `==`
    DoubleEquals,
    /// `!=`
    NotEquals,
    /// `in`
    In,
    /// `notin`
    NotIn,
    /// The key alone.
    Exists,
    /// `!` and the key.
    DoesNotExist,
    /// `>`
    GreaterThan,
    /// `<`
    LessThan,
}

/// One condition on one label.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Requirement {
    key: String,
    operator: Operator,
    values: Vec<String>,
}

/// All of some conditions on labels, in order of their keys; or nothing at all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

/// A selector cannot be parsed; the text is upstream's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct LabelSelectorError(pub(super) String);

pub(super) fn error<T>(text: String) -> Result<T, LabelSelectorError> {
    Err(LabelSelectorError(text))
}

impl Requirement {
    /// A requirement, checked as upstream checks it.
    pub fn new(key: &str, operator: Operator, values: Vec<String>) -> Result<Self, LabelSelectorError> {
        let mut errors = field::ErrorList::new();
        errors.extend(check_key(key, &Path::new("key")));
        let path = Path::new("values");
        let invalid = |detail: &str| field::Error::invalid(&path, serde_json::json!(values), detail);
        match operator {
            Operator::In | Operator::NotIn if values.is_empty() => {
                errors.push(invalid("for 'in', 'notin' operators, values set can't be empty"));
            }
            Operator::Equals | Operator::DoubleEquals | Operator::NotEquals if values.len() != 1 => {
                errors.push(invalid("exact-match compatibility requires one single value"));
            }
            Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
                errors.push(invalid("values set must be empty for exists and does not exist"));
            }
            Operator::GreaterThan | Operator::LessThan => {
                if values.len() != 1 {
                    errors.push(invalid("for 'Gt', 'Lt' operators, exactly one value is required"));
                }
                for (at, value) in values
                    .iter()
                    .enumerate()
                    .filter(|(_, value)| value.parse::<i64>().is_err())
                {
                    let detail = "for 'Gt', 'Lt' operators, the value must be an integer";
                    errors.push(field::Error::invalid(&path.index(at), value.as_str(), detail));
                }
            }
            _ => {}
        }
        for (at, value) in values.iter().enumerate() {
            let wrong = names::label_value(value);
            if !wrong.is_empty() {
                errors.push(field::Error::invalid(
                    &path.index(at).key(key),
                    value.as_str(),
                    wrong.join("; "),
                ));
            }
        }
        if errors.is_empty() {
            return Ok(Self {
                key: key.to_owned(),
                operator,
                values,
            });
        }
        error(field::aggregate(&errors))
    }

    /// The label's key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The operator.
    pub fn operator(&self) -> Operator {
        self.operator
    }

    /// The values.
    pub fn values(&self) -> &[String] {
        &self.values
    }

    /// Whether a label with this value (or none) fulfils it.
    pub fn matches(&self, value: Option<&str>) -> bool {
        let has = |value: &str| self.values.iter().any(|v| v == value);
        match (self.operator, value) {
            (Operator::In | Operator::Equals | Operator::DoubleEquals, value) => value.is_some_and(has),
            (Operator::NotIn | Operator::NotEquals, value) => !value.is_some_and(has),
            (Operator::Exists, value) => value.is_some(),
            (Operator::DoesNotExist, value) => value.is_none(),
            (Operator::GreaterThan | Operator::LessThan, value) => {
                let number = |text: Option<&str>| text.and_then(|text| text.parse::<i64>().ok());
                match (number(value), number(self.values.first().map(String::as_str))) {
                    (Some(label), Some(limit)) if self.operator == Operator::GreaterThan => label > limit,
                    (Some(label), Some(limit)) => label < limit,
                    _ => false,
                }
            }
        }
    }
}

pub(super) fn check_key(key: &str, path: &Path) -> Option<field::Error> {
    let wrong = names::qualified_name(key);
    (!wrong.is_empty()).then(|| field::Error::invalid(path, key, wrong.join("; ")))
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut values: Vec<&str> = self.values.iter().map(String::as_str).collect();
        values.sort_unstable();
        let (key, values) = (&self.key, values.join(","));
        match self.operator {
            Operator::Equals => write!(f, "{key}={values}"),
            Operator::DoubleEquals => write!(f, "{key}=={values}"),
            Operator::NotEquals => write!(f, "{key}!={values}"),
            Operator::In => write!(f, "{key} in ({values})"),
            Operator::NotIn => write!(f, "{key} notin ({values})"),
            Operator::Exists => write!(f, "{key}"),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::GreaterThan => write!(f, "{key}>{values}"),
            Operator::LessThan => write!(f, "{key}<{values}"),
        }
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, requirement) in self.requirements.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            write!(f, "{comma}{requirement}")?;
        }
        Ok(())
    }
}

impl std::str::FromStr for LabelSelector {
    type Err = LabelSelectorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl LabelSelector {
    /// The selector that every object matches.
    pub fn everything() -> Self {
        Self::default()
    }

    /// The selector that no object matches.
    pub fn nothing() -> Self {
        Self {
            requirements: Vec::new(),
            nothing: true,
        }
    }

    /// A selector of these requirements.
    pub fn new(mut requirements: Vec<Requirement>) -> Self {
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Self {
            requirements,
            nothing: false,
        }
    }

    /// Parses a selector.
    pub fn parse(text: &str) -> Result<Self, LabelSelectorError> {
        parser::parse(text).map(Self::new)
    }

    /// The selector that a `metav1.LabelSelector` stands for: null matches nothing, an empty one everything.
    pub fn from_label_selector_value(value: &Value) -> Result<Self, LabelSelectorError> {
        let Value::Object(selector) = value else {
            return Ok(Self::nothing());
        };
        let mut requirements = Vec::new();
        for (key, value) in selector
            .get("matchLabels")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            let value = value.as_str().unwrap_or_default().to_owned();
            requirements.push(Requirement::new(key, Operator::Equals, vec![value])?);
        }
        for expression in selector
            .get("matchExpressions")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            let text = |name: &str| expression.get(name).and_then(Value::as_str).unwrap_or_default();
            let operator = match text("operator") {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => return error(format!("{} is not a valid label selector operator", quote(other))),
            };
            let values = expression
                .get("values")
                .and_then(Value::as_array)
                .into_iter()
                .flatten();
            let values = values
                .map(|value| value.as_str().unwrap_or_default().to_owned())
                .collect();
            requirements.push(Requirement::new(text("key"), operator, values)?);
        }
        Ok(Self::new(requirements))
    }

    /// The selector of a plain map of labels (Service, ReplicationController); an empty one matches everything.
    pub fn from_map(labels: &Map<String, Value>) -> Self {
        let requirement = |(key, value): (&String, &Value)| Requirement {
            key: key.clone(),
            operator: Operator::Equals,
            values: vec![value.as_str().unwrap_or_default().to_owned()],
        };
        Self::new(labels.iter().map(requirement).collect())
    }

    /// Whether every object matches.
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    /// Whether no object matches.
    pub fn is_nothing(&self) -> bool {
        self.nothing
    }

    /// The requirements in order of their keys.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// Whether labels, looked up by key, match.
    pub fn matches_by<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing
            && self
                .requirements
                .iter()
                .all(|requirement| requirement.matches(label(&requirement.key)))
    }

    /// Whether a map of labels matches.
    pub fn matches(&self, labels: &Map<String, Value>) -> bool {
        self.matches_by(|key| labels.get(key).and_then(Value::as_str))
    }

    /// Whether an object's `metadata.labels` match.
    pub fn matches_object(&self, object: &Value) -> bool {
        let labels = object.get("metadata").and_then(|metadata| metadata.get("labels"));
        self.matches_by(|key| labels.and_then(|labels| labels.get(key)).and_then(Value::as_str))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn parses_and_prints() {
        let cases = [
            ("", ""),
            ("a", "a"),
            ("!a", "!a"),
            ("a=b", "a=b"),
            ("a==b", "a==b"),
            ("a!=b", "a!=b"),
            ("a =  b , c", "a=b,c"),
            ("x in (foo,,baz),y,z notin ()", "x in (,baz,foo),y,z notin ()"),
            ("b,a", "a,b"),
            ("a>1,b<2", "a>1,b<2"),
            ("in in (in,notin)", "in in (in,notin)"),
            ("a=", "a="),
            ("a in (,)", "a in ()"),
            ("example.com/a=1", "example.com/a=1"),
            ("a notin (b)", "a notin (b)"),
        ];
        for (text, printed) in cases {
            assert_eq!(
                LabelSelector::parse(text).map(|s| s.to_string()).as_deref(),
                Ok(printed),
                "{text}"
            );
        }
    }

    #[test]
    fn errors() {
        let check = |text: &str, expected: &str| {
            let error = LabelSelector::parse(text).expect_err(text).to_string();
            assert!(error.starts_with(expected), "{text}: {error}");
        };
        check("a,", "found '', expected: identifier after ','");
        check(",a", "found ',', expected: !, identifier, or 'end of string'");
        check(
            "a b",
            "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt",
        );
        check("a in b", "unable to parse requirement: found 'b' expected: '('");
        check(
            "a in (b",
            "unable to parse requirement: found '', expected: ',' or ')'",
        );
        check("a=b c", "found 'c', expected: ',' or 'end of string'");
        check(
            "a=-b",
            "unable to parse requirement: values[0][a]: Invalid value: \"-b\": a valid label must be",
        );
        check(
            "-a=b",
            "unable to parse requirement: <nil>: Invalid value: \"-a\": name part must consist of",
        );
        check(
            "a>x",
            "unable to parse requirement: values[0]: Invalid value: \"x\": for 'Gt', 'Lt' operators",
        );
        check(
            "a=!",
            "unable to parse requirement: found '!', expected: identifier",
        );
        for junk in [
            "(",
            ")(",
            "!",
            "!!a",
            "a in ((",
            "a=é",
            "\0",
            "a\0=b",
            "=",
            "a in (a,b",
            "a!",
            "!=",
            "a=(b",
        ] {
            let _ = LabelSelector::parse(junk);
        }
    }

    #[test]
    fn matches() {
        let labels = json!({"app": "web", "n": "5", "empty": ""});
        let labels = labels.as_object().expect("object");
        let cases = [
            ("", true),
            ("app", true),
            ("!app", false),
            ("app=web", true),
            ("app!=web", false),
            ("other!=web", true),
            ("app in (a,web)", true),
            ("app notin (a,web)", false),
            ("other notin (a)", true),
            ("n>4", true),
            ("n<5", false),
            ("app>1", false),
            ("empty=", true),
            ("other=", false),
            ("app=web,n=6", false),
            ("other in (a)", false),
        ];
        for (text, expected) in cases {
            assert_eq!(
                LabelSelector::parse(text).expect(text).matches(labels),
                expected,
                "{text}"
            );
        }
        assert!(!LabelSelector::nothing().matches(labels));
    }

    #[test]
    fn from_values() {
        let check = |value: Value, printed: &str| {
            assert_eq!(
                LabelSelector::from_label_selector_value(&value)
                    .expect("selector")
                    .to_string(),
                printed
            );
        };
        check(json!({}), "");
        check(
            json!({"matchLabels": {"b": "1"}, "matchExpressions": [
                {"key": "a", "operator": "In", "values": ["y", "x"]}, {"key": "c", "operator": "Exists"}]}),
            "a in (x,y),b=1,c",
        );
        assert!(
            LabelSelector::from_label_selector_value(&Value::Null)
                .expect("nothing")
                .is_nothing()
        );
        let bad = LabelSelector::from_label_selector_value(
            &json!({"matchExpressions": [{"key": "a", "operator": "x"}]}),
        );
        assert_eq!(
            bad.expect_err("operator").to_string(),
            "\"x\" is not a valid label selector operator"
        );
    }
}
