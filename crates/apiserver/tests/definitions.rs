//! Definitions over the wire: what is published of them, versions, names, columns, scale, the end.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use http::StatusCode;
use serde_json::{Value, json};
use support::{TestServer, eventually};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// A definition in `stable.example.com` whose versions are given, the first one stored unless they say otherwise.
fn definition(plural: &str, kind: &str, versions: Value) -> Value {
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.stable.example.com")},
        "spec": {"group": "stable.example.com", "scope": "Namespaced",
            "names": {"plural": plural, "singular": kind.to_lowercase(), "kind": kind, "listKind": format!("{kind}List")},
            "versions": versions}})
}

fn version(name: &str, storage: bool, schema: &Value) -> Value {
    json!({"name": name, "served": true, "storage": storage, "schema": {"openAPIV3Schema": schema}})
}

async fn send(server: &TestServer, method: &str, path: &str, body: &Value) -> (StatusCode, Value) {
    let kind = match method {
        "PATCH" if body.is_array() => "application/json-patch+json",
        "PATCH" => "application/merge-patch+json",
        _ => "application/json",
    };
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let (code, _, text) = server.send(method, path, &[("content-type", kind)], body).await;
    (code, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

async fn ok(server: &TestServer, method: &str, path: &str, body: &Value) -> Value {
    let (code, value) = send(server, method, path, body).await;
    assert!(code.is_success(), "{method} {path}: {value}");
    value
}

async fn get(server: &TestServer, path: &str) -> Value {
    ok(server, "GET", path, &Value::Null).await
}

fn condition<'a>(definition: &'a Value, kind: &str) -> &'a Value {
    let conditions = definition["status"]["conditions"].as_array();
    let found = conditions.and_then(|c| c.iter().find(|c| c["type"] == kind));
    found.unwrap_or(&Value::Null)
}

/// Creates a definition and waits until it is served.
async fn define(server: &TestServer, definition: &Value) {
    ok(server, "POST", DEFINITIONS, definition).await;
    let path = format!(
        "{DEFINITIONS}/{}",
        definition["metadata"]["name"].as_str().unwrap()
    );
    eventually("a definition to be established", || async {
        let found = get(server, &path).await;
        (condition(&found, "Established")["status"] == "True").then_some(())
    })
    .await;
}

