//! The store of a running cluster, through the server process' control socket: a snapshot as a file, written while it is
//! sent. One that is cut off is noticed by its own checksum.

use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use keelson_store::Store;
use keelson_store::snapshot::Snapshot;
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use crate::control::{self, Body, Error, broken, error_text, stream_body};

/// Where the socket has it.
pub(crate) const PATH: &str = "/store/snapshot";
/// Bytes that are sent at a time.
const CHUNK: usize = 256 << 10;

/// Takes a snapshot and sends it.
pub(crate) async fn answer(store: Arc<dyn Store>, tasks: &TaskTracker) -> Response<Body> {
    let snapshot = match Snapshot::take(store.as_ref()).await {
        Ok(snapshot) => snapshot,
        Err(error) => {
            let mut response = Response::new(Full::from(error_text(&error)).boxed());
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            return response;
        }
    };
    let (sender, receiver) = mpsc::channel(4);
    tasks.spawn_blocking(move || {
        let out = BufWriter::with_capacity(CHUNK, Sending(sender));
        if let Err(error) = snapshot.write_to(out) {
            tracing::warn!(%error, "a backup was not sent to its end");
        }
    });
    Response::new(stream_body(receiver))
}

/// Gives bytes to the connection; an error when it is gone.
struct Sending(mpsc::Sender<Bytes>);

impl Write for Sending {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.blocking_send(Bytes::copy_from_slice(bytes)) {
            Ok(()) => Ok(bytes.len()),
            Err(_) => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Asks the server process behind `socket` for a snapshot and writes it to `file`. Whether it is whole is for its reader to
/// tell.
pub(super) async fn fetch(socket: &Path, file: &Path) -> Result<(), super::Error> {
    let (mut sender, connection) = control::connect(socket).await?;
    let empty = Full::new(Bytes::new()).map_err(|never| match never {}).boxed();
    let request = Request::get(PATH)
        .header("host", "keelson")
        .body(empty)
        .map_err(broken)?;
    let response = sender.send_request(request).await.map_err(broken)?;
    let (status, mut body) = (response.status(), response.into_body());
    if status != StatusCode::OK {
        let text = body.collect().await.map_err(broken)?.to_bytes();
        let text = match text.is_empty() {
            true => format!("the server answered {status}"),
            false => String::from_utf8_lossy(&text).into_owned(),
        };
        return Err(Error::Refused(text).into());
    }
    let failed = |source| super::error::io("write", file)(source);
    let mut out = tokio::fs::File::from_std(super::take::create(file)?);
    while let Some(frame) = body.frame().await {
        let data = frame.map_err(broken)?.into_data().unwrap_or_default();
        out.write_all(&data).await.map_err(failed)?;
    }
    out.flush().await.map_err(failed)?;
    drop(sender);
    // It has nothing more to say.
    connection.abort();
    Ok(())
}
