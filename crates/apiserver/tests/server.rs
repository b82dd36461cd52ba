//! A real server on loopback with real TLS and a real store in a temporary directory, used through kube and raw HTTP.

mod support;

use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use http::StatusCode;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use kube::api::{
    Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions, WatchEvent, WatchParams,
};
use serde_json::{Value, json};
use support::{TestServer, config_map, pod};

#[tokio::test]
async fn objects_live_and_die() {
    let server = TestServer::start().await;
    let api: Api<ConfigMap> = Api::namespaced(server.client(), "default");
    let created = api
        .create(&PostParams::default(), &config_map("a", "1"))
        .await
        .unwrap();
    assert!(created.metadata.uid.is_some() && created.metadata.creation_timestamp.is_some());
    let version = created.metadata.resource_version.clone().unwrap();
    let error = api
        .create(&PostParams::default(), &config_map("a", "1"))
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("configmaps \"a\" already exists"),
        "{error}"
    );
    assert_eq!(support::code(&error), 409);

    let mut changed = created.clone();
    changed.data = Some([("k".to_owned(), "2".to_owned())].into());
    let replaced = api.replace("a", &PostParams::default(), &changed).await.unwrap();
    assert_ne!(
        replaced.metadata.resource_version.as_deref(),
        Some(version.as_str())
    );
    // The stale version is refused, and nothing is written by an update that changes nothing.
    let conflict = api
        .replace("a", &PostParams::default(), &changed)
        .await
        .unwrap_err();
    assert_eq!(support::code(&conflict), 409);
    let same = api.replace("a", &PostParams::default(), &replaced).await.unwrap();
    assert_eq!(same.metadata.resource_version, replaced.metadata.resource_version);

    let merged = api
        .patch(
            "a",
            &PatchParams::default(),
            &Patch::Merge(json!({"data": {"k": null, "l": "3"}})),
        )
        .await
        .unwrap();
    assert_eq!(merged.data, Some([("l".to_owned(), "3".to_owned())].into()));
    let patch = json!([{"op": "test", "path": "/data/l", "value": "3"}, {"op": "add", "path": "/data/m", "value": "4"}]);
    let headers = [("content-type", "application/json-patch+json")];
    let path = "/api/v1/namespaces/default/configmaps/a";
    let (code, _, text) = server.send("PATCH", path, &headers, patch.to_string()).await;
    assert_eq!(
        (code, text.contains(r#""m":"4""#)),
        (StatusCode::OK, true),
        "{text}"
    );

    let wrong = DeleteParams {
        preconditions: Some(Preconditions {
            uid: Some("no".to_owned()),
            ..Preconditions::default()
        }),
        ..DeleteParams::default()
    };
    assert_eq!(support::code(&api.delete("a", &wrong).await.unwrap_err()), 409);
    let deleted = api.delete("a", &DeleteParams::default()).await.unwrap();
    let status = deleted.right().unwrap();
    assert_eq!(status.details.unwrap().kind, "configmaps");
    assert_eq!(support::code(&api.get("a").await.unwrap_err()), 404);
    server.stop().await;
}

#[tokio::test]
async fn lists_page_consistently() {
    let server = TestServer::start().await;
    let api: Api<ConfigMap> = Api::namespaced(server.client(), "default");
    for at in 0..7 {
        let mut object = config_map(&format!("m{at}"), "x");
        let parity = if at % 2 == 0 { "even" } else { "odd" };
        object.metadata.labels = Some([("parity".to_owned(), parity.to_owned())].into());
        api.create(&PostParams::default(), &object).await.unwrap();
    }
    let first = api.list(&ListParams::default().limit(3)).await.unwrap();
    assert_eq!(first.items.len(), 3);
    assert_eq!(first.metadata.remaining_item_count, Some(4));
    let token = first.metadata.continue_.clone().unwrap();
    // What happens between pages is not seen by them.
    api.delete("m5", &DeleteParams::default()).await.unwrap();
    api.create(&PostParams::default(), &config_map("m9", "x"))
        .await
        .unwrap();
    let second = api
        .list(&ListParams::default().limit(3).continue_token(&token))
        .await
        .unwrap();
    assert_eq!(second.metadata.resource_version, first.metadata.resource_version);
    assert_eq!(second.metadata.remaining_item_count, Some(1));
    let names = |items: &[ConfigMap]| -> Vec<String> {
        items.iter().map(|i| i.metadata.name.clone().unwrap()).collect()
    };
    assert_eq!(names(&second.items), ["m3", "m4", "m5"]);
    let token = second.metadata.continue_.clone().unwrap();
    let last = api
        .list(&ListParams::default().limit(3).continue_token(&token))
        .await
        .unwrap();
    assert_eq!(
        (
            names(&last.items),
            last.metadata.continue_.as_deref().unwrap_or("")
        ),
        (vec!["m6".into()], "")
    );
    let odd = api
        .list(&ListParams::default().labels("parity in (odd)"))
        .await
        .unwrap();
    assert_eq!(names(&odd.items), ["m1", "m3"]);
    let one = api
        .list(&ListParams::default().fields("metadata.name=m4"))
        .await
        .unwrap();
    assert_eq!(names(&one.items), ["m4"]);
    let error = api
        .list(&ListParams::default().fields("spec.x=1"))
        .await
        .unwrap_err();
    assert_eq!(support::code(&error), 400);
    server.stop().await;
}

#[tokio::test]
async fn watches_see_every_change_once() {
    let server = TestServer::start().await;
    let api: Api<ConfigMap> = Api::namespaced(server.client(), "default");
    let list = api.list(&ListParams::default()).await.unwrap();
    let from = list.metadata.resource_version.unwrap();
    for at in 0..20 {
        api.create(&PostParams::default(), &config_map("w", &at.to_string()))
            .await
            .unwrap();
        api.delete("w", &DeleteParams::default()).await.unwrap();
    }
    let params = WatchParams::default().timeout(20);
    let mut watch = Box::pin(api.watch(&params, &from).await.unwrap());
    let mut last = 0;
    for at in 0..40 {
        let event = tokio::time::timeout(Duration::from_secs(5), watch.next())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        let object = match (at % 2, event) {
            (0, WatchEvent::Added(object)) | (1, WatchEvent::Deleted(object)) => object,
            (_, other) => panic!("event {at}: {other:?}"),
        };
        let version: u64 = object.metadata.resource_version.unwrap().parse().unwrap();
        assert!(version > last);
        last = version;
    }
    // A change of labels moves an object in and out of a selection.
    let selected = WatchParams::default().labels("in=yes").timeout(20);
    let mut watch = Box::pin(api.watch(&selected, &last.to_string()).await.unwrap());
    api.create(&PostParams::default(), &config_map("s", "1"))
        .await
        .unwrap();
    for value in ["yes", "no"] {
        let patch = json!({"metadata": {"labels": {"in": value}}});
        api.patch("s", &PatchParams::default(), &Patch::Merge(patch))
            .await
            .unwrap();
    }
    assert!(matches!(
        watch.next().await.unwrap().unwrap(),
        WatchEvent::Added(_)
    ));
    assert!(matches!(
        watch.next().await.unwrap().unwrap(),
        WatchEvent::Deleted(_)
    ));
    server.stop().await;
}

#[tokio::test]
async fn streaming_lists_end_in_a_bookmark() {
    let server = TestServer::start().await;
    let path = "/api/v1/namespaces?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=1";
    let (code, _, body) = server.get(path, &[]).await;
    assert_eq!(code, StatusCode::OK);
    let frames: Vec<Value> = body.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let kinds: Vec<&str> = frames.iter().map(|f| f["type"].as_str().unwrap()).collect();
    assert_eq!(&kinds[..5], ["ADDED", "ADDED", "ADDED", "ADDED", "BOOKMARK"]);
    assert_eq!(
        frames[4]["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"],
        "true"
    );
    let (code, _, body) = server
        .get("/api/v1/namespaces?watch=1&sendInitialEvents=true", &[])
        .await;
    assert_eq!(code, StatusCode::UNPROCESSABLE_ENTITY, "{body}");
    let (code, _, body) = server
        .get("/api/v1/namespaces?resourceVersion=99999999", &[])
        .await;
    assert_eq!(code, StatusCode::GATEWAY_TIMEOUT);
    assert!(body.contains("ResourceVersionTooLarge"), "{body}");
    server.stop().await;
}

#[tokio::test]
async fn pods_end_gracefully() {
    let server = TestServer::start().await;
    let client = server.client();
    support::service_account(&client, "default").await;
    let api: Api<Pod> = Api::namespaced(client, "default");
    // Not scheduled: gone at once.
    api.create(&PostParams::default(), &pod("a", "")).await.unwrap();
    api.delete("a", &DeleteParams::default()).await.unwrap();
    assert_eq!(support::code(&api.get("a").await.unwrap_err()), 404);
    // On a node: marked, then removed by the kubelet's delete without grace.
    api.create(&PostParams::default(), &pod("b", "n1")).await.unwrap();
    let pending = api
        .delete("b", &DeleteParams::default())
        .await
        .unwrap()
        .left()
        .unwrap();
    assert_eq!(pending.metadata.deletion_grace_period_seconds, Some(30));
    let still = api.get("b").await.unwrap();
    assert!(still.metadata.deletion_timestamp.is_some());
    let now = DeleteParams::default().grace_period(0);
    api.delete("b", &now).await.unwrap();
    assert_eq!(support::code(&api.get("b").await.unwrap_err()), 404);
    // Finalizers hold, and the update that takes the last one away deletes.
    let mut held = pod("c", "n1");
    held.metadata.finalizers = Some(vec!["example.com/hold".to_owned()]);
    api.create(&PostParams::default(), &held).await.unwrap();
    api.delete("c", &now).await.unwrap();
    assert!(api.get("c").await.unwrap().metadata.deletion_timestamp.is_some());
    let free = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    api.patch("c", &PatchParams::default(), &free).await.unwrap();
    assert_eq!(support::code(&api.get("c").await.unwrap_err()), 404);
    server.stop().await;
}

#[tokio::test]
async fn namespaces_end_when_finalized() {
    let server = TestServer::start().await;
    let api: Api<Namespace> = Api::all(server.client());
    let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": "doomed"}})).unwrap();
    api.create(&PostParams::default(), &namespace).await.unwrap();
    api.delete("doomed", &DeleteParams::default()).await.unwrap();
    let left = api.get("doomed").await;
    if let Ok(left) = left {
        assert_eq!(left.status.unwrap().phase.as_deref(), Some("Terminating"));
        let mut body = serde_json::to_value(api.get("doomed").await.unwrap()).unwrap();
        body["spec"]["finalizers"] = json!([]);
        let (code, _, text) = server
            .send(
                "PUT",
                "/api/v1/namespaces/doomed/finalize",
                &[("content-type", "application/json")],
                body.to_string(),
            )
            .await;
        assert_eq!(code, StatusCode::OK, "{text}");
    }
    assert_eq!(support::code(&api.get("doomed").await.unwrap_err()), 404);
    server.stop().await;
}

#[tokio::test]
async fn answers_over_http() {
    let server = TestServer::start().await;
    let check =
        |method: &'static str, path: &'static str, body: &'static str, code: u16, part: &'static str| {
            let server = &server;
            async move {
                let headers = [("content-type", "application/json")];
                let (got, _, text) = server.send(method, path, &headers, body.to_owned()).await;
                assert_eq!(
                    (got.as_u16(), text.contains(part)),
                    (code, true),
                    "{method} {path}: {text}"
                );
            }
        };
    check("GET", "/livez", "", 200, "ok").await;
    check("GET", "/readyz?verbose", "", 200, "[+]etcd ok").await;
    check("GET", "/readyz/etcd", "", 200, "ok").await;
    check("GET", "/version", "", 200, "\"minor\": \"36\"").await;
    check("GET", "/metrics", "", 200, "apiserver_storage_objects").await;
    check("GET", "/nothing", "", 404, "404 page not found").await;
    check("GET", "/apis/apps", "", 200, "preferredVersion").await;
    check("GET", "/apis/apps/v1", "", 200, "deployments/scale").await;
    check(
        "GET",
        "/api/v1/namespaces/default/pods/x",
        "",
        404,
        r#"pods \"x\" not found"#,
    )
    .await;
    check(
        "GET",
        "/api/v1/pods?labelSelector=a%3D%3D%3D",
        "",
        400,
        "unable to parse requirement",
    )
    .await;
    check(
        "GET",
        "/api/v1/pods?continue=nonsense",
        "",
        400,
        "continue key is not valid",
    )
    .await;
    check(
        "GET",
        "/api/v1/pods?resourceVersion=x",
        "",
        400,
        "resourceVersion",
    )
    .await;
    check(
        "POST",
        "/api/v1/namespaces/default/configmaps",
        "{",
        400,
        "BadRequest",
    )
    .await;
    check("POST", "/api/v1/namespaces/default/configmaps", "{}", 422, "name").await;
    let other = r#"{"apiVersion":"v1","kind":"Secret","metadata":{"name":"x"}}"#;
    check(
        "POST",
        "/api/v1/namespaces/default/configmaps",
        other,
        400,
        "cannot be handled as a ConfigMap",
    )
    .await;
    let elsewhere = r#"{"metadata":{"name":"x","namespace":"other"}}"#;
    check(
        "POST",
        "/api/v1/namespaces/default/configmaps",
        elsewhere,
        400,
        "does not match the namespace",
    )
    .await;
    let unknown = r#"{"metadata":{"name":"x"},"dta":{}}"#;
    let strict = "/api/v1/namespaces/default/configmaps?fieldValidation=Strict";
    check("POST", strict, unknown, 400, r#"unknown field \"dta\""#).await;
    check("PATCH", "/api/v1/namespaces/default", "{}", 415, "unknown format").await;
    check(
        "DELETE",
        "/api/v1/namespaces",
        "",
        405,
        "does not allow this method",
    )
    .await;
    let headers = [("content-type", "application/json")];
    let big = format!(
        r#"{{"metadata":{{"name":"big"}},"data":{{"x":"{}"}}}}"#,
        "y".repeat(4 << 20)
    );
    let (code, _, _) = server
        .send("POST", "/api/v1/namespaces/default/configmaps", &headers, big)
        .await;
    assert_eq!(code, StatusCode::PAYLOAD_TOO_LARGE);
    let warn = "/api/v1/namespaces/default/configmaps?dryRun=All";
    let (code, answer, _) = server.send("POST", warn, &headers, unknown.to_owned()).await;
    assert_eq!(code, StatusCode::CREATED);
    assert_eq!(answer["warning"], r#"299 - "unknown field \"dta\"""#);
    assert!(answer.contains_key("audit-id") && answer.contains_key("x-kubernetes-pf-flowschema-uid"));
    check(
        "GET",
        "/api/v1/namespaces/default/configmaps/x",
        "",
        404,
        "not found",
    )
    .await;
    server.stop().await;
}

#[tokio::test]
async fn discovery_in_both_forms() {
    let server = TestServer::start().await;
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    let (code, headers, body) = server.get("/apis", &[("accept", accept)]).await;
    assert_eq!(code, StatusCode::OK);
    let list: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(list["kind"], "APIGroupDiscoveryList");
    assert!(
        list["items"]
            .as_array()
            .unwrap()
            .iter()
            .any(|g| g["metadata"]["name"] == "apps")
    );
    let etag = headers["etag"].to_str().unwrap().to_owned();
    let (code, _, body) = server
        .get("/apis", &[("accept", accept), ("if-none-match", &etag)])
        .await;
    assert_eq!((code, body.as_str()), (StatusCode::NOT_MODIFIED, ""));
    let (code, _, _) = server
        .get(
            "/apis",
            &[(
                "accept",
                "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
            )],
        )
        .await;
    assert_eq!(code, StatusCode::NOT_ACCEPTABLE);
    let (_, _, body) = server.get("/api", &[("accept", "application/json")]).await;
    assert_eq!(
        serde_json::from_str::<Value>(&body).unwrap()["versions"],
        json!(["v1"])
    );
    server.stop().await;
}

#[tokio::test]
async fn services_get_addresses_that_are_theirs() {
    let server = TestServer::start().await;
    let client = server.client();
    let api: Api<k8s_openapi::api::core::v1::Service> = Api::namespaced(client, "default");
    let service = |name: &str, spec: Value| -> k8s_openapi::api::core::v1::Service {
        serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap()
    };
    let kubernetes = api.get("kubernetes").await.unwrap();
    assert_eq!(kubernetes.spec.unwrap().cluster_ip.as_deref(), Some("10.96.0.1"));
    let node_port = json!({"type": "NodePort", "ports": [{"port": 80}]});
    let a = api
        .create(&PostParams::default(), &service("a", node_port))
        .await
        .unwrap()
        .spec
        .unwrap();
    let (ip, port) = (a.cluster_ip.unwrap(), a.ports.unwrap()[0].node_port.unwrap());
    assert!((30000..=32767).contains(&port));
    let taken = json!({"clusterIP": ip, "ports": [{"port": 80}]});
    let error = api
        .create(&PostParams::default(), &service("b", taken.clone()))
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("provided IP is already allocated"),
        "{error}"
    );
    let taken_port = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]});
    let error = api
        .create(&PostParams::default(), &service("b", taken_port))
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("provided port is already allocated"),
        "{error}"
    );
    let headless = json!({"clusterIP": "None", "ports": [{"port": 80}]});
    api.create(&PostParams::default(), &service("h", headless))
        .await
        .unwrap();
    api.delete("a", &DeleteParams::default()).await.unwrap();
    api.create(&PostParams::default(), &service("b", taken))
        .await
        .unwrap();
    // A claim that a crash left behind is given back at the next start, a Service's own is not.
    let server = server.restart().await;
    let api: Api<k8s_openapi::api::core::v1::Service> = Api::namespaced(server.client(), "default");
    assert_eq!(api.get("b").await.unwrap().spec.unwrap().cluster_ip, Some(ip));
    server.stop().await;
}

