//! Bodies, lists and watch frames.

use std::sync::LazyLock;

use serde_json::Value;

use super::decode::decode_message;
use super::encode::encode_message;
use super::wire::{Content, Error, Reader, put_bytes, put_nested};
use crate::schema::{Field, List, ListType, Object, Schema, registry};

/// What every body starts with.
pub const MAGIC: &[u8; 4] = b"k8s\0";

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// A body taken apart: what it is, and its message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// `apiVersion` of the object; may be empty.
    pub api_version: String,
    /// `kind` of the object; may be empty.
    pub kind: String,
    /// The message.
    pub raw: &'a [u8],
    /// Content type of `raw` when it is no message (`application/json`).
    pub content_type: String,
}

/// Takes a body apart.
pub fn open(bytes: &[u8]) -> Result<Envelope<'_>, Error> {
    let body = bytes.strip_prefix(MAGIC).ok_or(Error::Magic)?;
    let mut envelope = Envelope {
        api_version: String::new(),
        kind: String::new(),
        raw: &[],
        content_type: String::new(),
    };
    let text = |bytes: &[u8], name: &str| {
        String::from_utf8(bytes.to_vec()).map_err(|_| Error::Utf8(name.to_owned()))
    };
    let mut reader = Reader::new(body);
    while let Some((tag, content)) = reader.field()? {
        match (tag, content) {
            (1, Content::Bytes(type_meta)) => {
                let mut reader = Reader::new(type_meta);
                while let Some(field) = reader.field()? {
                    match field {
                        (1, Content::Bytes(bytes)) => envelope.api_version = text(bytes, "apiVersion")?,
                        (2, Content::Bytes(bytes)) => envelope.kind = text(bytes, "kind")?,
                        _ => {}
                    }
                }
            }
            (2, Content::Bytes(raw)) => envelope.raw = raw,
            (4, Content::Bytes(bytes)) => envelope.content_type = text(bytes, "contentType")?,
            _ => {}
        }
    }
    Ok(envelope)
}

/// Reads a body; `schema` finds the schema of the kind that it names (`apiVersion`, `kind`).
pub fn decode<'a>(
    bytes: &[u8],
    schema: impl FnOnce(&str, &str) -> Option<&'a Schema>,
) -> Result<Value, Error> {
    let envelope = open(bytes)?;
    let found = schema(&envelope.api_version, &envelope.kind)
        .ok_or_else(|| Error::UnknownKind(format!("{}, Kind={}", envelope.api_version, envelope.kind)))?;
    let mut value = decode_message(found, envelope.raw)?;
    if let Value::Object(fields) = &mut value {
        for (name, text) in [("apiVersion", envelope.api_version), ("kind", envelope.kind)] {
            if !text.is_empty() {
                fields.insert(name.to_owned(), Value::String(text));
            }
        }
    }
    Ok(value)
}

/// Writes a body from an object that carries `apiVersion` and `kind`.
pub fn encode(schema: &Schema, value: &Value) -> Result<Vec<u8>, Error> {
    let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default();
    let mut raw = Vec::with_capacity(512);
    encode_message(schema, value, &mut raw)?;
    Ok(encode_envelope(text("apiVersion"), text("kind"), &raw))
}

/// Writes a body around a message.
pub fn encode_envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(raw.len() + 64);
    out.extend_from_slice(MAGIC);
    let Ok(()) = put_nested(&mut out, 1, |out| {
        put_bytes(out, 1, api_version.as_bytes());
        put_bytes(out, 2, kind.as_bytes());
        Ok::<(), std::convert::Infallible>(())
    });
    put_bytes(&mut out, 2, raw);
    put_bytes(&mut out, 3, b"");
    put_bytes(&mut out, 4, b"");
    out
}

/// Writes the body of a list, one item after the other.
#[derive(Clone, Debug)]
pub struct ListEncoder {
    raw: Vec<u8>,
}

impl ListEncoder {
    /// A list with this `metadata`.
    pub fn new(metadata: &Value) -> Result<Self, Error> {
        let name = format!("{META}.ListMeta");
        let schema = registry().by_name(&name).ok_or(Error::UnknownKind(name))?;
        let mut raw = Vec::new();
        put_nested(&mut raw, 1, |out| encode_message(schema, metadata, out))?;
        Ok(Self { raw })
    }

    /// Adds an item.
    pub fn push(&mut self, schema: &Schema, item: &Value) -> Result<(), Error> {
        put_nested(&mut self.raw, 2, |out| encode_message(schema, item, out))
    }

