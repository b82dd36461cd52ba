//! The streaming server: exec, attach and port-forward over HTTP upgrades.
//!
//! CRI's Exec, Attach and PortForward answer with a URL on a loopback port of this process. Its path ends in a token
//! that is good for one request within a minute, as in upstream's CRI streaming library. kubelet proxies the client's
//! upgraded connection there byte by byte, so this server speaks what kubectl speaks: WebSocket
//! (`v5.channel.k8s.io` down to the base64 variants) and SPDY/3.1.

mod server;

pub(crate) use server::{Session, StreamingServer};
