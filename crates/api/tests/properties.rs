//! What must hold for every object of every kind, tried on pseudo-random ones (see [`arbitrary`]).

mod arbitrary;

use arbitrary::{FULL, Random, SPARSE, rounds, value};
use keelson_api::codec::{json as json_codec, protobuf, yaml};
use keelson_api::gvk::GroupVersionKind;
use keelson_api::normalize::normalize;
use keelson_api::patch::apply::{self, FieldSet, Request};
use keelson_api::patch::{json_patch, merge_patch, strategic_merge_patch};
use keelson_api::schema::{Schema, registry};
use serde_json::{Value, json};

/// Every kind that has one group, version and kind, with its schema.
fn kinds() -> impl Iterator<Item = (GroupVersionKind, &'static Schema)> {
    registry()
        .definitions()
        .iter()
        .filter(|definition| definition.kinds.len() == 1 && !definition.all_kinds)
        .map(|definition| {
            let schema = registry().by_name(&definition.name).expect("definition");
            (definition.kinds[0].clone(), schema)
        })
}

/// Whether objects have names, labels and managers: not so lists, Status and the like.
fn is_stored(schema: &Schema) -> bool {
    let metadata = schema.field("metadata");
    metadata.is_some_and(|metadata| metadata.schema.field("labels").is_some())
}

fn object(gvk: &GroupVersionKind, schema: &Schema, shape: arbitrary::Shape, random: &mut Random) -> Value {
    let mut object = value(schema, shape, random);
    object["apiVersion"] = gvk.api_version().into();
    object["kind"] = gvk.kind.to_string().into();
    object
}

#[test]
fn protobuf_says_what_json_says() {
    for (at, definition) in registry().definitions().iter().enumerate() {
        let schema = registry().by_name(&definition.name).expect("definition");
        for round in 0..rounds(3) {
            let mut random = Random::new(at as u64 * 1_000 + round);
            let shape = if round == 0 { FULL } else { SPARSE };
            let value = value(schema, shape, &mut random);
            let mut bytes = Vec::new();
            protobuf::encode_message(schema, &value, &mut bytes)
                .unwrap_or_else(|e| panic!("{} round {round}: {e}\n{value:#}", definition.name));
            let mut decoded = protobuf::decode_message(schema, &bytes)
                .unwrap_or_else(|e| panic!("{} round {round}: {e}\n{value:#}", definition.name));
            if value.get("items").is_none()
                && let Some(fields) = decoded.as_object_mut()
            {
                fields.remove("items"); // Go's lists always have them
            }
            assert_eq!(decoded, value, "{} round {round}", definition.name);
        }
    }
}

#[test]
fn normalized_objects_survive_protobuf_and_yaml() {
    for (at, (gvk, schema)) in kinds().enumerate() {
        for round in 0..rounds(2) {
            let mut random = Random::new(at as u64 * 77 + round);
            let mut object = object(&gvk, schema, SPARSE, &mut random);
            normalize(schema, &mut object).unwrap_or_else(|e| panic!("{gvk}: {e}"));
            let body = protobuf::encode(schema, &object).unwrap_or_else(|e| panic!("{gvk}: {e}"));
            let mut decoded = protobuf::decode(&body, |_, _| Some(schema)).expect("decodes");
            normalize(schema, &mut decoded).expect("normal");
            assert_eq!(decoded, object, "{gvk} round {round}");
            let text = serde_yaml_ng_to_string(&object);
            let mut from_yaml =
                yaml::to_json(text.as_bytes()).unwrap_or_else(|e| panic!("{gvk}: {e}\n{text}"));
            normalize(schema, &mut from_yaml).expect("normal");
            assert_eq!(from_yaml, object, "{gvk} round {round}\n{text}");
            let bytes = serde_json::to_vec(&object).expect("json");
            let (strict, problems) = json_codec::decode_strict(&bytes, schema).expect("json");
            assert_eq!((strict, problems), (object, Vec::new()), "{gvk} round {round}");
        }
    }
}

/// JSON is YAML, and the crate has no YAML writer of its own.
fn serde_yaml_ng_to_string(value: &Value) -> String {
    serde_json::to_string_pretty(value).expect("json")
}

