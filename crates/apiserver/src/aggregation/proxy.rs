//! Passing requests on.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONNECTION, HOST, HeaderName, HeaderValue, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, Request, Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use keelson_api::status::Status;
use tower::ServiceExt;

use super::view::{Destination, Entry, LocalApi, Remote};
use crate::endpoints::{strip_hop_by_hop, tunnel};
use crate::http::{Body, RequestBody, text_response};
use crate::server::Inner;
use crate::user::UserInfo;

/// A request that has been authenticated and authorized.
pub(crate) struct Forwarded<'a> {
    pub(crate) user: &'a UserInfo,
    pub(crate) parts: &'a Parts,
    pub(crate) body: RequestBody,
    pub(crate) upgrade: Option<OnUpgrade>,
    pub(crate) remote: Option<SocketAddr>,
}

/// Answers a request for an API that is served elsewhere; `None` when the registry serves it.
pub(crate) async fn serve(
    server: &Arc<Inner>,
    entry: &Entry,
    request: Forwarded<'_>,
) -> Result<Response<Body>, Status> {
    match &entry.destination {
        Destination::Here => Err(Status::path_not_found()),
        Destination::Local(api) => local(api, request).await,
        Destination::Remote(remote) => forward(server, remote, request).await,
    }
}

async fn local(api: &LocalApi, request: Forwarded<'_>) -> Result<Response<Body>, Status> {
    let mut inner = Request::new(request.body.read().await?);
    *inner.method_mut() = request.parts.method.clone();
    *inner.uri_mut() = request.parts.uri.clone();
    *inner.headers_mut() = request.parts.headers.clone();
    let response = match api.service.clone().oneshot(inner).await {
        Ok(response) => response,
        Err(never) => match never {},
    };
    Ok(response.map(|bytes: Bytes| Body::from(bytes)))
}

async fn forward(
    server: &Arc<Inner>,
    remote: &Remote,
    request: Forwarded<'_>,
) -> Result<Response<Body>, Status> {
    let unavailable = |text: &str| {
        Ok(text_response(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("{text}\n"),
        ))
    };
    if !remote.available {
        return unavailable("service unavailable");
    }
    let client = match &remote.client {
        Ok(client) => client,
        Err(error) => {
            return Ok(text_response(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("{error}\n"),
            ));
        }
    };
    let path = request.parts.uri.path_and_query().map_or("/", |p| p.as_str());
    let uri = match client.uri(path) {
        Ok(uri) => uri,
        Err(error) => return Err(Status::bad_request(error.to_string())),
    };
    let upgrades = request.parts.headers.contains_key(UPGRADE);
    if upgrades && request.upgrade.is_none() {
        return Err(Status::bad_request("Upgrade request required"));
    }
    let mut outgoing = Request::new(request.body.into_boxed());
    *outgoing.method_mut() = request.parts.method.clone();
    *outgoing.uri_mut() = uri;
    *outgoing.headers_mut() = headers(&request.parts.headers, request.user, request.remote, upgrades)?;
    let mut response = match client.send(outgoing).await {
        Ok(response) => response,
        Err(error) => {
            return unavailable(&format!("error trying to reach service: {error}"));
        }
    };
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let (Some(client), true) = (request.upgrade, upgrades) else {
            return Err(Status::internal(
                "the server answered with an upgrade nobody asked for",
            ));
        };
        let other = hyper::upgrade::on(&mut response);
        let shutdown = server.shutdown.clone();
        server.streams.spawn(async move {
            tokio::select! {
                () = tunnel(client, other) => {}
                () = shutdown.cancelled() => {}
            }
        });
        let (parts, _) = response.into_parts();
        return Ok(Response::from_parts(parts, Body::empty()));
    }
    let (mut parts, body) = response.into_parts();
    strip_hop_by_hop(&mut parts.headers);
    Ok(Response::from_parts(parts, Body::boxed(body)))
}

/// The request's headers with the user's identity instead of credentials.
fn headers(
    given: &HeaderMap,
    user: &UserInfo,
    remote: Option<SocketAddr>,
    upgrades: bool,
) -> Result<HeaderMap, Status> {
    let mut headers = HeaderMap::with_capacity(given.len() + 8);
    for (name, value) in given {
        let text = name.as_str();
        if text.starts_with("x-remote-") || text.starts_with("impersonate-") {
            continue;
        }
        headers.append(name.clone(), value.clone());
    }
    strip_hop_by_hop(&mut headers);
    headers.remove(AUTHORIZATION);
    headers.remove(HOST);
    if upgrades {
        for name in [CONNECTION, UPGRADE] {
            if let Some(value) = given.get(&name) {
                headers.insert(name, value.clone());
            }
        }
    }
    if let Some(remote) = remote
        && let Ok(value) = HeaderValue::from_str(&remote.ip().to_string())
    {
        headers.append("x-forwarded-for", value);
    }
    identify(&mut headers, user)?;
    Ok(headers)
}

/// Adds `X-Remote-User` and what belongs to it.
pub(super) fn identify(headers: &mut HeaderMap, user: &UserInfo) -> Result<(), Status> {
    let value = |text: &str| HeaderValue::from_bytes(text.as_bytes()).map_err(Status::internal);
    headers.insert("x-remote-user", value(&user.name)?);
    if !user.uid.is_empty() {
        headers.insert("x-remote-uid", value(&user.uid)?);
    }
    for group in &user.groups {
        headers.append("x-remote-group", value(group)?);
    }
    for (key, values) in &user.extra {
        let name = format!("x-remote-extra-{}", escape_key(key));
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(Status::internal)?;
        for text in values {
            headers.append(name.clone(), value(text)?);
        }
    }
    Ok(())
}

/// Keys of extra information become names of headers: everything else is percent-encoded, as upstream's
/// `headerKeyEscape` does.
fn escape_key(key: &str) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(key.len());
    for byte in key.bytes() {
        if byte.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            write!(out, "%{byte:02X}").expect("invariant: writing to a String cannot fail");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_travel_in_headers() {
        let mut given = HeaderMap::new();
        for (name, value) in [
            ("authorization", "Bearer x"),
            ("x-remote-user", "root"),
            ("x-remote-group", "system:masters"),
            ("impersonate-user", "x"),
            ("accept", "a"),
            ("connection", "keep-alive"),
        ] {
            given.insert(name, HeaderValue::from_static(value));
        }
        let mut user = UserInfo::new("jane", &["dev"]);
        user.extra
            .insert("example.org/a%b".to_owned(), vec!["1".to_owned(), "2".to_owned()]);
        let out = headers(&given, &user, Some(([10, 0, 0, 1], 5).into()), false).unwrap();
        let all =
            |name: &str| -> Vec<&str> { out.get_all(name).iter().map(|v| v.to_str().unwrap()).collect() };
        assert_eq!(all("x-remote-user"), ["jane"]);
        assert_eq!(all("x-remote-group"), ["dev", "system:authenticated"]);
        assert_eq!(all("x-remote-extra-example.org%2fa%25b"), ["1", "2"]);
        assert_eq!(all("x-forwarded-for"), ["10.0.0.1"]);
        assert_eq!(all("accept"), ["a"]);
        for gone in ["authorization", "impersonate-user", "connection"] {
            assert!(all(gone).is_empty(), "{gone}");
        }
    }
}
