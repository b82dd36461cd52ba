//! What the child processes do: the server under test and the bare limits.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use keelson_apiserver::{ApiServer, ApiServerConfig, CertificateAndKey, ServiceAccountConfig};
use keelson_pki::tls::ServingCertificate;
use keelson_pki::{ClusterNames, Identity, Pki};
use keelson_store::embedded::{EmbeddedStore, Options};
use keelson_store::{Precondition, Store};
use tokio::io::AsyncReadExt;

use crate::Result;

const LOOPBACK: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// The keys of a run; made by whoever comes first.
pub(crate) fn pki(directory: &Path) -> Result<Pki> {
    Ok(Pki::ensure(
        &directory.join("pki"),
        &ClusterNames::default(),
        jiff::Timestamp::now(),
    )?)
}

/// Returns when the parent closes our standard input.
async fn parent_gone() {
    let mut byte = [0u8; 1];
    // An error is an end as well.
    let _end = tokio::io::stdin().read(&mut byte).await;
}

/// The API server, until standard input ends. Says `ready ADDRESS`.
pub(crate) async fn api(directory: &Path) -> Result<()> {
    let pki = pki(directory)?;
    let store = EmbeddedStore::open(directory.join("store"), Options::default())?;
    let leaf = pki.leaf(Identity::Apiserver);
    let serving = CertificateAndKey {
        certificate_pem: leaf.certificate.to_pem().into_bytes(),
        key_pem: leaf.key.to_pem().into_bytes(),
    };
    let ca = pki.ca.certificate().to_pem().into_bytes();
    let mut config = ApiServerConfig::new(store.clone(), serving, ca);
    config.bind_address = LOOPBACK;
    config.service_account = ServiceAccountConfig {
        signing_key_pem: pki.service_account_key.to_pem().into_bytes(),
        issuer: "https://kubernetes.default.svc.cluster.local".to_owned(),
        ..ServiceAccountConfig::default()
    };
    let server = ApiServer::start(config).await?;
    println!("ready {}", server.local_addr());
    parent_gone().await;
    server.shutdown().await;
    store.close().await;
    Ok(())
}

/// The least that HTTP over TLS costs: every request is answered with the same 4 KB.
pub(crate) async fn bare(directory: &Path) -> Result<()> {
    let pki = pki(directory)?;
    let certificate = ServingCertificate::new(pki.leaf(Identity::Apiserver))?;
    let config = keelson_pki::tls::server_config(certificate, &[])?;
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind(LOOPBACK).await?;
    println!("ready {}", listener.local_addr()?);
    let body = Bytes::from(vec![b'x'; 4096]);
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let stream = tokio::select! {
            () = parent_gone() => break,
            accepted = listener.accept() => accepted?.0,
        };
        stream.set_nodelay(true)?;
        let (acceptor, body) = (acceptor.clone(), body.clone());
        connections.spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else {
                return;
            };
            let service = service_fn(move |_request| {
                let body = body.clone();
                async move { Ok::<_, Infallible>(http::Response::new(Full::new(body))) }
            });
            let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            // A client that goes away is no error here.
            let _end = builder.serve_connection(TokioIo::new(stream), service).await;
        });
    }
    connections.shutdown().await;
    Ok(())
}

/// Durable writes of 1.3 KB by 64 tasks, without HTTP. Says `ready WRITES_PER_SECOND P99_MICROSECONDS`.
pub(crate) async fn store(directory: &Path, length: Duration) -> Result<()> {
    let store = EmbeddedStore::open(directory.join("limit-store"), Options::default())?;
    let value = Bytes::from(vec![b'v'; 1300]);
    let next = Arc::new(AtomicU64::new(0));
    let started = Instant::now();
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let (store, value, next) = (store.clone(), value.clone(), next.clone());
        writers.spawn(async move {
            let mut latencies = Vec::new();
            while started.elapsed() < length {
                let key = format!("/registry/bench/{}", next.fetch_add(1, Ordering::Relaxed));
                let begin = Instant::now();
                store
                    .put(key.into(), value.clone(), Precondition::Absent, None)
                    .await?;
                latencies.push(begin.elapsed());
            }
            Ok::<_, keelson_store::Error>(latencies)
        });
    }
    let mut all = Vec::new();
    while let Some(latencies) = writers.join_next().await {
        all.extend(latencies??);
    }
    let seconds = started.elapsed().as_secs_f64();
    all.sort_unstable();
    let p99 = all[all.len() * 99 / 100].as_micros();
    println!("ready {:.0} {p99}", all.len() as f64 / seconds);
    store.close().await;
    Ok(())
}
