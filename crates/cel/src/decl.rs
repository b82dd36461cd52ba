//! Declarations of data: the types that OpenAPI schemas give to JSON, with the bounds that cost estimation needs.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use serde_json::Value as Json;

use crate::check::Type;
use crate::limits::MAX_REQUEST_BYTES;
use crate::syntax::is_keyword;

const MAX_DURATION_SIZE: i64 = 32;
const MAX_DATETIME_SIZE: i64 = 32;
const MIN_DURATION_SIZE: i64 = 3;
const DATE_SIZE: i64 = 12;
const MIN_DATETIME_SIZE: i64 = 21;
const MIN_STRING_SIZE: i64 = 2;
const MIN_BOOL_SIZE: i64 = 4;
const MIN_NUMBER_SIZE: i64 = 1;

/// The type of some JSON, how to read it, and how large it can be.
#[derive(Debug, Clone)]
pub struct Decl {
    /// What the data is.
    pub kind: DeclKind,
    /// The static type.
    pub ty: Type,
    /// The most elements, entries or characters; zero for what has no size.
    pub max_elements: u64,
    /// The least number of bytes that the data takes in JSON.
    pub min_serialized_size: i64,
    /// Whether `null` is a value.
    pub nullable: bool,
}

/// What some JSON is.
#[derive(Debug, Clone)]
pub enum DeclKind {
    /// Any JSON, read as it is.
    Dyn,
    /// A number or a string.
    IntOrString,
    /// A boolean.
    Bool,
    /// A whole number.
    Int,
    /// A number.
    Double,
    /// Text.
    String,
    /// Base64.
    Bytes,
    /// A duration in Go's form.
    Duration,
    /// `2006-01-02`.
    Date,
    /// RFC 3339.
    DateTime,
    /// A list of elements, with the list type that says what equality and addition mean.
    List(Arc<Decl>, ListType),
    /// A map from strings.
    Map(Arc<Decl>),
    /// An object with declared fields.
    Object(Arc<ObjectType>),
}

/// `x-kubernetes-list-type`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListType {
    /// Order matters.
    Atomic,
    /// Equality ignores order; addition is union.
    Set,
    /// Elements correspond by these keys; addition merges.
    Map(Vec<String>),
}

/// A named type with fields.
#[derive(Debug)]
pub struct ObjectType {
    /// The name that messages show.
    pub name: String,
    /// Fields by their escaped names.
    pub fields: BTreeMap<String, Field>,
    /// Whether any other field may be set, of any type.
    pub open: bool,
}

/// A field of an object.
#[derive(Debug, Clone)]
pub struct Field {
    /// The property's name in JSON.
    pub property: String,
    /// Its declaration.
    pub decl: Arc<Decl>,
}

impl PartialEq for ObjectType {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

static DYN: LazyLock<Arc<Decl>> = LazyLock::new(|| Arc::new(Decl::plain(DeclKind::Dyn, Type::Dyn, 1)));

impl Decl {
    fn plain(kind: DeclKind, ty: Type, min_serialized_size: i64) -> Self {
        Self {
            kind,
            ty,
            max_elements: 0,
            min_serialized_size,
            nullable: false,
        }
    }

    fn sized(kind: DeclKind, ty: Type, min_serialized_size: i64, max_elements: i64) -> Self {
        Self {
            max_elements: u64::try_from(max_elements).unwrap_or(0),
            ..Self::plain(kind, ty, min_serialized_size)
        }
    }

    /// Any JSON.
    pub fn any() -> &'static Arc<Self> {
        &DYN
    }

    /// Text of unknown length.
    pub fn string() -> Self {
        Self::sized(
            DeclKind::String,
            Type::String,
            MIN_STRING_SIZE,
            MAX_REQUEST_BYTES - 2,
        )
    }

    /// A boolean.
    pub fn bool() -> Self {
        Self::plain(DeclKind::Bool, Type::Bool, MIN_BOOL_SIZE)
    }

    /// A whole number.
    pub fn int() -> Self {
        Self::plain(DeclKind::Int, Type::Int, MIN_NUMBER_SIZE)
    }

    /// A list without a bound on its length.
    pub fn list(items: Arc<Self>) -> Self {
        let max = (MAX_REQUEST_BYTES - 2) / (items.min_serialized_size + 1);
        Self::list_of(items, ListType::Atomic, max)
    }

    fn list_of(items: Arc<Self>, list_type: ListType, max: i64) -> Self {
        let ty = Type::List(Arc::new(items.ty.clone()));
        Self::sized(DeclKind::List(items, list_type), ty, 2, max)
    }

    /// A map from strings without a bound on its size.
    pub fn map(values: Arc<Self>) -> Self {
        let max = (MAX_REQUEST_BYTES - 2) / (values.min_serialized_size + 6);
        Self::map_of(values, max)
    }

