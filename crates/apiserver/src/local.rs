//! The in-memory transport: a `tower::Service` into the same dispatcher, without TCP or TLS.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};

use crate::endpoints::dispatch;
use crate::http::{Body, BodyError, Connection, RequestBody};
use crate::server::Inner;
use crate::user::UserInfo;

/// Requests made by one identity inside the process. Authorization and admission run as on the wire. Upgrades (exec,
/// attach, port-forward) are answered with 400: they need a connection.
#[derive(Clone)]
pub struct LocalService {
    pub(crate) server: Arc<Inner>,
    pub(crate) connection: Arc<Connection>,
}

impl LocalService {
    pub(crate) fn new(server: Arc<Inner>, user: UserInfo) -> Self {
        let connection = Connection {
            local_user: Some(Arc::new(user)),
            ..Connection::default()
        };
        Self {
            server,
            connection: Arc::new(connection),
        }
    }
}

impl<B> tower::Service<Request<B>> for LocalService
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BodyError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (server, connection) = (self.server.clone(), self.connection.clone());
        let (parts, body) = request.into_parts();
        let body = RequestBody::local(body);
        Box::pin(async move { Ok(dispatch(&server, parts, body, &connection).await) })
    }
}
