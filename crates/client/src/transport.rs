//! Where requests go: over HTTPS as a kubeconfig says, or straight into an API server in the same process.

use std::path::Path;

use http::header::{HeaderValue, USER_AGENT};
use http::{Request, Response};
use kube::Client;
use kube::client::{Body, ClientBuilder};
use kube::config::{KubeConfigOptions, Kubeconfig};
use tower::util::{MapRequest, MapRequestLayer};
use tower::{BoxError, Service};

/// The version of Kubernetes that the parts are.
const KUBERNETES: &str = "v1.36.0";

/// What a component calls itself, in upstream's form. What stands before the first slash is the manager that
/// `managedFields` name.
fn user_agent(component: &str) -> HeaderValue {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let text = format!(
        "{component}/{KUBERNETES} ({}/{arch}) keelson/{}",
        std::env::consts::OS,
        env!("CARGO_PKG_VERSION")
    );
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("keelson"))
}

/// Adds a user agent to requests that have none.
fn naming(component: &str) -> impl Fn(Request<Body>) -> Request<Body> + Clone + use<> {
    let agent = user_agent(component);
    move |mut request| {
        request
            .headers_mut()
            .entry(USER_AGENT)
            .or_insert_with(|| agent.clone());
        request
    }
}

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

/// Lets a component say who it is on requests that do not say so yet.
pub fn user_agent_layer(
    component: &str,
) -> MapRequestLayer<impl Fn(Request<Body>) -> Request<Body> + Clone + use<>> {
    MapRequestLayer::new(naming(component))
}

/// A client for the current context of the kubeconfig at `path`, for a component with upstream's name, e.g. `kubelet`.
pub async fn client_from_kubeconfig(path: &Path, component: &str) -> Result<Client, Error> {
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
    let builder = ClientBuilder::try_from(config).map_err(|source| Error::Client {
        path: shown.clone(),
        source: Box::new(source),
    })?;
    Ok(builder.with_layer(&user_agent_layer(component)).build())
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

/// As [`client_from_service`], for a component with upstream's name, e.g. `kube-scheduler`.
pub fn component_client<S, B>(service: S, component: &str) -> Client
where
    S: Service<Request<Body>, Response = Response<B>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    client_from_service(MapRequest::new(service, naming(component)))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::{Arc, Mutex};

    use super::*;

    /// The user agents of two requests, of which the second has one already.
    async fn agents(component: &str) -> Vec<String> {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let agent = request.headers()[USER_AGENT].to_str().expect("text").to_owned();
            log.lock().expect("no panic").push(agent);
            async move { Ok::<_, Infallible>(Response::new(http_body_util::Empty::<bytes::Bytes>::new())) }
        });
        let client = component_client(service, component);
        for agent in [None, Some("mine/1")] {
            let mut request = Request::get("/");
            if let Some(agent) = agent {
                request = request.header(USER_AGENT, agent);
            }
            let request = request.body(Body::empty()).expect("a valid request");
            client.send(request).await.expect("an answer");
        }
        let seen = seen.lock().expect("no panic");
        seen.clone()
    }

    #[tokio::test]
    async fn components_say_who_they_are() {
        let seen = agents("kubelet").await;
        assert!(seen[0].starts_with("kubelet/v1.36.0 (linux/"), "{seen:?}");
        assert_eq!(seen[1], "mine/1");
    }
}
