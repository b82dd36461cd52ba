//! The types of a schema.

use serde_json::Value;

use super::registry::registry;
use crate::gvk::{GroupVersionKind, Str};

/// A definition of the built-in registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DefId(pub(super) u16);

/// The shape of one value.
#[derive(Clone, Debug)]
pub enum Schema {
    /// Any JSON value, kept as it is.
    Any,
    /// An object of any shape, kept as it is (`runtime.RawExtension`).
    RawExtension,
    /// A set of fields (`metav1.FieldsV1`), kept as it is.
    FieldsV1,
    /// `true` or `false`.
    Bool,
    /// A 32-bit integer.
    Int32,
    /// A 64-bit integer.
    Int64,
    /// A 64-bit float.
    Double,
    /// A string.
    String,
    /// Bytes, in JSON as base64.
    Bytes,
    /// `resource.Quantity`, a string or a number.
    Quantity,
    /// `intstr.IntOrString`.
    IntOrString,
    /// `metav1.Time`: RFC 3339 in whole seconds.
    Time,
    /// `metav1.MicroTime`: RFC 3339 with six digits.
    MicroTime,
    /// `apiextensions.JSON`: any value.
    Json,
    /// `apiextensions.JSONSchemaPropsOrArray`.
    JsonSchemaOrArray,
    /// `apiextensions.JSONSchemaPropsOrBool`.
    JsonSchemaOrBool,
    /// `apiextensions.JSONSchemaPropsOrStringArray`.
    JsonSchemaOrStringArray,
    /// A list.
    List(Box<List>),
    /// A map from strings.
    Map(Box<Map>),
    /// A struct written in place (custom resources).
    Object(Box<Object>),
    /// A struct of the built-in registry.
    Def(DefId),
}

/// How the elements of a list are told apart when it is merged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ListType {
    /// Replaced as a whole.
    #[default]
    Atomic,
    /// Unique scalars.
    Set,
    /// Structs told apart by these fields.
    Map(Vec<Str>),
}

/// Whether a map or struct is merged or replaced as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MapType {
    /// Merged entry by entry.
    #[default]
    Granular,
    /// Replaced as a whole.
    Atomic,
}

/// A list.
#[derive(Clone, Debug)]
pub struct List {
    /// Shape of the elements.
    pub items: Schema,
    /// How it is merged; a list that does not say is atomic.
    pub list_type: ListType,
    /// Whether `x-kubernetes-list-type` is present.
    pub explicit: bool,
}

/// A map from strings.
#[derive(Clone, Debug)]
pub struct Map {
    /// Shape of the values.
    pub values: Schema,
    /// How it is merged.
    pub map_type: MapType,
}

/// A struct.
#[derive(Clone, Debug, Default)]
pub struct Object {
    /// Definition name (`io.k8s.api.core.v1.Pod`); empty for a struct written in place.
    pub name: Str,
    /// The kinds it is the schema of.
    pub kinds: Vec<GroupVersionKind>,
    /// Whether it carries `apiVersion` and `kind` of every group version (DeleteOptions, WatchEvent).
    pub all_kinds: bool,
    /// Fields in order of their names.
    pub fields: Vec<Field>,
    /// How it is merged.
    pub map_type: MapType,
    /// Whether fields without a schema are kept.
    pub preserve_unknown: bool,
    /// Whether it has `apiVersion`, `kind` and `metadata` of its own.
    pub embedded_resource: bool,
    /// Indexes of the fields that are always present: Go structs that are no pointers.
    pub(super) always: Vec<u16>,
    /// Indexes of the fields that a message has, in order of their tags.
    pub(super) by_tag: Vec<u16>,
    /// Whether this or anything below has a default that is not zero.
    pub(super) has_defaults: bool,
}

/// A field of a struct.
#[derive(Clone, Debug)]
pub struct Field {
    /// JSON name.
    pub name: Str,
    /// Shape of the value.
    pub schema: Schema,
    /// Whether OpenAPI lists it as required.
    pub required: bool,
    /// Whether a zero value is left out (a Go value with omitempty, not a pointer).
    pub omit_zero: bool,
    /// Whether an explicit null is kept (custom resources).
    pub nullable: bool,
    /// Tags from the struct's message to the field, through inlined messages; empty when it has none.
    pub tags: TagPath,
    /// What few fields have.
    pub extra: Option<Box<FieldExtra>>,
}

/// Up to three protobuf tags, zero-terminated.
pub type TagPath = [u8; 3];

/// What few fields have.
#[derive(Clone, Debug, Default)]
pub struct FieldExtra {
    /// Default value.
    pub default: Option<Value>,
    /// Whether a default is written that is the zero value of its type. Custom resources know no zero values; those of Go's
    /// types only serve as keys of list elements.
    pub writes_zero: bool,
    /// Values of the enumeration.
    pub enumeration: Vec<Str>,
    /// Strategic-merge directives.
    pub patch_strategy: PatchStrategy,
    /// Field that tells elements apart in a strategic merge; empty for scalars.
    pub patch_merge_key: Str,
    /// `x-kubernetes-map-type` on the field, overriding the struct's own.
    pub map_type: Option<MapType>,
}

/// `x-kubernetes-patch-strategy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PatchStrategy {
    /// Elements are merged.
    pub merge: bool,
    /// The value is replaced.
    pub replace: bool,
    /// Fields that the patch does not list are dropped.
    pub retain_keys: bool,
}