#[test]
fn lists_and_watch_frames_carry_the_same_objects() {
    for (at, (gvk, schema)) in kinds().enumerate().filter(|(_, (_, schema))| is_stored(schema)) {
        let list_kind = format!("{}List", gvk.kind);
        let Some(list_schema) = registry().by_gvk(&gvk.group, &gvk.version, &list_kind) else {
            continue;
        };
        let mut random = Random::new(at as u64);
        let items: Vec<Value> = (0..3).map(|_| value(schema, SPARSE, &mut random)).collect();
        let mut list =
            protobuf::ListEncoder::new(&json!({"resourceVersion": "5", "continue": "c"})).expect("list");
        for item in &items {
            list.push(schema, item).unwrap_or_else(|e| panic!("{gvk}: {e}"));
        }
        let body = list.finish(&gvk.api_version(), &list_kind);
        let decoded =
            protobuf::decode(&body, |_, _| Some(list_schema)).unwrap_or_else(|e| panic!("{gvk}: {e}"));
        let expected = json!({"apiVersion": gvk.api_version(), "kind": list_kind,
            "metadata": {"resourceVersion": "5", "continue": "c"}, "items": items});
        assert_eq!(decoded, expected, "{gvk}");
        let whole = protobuf::encode(list_schema, &expected).expect("list");
        assert_eq!(whole, body, "{gvk}: item by item and as a whole");

        let body = protobuf::encode(schema, &object(&gvk, schema, SPARSE, &mut random)).expect("body");
        let frame = protobuf::watch_frame("ADDED", &body);
        let length = u32::from_be_bytes(frame[..4].try_into().expect("four")) as usize;
        assert_eq!(length, frame.len() - 4, "{gvk}");
        let found = frame.windows(body.len()).any(|window| window == body);
        assert!(found, "{gvk}: the body stands in the frame as it is");
    }
}

#[test]
fn broken_protobuf_is_an_error_or_an_object() {
    for (at, (gvk, schema)) in kinds().enumerate() {
        let mut random = Random::new(at as u64);
        let body = protobuf::encode(schema, &object(&gvk, schema, FULL, &mut random)).expect("body");
        for _ in 0..rounds(20) {
            let mut broken = body.clone();
            for _ in 0..1 + random.below(4) {
                let place = random.below(broken.len());
                match random.below(3) {
                    0 => broken[place] = random.next().to_le_bytes()[0],
                    1 => broken.truncate(place.max(8)),
                    _ => {
                        let from = random.below(broken.len());
                        let piece: Vec<u8> = broken[from..(from + 16).min(broken.len())].to_vec();
                        broken.splice(place..place, piece);
                    }
                }
            }
            if let Ok(mut value) = protobuf::decode(&broken, |_, _| Some(schema)) {
                // What decodes may be normalized or refused, and then written again.
                if normalize(schema, &mut value).is_ok() {
                    protobuf::encode(schema, &value).unwrap_or_else(|e| panic!("{gvk}: {e}\n{value:#}"));
                }
            }
        }
    }
}

fn request<'a>(gvk: &'a str, schema: &'a Schema, manager: &'a str, ignored: &'a FieldSet) -> Request<'a> {
    Request {
        schema,
        manager,
        api_version: gvk,
        subresource: "",
        now: "2026-01-02T03:04:05Z".parse().expect("time"),
        ignored,
    }
}

#[test]
fn applying_twice_changes_nothing_and_giving_all_up_leaves_nothing() {
    let ignored = FieldSet::new();
    for (at, (gvk, schema)) in kinds().enumerate() {
        if !is_stored(schema) {
            continue;
        }
        let version = gvk.api_version();
        let mut random = Random::new(at as u64 + 5);
        let mut config = object(&gvk, schema, SPARSE, &mut random);
        config["metadata"] = json!({"name": "x", "labels": {"a": "b"}});
        let empty = json!({"apiVersion": version, "kind": gvk.kind, "metadata": {"name": "x"}});
        let apply = |manager, live: &Value, config: &Value| {
            apply::apply(&request(&version, schema, manager, &ignored), live, config, false)
        };
        let one = match apply("a", &empty, &config) {
            Ok(applied) => applied.object,
            Err(status) => panic!("{gvk}: {}", status.message),
        };
        let mut bare = one.clone();
        bare["metadata"]
            .as_object_mut()
            .expect("map")
            .remove("managedFields");
        assert_eq!(
            without_nulls(&bare),
            without_nulls(&config),
            "{gvk}: what is applied is what there is"
        );
        let again = apply("a", &one, &config).unwrap_or_else(|e| panic!("{gvk}: {}", e.message));
        assert!(!again.changed && again.object == one, "{gvk}: the same again");
        let both = apply("b", &one, &config).unwrap_or_else(|e| panic!("{gvk}: same values: {}", e.message));
        assert!(!both.changed, "{gvk}: sharing changes nothing");
        let left = apply("a", &both.object, &empty).expect("gives up").object;
        let mut kept = left.clone();
        kept["metadata"]
            .as_object_mut()
            .expect("map")
            .remove("managedFields");
        assert_eq!(
            without_nulls(&kept),
            without_nulls(&config),
            "{gvk}: the other still owns it"
        );
        let none = apply("b", &left, &empty).expect("gives up").object;
        assert_eq!(
            without_empty(&none),
            without_empty(&empty),
            "{gvk}: nobody owns anything"
        );
    }
}

fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(map) => map
            .iter()
            .filter(|(_, v)| !v.is_null())
            .map(|(k, v)| (k.clone(), without_nulls(v)))
            .collect::<serde_json::Map<_, _>>()
            .into(),
        Value::Array(items) => items.iter().map(without_nulls).collect(),
        other => other.clone(),
    }
}

fn without_empty(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let map: serde_json::Map<_, _> = map
                .iter()
                .map(|(k, v)| (k.clone(), without_empty(v)))
                .filter(|(_, v)| !v.is_null())
                .collect();
            if map.is_empty() { Value::Null } else { map.into() }
        }
        Value::Array(items) if items.is_empty() => Value::Null,
        other => other.clone(),
    }
}

