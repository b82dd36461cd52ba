//! One stored object: its bytes, and what selectors ask about it.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::Value;

use super::error::WatchCacheError;
use super::extract::{Extracted, FieldExtractor, SelectableField};

const METADATA: &[u8] = b"\"metadata\":{";
const RESOURCE_VERSION: &[u8] = b"\"resourceVersion\":\"";

/// How a kind is stored.
#[derive(Debug)]
pub struct KindSpec {
    /// Group, empty for core.
    pub group: String,
    /// Plural.
    pub resource: String,
    /// `apiVersion` of the stored form.
    pub api_version: String,
    /// `kind` of the stored form.
    pub kind: String,
    /// Keys start with it: `/registry/[group/]<resource>/`.
    pub prefix: String,
    /// Stored bytes start with it: `{"kind":"Pod","apiVersion":"v1",`.
    pub head: Vec<u8>,
    /// Reads labels and selectable fields.
    pub extractor: FieldExtractor,
    /// What becomes of stored objects when they are read.
    pub reading: Reading,
}

/// Brings a stored object into the shape that its schema has at the moment.
#[derive(Clone)]
pub struct Shape(pub Arc<dyn Fn(&mut Value) + Send + Sync>);

impl std::fmt::Debug for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shape")
    }
}

/// What becomes of stored objects when they are read: nothing, but for custom resources.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// Prunes and defaults.
    pub shape: Option<Shape>,
    /// Other versions that objects may be stored in and are kept in, because only somebody else can convert them.
    pub others: Vec<Arc<KindSpec>>,
}

impl KindSpec {
    /// The spec of a kind.
    pub fn new(
        group: &str,
        resource: &str,
        api_version: &str,
        kind: &str,
        fields: Vec<SelectableField>,
    ) -> Self {
        let prefix = if group.is_empty() {
            format!("/registry/{resource}/")
        } else {
            format!("/registry/{group}/{resource}/")
        };
        Self {
            group: group.to_owned(),
            resource: resource.to_owned(),
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
            prefix,
            head: head(kind, api_version),
            extractor: FieldExtractor::new(fields),
            reading: Reading::default(),
        }
    }

    /// The same with another way of reading.
    pub fn with_reading(self, reading: Reading) -> Self {
        Self { reading, ..self }
    }

    /// The key of an object; `namespace` is empty at cluster scope.
    pub fn key(&self, namespace: &str, name: &str) -> Bytes {
        let mut key = String::with_capacity(self.prefix.len() + namespace.len() + name.len() + 1);
        key.push_str(&self.prefix);
        if !namespace.is_empty() {
            key.push_str(namespace);
            key.push('/');
        }
        key.push_str(name);
        key.into()
    }
}

/// The start of an object's JSON up to and with the comma behind `apiVersion`.
pub fn head(kind: &str, api_version: &str) -> Vec<u8> {
    format!("{{\"kind\":\"{kind}\",\"apiVersion\":\"{api_version}\",").into_bytes()
}

/// The stored form of objects: head, metadata without `resourceVersion`, then the rest.
pub struct StoredForm;

impl StoredForm {
    /// Encodes an object. `resourceVersion` is left out wherever it stands in the metadata.
    pub fn encode(spec: &KindSpec, object: &Value) -> Bytes {
        let mut out = Vec::with_capacity(1024);
        out.extend_from_slice(&spec.head);
        out.extend_from_slice(METADATA);
        if let Some(Value::Object(metadata)) = object.get("metadata") {
            write_entries(&mut out, metadata, &["resourceVersion"], false);
        }
        out.push(b'}');
        if let Value::Object(map) = object {
            write_entries(&mut out, map, &["kind", "apiVersion", "metadata"], true);
        }
        out.push(b'}');
        // These bytes stay in memory for as long as the object lives: exactly as many as it needs.
        out.into_boxed_slice().into()
    }
}

fn write_entries(out: &mut Vec<u8>, map: &serde_json::Map<String, Value>, skip: &[&str], mut comma: bool) {
    for (key, value) in map {
        if skip.contains(&key.as_str()) {
            continue;
        }
        if comma {
            out.push(b',');
        }
        comma = true;
        serde_json::to_writer(&mut *out, key).expect("invariant: writing to memory does not fail");
        out.push(b':');
        serde_json::to_writer(&mut *out, value).expect("invariant: writing to memory does not fail");
    }
}

/// An object as it was at one revision.
#[derive(Debug)]
pub struct CachedObject {
    spec: Arc<KindSpec>,
    /// `ns/name` or `name`.
    key: Bytes,
    namespace_len: u16,
    /// Whether the store has exactly these bytes.
    exact: bool,
    bytes: Bytes,
    revision: u64,
    extracted: OnceLock<Extracted>,
    parsed: OnceLock<Arc<Value>>,
    /// The object in other versions, once somebody has asked for them.
    forms: OnceLock<Box<Mutex<Vec<Arc<CachedObject>>>>>,
}

