//! Probes that open a TCP connection.

use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Outcome;

pub(super) async fn probe(host: &str, port: u16, limit: Duration) -> Outcome {
    match dial(host, port, limit).await {
        Ok(_) => Outcome::Success,
        Err(error) => Outcome::Failure(error),
    }
}

/// Connects; the error reads as Go's.
pub(super) async fn dial(host: &str, port: u16, limit: Duration) -> Result<TcpStream, String> {
    let shown = if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    };
    match timeout(limit, TcpStream::connect((host, port))).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => {
            let text = match error.kind() {
                std::io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
                std::io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
                std::io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
                _ => error.to_string(),
            };
            Err(format!("dial tcp {shown}: {text}"))
        }
        Err(_) => Err(format!("dial tcp {shown}: i/o timeout")),
    }
}