static NO_EXTRA: FieldExtra = FieldExtra {
    default: None,
    writes_zero: false,
    enumeration: Vec::new(),
    patch_strategy: PatchStrategy {
        merge: false,
        replace: false,
        retain_keys: false,
    },
    patch_merge_key: Str::Borrowed(""),
    map_type: None,
};

impl Schema {
    /// The struct that this is, looked up in the registry where needed.
    pub fn object(&self) -> Option<&Object> {
        match self {
            Self::Def(id) => Some(registry().definition(*id)),
            Self::Object(object) => Some(object),
            _ => None,
        }
    }

    /// The list that this is.
    pub fn list(&self) -> Option<&List> {
        if let Self::List(list) = self {
            Some(list)
        } else {
            None
        }
    }

    /// The map that this is.
    pub fn map(&self) -> Option<&Map> {
        if let Self::Map(map) = self {
            Some(map)
        } else {
            None
        }
    }

    /// Schema of the entry `name`: a struct's field or a map's value.
    pub fn entry(&self, name: &str) -> Option<&Schema> {
        match self {
            Self::Map(map) => Some(&map.values),
            _ => self.object()?.field(name).map(|field| &field.schema),
        }
    }

    /// The struct's field of this name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.object()?.field(name)
    }

    /// Whether this is a string, number, bool or something written as one.
    pub fn is_scalar(&self) -> bool {
        !matches!(
            self,
            Self::List(_)
                | Self::Map(_)
                | Self::Object(_)
                | Self::Def(_)
                | Self::Any
                | Self::RawExtension
                | Self::FieldsV1
                | Self::Json
                | Self::JsonSchemaOrArray
                | Self::JsonSchemaOrBool
                | Self::JsonSchemaOrStringArray
        )
    }
}

impl Object {
    /// A struct of these fields, as custom resources need it.
    pub fn with_fields(name: impl Into<Str>, mut fields: Vec<Field>) -> Self {
        fields.sort_by(|a, b| a.name.cmp(&b.name));
        let mut object = Self {
            name: name.into(),
            fields,
            ..Self::default()
        };
        object.has_defaults = object.fields.iter().any(Field::has_defaults);
        object.index_tags();
        object
    }

    /// The field of this name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields
            .binary_search_by(|field| (*field.name).cmp(name))
            .ok()
            .map(|at| &self.fields[at])
    }

    /// The Go name of the struct, as decoding errors give it.
    pub fn go_name(&self) -> &str {
        self.name.rsplit('.').next().unwrap_or_default()
    }

    pub(crate) fn always_present(&self) -> impl Iterator<Item = &Field> {
        self.always.iter().map(|at| &self.fields[usize::from(*at)])
    }

    pub(crate) fn has_defaults(&self) -> bool {
        self.has_defaults
    }

    /// The fields that a message has, in order of their tags.
    pub(crate) fn fields_by_tag(&self) -> impl Iterator<Item = &Field> {
        self.by_tag.iter().map(|at| &self.fields[usize::from(*at)])
    }

    pub(super) fn index_tags(&mut self) {
        let mut order: Vec<usize> = (0..self.fields.len())
            .filter(|at| self.fields[*at].tags[0] != 0)
            .collect();
        order.sort_by_key(|at| self.fields[*at].tags);
        self.by_tag = order
            .into_iter()
            .map(|at| u16::try_from(at).expect("invariant: fewer than 65,536 fields"))
            .collect();
    }
}

impl Field {
    /// A field of this name and shape, with nothing special.
    pub fn new(name: impl Into<Str>, schema: Schema) -> Self {
        Self {
            name: name.into(),
            schema,
            required: false,
            omit_zero: false,
            nullable: false,
            tags: [0; 3],
            extra: None,
        }
    }

    /// What few fields have, or nothing.
    pub fn extra(&self) -> &FieldExtra {
        self.extra.as_deref().unwrap_or(&NO_EXTRA)
    }

    /// The default value.
    pub fn default(&self) -> Option<&Value> {
        self.extra().default.as_ref()
    }

    /// Whether the struct, map or list is replaced as a whole by server-side apply.
    pub fn is_atomic(&self) -> bool {
        if let Some(map_type) = self.extra().map_type {
            return map_type == MapType::Atomic;
        }
        match &self.schema {
            Schema::List(list) => list.list_type == ListType::Atomic,
            Schema::Map(map) => map.map_type == MapType::Atomic,
            schema => schema
                .object()
                .is_none_or(|object| object.map_type == MapType::Atomic),
        }
    }

    /// The default that an absent field gets.
    pub(super) fn written_default(&self) -> Option<&Value> {
        self.default()
            .filter(|default| self.extra().writes_zero || !is_zero(default))
    }

    fn has_defaults(&self) -> bool {
        self.written_default().is_some() || schema_has_defaults(&self.schema)
    }
}

fn schema_has_defaults(schema: &Schema) -> bool {
    match schema {
        Schema::List(list) => schema_has_defaults(&list.items),
        Schema::Map(map) => schema_has_defaults(&map.values),
        Schema::Object(object) => object.has_defaults,
        Schema::Def(id) => registry().definition(*id).has_defaults,
        _ => false,
    }
}

/// Whether a value is the zero value of its Go type.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}
