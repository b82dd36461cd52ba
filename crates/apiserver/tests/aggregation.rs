//! APIServices: registered by the server, and served by an extension server with real TLS.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::Arc;

use base64::Engine;
use bytes::Bytes;
use futures::StreamExt;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use keelson_apiserver::http::{Body, Connection};
use keelson_pki::Identity;
use serde_json::{Value, json};
use support::{TestServer, eventually, tls_server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
const WARDLE: &str = "/apis/wardle.example.com/v1alpha1";
const V2: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

async fn read(server: &TestServer, path: &str) -> Value {
    let (_, _, text) = server.get(path, &[]).await;
    serde_json::from_str(&text).unwrap()
}

async fn post(server: &TestServer, path: &str, object: Value) -> Value {
    let headers = [("content-type", "application/json")];
    let (code, _, text) = server.send("POST", path, &headers, object.to_string()).await;
    assert_eq!(code, StatusCode::CREATED, "{text}");
    serde_json::from_str(&text).unwrap()
}

/// Waits until an APIService is (not) available for this reason.
async fn available(server: &TestServer, name: &str, status: &str, reason: &str) -> Value {
    let path = format!("{SERVICES}/{name}");
    eventually(&format!("{name} {status} {reason}"), || async {
        let object = read(server, &path).await;
        let conditions = object["status"]["conditions"].as_array()?.clone();
        let found = conditions.into_iter().find(|c| c["type"] == "Available")?;
        (found["status"] == status && found["reason"] == reason).then_some(found)
    })
    .await
}

#[tokio::test]
async fn what_is_served_here_is_registered() {
    let server = TestServer::start().await;
    for name in ["v1.", "v1.apps", "v2.autoscaling", "v1.rbac.authorization.k8s.io"] {
        let condition = available(&server, name, "True", "Local").await;
        assert_eq!(condition["message"], "Local APIServices are always available");
        let object = read(&server, &format!("{SERVICES}/{name}")).await;
        assert_eq!(
            object["metadata"]["labels"]["kube-aggregator.kubernetes.io/automanaged"],
            "onstart"
        );
        assert_eq!(object["spec"].get("service"), None);
    }
    let list = read(&server, SERVICES).await;
    let names: Vec<&str> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|i| i["metadata"]["name"].as_str().unwrap())
        .collect();
    assert!(!names.contains(&"v1.apiregistration.k8s.io"), "{names:?}");

    let versions = ["v1beta1", "v1"].map(|v| {
        json!({"name": v, "served": true, "storage": v == "v1",
            "schema": {"openAPIV3Schema": {"type": "object"}}})
    });
    let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "boats.sea.example.com"},
        "spec": {"group": "sea.example.com", "scope": "Namespaced", "names": {"plural": "boats", "kind": "Boat"},
            "versions": versions}});
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    post(&server, definitions, definition).await;
    for name in ["v1.sea.example.com", "v1beta1.sea.example.com"] {
        available(&server, name, "True", "Local").await;
        let object = read(&server, &format!("{SERVICES}/{name}")).await;
        assert_eq!(
            object["metadata"]["labels"]["kube-aggregator.kubernetes.io/automanaged"],
            "true"
        );
        assert_eq!(
            (
                &object["spec"]["groupPriorityMinimum"],
                &object["spec"]["versionPriority"]
            ),
            (&json!(1000), &json!(100))
        );
    }
    let group = read(&server, "/apis/sea.example.com").await;
    assert_eq!(group["preferredVersion"]["version"], "v1");
    // Kept while the definition is there, and gone with it.
    let path = format!("{SERVICES}/v1.sea.example.com");
    server.send("DELETE", &path, &[], String::new()).await;
    available(&server, "v1.sea.example.com", "True", "Local").await;
    let boats = format!("{definitions}/boats.sea.example.com");
    server.send("DELETE", &boats, &[], String::new()).await;
    eventually("the end of the APIService", || async {
        let (code, _, _) = server.get(&path, &[]).await;
        (code == StatusCode::NOT_FOUND).then_some(())
    })
    .await;
    server.stop().await;
}

