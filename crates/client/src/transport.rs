//! Where requests go: over HTTPS as a kubeconfig says, or straight into an API server in the same process.

use std::path::Path;

use http::{Request, Response};
use kube::Client;
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use tower::{BoxError, Service};

/// A client could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kubeconfig is not readable or not valid.
    #[error("cannot read kubeconfig {path}")]
    Kubeconfig {
        /// The file.
        path: String,
        /// The cause.
        #[source]
        source: kube::config::KubeconfigError,
    },
    /// The kubeconfig does not make a working client.
    #[error("cannot make a client of kubeconfig {path}")]
    Client {
        /// The file.
        path: String,
        /// The cause.
        #[source]
        source: Box<kube::Error>,
    },
}

/// A client for the current context of the kubeconfig at `path`.
pub async fn client_from_kubeconfig(path: &Path) -> Result<Client, Error> {
    let shown = path.display().to_string();
    let read = |source| Error::Kubeconfig {
        path: shown.clone(),
        source,
    };
    let kubeconfig = Kubeconfig::read_from(path).map_err(read)?;
    let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(read)?;
    // A watch is quiet for minutes; the watcher has its own limits.
    config.read_timeout = None;
    config.write_timeout = None;
    Client::try_from(config).map_err(|source| Error::Client {
        path: shown.clone(),
        source: Box::new(source),
    })
}

/// A client over a service in this process, e.g. the API server's router with a fixed identity.
pub fn client_from_service<S, B>(service: S) -> Client
where
    S: Service<Request<Body>, Response = Response<B>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    Client::new(service, "default")
}
