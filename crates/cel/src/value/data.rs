//! The value itself.

use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use keelson_api::quantity::Quantity;
use serde_json::Value as Json;
use url::Url;

use super::compare::Steps;
use super::list::List;
use super::map::Map;
use super::text::Text;
use crate::functions::authorizer::Authorization;
use crate::functions::formats::NamedFormat;
use crate::functions::semver::Semver;

/// A value of an expression.
#[derive(Debug, Clone)]
pub enum Value<'a> {
    /// `null`.
    Null,
    /// A boolean.
    Bool(bool),
    /// A signed integer.
    Int(i64),
    /// An unsigned integer.
    Uint(u64),
    /// A floating-point number.
    Double(f64),
    /// Text.
    String(Text<'a>),
    /// Bytes.
    Bytes(Arc<[u8]>),
    /// An instant.
    Timestamp(Timestamp),
    /// Nanoseconds.
    Duration(i64),
    /// A list.
    List(List<'a>),
    /// A map or an object.
    Map(Map<'a>),
    /// A type, by its name.
    Type(Text<'a>),
    /// A value that may be absent.
    Optional(Option<Arc<Value<'a>>>),
    /// A value of one of Kubernetes' own types.
    #[doc(hidden)]
    Extension(Extension<'a>),
}

/// Values of Kubernetes' own types.
#[derive(Debug, Clone)]
pub enum Extension<'a> {
    Quantity(Quantity),
    Url(Arc<Url>),
    Ip(IpAddr),
    Cidr(Cidr),
    Semver(Arc<Semver>),
    Format(&'static NamedFormat),
    Authorization(Authorization<'a>),
    /// Data that no schema describes; it can only be compared.
    Unknown(&'a Json),
}

/// An address with the length of its prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    pub(crate) address: IpAddr,
    pub(crate) prefix: u8,
}

impl<'a> Value<'a> {
    /// Text made by the expression.
    pub fn text(text: impl Into<String>) -> Self {
        Self::String(Text::from(text.into()))
    }

    /// A list of values.
    pub fn list(items: Vec<Value<'a>>) -> Self {
        Self::List(List::from(items))
    }

    /// Something.
    pub fn some(value: Value<'a>) -> Self {
        Self::Optional(Some(Arc::new(value)))
    }

    /// The name of the value's type, as messages write it.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null_type",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Uint(_) => "uint",
            Self::Double(_) => "double",
            Self::String(_) => "string",
            Self::Bytes(_) => "bytes",
            Self::Timestamp(_) => "google.protobuf.Timestamp",
            Self::Duration(_) => "google.protobuf.Duration",
            Self::List(_) => "list",
            Self::Map(_) => "map",
            Self::Type(_) => "type",
            Self::Optional(_) => "optional_type",
            Self::Extension(extension) => match extension {
                Extension::Quantity(_) => "kubernetes.Quantity",
                Extension::Url(_) => "kubernetes.URL",
                Extension::Ip(_) => "net.IP",
                Extension::Cidr(_) => "net.CIDR",
                Extension::Semver(_) => "kubernetes.Semver",
                Extension::Format(_) => "kubernetes.NamedFormat",
                Extension::Authorization(authorization) => authorization.type_name(),
                Extension::Unknown(_) => "unknown",
            },
        }
    }

    /// The text of a string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// The size that costs are counted by: characters, bytes, elements, entries, otherwise one.
    pub(crate) fn size(&self) -> u64 {
        match self {
            Self::String(text) => text.chars().count() as u64,
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::List(list) => list.len() as u64,
            Self::Map(map) => map.len() as u64,
            Self::Optional(Some(value)) => value.size(),
            Self::Extension(Extension::Ip(address)) => {
                if address.is_ipv4() {
                    4
                } else {
                    16
                }
            }
            Self::Extension(Extension::Cidr(cidr)) => u64::from(cidr.prefix.div_ceil(8)),
            _ => 1,
        }
    }
}

/// What it costs to walk a value: a tenth of its characters, one for every other leaf.
pub(crate) fn traversal(value: &Value<'_>) -> u64 {
    walk(value, &mut Steps::default())
}

fn walk(value: &Value<'_>, steps: &mut Steps) -> u64 {
    if steps.take().is_err() {
        // More than any limit allows.
        return u64::MAX;
    }
    match value {
        Value::String(text) => text.len() as u64 / 10,
        Value::Bytes(bytes) => bytes.len() as u64 / 10,
        Value::List(list) => list
            .iter()
            .flatten()
            .fold(0, |sum, item| sum.saturating_add(walk(&item, steps))),
        Value::Map(map) => map
            .entries()
            .unwrap_or_default()
            .iter()
            .fold(0, |sum: u64, (key, value)| {
                sum.saturating_add(walk(&key.value(), steps))
                    .saturating_add(walk(value, steps))
            }),
        _ => 1,
    }
}
