//! CRI on a unix socket, for `crictl` and other clients.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use keelson_cri::v1::image_service_server::ImageServiceServer;
use keelson_cri::v1::runtime_service_server::RuntimeServiceServer;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;

use crate::runtime::Runtime;

/// The largest message; the limit of CRI clients.
const MAX_MESSAGE: usize = 16 << 20;

/// Why CRI could not be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The socket cannot be used.
    #[error("cannot listen on the CRI socket")]
    Listen(#[from] io::Error),
    /// Serving ended with an error.
    #[error("serving CRI")]
    Serve(#[from] tonic::transport::Error),
}

/// Serves both CRI services on a socket that only root may use, until `shutdown`. A socket file that is there already
/// is replaced.
///
/// # Errors
/// When the socket cannot be made.
pub async fn serve(runtime: Runtime, socket: &Path, shutdown: CancellationToken) -> Result<(), ServeError> {
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let listener = UnixListener::bind(socket)?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o660))?;
    tonic::transport::Server::builder()
        .add_service(
            RuntimeServiceServer::new(runtime.clone())
                .max_decoding_message_size(MAX_MESSAGE)
                .max_encoding_message_size(MAX_MESSAGE),
        )
        .add_service(ImageServiceServer::new(runtime).max_encoding_message_size(MAX_MESSAGE))
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), shutdown.cancelled_owned())
        .await?;
    Ok(())
}
