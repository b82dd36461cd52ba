//! The handle to a container runtime: the same CRI v1 client over a unix socket or straight into services in this process.

use std::path::PathBuf;

use hyper_util::rt::TokioIo;
use keelson_cri::v1 as cri;
use keelson_cri::v1::image_service_client::ImageServiceClient;
use keelson_cri::v1::image_service_server::{ImageService, ImageServiceServer};
use keelson_cri::v1::runtime_service_client::RuntimeServiceClient;
use keelson_cri::v1::runtime_service_server::{RuntimeService, RuntimeServiceServer};
use tonic::body::Body;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::ServiceExt;
use tower::util::BoxCloneSyncService;

/// Longest message from a runtime, as upstream's client has it.
const MAX_MESSAGE: usize = 16 << 20;

type Transport = BoxCloneSyncService<http::Request<Body>, http::Response<Body>, tonic::Status>;

/// No connection to the runtime can be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The endpoint is neither a path nor a `unix://` URL.
    #[error("container runtime endpoint {0:?} is not a unix socket (unix:///path/to/socket)")]
    Endpoint(String),
}

/// A broken connection is an answer like any other: the runtime is unavailable.
fn unreachable(error: tonic::transport::Error) -> tonic::Status {
    let cause = std::error::Error::source(&error)
        .map(|cause| format!(": {cause}"))
        .unwrap_or_default();
    tonic::Status::unavailable(format!("connection error: {error}{cause}"))
}

/// A container runtime. Clones share the connection.
#[derive(Clone)]
pub struct Cri {
    runtime: RuntimeServiceClient<Transport>,
    image: ImageServiceClient<Transport>,
    endpoint: String,
}

impl std::fmt::Debug for Cri {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cri")
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

impl Cri {
    /// A runtime in this process. Requests pass through memory; nothing listens anywhere.
    pub fn in_process(runtime: impl RuntimeService, image: impl ImageService) -> Self {
        let runtime = RuntimeServiceServer::new(runtime).max_decoding_message_size(MAX_MESSAGE);
        let image = ImageServiceServer::new(image).max_decoding_message_size(MAX_MESSAGE);
        let runtime = ServiceExt::<http::Request<Body>>::map_err(runtime, |never| match never {});
        let image = ServiceExt::<http::Request<Body>>::map_err(image, |never| match never {});
        Self::over(
            BoxCloneSyncService::new(runtime),
            BoxCloneSyncService::new(image),
            "in-process".into(),
        )
    }

    /// A runtime behind a unix socket, given as `unix:///path` or `/path`. Connects at the first call and again when the
    /// connection breaks. Must be called within a tokio runtime.
    pub fn connect(endpoint: &str) -> Result<Self, Error> {
        let path = endpoint.strip_prefix("unix://").unwrap_or(endpoint);
        if !path.starts_with('/') {
            return Err(Error::Endpoint(endpoint.to_owned()));
        }
        let path = PathBuf::from(path);
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { tokio::net::UnixStream::connect(path).await.map(TokioIo::new) }
        });
        let channel: Channel =
            Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector);
        let transport = BoxCloneSyncService::new(channel.map_err(unreachable));
        Ok(Self::over(transport.clone(), transport, endpoint.to_owned()))
    }

    fn over(runtime: Transport, image: Transport, endpoint: String) -> Self {
        Self {
            runtime: RuntimeServiceClient::new(runtime).max_decoding_message_size(MAX_MESSAGE),
            image: ImageServiceClient::new(image).max_decoding_message_size(MAX_MESSAGE),
            endpoint,
        }
    }

    /// A client of the runtime service, to call one method on.
    #[must_use]
    pub fn runtime(&self) -> RuntimeServiceClient<Transport> {
        self.runtime.clone()
    }

    /// A client of the image service, to call one method on.
    #[must_use]
    pub fn image(&self) -> ImageServiceClient<Transport> {
        self.image.clone()
    }

    /// Where the runtime is, for messages.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The first condition of the runtime that is not met, as `(type, reason, message)`; `None` when all are.
    pub async fn not_ready(&self) -> Result<Option<(String, String, String)>, tonic::Status> {
        let response = self
            .runtime()
            .status(cri::StatusRequest { verbose: false })
            .await?
            .into_inner();
        let conditions = response
            .status
            .map(|status| status.conditions)
            .unwrap_or_default();
        let unmet = conditions.into_iter().find(|condition| !condition.status);
        Ok(unmet.map(|condition| (condition.r#type, condition.reason, condition.message)))
    }
}
