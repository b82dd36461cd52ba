//! SPDY/3.1 framing, the server's side, as far as Kubernetes clients use it: streams opened by the client, data, resets
//! and pings. Flow control is not enforced, as in the library that kubectl uses; writes wait for the connection.

use std::collections::HashMap;
use std::io;

use bytes::Bytes;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use super::spdy_dictionary::dictionary;

/// Larger frames end the connection, bytes.
const MAX_FRAME: usize = 1 << 20;
/// Larger sets of headers, decompressed, end the connection, bytes.
const MAX_HEADERS: usize = 64 << 10;
/// Data is sent in frames of at most this size, bytes.
const MAX_DATA: usize = 32 << 10;
const VERSION: u16 = 3;
const FLAG_FIN: u8 = 1;

/// What the client sends.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// It opens a stream with these headers (lower-case names).
    Stream(u32, HashMap<String, String>),
    /// Data on a stream.
    Data(u32, Bytes),
    /// The client's side of a stream ends.
    Fin(u32),
    /// A stream is given up.
    Reset(u32),
    /// An answer is wanted.
    Ping(u32),
    /// The connection is about to end.
    GoAway,
    /// Nothing to act on.
    Ignored,
}

/// What is sent to the client.
#[derive(Debug)]
pub(super) enum Frame {
    /// Accepts a stream.
    Reply(u32),
    /// Data on a stream.
    Data(u32, Bytes),
    /// Our side of a stream ends.
    Fin(u32),
    /// Answers a ping.
    Pong(u32),
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("SPDY: {what}"))
}

fn number(bytes: &[u8], at: usize) -> io::Result<u32> {
    let slice = bytes.get(at..at + 4).ok_or_else(|| invalid("short frame"))?;
    Ok(u32::from_be_bytes([slice[0], slice[1], slice[2], slice[3]]))
}

/// Reads frames.
pub(super) struct Reader<R> {
    source: R,
    headers: Decompress,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub(super) fn new(source: R) -> Self {
        Self {
            source,
            headers: Decompress::new(true),
        }
    }

    /// The next event, or two for data with an end. None at the end of the connection.
    ///
    /// # Errors
    /// When the connection fails or the peer does not speak SPDY.
    pub(super) async fn next(&mut self) -> io::Result<Option<Vec<Event>>> {
        let mut head = [0; 8];
        match self.source.read_exact(&mut head).await {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        }
        let (flags, length) = (head[4], (number(&head, 4)? & 0x00ff_ffff) as usize);
        if length > MAX_FRAME {
            return Err(invalid("frame too large"));
        }
        let mut body = vec![0; length];
        self.source.read_exact(&mut body).await?;
        let mut events = Vec::with_capacity(2);
        if head[0] & 0x80 == 0 {
            let id = number(&head, 0)?;
            if !body.is_empty() {
                events.push(Event::Data(id, body.into()));
            }
            if flags & FLAG_FIN != 0 {
                events.push(Event::Fin(id));
            }
            return Ok(Some(events));
        }
        if u16::from_be_bytes([head[0] & 0x7f, head[1]]) != VERSION {
            return Err(invalid("unknown version"));
        }
        match u16::from_be_bytes([head[2], head[3]]) {
            1 => {
                let id = number(&body, 0)? & 0x7fff_ffff;
                let block = body.get(10..).ok_or_else(|| invalid("short SYN_STREAM"))?;
                events.push(Event::Stream(id, self.decode_headers(block)?));
                if flags & FLAG_FIN != 0 {
                    events.push(Event::Fin(id));
                }
            }
            3 => events.push(Event::Reset(number(&body, 0)? & 0x7fff_ffff)),
            6 => events.push(Event::Ping(number(&body, 0)?)),
            7 => events.push(Event::GoAway),
            8 => {
                // Headers that come later carry nothing for us, but the compression has a state.
                let block = body.get(4..).ok_or_else(|| invalid("short HEADERS"))?;
                self.decode_headers(block)?;
            }
            // Replies, settings and windows.
            _ => events.push(Event::Ignored),
        }
        Ok(Some(events))
    }

