//! Pseudo-random objects of every kind from fixed seeds: no fuzzer's toolchain, the same objects in every run.
//!
//! `KEELSON_FUZZ=N` makes every test that uses [`rounds`] N times as long.
#![allow(dead_code, reason = "no test uses everything")]

use keelson_api::schema::{ListType, Schema};
use serde_json::{Map, Value, json};

/// How often something is tried: `quick`, or as many times more as `KEELSON_FUZZ` says.
pub(crate) fn rounds(quick: u64) -> u64 {
    let factor = std::env::var("KEELSON_FUZZ").ok().and_then(|n| n.parse().ok());
    quick * factor.unwrap_or(1)
}

/// A small generator (xorshift64*): what it gives depends on the seed alone.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() >> 16).expect("64 bits") % end.max(1)
    }

    /// True once in `n`.
    pub(crate) fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    pub(crate) fn text(&mut self) -> String {
        const PIECES: [&str; 12] = [
            "a", "zz", "-", ".", "/x", "é", "日本", "\"", "\\", "\u{1}", "😀", "0",
        ];
        (0..1 + self.below(5)).map(|_| *self.pick(&PIECES)).collect()
    }

    pub(crate) fn name(&mut self) -> String {
        const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
        let letter = |random: &mut Self| char::from(*random.pick(LETTERS));
        let mut name = String::from("n");
        for _ in 0..1 + self.below(6) {
            name.push(letter(self));
        }
        name
    }

    /// Any JSON.
    pub(crate) fn json(&mut self, depth: usize) -> Value {
        match self.below(if depth == 0 { 5 } else { 7 }) {
            0 => json!(self.once_in(2)),
            1 => json!(i64::try_from(self.next() >> 20).expect("44 bits") - (1 << 43)),
            2 => json!(0.5),
            3 => json!(self.text()),
            4 => json!(0),
            5 => (0..self.below(3)).map(|_| self.json(depth - 1)).collect(),
            _ => {
                let entries = (0..self.below(3)).map(|_| (self.text(), self.json(depth - 1)));
                Value::Object(entries.collect())
            }
        }
    }
}

/// How a value is to look.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// One field in this many is absent; 0 sets every field.
    pub(crate) absent: usize,
    /// Structs are at most this deep.
    pub(crate) depth: usize,
}

/// An object with every field.
pub(crate) const FULL: Shape = Shape { absent: 0, depth: 12 };
/// An object with about a third of the fields.
pub(crate) const SPARSE: Shape = Shape { absent: 2, depth: 12 };

/// A value of a schema that decoding and encoding keep as it is: canonical and without zero values that Go leaves out.
pub(crate) fn value(schema: &Schema, shape: Shape, random: &mut Random) -> Value {
    match schema {
        Schema::Bool => json!(true),
        Schema::Int32 => match random.below(4) {
            0 => json!(i32::MIN),
            1 => json!(i32::MAX),
            _ => json!(1 + random.below(1000)),
        },
        Schema::Int64 => match random.below(4) {
            0 => json!(i64::MIN),
            1 => json!(i64::MAX),
            _ => json!(1 + random.below(1 << 40)),
        },
        Schema::Double => json!(*random.pick(&[0.5, -1.25, 1e300, 1e-300])),
        Schema::String => json!(random.text()),
        Schema::Bytes => json!(*random.pick(&["AA==", "AAE=", "AAEC", "//79/A=="])),
        Schema::Quantity => json!(*random.pick(&["1", "1500m", "3Gi", "12k", "1e30", "100n", "0"])),
        Schema::IntOrString => match random.below(3) {
            0 => json!(0),
            1 => json!(random.below(70_000)),
            _ => json!("25%"),
        },
        Schema::Time => json!(*random.pick(&[
            "2026-01-02T03:04:05Z",
            "1970-01-01T00:00:00Z",
            "1969-12-31T23:59:59Z"
        ])),
        Schema::MicroTime => {
            json!(*random.pick(&["2026-01-02T03:04:05.000006Z", "1969-12-31T23:59:59.999999Z"]))
        }
        Schema::RawExtension => json!({"kind": random.text(), "x": random.json(2)}),
        Schema::FieldsV1 => json!({"f:a": {}, "f:b": {".": {}, "f:c": {}}}),
        Schema::Json | Schema::Any => loop {
            let any = random.json(2);
            if !any.is_null() {
                return any;
            }
        },
        Schema::JsonSchemaOrArray => json!({"type": "string"}),
        Schema::JsonSchemaOrBool => json!(random.once_in(2)),
        Schema::JsonSchemaOrStringArray => json!([random.text(), "b"]),
        Schema::List(list) => {
            let count = 1 + random.below(3);
            let mut items: Vec<Value> = (0..count).map(|_| value(&list.items, shape, random)).collect();
            for (at, item) in items.iter_mut().enumerate() {
                name_element(&list.list_type, at, item);
            }
            if list.list_type == ListType::Set {
                items.dedup();
                items.sort_by_key(ToString::to_string);
                items.dedup();
            }
            Value::Array(items)
        }
        Schema::Map(map) => {
            let entries = (0..1 + random.below(3))
                .map(|_| random.text())
                .collect::<Vec<_>>();
            Value::Object(
                entries
                    .into_iter()
                    .map(|key| (key, value(&map.values, shape, random)))
                    .collect(),
            )
        }
        Schema::Object(_) | Schema::Def(_) => {
            let object = schema.object().expect("struct");
            let mut fields = Map::new();
            // JSONSchemaProps holds itself.
            let below = Shape {
                depth: shape
                    .depth
                    .saturating_sub(if object.name.ends_with("JSONSchemaProps") {
                        5
                    } else {
                        1
                    }),
                ..shape
            };
            for field in &object.fields {
                let absent = shape.absent > 0 && !random.once_in(shape.absent);
                let end = shape.depth == 0 && !field.schema.is_scalar();
                if field.tags[0] == 0 || ((absent || end) && !field.required) || (end && shape.depth == 0) {
                    continue;
                }
                fields.insert(
                    field.name.clone().into_owned(),
                    value(&field.schema, below, random),
                );
            }
            Value::Object(fields)
        }
    }
}

/// Elements of keyed lists have different keys.
fn name_element(list_type: &ListType, at: usize, item: &mut Value) {
    let (ListType::Map(keys), Value::Object(fields)) = (list_type, item) else {
        return;
    };
    for key in keys {
        match fields.get_mut(&**key) {
            Some(Value::String(text)) => text.push_str(&at.to_string()),
            Some(number @ Value::Number(_)) => *number = json!(at + 1),
            Some(_) => {}
            None => {
                fields.insert(key.clone().into_owned(), json!(format!("k{at}")));
            }
        }
    }
}
