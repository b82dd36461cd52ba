//! The streaming server: exec, attach and port-forward over HTTP upgrades.
//!
//! CRI's Exec, Attach and PortForward answer with a URL on a loopback port of this process. Its path ends in a token
//! that is good for one request within a minute, as in upstream's CRI streaming library. The kubelet proxies the
//! client's upgraded connection there byte by byte, so this server speaks what kubectl speaks: WebSocket
//! (`v5.channel.k8s.io` down to the base64 variants) and SPDY/3.1, also SPDY within WebSocket for port-forward.
//!
//! A transport ([`websocket`], [`spdy`]) turns frames into [`command::Input`] and [`command::Output`]; what is done
//! with them does not depend on the transport.
//!
//! Left out: port-forward over WebSocket channels (`v4.channel.k8s.io` with a `ports` query), which kubectl never used.

mod command;
mod fd;
mod portforward;
mod server;
mod spdy;
mod spdy_command;
mod spdy_dictionary;
mod websocket;

pub(crate) use server::{Session, StreamingServer};
