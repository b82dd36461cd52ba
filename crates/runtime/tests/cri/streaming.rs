//! Exec, attach and port-forward through the URLs that CRI hands out.

use std::io;
use std::time::Duration;

use flate2::{Compress, Compression, FlushCompress};
use futures::{SinkExt, StreamExt};
use keelson_cri::v1;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::fixture::{Node, read_log, shell};

async fn dial(url: &str) -> TcpStream {
    let address = url.strip_prefix("http://").unwrap().split('/').next().unwrap();
    TcpStream::connect(address).await.unwrap()
}

async fn websocket(url: &str, protocol: &str) -> Result<WebSocketStream<TcpStream>, String> {
    let mut request = url.replace("http://", "ws://").into_client_request().unwrap();
    request
        .headers_mut()
        .insert("sec-websocket-protocol", protocol.parse().unwrap());
    tokio_tungstenite::client_async(request, dial(url).await)
        .await
        .map(|(socket, _)| socket)
        .map_err(|error| error.to_string())
}

/// Everything that comes on each channel until the server closes.
async fn collect(mut socket: WebSocketStream<TcpStream>) -> [String; 4] {
    let mut channels: [Vec<u8>; 4] = Default::default();
    while let Some(Ok(message)) = socket.next().await {
        if let Message::Binary(bytes) = message {
            channels[usize::from(bytes[0])].extend_from_slice(&bytes[1..]);
        }
    }
    channels.map(|bytes| String::from_utf8(bytes).unwrap())
}

fn exec(container: &str, script: &str) -> v1::ExecRequest {
    v1::ExecRequest {
        container_id: container.to_owned(),
        cmd: ["sh", "-c", script].map(str::to_owned).to_vec(),
        stdin: true,
        stdout: true,
        stderr: true,
        tty: false,
    }
}

#[tokio::test]
async fn exec_over_websocket() {
    let mut node = Node::start().await;
    let (_, _, id) = node.run("pod", "sleep 1000").await;
    let request = exec(&id, "cat; echo err >&2; exit 6");
    let url = node.cri.exec(request.clone()).await.unwrap().into_inner().url;
    let mut socket = websocket(&url, "v5.channel.k8s.io").await.unwrap();
    socket.send(Message::binary(b"\0hello\n".to_vec())).await.unwrap();
    socket.send(Message::binary(vec![255, 0])).await.unwrap();
    let [_, out, err, status] = collect(socket).await;
    assert_eq!((out.as_str(), err.as_str()), ("hello\n", "err\n"));
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["reason"], "NonZeroExitCode");
    assert_eq!(status["details"]["causes"][0]["message"], "6");
    // A token is good once.
    assert!(websocket(&url, "v5.channel.k8s.io").await.is_err());

    let request = v1::ExecRequest {
        tty: true,
        stderr: false,
        ..exec(&id, "stty size; tty; read x; stty size; echo $x")
    };
    let url = node.cri.exec(request).await.unwrap().into_inner().url;
    let mut socket = websocket(&url, "v4.channel.k8s.io").await.unwrap();
    let mut seen = String::new();
    while !seen.contains("/dev/pts/") {
        let message = socket.next().await.unwrap().unwrap();
        seen.push_str(std::str::from_utf8(&message.into_data()[1..]).unwrap());
    }
    assert!(seen.contains("24 80"), "{seen}");
    socket
        .send(Message::binary(b"\x04{\"Width\":100,\"Height\":30}".to_vec()))
        .await
        .unwrap();
    socket.send(Message::binary(b"\0typed\n".to_vec())).await.unwrap();
    let [_, out, _, status] = collect(socket).await;
    assert!(out.contains("30 100") && out.contains("typed"), "{out}");
    assert!(status.contains("Success"), "{status}");
    let request = v1::ExecRequest {
        cmd: vec!["none".to_owned()],
        ..exec(&id, "")
    };
    let url = node.cri.exec(request).await.unwrap().into_inner().url;
    let [_, _, _, status] = collect(websocket(&url, "v5.channel.k8s.io").await.unwrap()).await;
    assert!(status.contains("executable file not found in $PATH"), "{status}");
    node.finish().await;
}