    fn map_of(values: Arc<Self>, max: i64) -> Self {
        let ty = Type::Map(Arc::new(Type::String), Arc::new(values.ty.clone()));
        Self::sized(DeclKind::Map(values), ty, 2, max)
    }

    /// An object with these fields, which are named by their JSON properties.
    pub fn object(name: &str, fields: impl IntoIterator<Item = (String, Arc<Self>)>) -> Self {
        let fields = fields
            .into_iter()
            .filter_map(|(property, decl)| Some((escape(&property)?, Field { property, decl })))
            .collect();
        let object = Arc::new(ObjectType {
            name: name.to_owned(),
            fields,
            open: false,
        });
        Self::plain(DeclKind::Object(Arc::clone(&object)), Type::Object(object), 2)
    }

    /// The declaration of what an OpenAPI v3 schema describes, or nothing when expressions cannot see it: data of
    /// unknown fields, lists and maps of such data.
    ///
    /// `resource` marks the root of a custom or embedded resource, whose `apiVersion`, `kind`, `metadata.name` and
    /// `metadata.generateName` are always visible. `name` is the name of the type if it is an object.
    pub fn from_schema(schema: &Json, resource: bool, name: &str) -> Option<Self> {
        let mut decl = Self::convert(schema, resource, name)?;
        decl.nullable = schema["nullable"] == true;
        Some(decl)
    }

    fn convert(schema: &Json, resource: bool, name: &str) -> Option<Self> {
        let bound = |key: &str| schema[key].as_i64().map(|bound| bound.max(0));
        if schema["x-kubernetes-int-or-string"] == true {
            let max = bound("maxLength").map_or(MAX_REQUEST_BYTES - 2, |max| max.saturating_mul(4));
            return Some(Self::sized(DeclKind::IntOrString, Type::Dyn, 1, max));
        }
        let kind = if resource {
            Some("object")
        } else {
            schema["type"].as_str()
        };
        match kind? {
            "array" => {
                let items = &schema["items"];
                let embedded = items["x-kubernetes-embedded-resource"] == true;
                let items = Arc::new(Self::from_schema(items, embedded, &format!("{name}.@idx"))?);
                let max =
                    bound("maxItems").unwrap_or((MAX_REQUEST_BYTES - 2) / (items.min_serialized_size + 1));
                Some(Self::list_of(items, list_type(schema), max))
            }
            "object" => Self::convert_object(schema, resource, name, &bound),
            "string" => Some(Self::convert_string(schema, &bound)),
            "boolean" => Some(Self::bool()),
            "number" => Some(Self::plain(DeclKind::Double, Type::Double, MIN_NUMBER_SIZE)),
            "integer" => Some(Self::int()),
            _ => None,
        }
    }

    fn convert_object(
        schema: &Json,
        resource: bool,
        name: &str,
        bound: &dyn Fn(&str) -> Option<i64>,
    ) -> Option<Self> {
        if let Some(values) = schema
            .get("additionalProperties")
            .filter(|values| values.is_object())
            && !resource
        {
            let embedded = values["x-kubernetes-embedded-resource"] == true;
            let values = Arc::new(Self::from_schema(values, embedded, &format!("{name}.@elem"))?);
            let max =
                bound("maxProperties").unwrap_or((MAX_REQUEST_BYTES - 2) / (values.min_serialized_size + 6));
            return Some(Self::map_of(values, max));
        }
        let required = |property: &str| {
            schema["required"]
                .as_array()
                .is_some_and(|names| names.iter().any(|name| name == property))
        };
        let mut fields = BTreeMap::new();
        let mut size = 2;
        for (property, sub) in schema["properties"].as_object().into_iter().flatten() {
            let embedded = sub["x-kubernetes-embedded-resource"] == true;
            let escaped = escape(property);
            let sub_name = format!("{name}.{}", escaped.as_deref().unwrap_or(property));
            let Some(decl) = Self::from_schema(sub, embedded, &sub_name) else {
                continue;
            };
            if required(property) && sub.get("default").is_none_or(Json::is_null) {
                size += i64::try_from(property.len()).unwrap_or(i64::MAX / 4) + decl.min_serialized_size + 4;
            }
            if let Some(escaped) = escaped {
                let field = Field {
                    property: property.clone(),
                    decl: Arc::new(decl),
                };
                fields.insert(escaped, field);
            }
        }
        if resource {
            add_type_and_metadata(&mut fields, name);
        }
        let object = Arc::new(ObjectType {
            name: name.to_owned(),
            fields,
            open: false,
        });
        Some(Self::plain(
            DeclKind::Object(Arc::clone(&object)),
            Type::Object(object),
            size,
        ))
    }

