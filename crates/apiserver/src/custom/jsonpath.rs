//! JSONPath as printer columns use it: fields, quoted fields, indexes, slices, wildcards, filters and descent.

use serde_json::Value;

/// A parsed path.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct JsonPath(Vec<Step>);

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    /// Every element or value.
    All,
    Index(i64),
    Slice(Option<i64>, Option<i64>),
    Filter(Filter),
    /// The value and everything below it.
    Below,
}

#[derive(Clone, Debug, PartialEq)]
struct Filter {
    path: JsonPath,
    /// `None`: the path has a result.
    compared: Option<(Operator, Operand)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Operator {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Clone, Debug, PartialEq)]
enum Operand {
    Literal(Value),
    Path(JsonPath),
}

const OPERATORS: [(&str, Operator); 6] = [
    ("==", Operator::Equal),
    ("!=", Operator::Unequal),
    ("<=", Operator::LessOrEqual),
    (">=", Operator::GreaterOrEqual),
    ("<", Operator::Less),
    (">", Operator::Greater),
];

impl JsonPath {
    /// Reads a path like `.spec.ports[?(@.name=="http")].port`; `None` when it is none.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut steps = Vec::new();
        let mut rest = text.trim().trim_start_matches(['$', '@']);
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix("..") {
                steps.push(Step::Below);
                rest = if after.starts_with('[') { after } else { &rest[1..] };
            } else if let Some(after) = rest.strip_prefix('.') {
                rest = field(after, &mut steps);
            } else if rest.starts_with('[') {
                let end = closing(rest)?;
                steps.push(bracket(rest[1..end].trim())?);
                rest = &rest[end + 1..];
            } else {
                return None;
            }
        }
        Some(Self(steps))
    }

    /// What the path leads to, in order.
    pub(crate) fn find<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        let mut found = vec![value];
        for step in &self.0 {
            found = found.into_iter().flat_map(|value| step.of(value)).collect();
        }
        found
    }
}

/// A field after a dot, which a backslash may hold dots for.
fn field<'t>(text: &'t str, steps: &mut Vec<Step>) -> &'t str {
    let mut name = String::new();
    let mut chars = text.char_indices();
    let mut end = text.len();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => name.extend(chars.next().map(|(_, c)| c)),
            '.' | '[' => {
                end = at;
                break;
            }
            c => name.push(c),
        }
    }
    match name.as_str() {
        "" => {}
        "*" => steps.push(Step::All),
        _ => steps.push(Step::Field(name)),
    }
    &text[end..]
}

/// Where the bracket that `text` begins with ends.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0;
    let mut quote = None;
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '[' | '(') => depth += 1,
            (None, ']' | ')') => {
                depth -= 1;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}

fn quoted(text: &str) -> Option<&str> {
    let open = text.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    text.strip_prefix(open)?.strip_suffix(open)
}

fn bracket(text: &str) -> Option<Step> {
    if text == "*" {
        return Some(Step::All);
    }
    if let Some(name) = quoted(text) {
        return Some(Step::Field(name.to_owned()));
    }
    if let Some(filter) = text.strip_prefix("?(").and_then(|t| t.strip_suffix(')')) {
        return Some(Step::Filter(condition(filter.trim())?));
    }
    if let Some((from, to)) = text.split_once(':') {
        let bound = |text: &str| match text.trim() {
            "" => Some(None),
            number => number.parse().ok().map(Some),
        };
        return Some(Step::Slice(bound(from)?, bound(to)?));
    }
    text.parse().ok().map(Step::Index)
}

fn condition(text: &str) -> Option<Filter> {
    let mut quote = None;
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            _ => {
                let Some((sign, operator)) = OPERATORS.iter().find(|(sign, _)| text[at..].starts_with(sign))
                else {
                    continue;
                };
                let right = text[at + sign.len()..].trim();
                let operand = match quoted(right) {
                    Some(literal) => Operand::Literal(literal.into()),
                    None if right.starts_with('@') => Operand::Path(JsonPath::parse(right)?),
                    None => Operand::Literal(serde_json::from_str(right).ok()?),
                };
                return Some(Filter {
                    path: JsonPath::parse(&text[..at])?,
                    compared: Some((*operator, operand)),
                });
            }
        }
    }
    Some(Filter {
        path: JsonPath::parse(text)?,
        compared: None,
    })
}

