//! Listening, tokens, and the way from a URL to a session.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use keelson_cri::v1;
use parking_lot::Mutex;
use rand::RngCore;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::runtime::Inner;

/// How long a token is good.
const TOKEN_LIFE: Duration = Duration::from_secs(60);
/// Tokens that may wait at the same time.
const MAX_TOKENS: usize = 1000;

/// What a token stands for.
#[derive(Debug, Clone)]
pub(crate) enum Session {
    /// Run a process.
    Exec(v1::ExecRequest),
    /// Attach to a container.
    Attach(v1::AttachRequest),
    /// Forward ports.
    PortForward(v1::PortForwardRequest),
}

/// The server; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct StreamingServer {
    listener: Arc<TcpListener>,
    address: SocketAddr,
    tokens: Arc<Mutex<HashMap<String, (Instant, Session)>>>,
}

impl StreamingServer {
    /// Listens on a free loopback port.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) async fn bind() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        Ok(Self { listener: Arc::new(listener), address, tokens: Arc::default() })
    }

    /// Makes a URL for a session.
    pub(crate) fn register(&self, verb: &str, session: Session) -> String {
        let mut bytes = [0; 16];
        rand::rng().fill_bytes(&mut bytes);
        let token = hex::encode(bytes);
        let mut tokens = self.tokens.lock();
        tokens.retain(|_, (made, _)| made.elapsed() < TOKEN_LIFE);
        if tokens.len() >= MAX_TOKENS
            && let Some(oldest) = tokens.iter().min_by_key(|(_, (made, _))| *made).map(|(token, _)| token.clone())
        {
            tokens.remove(&oldest);
        }
        tokens.insert(token.clone(), (Instant::now(), session));
        format!("http://{}/{verb}/{token}", self.address)
    }

    /// Serves until the runtime closes.
    pub(crate) async fn run(&self, _runtime: Weak<Inner>, closing: CancellationToken) {
        let _ = &self.listener;
        closing.cancelled().await;
    }
}