/// The spec of the version that an object is stored in, the bytes to serve, and whether they are the stored ones.
fn read(spec: &Arc<KindSpec>, value: Bytes) -> Result<(Arc<KindSpec>, Bytes, bool), String> {
    let has_form =
        |spec: &KindSpec| value.starts_with(&spec.head) && value[spec.head.len()..].starts_with(METADATA);
    let others = &spec.reading.others;
    let known = std::iter::once(spec).chain(others).find(|spec| has_form(spec));
    if let Some(spec) = known.filter(|spec| spec.reading.shape.is_none()) {
        return Ok((spec.clone(), value, true));
    }
    let mut object: Value = serde_json::from_slice(&value).map_err(|e| e.to_string())?;
    if !object.get("metadata").is_some_and(Value::is_object) {
        return Err("it has no metadata".to_owned());
    }
    let spec = known.unwrap_or_else(|| {
        let version = object["apiVersion"].as_str().unwrap_or_default();
        let other = others.iter().find(|other| other.api_version == version);
        other.unwrap_or(spec)
    });
    if let Some(shape) = &spec.reading.shape {
        (shape.0)(&mut object);
    }
    let bytes = StoredForm::encode(spec, &object);
    Ok(if bytes == value {
        (spec.clone(), value, true)
    } else {
        (spec.clone(), bytes, false)
    })
}

impl CachedObject {
    /// Reads the stored bytes of `key` (the whole key).
    pub fn new(
        spec: &Arc<KindSpec>,
        key: &Bytes,
        value: Bytes,
        revision: u64,
    ) -> Result<Self, WatchCacheError> {
        let corrupt = |problem: String| WatchCacheError::Corrupt {
            key: String::from_utf8_lossy(key).into_owned(),
            problem,
        };
        let relative = key.slice(spec.prefix.len()..);
        std::str::from_utf8(&relative).map_err(|e| corrupt(e.to_string()))?;
        let namespace_len = relative.iter().position(|b| *b == b'/').unwrap_or(0);
        let (spec, bytes, exact) = read(spec, value).map_err(corrupt)?;
        let extracted = spec
            .extractor
            .extract(&bytes)
            .map_err(|e| corrupt(e.to_string()))?;
        Ok(Self {
            spec,
            key: relative,
            namespace_len: u16::try_from(namespace_len).map_err(|e| corrupt(e.to_string()))?,
            exact,
            bytes,
            revision,
            extracted: extracted.into(),
            parsed: OnceLock::new(),
            forms: OnceLock::new(),
        })
    }

    /// The object that this server has just written in the stored form: not read again.
    pub fn written(spec: &Arc<KindSpec>, key: &Bytes, stored: Bytes, revision: u64) -> Self {
        let relative = key.slice(spec.prefix.len()..);
        let namespace_len = relative.iter().position(|b| *b == b'/').unwrap_or(0);
        Self {
            spec: spec.clone(),
            key: relative,
            namespace_len: u16::try_from(namespace_len)
                .expect("invariant: namespaces have at most 63 characters"),
            exact: true,
            bytes: stored,
            revision,
            extracted: OnceLock::new(),
            parsed: OnceLock::new(),
            forms: OnceLock::new(),
        }
    }

    /// The same object at a later revision: what a DELETED event carries.
    pub fn at_revision(&self, revision: u64) -> Self {
        Self {
            spec: self.spec.clone(),
            key: self.key.clone(),
            namespace_len: self.namespace_len,
            exact: self.exact,
            bytes: self.bytes.clone(),
            revision,
            extracted: OnceLock::new(),
            parsed: OnceLock::new(),
            forms: OnceLock::new(),
        }
    }

    /// Whether the store has exactly [`Self::stored`], and not what was read from it.
    pub fn is_exact(&self) -> bool {
        self.exact
    }

    /// The object in another version, if it was converted before.
    pub fn form(&self, api_version: &str) -> Option<Arc<Self>> {
        let forms = self.forms.get()?.lock();
        forms.iter().find(|f| f.spec.api_version == api_version).cloned()
    }

    /// The object in another version, kept for those who ask next.
    pub fn keep_form(&self, spec: &Arc<KindSpec>, object: &Value) -> Arc<Self> {
        let form = Arc::new(Self {
            spec: spec.clone(),
            key: self.key.clone(),
            namespace_len: self.namespace_len,
            exact: false,
            bytes: StoredForm::encode(spec, object),
            revision: self.revision,
            extracted: OnceLock::new(),
            parsed: OnceLock::new(),
            forms: OnceLock::new(),
        });
        let mut forms = self.forms.get_or_init(Box::default).lock();
        forms.retain(|f| f.spec.api_version != spec.api_version);
        forms.push(form.clone());
        form
    }

    /// The kind's storage.
    pub fn spec(&self) -> &Arc<KindSpec> {
        &self.spec
    }

    /// `ns/name`, or `name` at cluster scope.
    pub fn key(&self) -> &Bytes {
        &self.key
    }

    fn key_str(&self) -> &str {
        std::str::from_utf8(&self.key).expect("invariant: checked when the object was read")
    }

    /// The namespace, empty at cluster scope.
    pub fn namespace(&self) -> &str {
        &self.key_str()[..usize::from(self.namespace_len)]
    }