/// An extension server: discovery, an echo of headers, a stream and an upgrade.
async fn extension(request: Request<Incoming>, connection: Arc<Connection>) -> Response<Body> {
    let name = connection.certificates.as_ref().map(|c| {
        let certificate = keelson_pki::Certificate::from_der(c[0].as_ref()).unwrap();
        certificate.subject().common_name.clone()
    });
    let path = request.uri().path().to_owned();
    let text = match path.strip_prefix(WARDLE) {
        Some("") => {
            json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "wardle.example.com/v1alpha1",
            "resources": [
                {"name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder", "verbs": ["get"]},
                {"name": "flunders/status", "singularName": "", "namespaced": true, "kind": "Flunder", "verbs": ["get"]},
            ]})
        }
        Some("/echo") => {
            let headers: Vec<Value> = request
                .headers()
                .iter()
                .map(|(name, value)| json!([name.as_str(), value.to_str().unwrap()]))
                .collect();
            json!({"certificate": name, "headers": headers, "query": request.uri().query(),
                "method": request.method().as_str(), "body": null})
        }
        Some("/stream") => {
            let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Bytes, _>>(1);
            tokio::spawn(async move {
                // The second line is sent when the first has been taken, and nothing ends the stream.
                for line in ["one\n", "two\n"] {
                    if sender
                        .send(Ok(Bytes::from_static(line.as_bytes())))
                        .await
                        .is_err()
                    {
                        return;
                    }
                }
                sender.closed().await;
            });
            let stream = futures::stream::unfold(receiver, |mut r| async { Some((r.recv().await?, r)) });
            return Response::new(Body::stream(stream));
        }
        Some("/upgrade") => {
            tokio::spawn(async move {
                let mut stream = TokioIo::new(hyper::upgrade::on(request).await.unwrap());
                let mut bytes = [0; 5];
                stream.read_exact(&mut bytes).await.unwrap();
                bytes.reverse();
                stream.write_all(&bytes).await.unwrap();
            });
            return Response::builder()
                .status(StatusCode::SWITCHING_PROTOCOLS)
                .header("connection", "Upgrade")
                .header("upgrade", "echo")
                .body(Body::empty())
                .unwrap();
        }
        _ => {
            let mut response = Response::new(Body::from("404 page not found\n"));
            *response.status_mut() = StatusCode::NOT_FOUND;
            return response;
        }
    };
    Response::new(Body::from(text.to_string()))
}

fn api_service(ca: &str, port: u16) -> Value {
    json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
        "metadata": {"name": "v1alpha1.wardle.example.com"},
        "spec": {"group": "wardle.example.com", "version": "v1alpha1", "groupPriorityMinimum": 2000, "versionPriority": 200,
            "caBundle": base64::engine::general_purpose::STANDARD.encode(ca),
            "service": {"namespace": "default", "name": "wardle", "port": port}}})
}

fn service(extra: Value) -> Value {
    let mut object =
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "wardle"}, "spec": extra});
    object["spec"]["selector"] = json!({"app": "wardle"});
    object
}

