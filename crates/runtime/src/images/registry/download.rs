//! Large blobs as a verified stream that survives broken connections.

use bytes::Bytes;
use http::header::{CONTENT_RANGE, HeaderMap, HeaderValue, RANGE};
use http::{Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::sync::mpsc;

use super::http::chain;
use super::repository::Repository;
use crate::images::digest::Hasher;
use crate::images::error::ImageError;
use crate::images::spec::Descriptor;

/// What goes to the unpacking side. A stream that closes without [`Chunk::End`] is not to be trusted.
#[derive(Debug)]
pub(crate) enum Chunk {
    /// The next bytes.
    Data(Bytes),
    /// All bytes have been sent, and their size and digest are right.
    End,
}

/// A download on its way.
struct Transfer<'a> {
    descriptor: &'a Descriptor,
    what: String,
    offset: u64,
    hasher: Hasher,
}

impl Repository<'_> {
    /// Sends the blob to `sink`, verified. After a broken, silent or refused connection the download continues where it
    /// stopped; retries count only while nothing arrives in between. `Ok(false)` when the receiver has gone.
    pub(crate) async fn download(
        &self,
        descriptor: &Descriptor,
        sink: mpsc::Sender<Chunk>,
        mut progress: impl FnMut(u64),
    ) -> Result<bool, ImageError> {
        let mut transfer = Transfer {
            descriptor,
            what: format!("layer {}", descriptor.digest),
            offset: 0,
            hasher: Hasher::new(descriptor.digest.algorithm()),
        };
        let mut attempt = 0;
        while transfer.offset < descriptor.size {
            let before = transfer.offset;
            let result = self.continue_download(&mut transfer, &sink, &mut progress).await;
            if transfer.offset > before {
                attempt = 0;
            }
            match result {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(e) if e.is_retryable() && attempt < self.registry.max_retries => {
                    attempt += 1;
                    tracing::debug!(blob = %descriptor.digest, offset = transfer.offset, error = %e, "resuming");
                    self.registry.pause(attempt).await;
                }
                Err(ImageError::RegistryUnavailable(reason)) => {
                    return Err(ImageError::RegistryUnavailable(format!(
                        "{} ended after {} of {} bytes: {reason}",
                        transfer.what, transfer.offset, descriptor.size
                    )));
                }
                Err(e) => return Err(e),
            }
        }
        let actual = transfer.hasher.finish();
        if actual != descriptor.digest {
            let expected = descriptor.digest.clone();
            return Err(ImageError::DigestMismatch {
                what: transfer.what,
                expected,
                actual,
            });
        }
        Ok(sink.send(Chunk::End).await.is_ok())
    }

    async fn continue_download(
        &self,
        transfer: &mut Transfer<'_>,
        sink: &mpsc::Sender<Chunk>,
        progress: &mut impl FnMut(u64),
    ) -> Result<bool, ImageError> {
        let mut headers = HeaderMap::new();
        if transfer.offset > 0 {
            let range = HeaderValue::from_str(&format!("bytes={}-", transfer.offset))
                .expect("invariant: digits are a header value");
            headers.insert(RANGE, range);
        }
        let response = self
            .get(&format!("blobs/{}", transfer.descriptor.digest), &headers)
            .await?;
        // A server without ranges sends everything again: pass over what is there already.
        let mut skip = transfer.offset - start_of(&response, transfer.offset)?;
        let mut body = response.into_body();
        loop {
            let frame = match tokio::time::timeout(self.registry.timeout(), body.frame()).await {
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(e))) => {
                    return Err(ImageError::RegistryUnavailable(format!(
                        "connection broke: {}",
                        chain(&e)
                    )));
                }
                Ok(None) if transfer.offset < transfer.descriptor.size => {
                    return Err(ImageError::RegistryUnavailable(
                        "unexpected end of the answer".into(),
                    ));
                }
                Ok(None) => return Ok(true),
                Err(_) => return Err(ImageError::RegistryUnavailable("connection went silent".into())),
            };
            let Ok(mut data) = frame.into_data() else { continue };
            let skipped = usize::try_from(skip).unwrap_or(usize::MAX).min(data.len());
            skip -= skipped as u64;
            let data = data.split_off(skipped);
            if data.is_empty() {
                continue;
            }
            let total = transfer.offset + data.len() as u64;
            if total > transfer.descriptor.size {
                return Err(ImageError::SizeMismatch {
                    what: transfer.what.clone(),
                    expected: transfer.descriptor.size,
                    actual: total,
                });
            }
            transfer.hasher.update(&data);
            transfer.offset = total;
            progress(data.len() as u64);
            if sink.send(Chunk::Data(data)).await.is_err() {
                return Ok(false);
            }
        }
    }
}

/// The offset of the first byte of the answer's body.
fn start_of(response: &Response<Incoming>, wanted: u64) -> Result<u64, ImageError> {
    if response.status() != StatusCode::PARTIAL_CONTENT {
        return Ok(0);
    }
    let start = response
        .headers()
        .get(CONTENT_RANGE)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.strip_prefix("bytes "))
        .and_then(|v| v.split('-').next())
        .and_then(|v| v.trim().parse::<u64>().ok());
    match start {
        Some(start) if start <= wanted => Ok(start),
        other => Err(ImageError::RegistryUnavailable(format!(
            "asked for bytes from {wanted}, got {other:?}"
        ))),
    }
}
