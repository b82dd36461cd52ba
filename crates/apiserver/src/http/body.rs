//! Bodies of requests and responses.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::Stream;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use keelson_api::status::Status;

/// What can end a body early.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// A response's body: bytes that are there, or a stream; with what lives as long as it.
#[derive(Default)]
pub struct Body(Kind, Option<Box<dyn std::any::Any + Send>>);

#[derive(Default)]
enum Kind {
    #[default]
    Empty,
    Full(Bytes),
    Chunks {
        chunks: Box<dyn Iterator<Item = Bytes> + Send>,
        /// Bytes that are still to come, where that is known.
        left: Option<u64>,
    },
    Stream(Pin<Box<dyn Stream<Item = Result<Bytes, BodyError>> + Send>>),
    Boxed(UnsyncBoxBody<Bytes, BodyError>),
}

impl Body {
    /// No body.
    pub fn empty() -> Self {
        Self(Kind::Empty, None)
    }

    /// A body that is made piece by piece while it is sent; `length` is the length of all pieces, where it is known.
    pub fn chunks(chunks: impl Iterator<Item = Bytes> + Send + 'static, length: Option<u64>) -> Self {
        let chunks = Box::new(chunks);
        Self(Kind::Chunks { chunks, left: length }, None)
    }

    /// A body that ends when the stream ends.
    pub fn stream(stream: impl Stream<Item = Result<Bytes, BodyError>> + Send + 'static) -> Self {
        Self(Kind::Stream(Box::pin(stream)), None)
    }

    /// Somebody else's body, passed on.
    pub fn boxed<B>(body: B) -> Self
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BodyError>,
    {
        Self(Kind::Boxed(body.map_err(Into::into).boxed_unsync()), None)
    }

    /// Keeps `guard` until the body has been sent or is given up.
    pub(crate) fn holding(mut self, guard: impl Send + 'static) -> Self {
        self.1 = Some(Box::new(guard));
        self
    }

    /// The bytes, when they are all there.
    pub fn bytes(&self) -> Option<&Bytes> {
        match &self.0 {
            Kind::Full(bytes) => Some(bytes),
            _ => None,
        }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        let kind = if bytes.is_empty() {
            Kind::Empty
        } else {
            Kind::Full(bytes)
        };
        Self(kind, None)
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Bytes::from(text).into()
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Bytes::from_static(text.as_bytes()).into()
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.0 {
            Kind::Empty => Poll::Ready(None),
            Kind::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                self.0 = Kind::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Kind::Chunks { chunks, left } => {
                let chunk = chunks.next();
                if let (Some(left), Some(chunk)) = (left, &chunk) {
                    *left = left.saturating_sub(chunk.len() as u64);
                }
                Poll::Ready(chunk.map(|chunk| Ok(Frame::data(chunk))))
            }
            Kind::Stream(stream) => stream
                .as_mut()
                .poll_next(cx)
                .map(|item| item.map(|result| result.map(Frame::data))),
            Kind::Boxed(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Empty => true,
            Kind::Chunks { left, .. } => *left == Some(0),
            Kind::Boxed(body) => body.is_end_stream(),
            _ => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Chunks { left: Some(left), .. } => SizeHint::with_exact(*left),
            Kind::Chunks { left: None, .. } | Kind::Stream(_) => SizeHint::default(),
            Kind::Boxed(body) => body.size_hint(),
        }
    }
}

/// A request's body.
pub enum RequestBody {
    /// From a connection.
    Incoming(Incoming),
    /// From inside the process.
    Local(UnsyncBoxBody<Bytes, BodyError>),
}

/// Largest body, as upstream's `MaxRequestBodyBytes`.
pub(crate) const MAX_BODY_BYTES: usize = 3 << 20;

impl RequestBody {
    /// A body from inside the process.
    pub fn local<B>(body: B) -> Self
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BodyError>,
    {
        Self::Local(body.map_err(Into::into).boxed_unsync())
    }

    /// As a boxed body, to pass on.
    pub fn into_boxed(self) -> UnsyncBoxBody<Bytes, BodyError> {
        match self {
            Self::Incoming(body) => body.map_err(Into::into).boxed_unsync(),
            Self::Local(body) => body,
        }
    }

    /// Reads it all, at most 3 MB.
    pub async fn read(self) -> Result<Bytes, Status> {
        match self {
            Self::Incoming(body) => read_all(body).await,
            Self::Local(body) => read_all(body).await,
        }
    }
}

async fn read_all<B>(mut body: B) -> Result<Bytes, Status>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let too_large = || Status::request_entity_too_large(format!("limit is {MAX_BODY_BYTES}"));
    let mut first = Bytes::new();
    let mut rest: Vec<u8> = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|e| Status::bad_request(format!("the request body could not be read: {e}")))?;
        let Ok(data) = frame.into_data() else { continue };
        if first.len() + rest.len() + data.len() > MAX_BODY_BYTES {
            return Err(too_large());
        }
        if first.is_empty() {
            first = data;
        } else {
            rest.extend_from_slice(&data);
        }
    }
    if rest.is_empty() {
        return Ok(first);
    }
    Ok([first.as_ref(), &rest].concat().into())
}
