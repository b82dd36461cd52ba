//! Protobuf against JSON, over every kind and field.

use keelson_api::codec::protobuf::{decode_message, encode_message};
use keelson_api::normalize::normalize;
use keelson_api::schema::{Schema, registry};
use serde_json::{Map, Value, json};

/// A value with every field set.
fn sample(schema: &Schema, depth: usize) -> Value {
    match schema {
        Schema::Bool => json!(true),
        Schema::Int32 => json!(-7),
        Schema::Int64 => json!(1_i64 << 40),
        Schema::Double => json!(1.5),
        Schema::String => json!("text é"),
        Schema::Bytes => json!("AAEC"),
        Schema::Quantity => json!("1500m"),
        Schema::IntOrString => {
            if depth.is_multiple_of(2) {
                json!(0)
            } else {
                json!("25%")
            }
        }
        Schema::Time => json!("2026-01-02T03:04:05Z"),
        Schema::MicroTime => json!("2026-01-02T03:04:05.000006Z"),
        Schema::RawExtension | Schema::FieldsV1 => json!({"f:a": {}}),
        Schema::Json | Schema::Any => json!([1, "x"]),
        Schema::JsonSchemaOrArray => {
            if depth > 4 {
                json!([])
            } else {
                json!([{"type": "string"}])
            }
        }
        Schema::JsonSchemaOrBool => json!(false),
        Schema::JsonSchemaOrStringArray => json!(["a", "b"]),
        Schema::List(list) => {
            let items = if list.items.is_scalar() { 2 } else { 1 };
            (0..items).map(|_| sample(&list.items, depth)).collect()
        }
        Schema::Map(map) => json!({"key": sample(&map.values, depth)}),
        Schema::Object(_) | Schema::Def(_) => {
            let object = schema.object().expect("struct");
            let mut fields = Map::new();
            // JSONSchemaProps holds itself.
            let recursive = object.name.ends_with("JSONSchemaProps");
            let (stop, step) = (recursive && depth > 5, if recursive { 5 } else { 1 });
            for field in object
                .fields
                .iter()
                .filter(|field| field.tags[0] != 0 && (!stop || field.schema.is_scalar()))
            {
                fields.insert(
                    field.name.clone().into_owned(),
                    sample(&field.schema, depth + step),
                );
            }
            Value::Object(fields)
        }
    }
}

#[test]
fn every_kind_round_trips() {
    let mut count = 0;
    for definition in registry().definitions() {
        let schema = registry().by_name(&definition.name).expect("definition");
        // Discovery's own types are never written by this encoder from kinds.
        let value = sample(schema, 0);
        let mut bytes = Vec::new();
        encode_message(schema, &value, &mut bytes)
            .unwrap_or_else(|error| panic!("{}: {error}", definition.name));
        let decoded =
            decode_message(schema, &bytes).unwrap_or_else(|error| panic!("{}: {error}", definition.name));
        assert_eq!(decoded, value, "{}", definition.name);
        count += 1;
    }
    assert!(count > 560);
}

#[test]
fn samples_are_normal() {
    for definition in registry().definitions().iter().filter(|d| !d.kinds.is_empty()) {
        let schema = registry().by_name(&definition.name).expect("definition");
        let value = sample(schema, 0);
        let mut normal = value.clone();
        normalize(schema, &mut normal).unwrap_or_else(|error| panic!("{}: {error}", definition.name));
        let mut again = normal.clone();
        normalize(schema, &mut again).expect("normal");
        assert_eq!(again, normal, "{}", definition.name);
    }
}

#[test]
fn zeros_that_go_always_writes_are_left_out() {
    let schema = registry().by_gvk("", "v1", "Pod").expect("Pod");
    // spec { hostNetwork: false (tag 11), nodeName: "" (tag 10), terminationGracePeriodSeconds: 0 (tag 4) }
    let spec = [0x58, 0, 0x52, 0, 0x20, 0];
    let mut bytes = vec![0x12, 6];
    bytes.extend(spec);
    let decoded = decode_message(schema, &bytes).expect("decodes");
    assert_eq!(decoded, json!({"spec": {"terminationGracePeriodSeconds": 0}}));
    let list = registry().by_gvk("", "v1", "PodList").expect("PodList");
    assert_eq!(decode_message(list, b"").expect("decodes"), json!({"items": []}));
}

#[test]
fn broken_bytes_are_errors_not_panics() {
    let schema = registry().by_gvk("apps", "v1", "Deployment").expect("Deployment");
    let mut bytes = Vec::new();
    encode_message(schema, &sample(schema, 0), &mut bytes).expect("encodes");
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    for _ in 0..300 {
        let mut broken = bytes.clone();
        for _ in 0..4 {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            let at = usize::try_from(seed >> 8).expect("64 bits") % broken.len();
            broken[at] = seed.to_le_bytes()[0];
        }
        let _ = decode_message(schema, &broken);
        broken.truncate(usize::try_from(seed >> 8).expect("64 bits") % broken.len());
        let _ = decode_message(schema, &broken);
    }
    let crd = registry().by_name("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps");
    // `not` (tag 28) within `not`, a thousand times.
    let mut deep = Vec::new();
    for _ in 0..1_000 {
        let mut outer = vec![0xe2, 0x01];
        let mut length = deep.len();
        while length >= 0x80 {
            outer.push(u8::try_from(length & 0x7f).expect("7 bits") | 0x80);
            length >>= 7;
        }
        outer.push(u8::try_from(length).expect("7 bits"));
        outer.extend(&deep);
        deep = outer;
    }
    assert!(decode_message(crd.expect("definition"), &deep).is_err());
}