#[tokio::test]
async fn attach_over_websocket() {
    let mut node = Node::start().await;
    let pod = node.pod("pod");
    let sandbox = node.run_pod(&pod).await;
    for tty in [false, true] {
        let name = format!("tty-{tty}");
        let script = "while read line; do echo got $line; done; echo ended";
        let config = v1::ContainerConfig {
            stdin: true,
            stdin_once: true,
            tty,
            ..shell(&name, script)
        };
        let id = node.start_container(&sandbox, &pod, config).await;
        let request = v1::AttachRequest {
            container_id: id.clone(),
            stdin: true,
            stdout: true,
            stderr: !tty,
            tty,
        };
        let url = node.cri.attach(request).await.unwrap().into_inner().url;
        let mut socket = websocket(&url, "v5.channel.k8s.io").await.unwrap();
        socket.send(Message::binary(b"\0one\n".to_vec())).await.unwrap();
        let mut seen = String::new();
        while !seen.contains("got one") {
            let message = socket.next().await.unwrap().unwrap();
            seen.push_str(std::str::from_utf8(&message.into_data()[1..]).unwrap());
        }
        if tty {
            socket.send(Message::binary(b"\0\x04".to_vec())).await.unwrap();
        } else {
            // Detaching closes stdin, which was for one client.
            socket.close(None).await.unwrap();
        }
        let status = node.exited(&id).await;
        assert_eq!(status.exit_code, 0);
        let log: Vec<String> = read_log(&status.log_path)
            .into_iter()
            .map(|(_, line)| line)
            .collect();
        assert!(log.iter().any(|line| line.starts_with("got one")), "{log:?}");
        assert!(log.iter().any(|line| line.starts_with("ended")), "{log:?}");
    }
    node.finish().await;
}

#[tokio::test]
async fn the_end_of_an_attached_stdin_reaches_the_container() {
    let mut node = Node::start().await;
    let pod = node.pod("pod");
    let sandbox = node.run_pod(&pod).await;
    let config = v1::ContainerConfig {
        stdin: true,
        stdin_once: true,
        ..shell("once", "cat; echo ended")
    };
    let id = node.start_container(&sandbox, &pod, config).await;
    let request = v1::AttachRequest {
        container_id: id.clone(),
        stdin: true,
        stdout: true,
        stderr: true,
        tty: false,
    };
    let url = node.cri.attach(request).await.unwrap().into_inner().url;
    let mut socket = websocket(&url, "v5.channel.k8s.io").await.unwrap();
    socket.send(Message::binary(b"\0one\n".to_vec())).await.unwrap();
    // The client has no more to say and goes on listening, as `echo one | kubectl run -i` does.
    socket.send(Message::binary(vec![255, 0])).await.unwrap();
    let [_, out, _, _] = tokio::time::timeout(Duration::from_secs(20), collect(socket))
        .await
        .unwrap();
    assert_eq!(out, "one\nended\n");
    assert_eq!(node.exited(&id).await.exit_code, 0);
    node.finish().await;
}

/// A SPDY client, just enough.
struct Spdy {
    socket: TcpStream,
    compress: Compress,
}

impl Spdy {
    async fn connect(url: &str, version: &str) -> io::Result<Self> {
        let mut socket = dial(url).await;
        let path = url.splitn(4, '/').nth(3).unwrap();
        let request = format!(
            "POST /{path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
             X-Stream-Protocol-Version: {version}\r\n\r\n"
        );
        socket.write_all(request.as_bytes()).await?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(socket.read_u8().await?);
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        assert!(
            head.starts_with("http/1.1 101") && head.contains(version),
            "{head}"
        );
        Ok(Self {
            socket,
            compress: Compress::new(Compression::default(), true),
        })
    }

