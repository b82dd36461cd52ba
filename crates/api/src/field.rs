//! Field paths and field errors: the texts of `apimachinery/pkg/util/validation/field`.

use std::fmt;
use std::sync::Arc;

use serde_json::Value;

/// A path to a field: `spec.containers[0].name`, `metadata.labels[foo]`. Cheap to clone and to extend.
#[derive(Clone, Debug, Default)]
pub struct Path(Option<Arc<Node>>);

#[derive(Debug)]
struct Node {
    parent: Path,
    element: Element,
}

#[derive(Debug)]
enum Element {
    Name(&'static str),
    Owned(Box<str>),
    Index(usize),
    Key(Box<str>),
}

impl Path {
    /// The path of the object itself; displays as nothing when extended, `<nil>` alone.
    pub const fn root() -> Self {
        Self(None)
    }

    /// A path of one field below the root.
    pub fn new(name: &'static str) -> Self {
        Self::root().child(name)
    }

    /// The field `name` below this path.
    pub fn child(&self, name: &'static str) -> Self {
        self.push(Element::Name(name))
    }

    /// The fields `names`, each below the one before.
    pub fn children(&self, names: &[&'static str]) -> Self {
        names.iter().fold(self.clone(), |path, name| path.child(name))
    }

    /// The field `name` below this path, for names known at run time only.
    pub fn child_owned(&self, name: impl Into<String>) -> Self {
        self.push(Element::Owned(name.into().into_boxed_str()))
    }

    /// The element at `index` of the list at this path.
    pub fn index(&self, index: usize) -> Self {
        self.push(Element::Index(index))
    }

    /// The entry `key` of the map (or keyed list) at this path.
    pub fn key(&self, key: impl Into<String>) -> Self {
        self.push(Element::Key(key.into().into_boxed_str()))
    }

    /// Whether this is the path of the object itself.
    pub fn is_root(&self) -> bool {
        self.0.is_none()
    }

    fn push(&self, element: Element) -> Self {
        Self(Some(Arc::new(Node {
            parent: self.clone(),
            element,
        })))
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(mut node) = self.0.as_deref() else {
            return f.write_str("<nil>");
        };
        let mut elements = vec![&node.element];
        while let Some(parent) = node.parent.0.as_deref() {
            node = parent;
            elements.push(&node.element);
        }
        for (at, element) in elements.iter().rev().enumerate() {
            let dot = if at == 0 { "" } else { "." };
            match element {
                Element::Name(name) => write!(f, "{dot}{name}")?,
                Element::Owned(name) => write!(f, "{dot}{name}")?,
                Element::Index(index) => write!(f, "[{index}]")?,
                Element::Key(key) => write!(f, "[{key}]")?,
            }
        }
        Ok(())
    }
}

/// What is wrong with a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// A required value is missing.
    Required,
    /// The value is malformed or out of range.
    Invalid,
    /// A value that is referred to does not exist.
    NotFound,
    /// A value that must be unique occurs twice.
    Duplicate,
    /// The value is valid but not allowed here.
    Forbidden,
    /// The value is not one of an enumeration.
    NotSupported,
    /// The value is too long.
    TooLong,
    /// There are too many items.
    TooMany,
    /// There are too few items.
    TooFew,
    /// The value is of the wrong type.
    TypeInvalid,
    /// Validation itself failed.
    Internal,
}

impl ErrorKind {
    /// The word that starts the message.
    pub fn text(self) -> &'static str {
        match self {
            Self::Required => "Required value",
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::NotFound => "Not found",
            Self::Duplicate => "Duplicate value",
            Self::Forbidden => "Forbidden",
            Self::NotSupported => "Unsupported value",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
            Self::TooFew => "Too few",
            Self::Internal => "Internal error",
        }
    }

    /// The `reason` of a `metav1.StatusCause`.
    pub fn cause(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Invalid => "FieldValueInvalid",
            Self::NotFound => "FieldValueNotFound",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Forbidden => "FieldValueForbidden",
            Self::NotSupported => "FieldValueNotSupported",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::TooFew => "FieldValueTooFew",
            Self::TypeInvalid => "FieldValueTypeInvalid",
            Self::Internal => "InternalError",
        }
    }
}

/// A field that is wrong. Displays as upstream: `spec.x: Invalid value: "..": detail`.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{path}: {}", self.body())]
pub struct Error {
    /// What is wrong.
    pub kind: ErrorKind,
    /// Where, as text.
    pub path: String,
    /// The offending value; `None` leaves it out of the message.
    pub bad_value: Option<Value>,
    /// What would be right.
    pub detail: String,
}

/// All that is wrong with an object.
pub type ErrorList = Vec<Error>;

impl Error {
    fn new(kind: ErrorKind, path: &Path, bad_value: Option<Value>, detail: impl Into<String>) -> Self {
        Self {
            kind,
            path: path.to_string(),
            bad_value,
            detail: detail.into(),
        }
    }