    fn decode_headers(&mut self, mut input: &[u8]) -> io::Result<HashMap<String, String>> {
        let mut plain = Vec::with_capacity(4096);
        while !input.is_empty() {
            if plain.len() == plain.capacity() {
                if plain.len() >= MAX_HEADERS {
                    return Err(invalid("headers too large"));
                }
                plain.reserve(plain.len());
            }
            let before = self.headers.total_in();
            let outcome = self
                .headers
                .decompress_vec(input, &mut plain, FlushDecompress::Sync);
            let used = usize::try_from(self.headers.total_in() - before).unwrap_or_default();
            input = &input[used.min(input.len())..];
            match outcome {
                Ok(Status::StreamEnd) => break,
                Ok(Status::BufError) if plain.len() < plain.capacity() => break,
                Ok(_) => {}
                Err(error) if error.needs_dictionary().is_some() => {
                    self.headers
                        .set_dictionary(&dictionary())
                        .map_err(|_| invalid("unknown dictionary for headers"))?;
                }
                Err(_) => return Err(invalid("headers cannot be decompressed")),
            }
        }
        parse_headers(&plain)
    }
}

fn parse_headers(plain: &[u8]) -> io::Result<HashMap<String, String>> {
    let mut at = 4;
    let mut headers = HashMap::new();
    let text = |at: &mut usize| -> io::Result<String> {
        let length = number(plain, *at)? as usize;
        let bytes = plain
            .get(*at + 4..*at + 4 + length)
            .ok_or_else(|| invalid("short headers"))?;
        *at += 4 + length;
        Ok(String::from_utf8_lossy(bytes).into_owned())
    };
    for _ in 0..number(plain, 0)? {
        let name = text(&mut at)?.to_ascii_lowercase();
        let value = text(&mut at)?;
        headers.insert(name, value);
    }
    Ok(headers)
}

/// Writes frames until the channel ends, then says goodbye and closes.
///
/// # Errors
/// When the connection fails.
pub(super) async fn write<W: AsyncWrite + Unpin>(
    mut sink: W,
    mut frames: mpsc::Receiver<Frame>,
) -> io::Result<()> {
    let mut compress = Compress::new(Compression::fast(), true);
    compress
        .set_dictionary(&dictionary())
        .map_err(|_| invalid("dictionary"))?;
    let mut last = 0;
    while let Some(frame) = frames.recv().await {
        match frame {
            Frame::Reply(id) => {
                last = last.max(id);
                // No headers: a count of zero.
                let mut block = Vec::with_capacity(64);
                compress
                    .compress_vec(&0u32.to_be_bytes(), &mut block, FlushCompress::Sync)
                    .map_err(|_| invalid("headers"))?;
                let mut body = id.to_be_bytes().to_vec();
                body.extend_from_slice(&block);
                control(&mut sink, 2, 0, &body).await?;
            }
            Frame::Data(id, bytes) => {
                for chunk in bytes.chunks(MAX_DATA) {
                    data(&mut sink, id, 0, chunk).await?;
                }
            }
            Frame::Fin(id) => data(&mut sink, id, FLAG_FIN, &[]).await?,
            Frame::Pong(id) => control(&mut sink, 6, 0, &id.to_be_bytes()).await?,
        }
        if frames.is_empty() {
            sink.flush().await?;
        }
    }
    let mut goodbye = last.to_be_bytes().to_vec();
    goodbye.extend_from_slice(&0u32.to_be_bytes());
    control(&mut sink, 7, 0, &goodbye).await?;
    sink.flush().await?;
    sink.shutdown().await
}