    async fn open(&mut self, id: u32, headers: &[(&str, &str)]) {
        let mut plain = u32::try_from(headers.len()).unwrap().to_be_bytes().to_vec();
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.extend_from_slice(&u32::try_from(text.len()).unwrap().to_be_bytes());
            plain.extend_from_slice(text.as_bytes());
        }
        let mut block = Vec::with_capacity(1024);
        self.compress
            .compress_vec(&plain, &mut block, FlushCompress::Sync)
            .unwrap();
        let mut frame = vec![0x80, 3, 0, 1];
        frame.extend_from_slice(&u32::try_from(block.len() + 10).unwrap().to_be_bytes());
        frame.extend_from_slice(&id.to_be_bytes());
        frame.extend_from_slice(&[0; 6]);
        frame.extend_from_slice(&block);
        self.socket.write_all(&frame).await.unwrap();
    }

    async fn send(&mut self, id: u32, bytes: &[u8], end: bool) {
        let mut frame = id.to_be_bytes().to_vec();
        frame.extend_from_slice(&u32::try_from(bytes.len()).unwrap().to_be_bytes());
        frame[4] = u8::from(end);
        frame.extend_from_slice(bytes);
        self.socket.write_all(&frame).await.unwrap();
    }

    /// The data of these streams, until all of them have ended.
    async fn collect(&mut self, ids: &[u32]) -> Vec<String> {
        let mut data = vec![Vec::new(); ids.len()];
        let mut open = ids.to_vec();
        while !open.is_empty() {
            let (id, length) = (
                self.socket.read_u32().await.unwrap(),
                self.socket.read_u32().await.unwrap(),
            );
            let mut body = vec![0; usize::try_from(length & 0xff_ffff).unwrap()];
            self.socket.read_exact(&mut body).await.unwrap();
            if let Some(at) = ids.iter().position(|known| *known == id) {
                data[at].extend(body);
                if length >> 24 & 1 == 1 {
                    open.retain(|other| *other != id);
                }
            }
        }
        data.into_iter()
            .map(|bytes| String::from_utf8(bytes).unwrap())
            .collect()
    }
}

#[tokio::test]
async fn exec_over_spdy() {
    let mut node = Node::start().await;
    let (_, _, id) = node.run("pod", "sleep 1000").await;
    let url = node
        .cri
        .exec(exec(&id, "cat; echo err >&2; exit 6"))
        .await
        .unwrap()
        .into_inner()
        .url;
    let mut spdy = Spdy::connect(&url, "v4.channel.k8s.io").await.unwrap();
    for (number, kind) in ["error", "stdin", "stdout", "stderr"].into_iter().enumerate() {
        spdy.open(u32::try_from(number).unwrap() * 2 + 1, &[("streamtype", kind)])
            .await;
    }
    spdy.send(3, b"hello", true).await;
    let data = spdy.collect(&[1, 5, 7]).await;
    assert_eq!((data[1].as_str(), data[2].as_str()), ("hello", "err\n"));
    let status: serde_json::Value = serde_json::from_str(&data[0]).unwrap();
    assert_eq!(status["details"]["causes"][0]["message"], "6");
    node.finish().await;
}

#[tokio::test]
async fn port_forward_over_spdy() {
    let mut node = Node::start().await;
    let (_, sandbox, id) = node.run("pod", "echo from the pod | nc -l -p 7777").await;
    let request = v1::PortForwardRequest {
        pod_sandbox_id: sandbox.clone(),
        port: vec![7777],
    };
    let url = node.cri.port_forward(request).await.unwrap().into_inner().url;
    let mut spdy = Spdy::connect(&url, "portforward.k8s.io").await.unwrap();
    spdy.open(1, &[("streamtype", "error"), ("port", "9"), ("requestid", "0")])
        .await;
    spdy.open(3, &[("streamtype", "data"), ("port", "9"), ("requestid", "0")])
        .await;
    let refused = spdy.collect(&[1]).await.remove(0);
    assert!(
        refused.contains("failed to connect to localhost:9") && refused.contains("refused"),
        "{refused}"
    );
    // The listener may not be there yet.
    let listening = "while ! grep -q :1E61 /proc/net/tcp /proc/net/tcp6; do sleep 0.02; done";
    assert_eq!(node.exec(&id, listening).await.0, 0);
    spdy.open(
        5,
        &[("streamtype", "error"), ("port", "7777"), ("requestid", "1")],
    )
    .await;
    spdy.open(7, &[("streamtype", "data"), ("port", "7777"), ("requestid", "1")])
        .await;
    spdy.send(7, b"to the pod\n", true).await;
    let data = spdy.collect(&[5, 7]).await;
    assert_eq!((data[0].as_str(), data[1].as_str()), ("", "from the pod\n"));
    let status = node.exited(&id).await;
    assert_eq!(
        read_log(&status.log_path),
        [("stdout".to_owned(), "to the pod".to_owned())]
    );
    node.finish().await;
}
