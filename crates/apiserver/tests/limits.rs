//! Input that is too large, too deep, too clever or no input at all: an answer with upstream's status, soon, and a server
//! that goes on.

mod support;

use std::time::{Duration, Instant};

use http::StatusCode;
use serde_json::{Value, json};
use support::TestServer;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const JSON: (&str, &str) = ("content-type", "application/json");

fn nested(open: &str, close: &str, depth: usize) -> String {
    open.repeat(depth) + &close.repeat(depth)
}

#[tokio::test]
async fn bodies() {
    let server = TestServer::start().await;
    let map = |data: &str| json!({"metadata": {"name": "m"}, "data": {"k": data}}).to_string();
    let annotated =
        |size: usize| json!({"metadata": {"name": "a", "annotations": {"k": "x".repeat(size)}}}).to_string();
    let patch = ("content-type", "application/json-patch+json");
    let merge = ("content-type", "application/merge-patch+json");
    let strategic = ("content-type", "application/strategic-merge-patch+json");
    let apply = ("content-type", "application/apply-patch+yaml");
    let yaml = ("content-type", "application/yaml");
    let proto = ("content-type", "application/vnd.kubernetes.protobuf");
    let m = format!("{MAPS}/m");
    let applied = format!("{MAPS}/m?fieldManager=f");
    let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n\
                d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\n\
                g: &g [*f,*f,*f,*f,*f,*f,*f,*f,*f]\nh: &h [*g,*g,*g,*g,*g,*g,*g,*g,*g]\ni: [*h,*h,*h,*h,*h,*h,*h,*h,*h]\n";
    let many = json!(vec![
        json!({"op": "test", "path": "/kind", "value": "ConfigMap"});
        10_001
    ])
    .to_string();
    let grow: Value = (0..40)
        .map(|n| json!({"op": "copy", "from": "/data", "path": format!("/data/{n}")}))
        .collect();
    /// What, method, path, content type, body, expected code.
    type Case<'a> = (&'a str, &'a str, &'a str, (&'a str, &'a str), String, u16);
    let cases: Vec<Case<'_>> = vec![
        ("a map", "POST", MAPS, JSON, map("v"), 201),
        ("3 MB", "POST", MAPS, JSON, map(&"x".repeat(3 << 20)), 413),
        (
            "1.5 MB stored",
            "POST",
            MAPS,
            JSON,
            map(&"x".repeat((1 << 20) + (600 << 10))),
            422,
        ),
        (
            "256 KB of annotations",
            "POST",
            MAPS,
            JSON,
            annotated(257 << 10),
            422,
        ),
        ("just fewer", "POST", MAPS, JSON, annotated(255 << 10), 201),
        ("deep JSON", "POST", MAPS, JSON, nested("[", "]", 100_000), 400),
        (
            "deep objects",
            "POST",
            MAPS,
            JSON,
            nested("{\"a\":", "1}", 100_000),
            400,
        ),
        ("deep YAML", "POST", MAPS, yaml, nested("[", "]", 100_000), 400),
        ("deep YAML blocks", "POST", MAPS, yaml, "- ".repeat(100_000), 400),
        ("a YAML bomb", "POST", MAPS, yaml, bomb.to_owned(), 400),
        (
            "no protobuf",
            "POST",
            MAPS,
            proto,
            "k8s\0\u{1}garbage".to_owned(),
            400,
        ),
        ("nothing", "POST", MAPS, JSON, String::new(), 400),
        (
            "not UTF-8",
            "POST",
            MAPS,
            JSON,
            "{\"metadata\":{\"name\":\"\\ud800\"}}".to_owned(),
            400,
        ),
        ("too many operations", "PATCH", &m, patch, many, 413),
        ("growing copies", "PATCH", &m, patch, grow.to_string(), 422),
        (
            "deep merge patch",
            "PATCH",
            &m,
            merge,
            nested("{\"a\":", "1}", 10_000),
            400,
        ),
        (
            "deep strategic patch",
            "PATCH",
            &m,
            strategic,
            nested("{\"data\":", "1}", 10_000),
            400,
        ),
        (
            "deep apply",
            "PATCH",
            &applied,
            apply,
            nested("{a: ", "}", 10_000),
            400,
        ),
        ("unknown form", "PATCH", &m, JSON, "{}".to_owned(), 415),
    ];
    for (what, method, path, content, body, expected) in cases {
        let started = Instant::now();
        let (status, _, answer) = server.send(method, path, &[content], body).await;
        assert_eq!(status.as_u16(), expected, "{what}: {answer:.300}");
        if expected >= 400 {
            let answer: Value = serde_json::from_str(&answer).unwrap();
            assert_eq!(answer["kind"], "Status", "{what}");
            assert_eq!(answer["code"], expected, "{what}");
        }
        // Without limits these take minutes and gigabytes; the machine may be busy otherwise.
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "{what}: {:?}",
            started.elapsed()
        );
    }
    let (status, _, _) = server.get("/readyz", &[]).await;
    assert_eq!(status, StatusCode::OK);
    server.stop().await;
}