    fn convert_string(schema: &Json, bound: &dyn Fn(&str) -> Option<i64>) -> Self {
        match schema["format"].as_str() {
            Some("byte") => {
                let max = bound("maxLength").unwrap_or(MAX_REQUEST_BYTES - 2);
                Self::sized(DeclKind::Bytes, Type::Bytes, MIN_STRING_SIZE, max)
            }
            Some("duration") => Self::sized(
                DeclKind::Duration,
                Type::Duration,
                MIN_DURATION_SIZE,
                MAX_DURATION_SIZE,
            ),
            Some("date") => Self::sized(DeclKind::Date, Type::Timestamp, DATE_SIZE, DATE_SIZE),
            Some("date-time") => Self::sized(
                DeclKind::DateTime,
                Type::Timestamp,
                MIN_DATETIME_SIZE,
                MAX_DATETIME_SIZE,
            ),
            _ => {
                let longest = schema["enum"]
                    .as_array()
                    .filter(|values| !values.is_empty())
                    .map(|values| {
                        let lengths = values.iter().filter_map(Json::as_str).map(str::len);
                        i64::try_from(lengths.max().unwrap_or(0)).unwrap_or(i64::MAX)
                    });
                let max = bound("maxLength")
                    .map(|max| max.saturating_mul(4))
                    .or(longest)
                    .unwrap_or(MAX_REQUEST_BYTES - 2);
                Self::sized(DeclKind::String, Type::String, MIN_STRING_SIZE, max)
            }
        }
    }

    /// The field with this escaped name.
    pub fn field(&self, escaped: &str) -> Option<&Field> {
        match &self.kind {
            DeclKind::Object(object) => object.fields.get(escaped),
            _ => None,
        }
    }

    /// The declaration at a path of escaped field names, `@items`, `@values` and `@keys`.
    pub(crate) fn descend(&self, step: &str) -> Option<&Self> {
        static KEY: LazyLock<Decl> =
            LazyLock::new(|| Decl::plain(DeclKind::String, Type::String, MIN_STRING_SIZE));
        static INDEX: LazyLock<Decl> = LazyLock::new(Decl::int);
        match (step, &self.kind) {
            ("@items" | "@values", DeclKind::List(element, _) | DeclKind::Map(element)) => Some(element),
            ("@keys", DeclKind::Map(_)) => Some(&KEY),
            ("@indices", DeclKind::List(..)) => Some(&INDEX),
            (_, DeclKind::Object(object)) => object.fields.get(step).map(|field| field.decl.as_ref()),
            _ => None,
        }
    }
}

fn list_type(schema: &Json) -> ListType {
    match schema["x-kubernetes-list-type"].as_str() {
        Some("set") => ListType::Set,
        Some("map") => {
            let keys = schema["x-kubernetes-list-map-keys"].as_array();
            let keys = keys.into_iter().flatten().filter_map(Json::as_str);
            ListType::Map(keys.map(str::to_owned).collect())
        }
        _ => ListType::Atomic,
    }
}

/// What is visible of every resource, whatever its schema says.
fn add_type_and_metadata(fields: &mut BTreeMap<String, Field>, name: &str) {
    let string = Arc::new(Decl::plain(DeclKind::String, Type::String, MIN_STRING_SIZE));
    let mut add = |property: &str, decl: Arc<Decl>| {
        let property = property.to_owned();
        fields.insert(property.clone(), Field { property, decl });
    };
    add("apiVersion", Arc::clone(&string));
    add("kind", Arc::clone(&string));
    let metadata =
        [("name", &string), ("generateName", &string)].map(|(key, decl)| (key.to_owned(), Arc::clone(decl)));
    add(
        "metadata",
        Arc::new(Decl::object(&format!("{name}.metadata"), metadata)),
    );
}

/// How often, at most, a part of an object can occur that is at least this many bytes long.
pub fn max_cardinality(min_serialized_size: i64) -> u64 {
    u64::try_from(MAX_REQUEST_BYTES / (min_serialized_size + 1)).unwrap_or(u64::MAX)
}

/// The identifier that stands for a property's name in expressions, if there is one: `__dot__`, `__dash__`,
/// `__slash__` and `__underscores__` replace characters, and keywords are framed in two underscores.
pub fn escape(name: &str) -> Option<String> {
    let first = name.chars().next()?;
    if first.is_ascii_digit() {
        return None;
    }
    if is_keyword(name) {
        return Some(format!("__{name}__"));
    }
    let mut escaped = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(character) = rest.chars().next() {
        let (piece, length) = match character {
            '_' if rest.starts_with("__") => ("__underscores__", 2),
            '.' => ("__dot__", 1),
            '-' => ("__dash__", 1),
            '/' => ("__slash__", 1),
            _ if character == '_' || character.is_ascii_alphanumeric() => (&rest[..1], 1),
            _ => return None,
        };
        escaped.push_str(piece);
        rest = &rest[length..];
    }
    Some(escaped)
}
