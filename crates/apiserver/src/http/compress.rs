//! gzip of large answers.

use std::io::Write;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::HeaderMap;
use http::header::ACCEPT_ENCODING;

/// Smaller answers are not compressed, as upstream's threshold.
pub(crate) const THRESHOLD: usize = 128 << 10;

/// Compressed pieces have about this size.
const PIECE: usize = 16 << 10;

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

/// Pieces, compressed fast as they are asked for.
pub(crate) struct GzipChunks<I> {
    pieces: I,
    encoder: Option<GzEncoder<Vec<u8>>>,
}

impl<I> GzipChunks<I> {
    pub(crate) fn new(pieces: I) -> Self {
        let encoder = GzEncoder::new(Vec::new(), Compression::new(1));
        Self {
            pieces,
            encoder: Some(encoder),
        }
    }
}

impl<I: Iterator<Item = Bytes>> Iterator for GzipChunks<I> {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        loop {
            let encoder = self.encoder.as_mut()?;
            match self.pieces.next() {
                Some(piece) => {
                    encoder
                        .write_all(&piece)
                        .expect("invariant: writing to memory does not fail");
                    if encoder.get_ref().len() >= PIECE {
                        return Some(std::mem::take(encoder.get_mut()).into());
                    }
                }
                None => {
                    let last = self.encoder.take()?.finish();
                    return Some(last.expect("invariant: writing to memory does not fail").into());
                }
            }
        }
    }
}

/// The bytes, compressed fast.
pub(crate) fn gzip(bytes: &[u8]) -> std::io::Result<Bytes> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 4), Compression::new(1));
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?.into())
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn pieces_make_one_document() {
        let pieces: Vec<Bytes> = (0..200_u32)
            .map(|n| {
                Bytes::from(vec![
                    n.to_le_bytes()[0] ^ n.to_be_bytes()[3].rotate_left(3);
                    3000 + n as usize
                ])
            })
            .collect();
        let compressed: Vec<u8> = GzipChunks::new(pieces.clone().into_iter()).flatten().collect();
        let mut text = Vec::new();
        flate2::read::GzDecoder::new(&compressed[..])
            .read_to_end(&mut text)
            .unwrap();
        assert_eq!(text, pieces.concat());
        let empty: Vec<u8> = GzipChunks::new(std::iter::empty()).flatten().collect();
        assert_eq!(
            flate2::read::GzDecoder::new(&empty[..])
                .read_to_end(&mut text)
                .unwrap(),
            0
        );
    }
}