#[tokio::test]
async fn the_same_router_without_a_wire() {
    let server = TestServer::start().await;
    let admin = keelson_apiserver::user::UserInfo::new("admin", &["system:masters"]);
    let client = kube::Client::new(server.server.local_service(admin), "default");
    let api: Api<ConfigMap> = Api::default_namespaced(client);
    api.create(&PostParams::default(), &config_map("local", "1"))
        .await
        .unwrap();
    let seen: Api<ConfigMap> = Api::namespaced(server.client(), "default");
    assert_eq!(seen.get("local").await.unwrap().data.unwrap()["k"], "1");
    let mut watch = Box::pin(api.watch(&WatchParams::default().timeout(5), "0").await.unwrap());
    assert!(matches!(
        watch.try_next().await.unwrap(),
        Some(WatchEvent::Added(_))
    ));
    let nobody = keelson_apiserver::user::UserInfo::new("nobody", &[]);
    let client = kube::Client::new(server.server.local_service(nobody), "default");
    let api: Api<ConfigMap> = Api::default_namespaced(client);
    let error = api.list(&ListParams::default()).await.unwrap_err();
    assert!(
        error.to_string().contains(
            r#"User "nobody" cannot list resource "configmaps" in API group "" in the namespace "default""#
        ),
        "{error}"
    );
    server.stop().await;
}