#[tokio::test]
async fn extension_servers_are_served() {
    let server = TestServer::start().await;
    let (address, stop) = tls_server(&server.pki, &["wardle.default.svc"], extension).await;
    let (name, port) = ("v1alpha1.wardle.example.com", address.port());
    let ca = server.pki.ca.certificate().to_pem();
    post(&server, SERVICES, api_service(&ca, port)).await;

    // What is missing, one after another, in upstream's words.
    let condition = available(&server, name, "False", "ServiceNotFound").await;
    assert_eq!(
        condition["message"],
        "service/wardle in \"default\" is not present"
    );
    let (code, headers, text) = server.get(&format!("{WARDLE}/echo"), &[]).await;
    assert_eq!(
        (code, text.as_str()),
        (StatusCode::SERVICE_UNAVAILABLE, "service unavailable\n")
    );
    assert!(headers.contains_key("audit-id"));
    let services = "/api/v1/namespaces/default/services";
    let cluster_ip = json!({"ports": [{"name": "https", "port": 444}]});
    post(&server, services, service(cluster_ip)).await;
    let condition = available(&server, name, "False", "ServicePortError").await;
    let expected = format!("service/wardle in \"default\" is not listening on port {port}");
    assert_eq!(condition["message"], expected);
    let path = format!("{services}/wardle");
    server.send("DELETE", &path, &[], String::new()).await;
    let cluster_ip = json!({"ports": [{"name": "https", "port": port}]});
    post(&server, services, service(cluster_ip)).await;
    let condition = available(&server, name, "False", "EndpointsNotFound").await;
    let expected = "cannot find endpointslices for service/wardle in \"default\"";
    assert_eq!(condition["message"], expected);
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "wardle-1", "labels": {"kubernetes.io/service-name": "wardle"}},
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
        "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": false}}]});
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    post(&server, slices, slice).await;
    available(&server, name, "False", "MissingEndpoints").await;
    let (_, _, list) = server.get("/apis", &[("accept", V2)]).await;
    let list: Value = serde_json::from_str(&list).unwrap();
    let groups: Vec<&str> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|g| g["metadata"]["name"].as_str().unwrap())
        .collect();
    assert_eq!(groups.last(), Some(&"wardle.example.com"));
    let last = list["items"].as_array().unwrap().last().unwrap();
    assert_eq!(last["versions"][0]["freshness"], "Stale");

    // There it is.
    server.send("DELETE", &path, &[], String::new()).await;
    let external = json!({"type": "ExternalName", "externalName": "localhost"});
    post(&server, services, service(external)).await;
    let condition = available(&server, name, "True", "Passed").await;
    assert_eq!(condition["message"], "all checks passed");
    proxied(&server).await;
    streamed(&server).await;
    front_proxy_renewed(&server).await;

    // An authority that did not sign its certificate.
    let other = server.pki.front_proxy_ca.certificate().to_pem();
    let patch = json!({"spec": {"caBundle": base64::engine::general_purpose::STANDARD.encode(other)}});
    let headers = [("content-type", "application/merge-patch+json")];
    let path = format!("{SERVICES}/{name}");
    let (code, _, text) = server.send("PATCH", &path, &headers, patch.to_string()).await;
    assert_eq!(code, StatusCode::OK, "{text}");
    let (code, _, text) = server.get(&format!("{WARDLE}/echo"), &[]).await;
    assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE);
    assert!(
        text.starts_with("error trying to reach service: tls: failed to verify certificate"),
        "{text}"
    );

    stop.cancel();
    let patch = json!({"spec": {"versionPriority": 3}});
    server.send("PATCH", &path, &headers, patch.to_string()).await;
    available(&server, name, "False", "FailedDiscoveryCheck").await;
    server.send("DELETE", &path, &[], String::new()).await;
    let (code, _, _) = server.get(&format!("{WARDLE}/echo"), &[]).await;
    assert_eq!(code, StatusCode::NOT_FOUND);
    server.stop().await;
}

