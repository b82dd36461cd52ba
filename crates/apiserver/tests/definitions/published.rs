//! What is published of definitions.

use super::*;

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
