//! gzip of large answers.

use std::io::Write;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::HeaderMap;
use http::header::ACCEPT_ENCODING;

/// Smaller answers are not compressed, as upstream's threshold.
pub(crate) const THRESHOLD: usize = 128 << 10;

/// Whether the client takes gzip.
pub(crate) fn accepts_gzip(headers: &HeaderMap) -> bool {
    let accept = headers
        .get(ACCEPT_ENCODING)
        .and_then(|a| a.to_str().ok())
        .unwrap_or("");
    accept
        .split(',')
        .any(|e| e.trim().split(';').next() == Some("gzip"))
}

/// The bytes, compressed fast.
pub(crate) fn gzip(bytes: &[u8]) -> std::io::Result<Bytes> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 4), Compression::new(1));
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?.into())
}