    /// The name.
    pub fn name(&self) -> &str {
        match self.namespace_len {
            0 => self.key_str(),
            n => &self.key_str()[usize::from(n) + 1..],
        }
    }

    /// Revision of the last write.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    fn extracted(&self) -> &Extracted {
        self.extracted.get_or_init(|| {
            let read = self.spec.extractor.extract(&self.bytes);
            read.expect("invariant: the stored form is JSON")
        })
    }

    /// `metadata.labels`.
    pub fn labels(&self) -> &[(Box<str>, Box<str>)] {
        &self.extracted().labels
    }

    /// One label.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels().iter().find(|(k, _)| &**k == key).map(|(_, v)| &**v)
    }

    /// The selectable field in this slot of the kind's extractor.
    pub fn field(&self, slot: usize) -> &str {
        &self.extracted().fields[slot]
    }

    /// The stored bytes, without `resourceVersion`.
    pub fn stored(&self) -> &Bytes {
        &self.bytes
    }

    /// About how many bytes of JSON the object makes.
    pub fn len_hint(&self) -> usize {
        self.bytes.len() + 40
    }

    /// Appends the whole object's JSON, `resourceVersion` included.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.spec.head);
        self.write_tail(out);
    }

    /// Appends the object's JSON under another head (see [`head`]): the same schema in another version.
    pub fn write_json_as(&self, head: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(head);
        self.write_tail(out);
    }

    /// Appends the object's JSON without `kind` and `apiVersion`: an item of a list of a built-in kind.
    pub fn write_item(&self, out: &mut Vec<u8>) {
        out.push(b'{');
        self.write_tail(out);
    }

    /// Exactly how many bytes [`Self::write_json_as`] (with a head of `head` bytes) or [`Self::write_item`] (1) appends.
    pub fn written_len(&self, head: usize) -> usize {
        let tail = self.bytes.len() - self.spec.head.len() - METADATA.len();
        head + METADATA.len() + RESOURCE_VERSION.len() + digits(self.revision) + 2 + tail
    }

    fn write_tail(&self, out: &mut Vec<u8>) {
        let at = self.spec.head.len() + METADATA.len();
        out.extend_from_slice(METADATA);
        out.extend_from_slice(RESOURCE_VERSION);
        push_number(out, self.revision);
        out.extend_from_slice(b"\",");
        out.extend_from_slice(&self.bytes[at..]);
    }

    /// The object, parsed anew, `resourceVersion` included.
    pub fn parse(&self) -> Value {
        let mut object: Value =
            serde_json::from_slice(&self.bytes).expect("invariant: parsed when the object was read");
        if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
            metadata.insert(
                "resourceVersion".to_owned(),
                Value::String(self.revision.to_string()),
            );
        }
        object
    }

    /// The object, parsed at most once and kept.
    pub fn value(&self) -> &Arc<Value> {
        self.parsed.get_or_init(|| Arc::new(self.parse()))
    }
}

fn digits(n: u64) -> usize {
    n.checked_ilog10().map_or(1, |log| log as usize + 1)
}

/// Appends a number in decimal.
pub fn push_number(out: &mut Vec<u8>, mut n: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(n % 10).expect("invariant: below ten");
        n /= 10;
        if n == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn splices_resource_version() {
        let spec = Arc::new(KindSpec::new("", "configmaps", "v1", "ConfigMap", Vec::new()));
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "b"},
            "metadata": {"name": "c", "namespace": "n", "resourceVersion": "1", "labels": {"x": "y"}}});
        let stored = StoredForm::encode(&spec, &object);
        let key = spec.key("n", "c");
        assert_eq!(key, "/registry/configmaps/n/c");
        let cached = CachedObject::new(&spec, &key, stored, 1234567890).unwrap();
        assert_eq!((cached.namespace(), cached.name()), ("n", "c"));
        assert_eq!(cached.label("x"), Some("y"));
        let mut out = Vec::new();
        cached.write_json(&mut out);
        assert_eq!(out.len(), cached.written_len(spec.head.len()));
        let written = CachedObject::written(&spec, &key, cached.stored().clone(), 7);
        assert_eq!((written.namespace(), written.label("x")), ("n", Some("y")));
        let mut expected = object.clone();
        expected["metadata"]["resourceVersion"] = json!("1234567890");
        assert_eq!(serde_json::from_slice::<Value>(&out).unwrap(), expected);
        assert_eq!(cached.parse(), expected);
        out.clear();
        cached.write_item(&mut out);
        assert_eq!(out.len(), cached.written_len(1));
        let item: Value = serde_json::from_slice(&out).unwrap();
        assert!(item.get("kind").is_none() && item["metadata"]["resourceVersion"] == "1234567890");
        // Foreign order of keys is brought into form.
        let foreign = Bytes::from(serde_json::to_vec(&object).unwrap());
        let cached = CachedObject::new(&spec, &key, foreign, 7).unwrap();
        assert_eq!(cached.parse()["metadata"]["resourceVersion"], "7");
    }
}