async fn control<W: AsyncWrite + Unpin>(sink: &mut W, kind: u16, flags: u8, body: &[u8]) -> io::Result<()> {
    let mut frame = Vec::with_capacity(body.len() + 8);
    frame.extend_from_slice(&(VERSION | 0x8000).to_be_bytes());
    frame.extend_from_slice(&kind.to_be_bytes());
    frame.push(flags);
    frame.extend_from_slice(&u32::try_from(body.len()).unwrap_or_default().to_be_bytes()[1..]);
    frame.extend_from_slice(body);
    sink.write_all(&frame).await
}

async fn data<W: AsyncWrite + Unpin>(sink: &mut W, id: u32, flags: u8, body: &[u8]) -> io::Result<()> {
    let mut head = [0; 8];
    head[..4].copy_from_slice(&id.to_be_bytes());
    head[4..].copy_from_slice(&u32::try_from(body.len()).unwrap_or_default().to_be_bytes());
    head[4] = flags;
    sink.write_all(&head).await?;
    sink.write_all(body).await
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A SYN_STREAM as a client makes it.
    fn syn_stream(compress: &mut Compress, id: u32, headers: &[(&str, &str)]) -> Vec<u8> {
        let mut plain = u32::try_from(headers.len()).unwrap().to_be_bytes().to_vec();
        for (name, value) in headers {
            for text in [name, value] {
                plain.extend_from_slice(&u32::try_from(text.len()).unwrap().to_be_bytes());
                plain.extend_from_slice(text.as_bytes());
            }
        }
        let mut block = Vec::with_capacity(4096);
        compress
            .compress_vec(&plain, &mut block, FlushCompress::Sync)
            .unwrap();
        let mut body = id.to_be_bytes().to_vec();
        body.extend_from_slice(&[0; 6]);
        body.extend_from_slice(&block);
        let mut frame = vec![0x80, 3, 0, 1, 0];
        frame.extend_from_slice(&u32::try_from(body.len()).unwrap().to_be_bytes()[1..]);
        frame.extend_from_slice(&body);
        frame
    }

    #[tokio::test]
    async fn frames_are_read() {
        let mut compress = Compress::new(Compression::default(), true);
        compress.set_dictionary(&dictionary()).unwrap();
        let mut wire = syn_stream(&mut compress, 1, &[("Streamtype", "error"), ("port", "80")]);
        wire.extend(syn_stream(&mut compress, 3, &[("streamtype", "data")]));
        wire.extend([0, 0, 0, 3, 1, 0, 0, 2, b'h', b'i']);
        wire.extend([0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 9]);
        let mut reader = Reader::new(&wire[..]);
        let map = |list: &[(&str, &str)]| {
            list.iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect()
        };
        for expected in [
            vec![Event::Stream(1, map(&[("streamtype", "error"), ("port", "80")]))],
            vec![Event::Stream(3, map(&[("streamtype", "data")]))],
            vec![Event::Data(3, Bytes::from_static(b"hi")), Event::Fin(3)],
            vec![Event::Ping(9)],
        ] {
            assert_eq!(reader.next().await.unwrap(), Some(expected));
        }
        assert_eq!(reader.next().await.unwrap(), None);
        assert!(Reader::new(&b"GET / HTTP/1.1\r\n\r\n"[..]).next().await.is_err());
    }

    #[tokio::test]
    async fn frames_are_written() {
        let (sender, frames) = mpsc::channel(8);
        sender.send(Frame::Reply(1)).await.unwrap();
        sender
            .send(Frame::Data(1, Bytes::from_static(b"out")))
            .await
            .unwrap();
        sender.send(Frame::Fin(1)).await.unwrap();
        drop(sender);
        let mut wire = Vec::new();
        write(&mut wire, frames).await.unwrap();
        assert_eq!(wire[..4], [0x80, 3, 0, 2]);
        let length = usize::from(wire[7]);
        let rest = &wire[8 + length..];
        assert_eq!(
            rest[..19],
            [0, 0, 0, 1, 0, 0, 0, 3, b'o', b'u', b't', 0, 0, 0, 1, 1, 0, 0, 0]
        );
        assert_eq!(rest[19..23], [0x80, 3, 0, 7]);
    }
}