#[test]
fn every_update_is_owned_by_who_made_it() {
    let ignored = FieldSet::new();
    for (at, (gvk, schema)) in kinds().enumerate() {
        if !is_stored(schema) {
            continue;
        }
        let version = gvk.api_version();
        for round in 0..rounds(2) {
            let mut random = Random::new(at as u64 * 31 + round);
            let mut one = object(&gvk, schema, SPARSE, &mut random);
            one["metadata"] = json!({"name": "x", "labels": {"a": "b"}});
            apply::track_update(&request(&version, schema, "creator", &ignored), None, &mut one);
            let mut two = object(&gvk, schema, SPARSE, &mut random);
            two["metadata"] = json!({"name": "x", "labels": {"a": "c"}});
            apply::track_update(
                &request(&version, schema, "editor", &ignored),
                Some(&one),
                &mut two,
            );
            let managed = apply::Managed::of(&two).unwrap_or_else(|e| panic!("{gvk}: {e}"));
            let all: Vec<_> = managed.entries.iter().flat_map(|e| e.fields.paths()).collect();
            let mut unique = all.clone();
            unique.sort();
            unique.dedup();
            assert_eq!(all.len(), unique.len(), "{gvk}: a path has one owner");
            // The general way from the wire gives the same owners.
            let mut three = two.clone();
            three["metadata"]["labels"]["a"] = "d".into();
            apply::track_update(
                &request(&version, schema, "editor", &ignored),
                Some(&two),
                &mut three,
            );
            let after = apply::Managed::of(&three).expect("managed");
            assert_eq!(after.entries.len(), managed.entries.len(), "{gvk}");
            for (a, b) in managed.entries.iter().zip(&after.entries) {
                assert_eq!(
                    (&a.manager, &a.fields),
                    (&b.manager, &b.fields),
                    "{gvk}: owned already"
                );
            }
        }
    }
}

#[test]
fn random_patches_end_and_keep_objects_whole() {
    let schema = registry().by_gvk("", "v1", "Pod").expect("Pod");
    for round in 0..rounds(300) {
        let mut random = Random::new(round);
        let document = value(schema, SPARSE, &mut random);
        let mut patch = value(schema, SPARSE, &mut random);
        decorate(&mut patch, &mut random);
        let mut merged = document.clone();
        let before = merged.clone();
        if strategic_merge_patch(schema, &mut merged, &patch).is_err() {
            continue;
        }
        let text = merged.to_string();
        assert!(!text.contains("\"$patch\""), "directives do not stay: {text}");
        let mut again = merged.clone();
        if !patch.to_string().contains('$') {
            strategic_merge_patch(schema, &mut again, &patch).expect("applies");
            assert_eq!(
                again, merged,
                "round {round}: without directives a patch is idempotent"
            );
        }
        let mut same = before.clone();
        strategic_merge_patch(schema, &mut same, &json!({})).expect("applies");
        assert_eq!(same, before);
        let mut plain = before.clone();
        merge_patch(&mut plain, &patch).expect("object");
    }
}

/// Puts directives into a patch, at random, right and wrong.
fn decorate(value: &mut Value, random: &mut Random) {
    match value {
        Value::Object(fields) => {
            let names: Vec<String> = fields.keys().cloned().collect();
            for name in &names {
                match random.below(24) {
                    0 => {
                        fields.insert(format!("$setElementOrder/{name}"), fields[name].clone());
                    }
                    1 => {
                        fields.insert(format!("$deleteFromPrimitiveList/{name}"), json!(["a"]));
                    }
                    2 => {
                        fields.insert("$retainKeys".to_owned(), names.clone().into());
                    }
                    3 => {
                        let directive = *random.pick(&["replace", "delete", "merge", "bogus"]);
                        fields.insert("$patch".to_owned(), directive.into());
                    }
                    4 => fields[name] = Value::Null,
                    _ => {}
                }
            }
            fields.values_mut().for_each(|v| decorate(v, random));
        }
        Value::Array(items) => items.iter_mut().for_each(|v| decorate(v, random)),
        _ => {}
    }
}

#[test]
fn json_patches_with_amplification_end_soon() {
    let started = std::time::Instant::now();
    // Each operation shifts a list of half a million elements.
    let mut document = json!({"a": vec![0; 500_000]});
    let shift: Vec<Value> = (0..10_000)
        .map(|_| json!({"op": "add", "path": "/a/0", "value": 1}))
        .collect();
    let outcome = json_patch(&mut document, &Value::Array(shift));
    assert!(outcome.is_err(), "so much work is refused");
    // Each operation compares megabytes.
    let mut document = json!({"a": "x".repeat(1 << 20), "b": "x".repeat(1 << 20)});
    let large = "x".repeat(1 << 20);
    let compare: Vec<Value> = (0..50)
        .map(|_| json!({"op": "test", "path": "/a", "value": large}))
        .collect();
    json_patch(&mut document, &Value::Array(compare)).expect("applies");
    assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
}