    /// The body.
    pub fn finish(self, api_version: &str, kind: &str) -> Vec<u8> {
        encode_envelope(api_version, kind, &self.raw)
    }
}

/// Writes one frame of a watch: four bytes of length (big endian), then an event of this type around a body.
pub fn watch_frame(event_type: &str, body: &[u8]) -> Vec<u8> {
    let mut event = Vec::with_capacity(body.len() + 32);
    put_bytes(&mut event, 1, event_type.as_bytes());
    let Ok(()) = put_nested(&mut event, 2, |out| {
        put_bytes(out, 1, body);
        Ok::<(), std::convert::Infallible>(())
    });
    let length = u32::try_from(event.len()).unwrap_or(u32::MAX);
    let mut frame = Vec::with_capacity(event.len() + 4);
    frame.extend_from_slice(&length.to_be_bytes());
    frame.append(&mut event);
    frame
}

static PARTIAL: LazyLock<Schema> = LazyLock::new(|| partial("PartialObjectMetadata", "ObjectMeta", None));
static PARTIAL_LIST: LazyLock<Schema> =
    LazyLock::new(|| partial("PartialObjectMetadataList", "ListMeta", Some(&PARTIAL)));

fn partial(name: &str, metadata: &str, items: Option<&Schema>) -> Schema {
    let metadata = registry()
        .by_name(&format!("{META}.{metadata}"))
        .cloned()
        .unwrap_or(Schema::Any);
    let mut fields = vec![
        Field::new("apiVersion", Schema::String),
        Field::new("kind", Schema::String),
        Field {
            tags: [1, 0, 0],
            omit_zero: true,
            ..Field::new("metadata", metadata)
        },
    ];
    if let Some(items) = items {
        let list = List {
            items: items.clone(),
            list_type: ListType::Atomic,
            explicit: false,
        };
        let schema = Schema::List(Box::new(list));
        fields.push(Field {
            tags: [2, 0, 0],
            required: true,
            ..Field::new("items", schema)
        });
    }
    Schema::Object(Box::new(Object::with_fields(format!("{META}.{name}"), fields)))
}

/// The schema of `meta.k8s.io/v1, Kind=PartialObjectMetadata`.
pub fn partial_object_metadata() -> &'static Schema {
    &PARTIAL
}

/// The schema of `meta.k8s.io/v1, Kind=PartialObjectMetadataList`.
pub fn partial_object_metadata_list() -> &'static Schema {
    &PARTIAL_LIST
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn bodies() {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "resources": {}}]}, "status": {}});
        let schema = registry().by_gvk("", "v1", "Pod").expect("Pod");
        let body = encode(schema, &pod).expect("encodes");
        assert_eq!(&body[..4], MAGIC);
        let decoded = decode(&body, |version, kind| registry().by_gvk("", version, kind)).expect("decodes");
        assert_eq!(decoded, pod);
        let mut list = ListEncoder::new(&json!({"resourceVersion": "7"})).expect("metadata");
        list.push(schema, &pod).expect("item");
        list.push(schema, &pod).expect("item");
        let list = decode(&list.finish("v1", "PodList"), |version, kind| {
            registry().by_gvk("", version, kind)
        })
        .expect("decodes");
        assert_eq!(list["items"].as_array().map(Vec::len), Some(2));
        assert_eq!(list["items"][0]["metadata"], pod["metadata"]);
        assert_eq!(list["metadata"]["resourceVersion"], "7");
        let frame = watch_frame("ADDED", &body);
        assert_eq!(
            frame[..4],
            u32::try_from(frame.len() - 4).expect("short").to_be_bytes()
        );
        let partial = json!({"metadata": pod["metadata"]});
        let mut raw = Vec::new();
        encode_message(partial_object_metadata(), &partial, &mut raw).expect("encodes");
        assert_eq!(decode_message(partial_object_metadata(), &raw), Ok(partial));
        assert!(partial_object_metadata_list().field("items").is_some());
    }

    #[test]
    fn bad_bodies_are_errors() {
        assert_eq!(open(b"{}"), Err(Error::Magic));
        assert_eq!(open(b"k8s\0\x0a\xff"), Err(Error::Truncated));
        let none = decode(&encode_envelope("v9", "X", b""), |_, _| None);
        assert_eq!(none, Err(Error::UnknownKind("v9, Kind=X".to_owned())));
    }
}