/// The extension server sees the certificate that the server was given while running.
async fn front_proxy_renewed(server: &TestServer) {
    let subject = keelson_pki::Subject::new("renewed-front-proxy", &[]);
    let profile = keelson_pki::Profile::client(jiff::SignedDuration::from_hours(24));
    let names = keelson_pki::AltNames::default();
    let (certificate, key) = server
        .pki
        .front_proxy_ca
        .issue(&subject, &names, &profile, jiff::Timestamp::now())
        .unwrap();
    let renewed = support::pem(&keelson_pki::Leaf { certificate, key });
    let same = |identity| support::pem(server.pki.leaf(identity));
    let (serving, kubelet) = (same(Identity::Apiserver), same(Identity::ApiserverKubeletClient));
    server.server.renew(&serving, &kubelet, &renewed).unwrap();
    let (code, _, text) = server.get(&format!("{WARDLE}/echo"), &[]).await;
    assert_eq!(code, StatusCode::OK, "{text}");
    let echo: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(echo["certificate"], "renewed-front-proxy");
}

/// Discovery and a plain request.
async fn proxied(server: &TestServer) {
    let list: Value = eventually("the extension server's resources", || async {
        let (_, _, list) = server.get("/apis", &[("accept", V2)]).await;
        let list: Value = serde_json::from_str(&list).unwrap();
        let found = list["items"].as_array().unwrap().last().unwrap().clone();
        (found["versions"][0]["freshness"] == "Current").then_some(found)
    })
    .await;
    let resource = &list["versions"][0]["resources"][0];
    assert_eq!(
        (&resource["resource"], &resource["scope"]),
        (&json!("flunders"), &json!("Namespaced"))
    );
    assert_eq!(resource["subresources"][0]["subresource"], "status");
    let group = read(server, "/apis/wardle.example.com").await;
    assert_eq!(
        group["preferredVersion"]["groupVersion"],
        "wardle.example.com/v1alpha1"
    );
    let resources = read(server, WARDLE).await;
    assert_eq!(resources["kind"], "APIResourceList");

    let spoofed = [
        ("x-remote-group", "system:masters"),
        ("x-remote-user", "root"),
        ("x-mine", "1"),
    ];
    let (code, _, text) = server.get(&format!("{WARDLE}/echo?a=b%20c"), &spoofed).await;
    assert_eq!(code, StatusCode::OK, "{text}");
    let echo: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(echo["certificate"], "front-proxy-client");
    assert_eq!(echo["query"], "a=b%20c");
    let all = |name: &str| -> Vec<&str> {
        let headers = echo["headers"].as_array().unwrap().iter();
        headers
            .filter(|h| h[0] == name)
            .map(|h| h[1].as_str().unwrap())
            .collect()
    };
    assert_eq!(all("x-remote-user"), ["kubernetes-admin"]);
    assert_eq!(
        all("x-remote-group"),
        ["kubeadm:cluster-admins", "system:authenticated"]
    );
    assert_eq!(
        (all("x-mine"), all("x-forwarded-for")),
        (vec!["1"], vec!["127.0.0.1"])
    );
    // Authorization comes before: nobody else may.
    let nobody = [("impersonate-user", "nobody")];
    let (code, _, text) = server.get(&format!("{WARDLE}/echo"), &nobody).await;
    assert_eq!(code, StatusCode::FORBIDDEN, "{text}");
}

/// A stream that does not end, and an upgrade.
async fn streamed(server: &TestServer) {
    let open = async |path: String, headers: &[(&str, &str)]| {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(server.connect().await))
                .await
                .unwrap();
        let connection = tokio::spawn(connection.with_upgrades());
        let mut request = Request::get(path).header("host", "x");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::new())).unwrap();
        (sender.send_request(request).await.unwrap(), connection)
    };
    let (response, connection) = open(format!("{WARDLE}/stream"), &[]).await;
    let mut body = response.into_body().into_data_stream();
    for expected in ["one\n", "two\n"] {
        assert_eq!(body.next().await.unwrap().unwrap(), expected);
    }
    drop(body);
    connection.abort();
    let headers = [("connection", "Upgrade"), ("upgrade", "echo")];
    let (response, _connection) = open(format!("{WARDLE}/upgrade"), &headers).await;
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    let mut stream = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    stream.write_all(b"abcde").await.unwrap();
    let mut bytes = [0; 5];
    stream.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"edcba");
}
