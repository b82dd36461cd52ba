//! Accepting connections: TLS with optional client certificates, HTTP/1.1 and HTTP/2.

use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::{auth, router};
use crate::kubelet::Kubelet;

/// A client that does not finish its handshake is let go.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// The server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is taken or not this machine's.
    #[error("cannot listen on {address}")]
    Bind {
        /// Address and port.
        address: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The client CAs are not usable.
    #[error("the client CA certificates are not usable: {0}")]
    ClientCa(String),
    /// TLS is not usable.
    #[error("TLS cannot be set up")]
    Tls(#[from] rustls::Error),
}

/// A bound server.
pub(crate) struct Bound {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

/// Binds the port of the configuration.
pub(crate) async fn bind(kubelet: &Kubelet) -> Result<Bound, Error> {
    let config = kubelet
        .config
        .server
        .as_ref()
        .ok_or_else(|| Error::ClientCa("no server is configured".into()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?;
    let builder = if config.client_ca.is_empty() {
        builder.with_no_client_auth()
    } else {
        let mut roots = RootCertStore::empty();
        for certificate in &config.client_ca {
            roots
                .add(certificate.clone())
                .map_err(|error| Error::ClientCa(error.to_string()))?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .allow_unauthenticated()
            .build()
            .map_err(|error| Error::ClientCa(error.to_string()))?;
        builder.with_client_cert_verifier(verifier)
    };
    let mut tls = builder.with_cert_resolver(config.certificate.clone());
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let address = (config.address, config.port);
    let listener = TcpListener::bind(address).await.map_err(|source| Error::Bind {
        address: format!("{}:{}", address.0, address.1),
        source,
    })?;
    Ok(Bound {
        listener,
        acceptor: TlsAcceptor::from(Arc::new(tls)),
    })
}

/// Serves until shutdown.
pub(crate) async fn serve(kubelet: Arc<Kubelet>, bound: Bound) {
    let authenticator = Arc::new(auth::Authenticator::default());
    loop {
        let accepted = tokio::select! {
            () = kubelet.shutdown.cancelled() => return,
            accepted = bound.listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let connection = connection(
                    kubelet.clone(),
                    bound.acceptor.clone(),
                    authenticator.clone(),
                    stream,
                );
                kubelet.tracker.spawn(connection);
            }
            Err(error) => {
                // Out of file descriptors, most likely: give others time to close theirs.
                tracing::warn!(%error, "connection not accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(
    kubelet: Arc<Kubelet>,
    acceptor: TlsAcceptor,
    authenticator: Arc<auth::Authenticator>,
    stream: TcpStream,
) {
    let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await else {
        return;
    };
    let peer = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|chain| chain.first())
        .and_then(auth::User::of_certificate);
    let shutdown = kubelet.shutdown.clone();
    let service = service_fn(move |request| {
        let (kubelet, authenticator, peer) = (kubelet.clone(), authenticator.clone(), peer.clone());
        async move {
            Ok::<_, std::convert::Infallible>(router::handle(&kubelet, &authenticator, peer, request).await)
        }
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    let serving = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::select! {
        () = shutdown.cancelled() => {}
        result = serving => if let Err(error) = result {
            tracing::debug!(error, "connection ended");
        }
    }
}