#[tokio::test]
async fn custom_resources_come_and_go() {
    let server = TestServer::start().await;
    let headers = [("content-type", "application/json")];
    let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "shortNames": ["wd"]},
            "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                    "spec": {"type": "object", "required": ["color"], "properties": {
                        "color": {"type": "string", "enum": ["red", "blue"]},
                        "size": {"type": "integer", "default": 3, "maximum": 5}}},
                    "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}}}]}});
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let (code, _, text) = server
        .send("POST", definitions, &headers, definition.to_string())
        .await;
    assert_eq!(code, StatusCode::CREATED, "{text}");
    // A watch says when it is established.
    let watch =
        format!("{definitions}?watch=1&fieldSelector=metadata.name%3Dwidgets.example.com&timeoutSeconds=2");
    let (_, _, frames) = server.get(&watch, &[]).await;
    assert!(frames.contains(r#""type":"Established""#), "{frames}");
    let widgets = "/apis/example.com/v1/namespaces/default/widgets";
    let widget = |spec: Value| {
        json!({"apiVersion": "example.com/v1", "kind": "Widget",
        "metadata": {"name": "w"}, "spec": spec, "status": {"a": 1}})
        .to_string()
    };
    let (code, _, text) = server
        .send("POST", widgets, &headers, widget(json!({"size": 9})))
        .await;
    assert_eq!(code, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(
        text.contains("spec.color: Required value") && text.contains("less than or equal to 5"),
        "{text}"
    );
    let (code, _, text) = server
        .send(
            "POST",
            widgets,
            &headers,
            widget(json!({"color": "red", "gone": 1})),
        )
        .await;
    assert_eq!(code, StatusCode::CREATED, "{text}");
    let created: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(created["spec"], json!({"color": "red", "size": 3}));
    assert!(created.get("status").is_none() && created["metadata"]["generation"] == 1);
    let merge = [("content-type", "application/merge-patch+json")];
    let (code, _, text) = server
        .send(
            "PATCH",
            &format!("{widgets}/w/status"),
            &merge,
            r#"{"status":{"b":2},"spec":{"size":1}}"#.into(),
        )
        .await;
    assert_eq!(code, StatusCode::OK, "{text}");
    let (_, _, text) = server.get(widgets, &[]).await;
    let list: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&list["kind"], &list["items"][0]["kind"]),
        (&json!("WidgetList"), &json!("Widget"))
    );
    assert_eq!(
        (&list["items"][0]["status"], &list["items"][0]["spec"]["size"]),
        (&json!({"b": 2}), &json!(3))
    );
    let server = server.restart().await;
    let (code, _, _) = server.get(&format!("{widgets}/w"), &[]).await;
    assert_eq!(code, StatusCode::OK);
    let (code, _, text) = server
        .send(
            "DELETE",
            &format!("{definitions}/widgets.example.com"),
            &[],
            String::new(),
        )
        .await;
    assert_eq!(code, StatusCode::OK, "{text}");
    let pending: Value = serde_json::from_str(&text).unwrap();
    let from = pending["metadata"]["resourceVersion"].as_str().unwrap();
    let (_, _, frames) = server.get(&format!("{watch}&resourceVersion={from}"), &[]).await;
    assert!(frames.contains("DELETED"), "{frames}");
    let (code, _, _) = server.get(widgets, &[]).await;
    assert_eq!(code, StatusCode::NOT_FOUND);
    server.stop().await;
}