impl Step {
    fn of<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        match self {
            Self::Field(name) => value.get(name).into_iter().collect(),
            Self::All => children(value),
            Self::Index(at) => {
                let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
                place(*at, items.len())
                    .and_then(|at| items.get(at))
                    .into_iter()
                    .collect()
            }
            Self::Slice(from, to) => {
                let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
                let bound = |at: Option<i64>, none: usize| match at {
                    None => none,
                    Some(at) => place(at, items.len()).unwrap_or(0).min(items.len()),
                };
                let (from, to) = (bound(*from, 0), bound(*to, items.len()));
                items.get(from..to).unwrap_or_default().iter().collect()
            }
            Self::Filter(filter) => {
                let items = value.as_array().into_iter().flatten();
                items.filter(|item| filter.holds(item)).collect()
            }
            Self::Below => {
                let mut all = vec![value];
                let mut at = 0;
                while at < all.len() {
                    let below = children(all[at]);
                    all.extend(below);
                    at += 1;
                }
                all
            }
        }
    }
}

fn children(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(items) => items.iter().collect(),
        Value::Object(fields) => fields.values().collect(),
        _ => Vec::new(),
    }
}

/// An index that counts from the end when it is negative.
fn place(at: i64, length: usize) -> Option<usize> {
    if at >= 0 {
        return usize::try_from(at).ok();
    }
    length.checked_sub(usize::try_from(at.unsigned_abs()).ok()?)
}

impl Filter {
    fn holds(&self, item: &Value) -> bool {
        let left = self.path.find(item);
        let Some((operator, operand)) = &self.compared else {
            return !left.is_empty();
        };
        let Some(left) = left.first() else { return false };
        match operand {
            Operand::Literal(right) => compare(*operator, left, right),
            Operand::Path(path) => path
                .find(item)
                .first()
                .is_some_and(|right| compare(*operator, left, right)),
        }
    }
}

fn compare(operator: Operator, left: &Value, right: &Value) -> bool {
    let order = match (left, right) {
        (Value::Number(a), Value::Number(b)) => a.as_f64().partial_cmp(&b.as_f64()),
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        _ => None,
    };
    match operator {
        Operator::Equal => left == right || order.is_some_and(|o| o.is_eq()),
        Operator::Unequal => left != right && !order.is_some_and(|o| o.is_eq()),
        Operator::Less => order.is_some_and(|o| o.is_lt()),
        Operator::LessOrEqual => order.is_some_and(|o| o.is_le()),
        Operator::Greater => order.is_some_and(|o| o.is_gt()),
        Operator::GreaterOrEqual => order.is_some_and(|o| o.is_ge()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths() {
        let object = json!({"spec": {"n": 3, "a.b": "dot", "list": [1, 2, 3],
            "ports": [{"name": "http", "port": 80, "old": 80}, {"name": "a]b", "port": 81}]},
            "metadata": {"labels": {"x/y": "l"}}});
        for (path, expected) in [
            (".spec.n", json!([3])),
            (".spec.a\\.b", json!(["dot"])),
            (".spec['a.b']", json!(["dot"])),
            (".metadata.labels['x/y']", json!(["l"])),
            ("$.spec.list[0]", json!([1])),
            (".spec.list[-1]", json!([3])),
            (".spec.list[-9]", json!([])),
            (".spec.list[1:]", json!([2, 3])),
            (".spec.list[:-1]", json!([1, 2])),
            (".spec.list[*]", json!([1, 2, 3])),
            (".spec.ports[?(@.name==\"http\")].port", json!([80])),
            (".spec.ports[?(@.name == 'a]b')].port", json!([81])),
            (".spec.ports[?(@.port>80)].name", json!(["a]b"])),
            (".spec.ports[?(@.port == @.old)].name", json!(["http"])),
            (".spec.ports[?(@.old)].name", json!(["http"])),
            (".spec.ports[?(@.none != 1)].name", json!([])),
            ("..port", json!([80, 81])),
            (".spec.none.deeper", json!([])),
            (".spec.ports[*].name", json!(["http", "a]b"])),
        ] {
            let found: Vec<Value> = JsonPath::parse(path)
                .unwrap_or_else(|| panic!("{path}"))
                .find(&object)
                .into_iter()
                .cloned()
                .collect();
            assert_eq!(Value::Array(found), expected, "{path}");
        }
        for wrong in ["spec", ".a[", ".a[x]", ".a[?(@.b==)]", ".a[1", "{.a}"] {
            assert_eq!(JsonPath::parse(wrong), None, "{wrong}");
        }
    }
}
