//! Streams through the server to a node's TLS endpoint: upgrades are tunnelled as bytes, logs are streamed.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::Arc;

use base64::Engine;
use http::StatusCode;
use k8s_openapi::api::core::v1::{Node, Pod};
use keelson_pki::tls::ServingCertificate;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;
use support::TestServer;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

/// The other end: reads a request's head, gives it back in a header, and echoes after an upgrade.
async fn endpoint(server: &TestServer) -> u16 {
    let leaf = server
        .pki
        .issue_node_server("n1", &["127.0.0.1".to_owned()], jiff::Timestamp::now())
        .unwrap();
    let tls = keelson_pki::tls::server_config(ServingCertificate::new(&leaf).unwrap(), &[]).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let stream = acceptor.accept(stream).await.unwrap();
            assert!(
                stream.get_ref().1.peer_certificates().is_some(),
                "the server shows its certificate"
            );
            let mut stream = BufReader::new(stream);
            let mut line = String::new();
            stream.read_line(&mut line).await.unwrap();
            let path = line.split(' ').nth(1).unwrap().to_owned();
            let mut upgrade = false;
            loop {
                let mut header = String::new();
                stream.read_line(&mut header).await.unwrap();
                assert!(
                    !header.to_lowercase().starts_with("authorization"),
                    "credentials are not passed on"
                );
                upgrade |= header.to_lowercase().starts_with("upgrade: websocket");
                if header == "\r\n" {
                    break;
                }
            }
            if upgrade {
                let head = format!(
                    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX-Path: {path}\r\n\r\n"
                );
                stream.write_all(head.as_bytes()).await.unwrap();
                let mut buffer = [0u8; 64];
                while let Ok(n @ 1..) = stream.read(&mut buffer).await {
                    stream.write_all(&buffer[..n]).await.unwrap();
                    stream.flush().await.unwrap();
                }
            } else {
                let body = format!("line of {path}\n");
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                stream.write_all(head.as_bytes()).await.unwrap();
                stream.flush().await.unwrap();
            }
        }
    });
    port
}

#[tokio::test]
async fn exec_and_logs_reach_the_node() {
    let server = TestServer::start().await;
    let port = endpoint(&server).await;
    let client = server.client();
    support::service_account(&client, "default").await;
    let nodes: Api<Node> = Api::all(client.clone());
    let node: Node = serde_json::from_value(json!({"metadata": {"name": "n1"}})).unwrap();
    nodes.create(&PostParams::default(), &node).await.unwrap();
    let status = json!({"status": {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}}}});
    nodes
        .patch_status("n1", &PatchParams::default(), &Patch::Merge(status))
        .await
        .unwrap();
    let pods: Api<Pod> = Api::namespaced(client, "default");
    pods.create(&PostParams::default(), &support::pod("p", "n1"))
        .await
        .unwrap();

    let logs = "/api/v1/namespaces/default/pods/p/log?tailLines=3&follow=true";
    let (code, _, text) = server.get(logs, &[]).await;
    assert_eq!(
        (code, text.as_str()),
        (
            StatusCode::OK,
            "line of /containerLogs/default/p/c?follow=true&tailLines=3\n"
        )
    );

    let mut stream = server.connect().await;
    let request = "GET /api/v1/namespaces/default/pods/p/exec?command=sh&command=-c&command=a%20b&stdin=true&stdout=true&tty=true HTTP/1.1\r\n\
        Host: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut stream = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(stream.read_line(&mut head).await.unwrap(), 0, "{head}");
    }
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    let path = "x-path: /exec/default/p/c?input=1&output=1&tty=1&command=sh&command=-c&command=a%20b";
    assert!(head.to_lowercase().contains(path), "{head}");
    stream.write_all(b"\x00raw bytes").await.unwrap();
    let mut back = [0u8; 10];
    stream.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"\x00raw bytes");
    drop(stream);
    let (code, _, text) = server
        .get("/api/v1/namespaces/default/pods/p/exec?command=x", &[])
        .await;
    assert_eq!(
        (code, text.contains("Upgrade request required")),
        (StatusCode::BAD_REQUEST, true),
        "{text}"
    );
    let (code, _, text) = server.get("/api/v1/nodes/n1/proxy/pods/x?a=b", &[]).await;
    assert_eq!((code, text.as_str()), (StatusCode::OK, "line of /pods/x?a=b\n"));

    // Conformance: Pods should support retrieving logs from the container over websockets.
    for (protocol, encoded) in [
        ("", false),
        ("binary.k8s.io", false),
        ("base64.binary.k8s.io", true),
    ] {
        let messages = log_messages(&server, &format!("other, {protocol}"), protocol).await;
        assert_eq!(messages[0], (encoded, Vec::new()), "an empty message comes first");
        let mut text = Vec::new();
        for (is_text, payload) in &messages[1..] {
            assert_eq!(*is_text, encoded);
            text.extend(if encoded {
                base64::engine::general_purpose::STANDARD.decode(payload).unwrap()
            } else {
                payload.clone()
            });
        }
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "line of /containerLogs/default/p/c?tailLines=3\n"
        );
    }
    server.stop().await;
}

/// The messages of a log over WebSocket: whether they are text, and what they hold.
async fn log_messages(server: &TestServer, offered: &str, expected: &str) -> Vec<(bool, Vec<u8>)> {
    let mut stream = server.connect().await;
    let offer = if expected.is_empty() {
        String::new()
    } else {
        format!("Sec-WebSocket-Protocol: {offered}\r\n")
    };
    let request = format!(
        "GET /api/v1/namespaces/default/pods/p/log?tailLines=3 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n\
        Upgrade: websocket\r\n{offer}Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut stream = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(stream.read_line(&mut head).await.unwrap(), 0, "{head}");
    }
    let head = head.to_lowercase();
    assert!(head.starts_with("http/1.1 101"), "{head}");
    assert!(
        head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="),
        "{head}"
    );
    let agreed = format!("sec-websocket-protocol: {expected}\r\n");
    assert_eq!(head.contains(&agreed), !expected.is_empty(), "{head}");
    let mut messages = Vec::new();
    loop {
        let (first, length) = (stream.read_u8().await.unwrap(), stream.read_u8().await.unwrap());
        assert!(first & 0x80 != 0 && length < 126, "short frames without a mask");
        let mut payload = vec![0; usize::from(length)];
        stream.read_exact(&mut payload).await.unwrap();
        match first & 0x0f {
            1 => messages.push((true, payload)),
            2 => messages.push((false, payload)),
            8 => return messages,
            other => panic!("frame of type {other}"),
        }
    }
}
