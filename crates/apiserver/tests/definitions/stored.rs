//! What is stored, read and written in several versions.

use super::*;

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
