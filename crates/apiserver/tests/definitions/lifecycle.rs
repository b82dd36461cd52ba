//! Names, and the end.

use super::*;

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
