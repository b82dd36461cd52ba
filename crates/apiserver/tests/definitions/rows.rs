//! Columns, selectable fields, subresources.

use super::*;

/// A server with a definition that has columns, selectable fields and subresources, and two objects.
async fn with_columns() -> TestServer {
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
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_and_fields() {
    let server = with_columns().await;
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
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn status_and_scale() {
    let server = with_columns().await;
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