    /// A required value is missing.
    pub fn required(path: &Path, detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::Required, path, None, detail)
    }

    /// A malformed value.
    pub fn invalid(path: &Path, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, path, Some(value.into()), detail)
    }

    /// A value of the wrong type.
    pub fn type_invalid(path: &Path, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::TypeInvalid, path, Some(value.into()), detail)
    }

    /// A reference to something that is not there.
    pub fn not_found(path: &Path, value: impl Into<Value>) -> Self {
        Self::new(ErrorKind::NotFound, path, Some(value.into()), "")
    }

    /// A value that occurs twice.
    pub fn duplicate(path: &Path, value: impl Into<Value>) -> Self {
        Self::new(ErrorKind::Duplicate, path, Some(value.into()), "")
    }

    /// A value that is not allowed here.
    pub fn forbidden(path: &Path, detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::Forbidden, path, None, detail)
    }

    /// A value outside an enumeration; `supported` is listed in the given order.
    pub fn not_supported(path: &Path, value: impl Into<Value>, supported: &[impl AsRef<str>]) -> Self {
        let quoted: Vec<String> = supported.iter().map(|v| quote(v.as_ref())).collect();
        let detail = if quoted.is_empty() {
            String::new()
        } else {
            format!("supported values: {}", quoted.join(", "))
        };
        Self::new(ErrorKind::NotSupported, path, Some(value.into()), detail)
    }

    /// A string longer than `max` bytes.
    pub fn too_long(path: &Path, max: usize) -> Self {
        let unit = if max == 1 { "byte" } else { "bytes" };
        Self::new(
            ErrorKind::TooLong,
            path,
            None,
            format!("may not be more than {max} {unit}"),
        )
    }

    /// A list of `actual` items where `max` are allowed.
    pub fn too_many(path: &Path, actual: usize, max: usize) -> Self {
        let unit = if max == 1 { "item" } else { "items" };
        Self::new(
            ErrorKind::TooMany,
            path,
            Some(actual.into()),
            format!("must have at most {max} {unit}"),
        )
    }

    /// A list of `actual` items where `min` are needed.
    pub fn too_few(path: &Path, actual: usize, min: usize) -> Self {
        let unit = if min == 1 { "item" } else { "items" };
        Self::new(
            ErrorKind::TooFew,
            path,
            Some(actual.into()),
            format!("must have at least {min} {unit}"),
        )
    }

    /// Validation itself failed.
    pub fn internal(path: &Path, error: impl fmt::Display) -> Self {
        Self::new(ErrorKind::Internal, path, None, error.to_string())
    }

    /// The message without the path: what a `StatusCause` carries.
    pub fn body(&self) -> String {
        let mut text = self.kind.text().to_owned();
        match self.kind {
            ErrorKind::Required | ErrorKind::Forbidden | ErrorKind::TooLong | ErrorKind::Internal => {}
            _ => match &self.bad_value {
                None => {}
                Some(Value::Null) => text.push_str(": \"null\""),
                Some(Value::String(s)) => text.push_str(&format!(": {}", quote(s))),
                Some(value) => text.push_str(&format!(": {value}")),
            },
        }
        if !self.detail.is_empty() {
            text.push_str(": ");
            text.push_str(&self.detail);
        }
        text
    }
}

/// The message of a list of errors: one alone, several as `[a, b]`, repeated ones once.
pub fn aggregate(errors: &[Error]) -> String {
    let mut texts: Vec<String> = Vec::with_capacity(errors.len());
    for error in errors {
        let text = error.to_string();
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    match &texts[..] {
        [one] => one.clone(),
        _ => format!("[{}]", texts.join(", ")),
    }
}

/// Quotes as Go's `%q` does: printable runes stay, the rest is escaped.
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => out.push_str(&format!("\\x{:02x}", c as u32)),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths() {
        let path = Path::new("spec")
            .child("containers")
            .index(0)
            .child("env")
            .key("A");
        assert_eq!(path.to_string(), "spec.containers[0].env[A]");
        assert_eq!(Path::root().to_string(), "<nil>");
        assert_eq!(Path::root().children(&["a", "b"]).to_string(), "a.b");
        assert_eq!(Path::new("a").child_owned("b").to_string(), "a.b");
    }

    #[test]
    fn texts() {
        let path = Path::new("spec").child("x");
        let check = |error: Error, text: &str| assert_eq!(error.to_string(), text);
        check(Error::required(&path, ""), "spec.x: Required value");
        check(Error::required(&path, "why"), "spec.x: Required value: why");
        check(
            Error::invalid(&path, "a\"b", "bad"),
            "spec.x: Invalid value: \"a\\\"b\": bad",
        );
        check(
            Error::invalid(&path, -1, "must be positive"),
            "spec.x: Invalid value: -1: must be positive",
        );
        check(
            Error::invalid(&path, json!({"a": 1}), ""),
            "spec.x: Invalid value: {\"a\":1}",
        );
        check(
            Error::invalid(&path, Value::Null, "d"),
            "spec.x: Invalid value: \"null\": d",
        );
        check(
            Error::not_supported(&path, "x", &["a", "b"]),
            "spec.x: Unsupported value: \"x\": supported values: \"a\", \"b\"",
        );
        check(
            Error::too_long(&path, 63),
            "spec.x: Too long: may not be more than 63 bytes",
        );
        check(
            Error::too_many(&path, 3, 1),
            "spec.x: Too many: 3: must have at most 1 item",
        );
        check(Error::duplicate(&path, "a"), "spec.x: Duplicate value: \"a\"");
        check(Error::forbidden(&path, "no"), "spec.x: Forbidden: no");
        check(Error::not_found(&path, "v"), "spec.x: Not found: \"v\"");
    }

    #[test]
    fn aggregates() {
        let path = Path::new("a");
        let one = Error::required(&path, "");
        let two = Error::forbidden(&path, "b");
        assert_eq!(aggregate(std::slice::from_ref(&one)), "a: Required value");
        assert_eq!(
            aggregate(&[one.clone(), two, one]),
            "[a: Required value, a: Forbidden: b]"
        );
    }
}