/// Asks until the definition of this name is (not) in the v2 document.
async fn published(server: &TestServer, name: &str, there: bool) -> Value {
    eventually("the document to change", || async {
        let document = get(server, "/openapi/v2").await;
        let found = document["definitions"][name].clone();
        (found.is_null() != there).then_some(found)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn openapi() {
    let server = TestServer::start().await;
    let (_, headers, _) = server.get("/openapi/v2", &[]).await;
    let before = headers["etag"].clone();
    let schema = json!({"type": "object", "description": "A tab of cron.", "properties": {
        "spec": {"type": "object", "required": ["image"], "description": "What is wanted.", "properties": {
            "image": {"type": "string", "nullable": true}, "any": {"x-kubernetes-int-or-string": true}}}}});
    let tabs = definition(
        "crontabs",
        "CronTab",
        json!([version("v1", true, &schema), version("v2", false, &schema)]),
    );
    define(&server, &tabs).await;
    let name = "com.example.stable.v1.CronTab";
    let v2 = published(&server, name, true).await;
    assert_eq!(v2["properties"]["spec"]["properties"]["image"], json!({}));
    assert_eq!(v2["description"], "A tab of cron.");
    let (_, headers, _) = server.get("/openapi/v2", &[]).await;
    assert_ne!(headers["etag"], before);
    let tag = headers["etag"].to_str().unwrap().to_owned();
    let (code, ..) = server.get("/openapi/v2", &[("if-none-match", &tag)]).await;
    assert_eq!(code, StatusCode::NOT_MODIFIED);

    let index = get(&server, "/openapi/v3").await;
    let url = |index: &Value, version: &str| {
        let path = format!("apis/stable.example.com/{version}");
        index["paths"][path]["serverRelativeURL"]
            .as_str()
            .map(str::to_owned)
    };
    let first = url(&index, "v1").unwrap();
    let v3 = get(&server, &first).await;
    let object = &v3["components"]["schemas"][name]["properties"];
    assert_eq!(object["spec"]["properties"]["image"]["nullable"], true);
    assert_eq!(
        object["metadata"]["allOf"][0]["$ref"],
        "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
    );
    assert!(
        v3["paths"]
            .get("/apis/stable.example.com/v1/namespaces/{namespace}/crontabs/{name}")
            .is_some()
    );

    // Another kind changes the hash of its own group version only.
    let other = definition("lamps", "Lamp", json!([version("v3", true, &schema)]));
    define(&server, &other).await;
    published(&server, "com.example.stable.v3.Lamp", true).await;
    let index = get(&server, "/openapi/v3").await;
    assert_eq!(url(&index, "v1").unwrap(), first);
    assert!(url(&index, "v3").is_some());

    // A version is renamed, then another one is no longer served.
    let path = format!("{DEFINITIONS}/crontabs.stable.example.com");
    ok(
        &server,
        "PATCH",
        &path,
        &json!([{"op": "replace", "path": "/spec/versions/1/name", "value": "v4"}]),
    )
    .await;
    published(&server, "com.example.stable.v4.CronTab", true).await;
    published(&server, "com.example.stable.v2.CronTab", false).await;
    ok(
        &server,
        "PATCH",
        &path,
        &json!([{"op": "replace", "path": "/spec/versions/1/served", "value": false}]),
    )
    .await;
    published(&server, "com.example.stable.v4.CronTab", false).await;
    published(&server, name, true).await;
    let (code, ..) = server.get("/openapi/v3/apis/stable.example.com/v4", &[]).await;
    assert_eq!(code, StatusCode::NOT_FOUND);

    ok(&server, "DELETE", &path, &Value::Null).await;
    published(&server, name, false).await;
    published(&server, "com.example.stable.v1.CronTabList", false).await;
    assert!(url(&get(&server, "/openapi/v3").await, "v1").is_none());
    server.stop().await;
}

const TABS: &str = "/apis/stable.example.com/v1/namespaces/default/crontabs";

fn tab(api_version: &str, name: &str, spec: &Value) -> Value {
    json!({"apiVersion": format!("stable.example.com/{api_version}"), "kind": "CronTab", "metadata": {"name": name},
        "spec": spec})
}

/// A schema whose spec has these fields.
fn with_spec(fields: Value) -> Value {
    json!({"type": "object", "properties": {"spec": {"type": "object", "properties": fields}, "status": {"type": "object",
        "x-kubernetes-preserve-unknown-fields": true}}})
}

/// A watch, whose events are read one by one.
struct Watch(support::Lines);

impl Watch {
    async fn start(server: &TestServer, path: &str) -> Self {
        Self(support::Lines::get(server, path).await)
    }

    async fn next(&mut self) -> Option<Value> {
        self.0
            .next()
            .await
            .map(|line| serde_json::from_str(&line).unwrap())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_is_read_with_the_schema_of_the_moment() {
    let server = TestServer::start().await;
    let fields =
        json!({"a": {"type": "string"}, "b": {"type": "string", "default": "B"}, "old": {"type": "string"}});
    let crd = definition(
        "crontabs",
        "CronTab",
        json!([version("v1", true, &with_spec(fields))]),
    );
    define(&server, &crd).await;
    let made = ok(
        &server,
        "POST",
        TABS,
        &tab("v1", "t", &json!({"a": "1", "old": "x", "unknown": 1})),
    )
    .await;
    assert_eq!(made["spec"], json!({"a": "1", "b": "B", "old": "x"}));
    let mut watch = Watch::start(&server, &format!("{TABS}?watch=1")).await;
    assert_eq!(watch.next().await.unwrap()["object"]["spec"]["b"], "B");

    let fields = json!({"a": {"type": "string", "default": "A"}, "b": {"type": "string", "default": "B"},
        "c": {"type": "object", "default": {}, "properties": {"d": {"type": "integer", "default": 0}}}});
    let path = format!("{DEFINITIONS}/crontabs.stable.example.com");
    let change = json!([{"op": "replace", "path": "/spec/versions/0/schema/openAPIV3Schema", "value": with_spec(fields)}]);
    ok(&server, "PATCH", &path, &change).await;
    let expected = json!({"a": "1", "b": "B", "c": {"d": 0}});
    let item = format!("{TABS}/t");
    eventually("the new schema", || async {
        (get(&server, &item).await["spec"] == expected).then_some(())
    })
    .await;
    // Watches of the old schema end, those of the new one see the new defaults.
    assert!(watch.next().await.is_none());
    let mut watch = Watch::start(&server, &format!("{TABS}?watch=1")).await;
    assert_eq!(watch.next().await.unwrap()["object"]["spec"], expected);
    assert_eq!(get(&server, TABS).await["items"][0]["spec"], expected);
    // The store has what was written; an update that changes nothing writes what is read, once.
    let key = "/registry/stable.example.com/crontabs/default/t";
    assert!(server.stored(key).await.contains("\"old\""));
    let read = get(&server, &item).await;
    let written = ok(&server, "PUT", &item, &read).await;
    assert_ne!(
        written["metadata"]["resourceVersion"],
        read["metadata"]["resourceVersion"]
    );
    assert!(!server.stored(key).await.contains("\"old\""));
    let again = ok(&server, "PUT", &item, &written).await;
    assert_eq!(
        again["metadata"]["resourceVersion"],
        written["metadata"]["resourceVersion"]
    );
    // A value of another type is named by validation.
    let (code, answer) = send(
        &server,
        "POST",
        TABS,
        &tab("v1", "u", &json!({"a": 1, "c": null, "b": null})),
    )
    .await;
    assert_eq!(code, StatusCode::UNPROCESSABLE_ENTITY, "{answer}");
    let message = answer["message"].as_str().unwrap();
    assert!(
        message.ends_with(
            "spec.a: Invalid value: \"integer\": spec.a in body must be of type string: \"integer\""
        ),
        "{message}"
    );
    let server = server.restart().await;
    assert_eq!(get(&server, &item).await["spec"], expected);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_without_a_converter() {
    let server = TestServer::start().await;
    let v1 = with_spec(json!({"a": {"type": "string"}, "only1": {"type": "string"}}));
    let v2 = with_spec(json!({"a": {"type": "string"}, "only2": {"type": "string", "default": "2"}}));
    let crd = definition(
        "crontabs",
        "CronTab",
        json!([version("v1", true, &v1), version("v2", false, &v2)]),
    );
    define(&server, &crd).await;
    ok(
        &server,
        "POST",
        TABS,
        &tab("v1", "t", &json!({"a": "1", "only1": "x"})),
    )
    .await;
    let second = "/apis/stable.example.com/v2/namespaces/default/crontabs";
    let seen = get(&server, &format!("{second}/t")).await;
    assert_eq!(seen["apiVersion"], "stable.example.com/v2");
    assert_eq!(seen["spec"], json!({"a": "1"}));
    let list = get(&server, second).await;
    assert_eq!(
        (&list["apiVersion"], &list["items"][0]),
        (&json!("stable.example.com/v2"), &seen)
    );
    let made = ok(&server, "POST", second, &tab("v2", "u", &json!({"a": "1"}))).await;
    assert_eq!(made["apiVersion"], "stable.example.com/v2");
    let key = "/registry/stable.example.com/crontabs/default/u";
    assert!(server.stored(key).await.contains("stable.example.com/v1"));

    // The storage version moves: what is there stays until it is written again.
    let path = format!("{DEFINITIONS}/crontabs.stable.example.com");
    let change = json!([{"op": "replace", "path": "/spec/versions/0/storage", "value": false},
        {"op": "replace", "path": "/spec/versions/1/storage", "value": true}]);
    let moved = ok(&server, "PATCH", &path, &change).await;
    assert_eq!(moved["status"]["storedVersions"], json!(["v1", "v2"]));
    let change = json!([{"op": "remove", "path": "/spec/versions/0"}]);
    let (code, answer) = send(&server, "PATCH", &path, &change).await;
    assert_eq!(code, StatusCode::UNPROCESSABLE_ENTITY);
    let message = answer["message"].as_str().unwrap();
    assert!(
        message.contains("status.storedVersions[0]: Invalid value: \"v1\": must appear in spec.versions"),
        "{message}"
    );
    eventually("the new storage version", || async {
        let read = get(&server, &format!("{TABS}/u")).await;
        assert_eq!(read["apiVersion"], "stable.example.com/v1");
        let written = ok(&server, "PUT", &format!("{TABS}/u"), &read).await;
        assert_eq!(written["apiVersion"], "stable.example.com/v1");
        server
            .stored(key)
            .await
            .contains("stable.example.com/v2")
            .then_some(())
    })
    .await;
    let status = json!({"status": {"storedVersions": ["v2"]}});
    ok(&server, "PATCH", &format!("{path}/status"), &status).await;
    ok(&server, "PATCH", &path, &change).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_belong_to_the_first() {
    let server = TestServer::start().await;
    let versions = || json!([version("v1", true, &json!({"type": "object"}))]);
    let mut first = definition("crontabs", "CronTab", versions());
    first["spec"]["names"]["shortNames"] = json!(["ct"]);
    first["spec"]["names"]["categories"] = json!(["all"]);
    define(&server, &first).await;
    let path = |plural: &str| format!("{DEFINITIONS}/{plural}.stable.example.com");
    let found = get(&server, &path("crontabs")).await;
    assert_eq!(found["status"]["acceptedNames"], found["spec"]["names"]);
    assert_eq!(condition(&found, "NamesAccepted")["reason"], "NoConflicts");
    assert_eq!(
        condition(&found, "Established")["message"],
        "the initial names have been accepted"
    );
    assert_eq!(found["status"]["storedVersions"], json!(["v1"]));
    let listed = get(&server, "/apis/stable.example.com/v1").await;
    assert_eq!(listed["resources"][0]["shortNames"], json!(["ct"]));
    assert_eq!(listed["resources"][0]["categories"], json!(["all"]));

    let mut second = definition("tables", "CronTab", versions());
    second["spec"]["names"]["shortNames"] = json!(["ct"]);
    ok(&server, "POST", DEFINITIONS, &second).await;
    let refused = eventually("a verdict", || async {
        let found = get(&server, &path("tables")).await;
        (!condition(&found, "NamesAccepted").is_null()).then_some(found)
    })
    .await;
    let names = condition(&refused, "NamesAccepted");
    assert_eq!(
        (&names["status"], &names["reason"]),
        (&json!("False"), &json!("ListKindConflict"))
    );
    assert_eq!(names["message"], "\"CronTabList\" is already in use");
    let established = condition(&refused, "Established");
    assert_eq!(
        (&established["status"], &established["reason"]),
        (&json!("False"), &json!("NotAccepted"))
    );
    let second_list = "/apis/stable.example.com/v1/tables";
    assert_eq!(server.get(second_list, &[]).await.0, StatusCode::NOT_FOUND);
    // The names are free when their owner is gone.
    ok(&server, "DELETE", &path("crontabs"), &Value::Null).await;
    eventually("the names to be free", || async {
        let found = get(&server, &path("tables")).await;
        (condition(&found, "Established")["status"] == "True").then_some(())
    })
    .await;
    assert_eq!(get(&server, second_list).await["kind"], "CronTabList");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_fields_and_subresources() {
    let server = TestServer::start().await;
    let schema = with_spec(
        json!({"size": {"type": "integer"}, "color": {"type": "string"}, "since": {"type": "string"}}),
    );
    let mut v1 = version("v1", true, &schema);
    v1["additionalPrinterColumns"] = json!([
        {"name": "Size", "type": "integer", "jsonPath": ".spec.size"},
        {"name": "Color", "type": "string", "jsonPath": ".spec.color", "priority": 1},
        {"name": "Since", "type": "date", "jsonPath": ".spec.since"}]);
    v1["selectableFields"] = json!([{"jsonPath": ".spec.color"}]);
    v1["subresources"] = json!({"status": {}, "scale": {"specReplicasPath": ".spec.size",
        "statusReplicasPath": ".status.ready", "labelSelectorPath": ".status.selector"}});
    let mut v2 = version("v1beta1", false, &schema);
    v2["deprecated"] = json!(true);
    let crd = definition("crontabs", "CronTab", json!([v1, v2]));
    define(&server, &crd).await;
    let mut object = tab(
        "v1",
        "t",
        &json!({"size": 3, "color": "red", "since": "nonsense"}),
    );
    object["status"] = json!({"ready": 1});
    let made = ok(&server, "POST", TABS, &object).await;
    assert_eq!(
        (&made["status"], &made["metadata"]["generation"]),
        (&Value::Null, &json!(1))
    );
    ok(&server, "POST", TABS, &tab("v1", "u", &json!({"color": "blue"}))).await;

    let accept = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let (_, _, text) = server.get(TABS, &accept).await;
    let table: Value = serde_json::from_str(&text).unwrap();
    let names: Vec<_> = table["columnDefinitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["Name", "Size", "Color", "Since"]);
    assert_eq!(table["columnDefinitions"][2]["priority"], 1);
    assert_eq!(table["rows"][0]["cells"], json!(["t", 3, "red", "<invalid>"]));
    assert_eq!(table["rows"][1]["cells"], json!(["u", null, "blue", null]));

    let red = get(&server, &format!("{TABS}?fieldSelector=spec.color%3Dred")).await;
    assert_eq!(red["items"].as_array().unwrap().len(), 1);
    let (code, answer) = send(
        &server,
        "GET",
        &format!("{TABS}?fieldSelector=spec.size%3D3"),
        &Value::Null,
    )
    .await;
    assert_eq!(
        (code, &answer["message"]),
        (
            StatusCode::BAD_REQUEST,
            &json!("field label not supported: spec.size")
        )
    );
    let other = "/apis/stable.example.com/v1beta1/namespaces/default/crontabs";
    let (code, headers, _) = server
        .get(&format!("{other}?fieldSelector=spec.color%3Dred"), &[])
        .await;
    assert_eq!(code, StatusCode::BAD_REQUEST);
    let warning = headers["warning"].to_str().unwrap();
    assert_eq!(
        warning,
        "299 - \"stable.example.com/v1beta1 CronTab is deprecated; use stable.example.com/v1 CronTab\""
    );

    // Status and spec have doors of their own; only the spec's raises the generation.
    let path = format!("{TABS}/t");
    let both = json!({"spec": {"size": 5}, "status": {"ready": 2, "selector": "a=b"}});
    let changed = ok(&server, "PATCH", &format!("{path}/status"), &both).await;
    assert_eq!(
        (&changed["spec"]["size"], &changed["status"]["ready"]),
        (&json!(3), &json!(2))
    );
    assert_eq!(changed["metadata"]["generation"], 1);
    let changed = ok(
        &server,
        "PATCH",
        &path,
        &json!({"spec": {"size": 4}, "status": {"ready": 9}}),
    )
    .await;
    assert_eq!(
        (&changed["spec"]["size"], &changed["status"]["ready"]),
        (&json!(4), &json!(2))
    );
    assert_eq!(changed["metadata"]["generation"], 2);

    let scale = get(&server, &format!("{path}/scale")).await;
    assert_eq!(
        (&scale["kind"], &scale["spec"]),
        (&json!("Scale"), &json!({"replicas": 4}))
    );
    assert_eq!(scale["status"], json!({"replicas": 2, "selector": "a=b"}));
    let scaled = ok(
        &server,
        "PATCH",
        &format!("{path}/scale"),
        &json!({"spec": {"replicas": 7}}),
    )
    .await;
    assert_eq!(scaled["spec"]["replicas"], 7);
    let seen = get(&server, &path).await;
    assert_eq!(
        (&seen["spec"]["size"], &seen["metadata"]["generation"]),
        (&json!(7), &json!(3))
    );
    let (code, answer) = send(&server, "GET", &format!("{TABS}/u/scale"), &Value::Null).await;
    assert_eq!(code, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(
        answer["message"]
            .as_str()
            .unwrap()
            .contains("the spec replicas field \".spec.size\" does not exist"),
        "{answer}"
    );
    let listed = get(&server, "/apis/stable.example.com/v1").await;
    let scale = listed["resources"]
        .as_array()
        .unwrap()
        .iter()
        .find(|r| r["name"] == "crontabs/scale")
        .unwrap();
    assert_eq!(
        (&scale["group"], &scale["version"], &scale["kind"]),
        (&json!("autoscaling"), &json!("v1"), &json!("Scale"))
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_waits_for_objects() {
    let server = TestServer::start().await;
    let crd = definition(
        "crontabs",
        "CronTab",
        json!([version("v1", true, &with_spec(json!({})))]),
    );
    define(&server, &crd).await;
    let path = format!("{DEFINITIONS}/crontabs.stable.example.com");
    assert!(get(&server, &path).await["metadata"].get("finalizers").is_none());
    let mut held = tab("v1", "held", &json!({}));
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    ok(&server, "POST", TABS, &held).await;
    ok(&server, "POST", TABS, &tab("v1", "free", &json!({}))).await;
    let mut watch = Watch::start(&server, &format!("{TABS}?watch=1&resourceVersion=0")).await;
    let answer = ok(&server, "DELETE", &path, &Value::Null).await;
    assert_eq!(
        condition(&answer, "Terminating")["reason"],
        "InstanceDeletionPending"
    );
    assert_eq!(
        answer["metadata"]["finalizers"],
        json!(["customresourcecleanup.apiextensions.k8s.io"])
    );
    eventually("the deletion of objects", || async {
        let found = get(&server, &path).await;
        let gone = server.get(&format!("{TABS}/free"), &[]).await.0 == StatusCode::NOT_FOUND;
        (gone && condition(&found, "Terminating")["reason"] == "InstanceDeletionInProgress").then_some(())
    })
    .await;
    let (code, answer) = send(&server, "POST", TABS, &tab("v1", "new", &json!({}))).await;
    assert_eq!(code, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(
        answer["message"],
        "create not allowed while custom resource definition is terminating"
    );
    // The objects are still served, and the last one takes the definition with it.
    ok(
        &server,
        "PATCH",
        &format!("{TABS}/held"),
        &json!({"metadata": {"finalizers": null}}),
    )
    .await;
    eventually("the end", || async {
        (server.get(&path, &[]).await.0 == StatusCode::NOT_FOUND).then_some(())
    })
    .await;
    eventually("the rows to go", || async {
        (server.get(TABS, &[]).await.0 == StatusCode::NOT_FOUND).then_some(())
    })
    .await;
    let mut seen = Vec::new();
    while let Some(event) = watch.next().await {
        seen.push(format!(
            "{} {}",
            event["type"].as_str().unwrap(),
            event["object"]["metadata"]["name"].as_str().unwrap()
        ));
    }
    assert!(
        seen.contains(&"DELETED free".to_owned()) && seen.contains(&"DELETED held".to_owned()),
        "{seen:?}"
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_definitions_may_declare() {
    let server = TestServer::start().await;
    let refused = async |change: &dyn Fn(&mut Value), message: &str| {
        let mut crd = definition(
            "crontabs",
            "CronTab",
            json!([version("v1", true, &with_spec(json!({"a": {"type": "string"}})))]),
        );
        change(&mut crd["spec"]);
        let (code, answer) = send(&server, "POST", DEFINITIONS, &crd).await;
        assert_eq!(code, StatusCode::UNPROCESSABLE_ENTITY, "{answer}");
        let found = answer["message"].as_str().unwrap();
        assert!(found.contains(message), "{found}");
    };
    refused(
        &|s| s["conversion"] = json!({"strategy": "Webhook"}),
        "spec.conversion.webhookClientConfig: Required value: required when strategy is set to Webhook",
    )
    .await;
    refused(&|s| s["conversion"] = json!({"strategy": "Webhook", "webhook": {"clientConfig": {"url": "https://x"}, "conversionReviewVersions": ["v9"]}}),
        "must include at least one of v1, v1beta1").await;
    refused(
        &|s| s["conversion"] = json!({"strategy": "Other"}),
        "spec.conversion.strategy: Unsupported value: \"Other\"",
    )
    .await;
    refused(
        &|s| s["versions"][0]["deprecationWarning"] = json!("x"),
        "can only be set for deprecated versions",
    )
    .await;
    refused(&|s| s["versions"][0]["subresources"] = json!({"scale": {"specReplicasPath": ".status.a", "statusReplicasPath": ".status.b"}}),
        "spec.versions[0].subresources.scale.specReplicasPath: Invalid value: \".status.a\": should be a json path under .spec").await;
    refused(&|s| s["versions"][0]["additionalPrinterColumns"] = json!([{"name": "x", "type": "text", "jsonPath": ".a"}]),
        "spec.versions[0].additionalPrinterColumns[0].type: Invalid value: \"text\": must be one of boolean,date,integer,number,string").await;
    refused(
        &|s| s["versions"][0]["selectableFields"] = json!([{"jsonPath": ".spec.none"}]),
        "spec.versions[0].selectableFields[0].jsonPath: Invalid value: \".spec.none\"",
    )
    .await;
    server.stop().await;
}
