//! Types and how messages write them.

use std::fmt;
use std::sync::Arc;

use crate::decl::ObjectType;

/// A static type.
#[derive(Debug, Clone, PartialEq)]
pub enum Type {
    /// Checked when the expression runs.
    Dyn,
    /// The type of what is already reported as wrong.
    Error,
    /// `null`.
    Null,
    /// `bool`.
    Bool,
    /// `int`, 64 bits.
    Int,
    /// `uint`, 64 bits.
    Uint,
    /// `double`.
    Double,
    /// `string`.
    String,
    /// `bytes`.
    Bytes,
    /// An instant.
    Timestamp,
    /// A length of time.
    Duration,
    /// A list of a type.
    List(Arc<Type>),
    /// A map of keys to values.
    Map(Arc<Type>, Arc<Type>),
    /// A named type with fields.
    Object(Arc<ObjectType>),
    /// An optional value.
    Optional(Arc<Type>),
    /// The type of a type.
    Type(Option<Arc<Type>>),
    /// A type parameter of a function's signature.
    Param(char),
    /// A type that unification is still to find.
    Var(u32),
}

impl Type {
    /// Whether values of the type have one size.
    pub(crate) fn is_scalar(&self) -> bool {
        match self {
            Self::Bool | Self::Double | Self::Duration | Self::Int | Self::Timestamp | Self::Uint => true,
            Self::Optional(inner) => inner.is_scalar(),
            _ => false,
        }
    }

    pub(crate) fn is_dyn_or_error(&self) -> bool {
        matches!(self, Self::Dyn | Self::Error)
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dyn => f.write_str("dyn"),
            Self::Error => f.write_str("!error!"),
            Self::Null => f.write_str("null"),
            Self::Bool => f.write_str("bool"),
            Self::Int => f.write_str("int"),
            Self::Uint => f.write_str("uint"),
            Self::Double => f.write_str("double"),
            Self::String => f.write_str("string"),
            Self::Bytes => f.write_str("bytes"),
            Self::Timestamp => f.write_str("timestamp"),
            Self::Duration => f.write_str("duration"),
            Self::List(element) => write!(f, "list({element})"),
            Self::Map(key, value) => write!(f, "map({key}, {value})"),
            Self::Object(object) => f.write_str(&object.name),
            Self::Optional(inner) => write!(f, "optional_type({inner})"),
            Self::Type(None) => f.write_str("type"),
            Self::Type(Some(inner)) => write!(f, "type({inner})"),
            Self::Param(name) => write!(f, "{name}"),
            Self::Var(number) => write!(f, "_var{number}"),
        }
    }
}

/// A call as messages write it: `(int, string)`, or `string.(int)` for a member function.
pub(super) fn signature(target: Option<&Type>, args: &[Type]) -> String {
    let args: Vec<String> = args.iter().map(ToString::to_string).collect();
    let target = target.map(|target| format!("{target}.")).unwrap_or_default();
    format!("{target}({})", args.join(", "))
}