#[tokio::test]
async fn queries() {
    let server = TestServer::start().await;
    let long = "a".repeat(20_000);
    let cases = [
        ("continue=%21%21".to_owned(), 400),
        ("continue=e30".to_owned(), 400),
        // {"v":"meta.k8s.io/v1","rv":0,"start":"a"}
        (
            "continue=eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MCwic3RhcnQiOiJhIn0".to_owned(),
            400,
        ),
        ("limit=x".to_owned(), 400),
        ("limit=99999999999999999999999".to_owned(), 400),
        ("limit=-1".to_owned(), 200),
        ("resourceVersion=x".to_owned(), 400),
        ("resourceVersion=-1".to_owned(), 400),
        ("resourceVersionMatch=Exact".to_owned(), 422),
        ("resourceVersion=0&resourceVersionMatch=Exact".to_owned(), 422),
        ("resourceVersion=1&resourceVersionMatch=Sometimes".to_owned(), 422),
        (
            "resourceVersion=0&resourceVersionMatch=NotOlderThan".to_owned(),
            200,
        ),
        ("sendInitialEvents=true".to_owned(), 422),
        ("watch=1&sendInitialEvents=true".to_owned(), 422),
        ("watch=1&resourceVersionMatch=NotOlderThan".to_owned(), 422),
        ("watch=1&timeoutSeconds=x".to_owned(), 400),
        ("labelSelector=%3D%3D%3D".to_owned(), 400),
        ("labelSelector=a+in+%28".to_owned(), 400),
        (format!("labelSelector={}", "a%2C".repeat(4_000)), 400),
        (format!("labelSelector={long}"), 400),
        ("fieldSelector=nope%3Dx".to_owned(), 400),
        ("fieldSelector=metadata.name".to_owned(), 400),
        ("fieldSelector=metadata.name%3D%00".to_owned(), 200),
        (format!("fieldSelector=metadata.name%3D{long}"), 200),
        ("%ZZ=%ZZ&&&==&a".to_owned(), 200),
    ];
    for (query, expected) in cases {
        let started = Instant::now();
        let (status, _, answer) = server.get(&format!("{MAPS}?{query}"), &[]).await;
        assert_eq!(status.as_u16(), expected, "{query:.80}: {answer:.300}");
        assert!(started.elapsed() < Duration::from_secs(5), "{query:.80}");
    }
    server.stop().await;
}

/// What each `resourceVersion` and match of a list means, against a history that is known.
#[tokio::test]
async fn lists_at_versions() {
    let server = TestServer::start().await;
    let mut revisions = Vec::new();
    for name in ["one", "two", "three"] {
        let body = json!({"metadata": {"name": name}}).to_string();
        let (status, _, answer) = server.send("POST", MAPS, &[JSON], body).await;
        assert_eq!(status.as_u16(), 201, "{answer}");
        let answer: Value = serde_json::from_str(&answer).unwrap();
        revisions.push(answer["metadata"]["resourceVersion"].as_str().unwrap().to_owned());
    }
    let list = async |query: String| -> (u16, Vec<String>, String, Value) {
        let (status, _, answer) = server.get(&format!("{MAPS}?{query}"), &[]).await;
        let answer: Value = serde_json::from_str(&answer).unwrap();
        let items = answer["items"].as_array().cloned().unwrap_or_default();
        let names = items
            .iter()
            .map(|i| i["metadata"]["name"].as_str().unwrap().to_owned())
            .filter(|n| n != "kube-root-ca.crt")
            .collect();
        let version = answer["metadata"]["resourceVersion"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        (status.as_u16(), names, version, answer)
    };
    let second = &revisions[1];
    let (_, names, version, _) = list(format!("resourceVersion={second}&resourceVersionMatch=Exact")).await;
    assert_eq!(
        (names, &version),
        (vec!["one".to_owned(), "two".to_owned()], second)
    );
    let (_, names, version, _) = list(format!(
        "resourceVersion={second}&resourceVersionMatch=NotOlderThan"
    ))
    .await;
    assert_eq!(names.len(), 3);
    assert!(version.parse::<u64>().unwrap() >= revisions[2].parse::<u64>().unwrap());
    // A limit without a match reads exactly this version, and its pages too.
    let (_, names, version, answer) = list(format!("resourceVersion={second}&limit=1")).await;
    assert_eq!((names.len(), &version), (1, second));
    let token = answer["metadata"]["continue"].as_str().unwrap();
    let (_, names, version, answer) = list(format!("continue={token}")).await;
    assert_eq!(
        (names.len(), &version, &answer["metadata"]["continue"]),
        (1, second, &Value::Null)
    );
    let (status, ..) = list(format!("continue={token}&resourceVersion={second}")).await;
    assert_eq!(status, 400);
    let (status, _, _, answer) = list("resourceVersion=999999999".to_owned()).await;
    assert_eq!(
        (status, answer["details"]["causes"][0]["reason"].as_str()),
        (504, Some("ResourceVersionTooLarge"))
    );
    server.stop().await;
}

/// An update that changes nothing writes nothing.
#[tokio::test]
async fn updates_without_a_change_keep_the_version() {
    let server = TestServer::start().await;
    let body = json!({"metadata": {"name": "same"}, "data": {"k": "v"}}).to_string();
    let (_, _, first) = server.send("POST", MAPS, &[JSON], body.clone()).await;
    let first: Value = serde_json::from_str(&first).unwrap();
    let path = format!("{MAPS}/same");
    for (method, content) in [
        ("PUT", "application/json"),
        ("PATCH", "application/merge-patch+json"),
        ("PATCH", "application/strategic-merge-patch+json"),
    ] {
        let (status, _, again) = server
            .send(method, &path, &[("content-type", content)], body.clone())
            .await;
        let again: Value = serde_json::from_str(&again).unwrap();
        assert_eq!((status.as_u16(), &again), (200, &first), "{method} {content}");
    }
    let applied = format!("{path}?fieldManager=applier");
    let config =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "same"}, "data": {"k": "v"}})
            .to_string();
    let apply = ("content-type", "application/apply-patch+yaml");
    let (_, _, one) = server.send("PATCH", &applied, &[apply], config.clone()).await;
    let (_, _, two) = server.send("PATCH", &applied, &[apply], config).await;
    assert_eq!(one, two, "applied again");
    server.stop().await;
}
