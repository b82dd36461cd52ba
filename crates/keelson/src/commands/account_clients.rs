//! Clients that act as service accounts of `kube-system`: `--use-service-account-credentials`.
//!
//! Tokens come from the TokenRequest API, are renewed when a fifth of their life is left, and thrown away when the server
//! refuses one. The account is made when it is missing. The kubeconfig's own credentials serve for these two alone.

use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Result;
use http::header::{AUTHORIZATION, HeaderValue};
use http::{Request, Response, StatusCode};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{ObjectMeta, PostParams};
use kube::client::{Body, ClientBuilder};
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use kube::{Api, Client};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tower::{BoxError, Layer, Service};

/// Life of a token, as upstream asks for.
const LIFETIME: Duration = Duration::from_secs(3600);

/// Makes clients, one per account.
pub(crate) struct AccountClients {
    accounts: Api<ServiceAccount>,
    /// The server, without credentials.
    server: kube::Config,
}

impl AccountClients {
    /// `client` and `kubeconfig` are of the same identity.
    pub(crate) async fn new(client: Client, kubeconfig: &Path) -> Result<Self> {
        let file = Kubeconfig::read_from(kubeconfig)?;
        let mut server = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
        server.auth_info = AuthInfo::default();
        // A watch is quiet for minutes; the watcher has its own limits.
        server.read_timeout = None;
        server.write_timeout = None;
        // Found now, not when the first controller asks.
        ClientBuilder::try_from(server.clone())?;
        Ok(Self {
            accounts: Api::namespaced(client, "kube-system"),
            server,
        })
    }

    /// A client of the account of that name.
    pub(crate) fn client(&self, account: &str) -> Client {
        let token = Arc::new(Token {
            accounts: self.accounts.clone(),
            name: account.to_owned(),
            current: Mutex::new(None),
        });
        let builder = ClientBuilder::try_from(self.server.clone())
            .expect("invariant: a client was made of this configuration before");
        let agent = keelson_client::user_agent_layer("kube-controller-manager");
        builder.with_layer(&AsAccount(token)).with_layer(&agent).build()
    }
}

/// The token of one account.
struct Token {
    accounts: Api<ServiceAccount>,
    name: String,
    /// Header and when to get another one.
    current: Mutex<Option<(HeaderValue, Instant)>>,
}

impl Token {
    /// The header, from a new token if need be. Others who ask meanwhile wait for the same one.
    async fn header(&self) -> Result<HeaderValue, BoxError> {
        let mut current = self.current.lock().await;
        if let Some((header, renew)) = current.as_ref()
            && Instant::now() < *renew
        {
            return Ok(header.clone());
        }
        let token = match self.request().await {
            Err(kube::Error::Api(status)) if status.is_not_found() => {
                self.create_account().await?;
                self.request().await?
            }
            other => other?,
        };
        let without = "the server answered a TokenRequest without a token";
        let status = token.status.ok_or(without)?;
        let mut header = HeaderValue::try_from(format!("Bearer {}", status.token.ok_or(without)?))?;
        header.set_sensitive(true);
        let end = status.expiration_timestamp.ok_or(without)?.0;
        let left = end.as_second() - jiff::Timestamp::now().as_second();
        let left = Duration::from_secs(u64::try_from(left).unwrap_or(0));
        *current = Some((header.clone(), Instant::now() + left * 4 / 5));
        Ok(header)
    }

    async fn request(&self) -> Result<TokenRequest, kube::Error> {
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                expiration_seconds: i64::try_from(LIFETIME.as_secs()).ok(),
                ..TokenRequestSpec::default()
            }),
            ..TokenRequest::default()
        };
        self.accounts
            .create_token_request(&self.name, &PostParams::default(), &request)
            .await
    }

    async fn create_account(&self) -> Result<(), kube::Error> {
        let account = ServiceAccount {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                ..ObjectMeta::default()
            },
            ..ServiceAccount::default()
        };
        match self.accounts.create(&PostParams::default(), &account).await {
            Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
            other => other.map(drop),
        }
    }

    /// Forgets the token if it is still the one that was refused.
    async fn refused(&self, header: &HeaderValue) {
        self.current
            .lock()
            .await
            .take_if(|(current, _)| current == header);
    }
}

/// Puts the token on every request.
struct AsAccount(Arc<Token>);

impl<S> Layer<S> for AsAccount {
    type Service = WithToken<S>;

    fn layer(&self, inner: S) -> WithToken<S> {
        WithToken {
            inner: Arc::new(Mutex::new(inner)),
            token: self.0.clone(),
        }
    }
}

/// [`AsAccount`] around a transport.
struct WithToken<S> {
    inner: Arc<Mutex<S>>,
    token: Arc<Token>,
}

impl<S, B> Service<Request<Body>> for WithToken<S>
where
    S: Service<Request<Body>, Response = Response<B>, Error = BoxError> + Send + 'static,
    S::Future: Send + 'static,
    B: Send + 'static,
{
    type Response = Response<B>;
    type Error = BoxError;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Response<B>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let (inner, token) = (self.inner.clone(), self.token.clone());
        Box::pin(async move {
            let header = token.header().await?;
            request.headers_mut().insert(AUTHORIZATION, header.clone());
            // The transport is held only until the request is on its way.
            let response = {
                let mut transport = inner.lock().await;
                std::future::poll_fn(|context| transport.poll_ready(context)).await?;
                transport.call(request)
            };
            let response = response.await?;
            if response.status() == StatusCode::UNAUTHORIZED {
                token.refused(&header).await;
            }
            Ok(response)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex as SyncMutex;

    use http::Method;
    use serde_json::{Value, json};
    use tower::{ServiceExt, service_fn};

    use super::*;

    /// A server that has no account at first and numbers its tokens; and what it was asked.
    fn server(lifetime: i64) -> (Client, Arc<SyncMutex<Vec<String>>>) {
        let asked = Arc::new(SyncMutex::new(Vec::new()));
        let log = asked.clone();
        let service = service_fn(move |request: Request<Body>| {
            let mut log = log.lock().unwrap();
            log.push(format!(
                "{} {}",
                request.method(),
                request.uri().path().rsplit('/').next().unwrap()
            ));
            let created = log.iter().any(|line| line == "POST serviceaccounts");
            let tokens = log.iter().filter(|line| *line == "POST token").count();
            let end = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(lifetime);
            let status = json!({"token": format!("t{tokens}"), "expirationTimestamp": end});
            let (code, body): (u16, Value) = match (
                request.method(),
                request.uri().path().ends_with("/token"),
            ) {
                (&Method::POST, true) if created => {
                    (201, json!({"spec": {"audiences": []}, "status": status}))
                }
                (&Method::POST, true) => (
                    404,
                    json!({"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404, "message": ""}),
                ),
                _ => (
                    201,
                    json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "a"}}),
                ),
            };
            let body = Body::from(body.to_string().into_bytes());
            let response = Response::builder().status(code).body(body).unwrap();
            async move { Ok::<_, BoxError>(response) }
        });
        (Client::new(service, "default"), asked)
    }

    fn token(client: Client) -> AsAccount {
        let accounts = Api::namespaced(client, "kube-system");
        AsAccount(Arc::new(Token {
            accounts,
            name: "a".into(),
            current: Mutex::new(None),
        }))
    }

    /// The headers of three requests; the transport answers them with `codes`.
    async fn headers(account: &AsAccount, codes: [u16; 3]) -> Vec<String> {
        let seen = Arc::new(SyncMutex::new(Vec::new()));
        let log = seen.clone();
        let transport = service_fn(move |request: Request<Body>| {
            let mut log = log.lock().unwrap();
            let header = request.headers()[AUTHORIZATION].to_str().unwrap().to_owned();
            let response = Response::builder()
                .status(codes[log.len()])
                .body(Body::empty())
                .unwrap();
            log.push(header);
            async move { Ok::<_, BoxError>(response) }
        });
        let mut service = account.layer(transport);
        for _ in codes {
            service
                .ready()
                .await
                .unwrap()
                .call(Request::new(Body::empty()))
                .await
                .unwrap();
        }
        let seen = seen.lock().unwrap();
        seen.clone()
    }

    #[tokio::test]
    async fn a_token_is_kept_until_it_is_refused() {
        let (client, asked) = server(3600);
        let seen = headers(&token(client), [200, 401, 200]).await;
        assert_eq!(seen, ["Bearer t2", "Bearer t2", "Bearer t3"]);
        assert_eq!(
            *asked.lock().unwrap(),
            ["POST token", "POST serviceaccounts", "POST token", "POST token"]
        );
    }

    #[tokio::test]
    async fn a_token_at_its_end_is_renewed() {
        let (client, _) = server(0);
        let seen = headers(&token(client), [200, 200, 200]).await;
        assert_eq!(seen, ["Bearer t2", "Bearer t3", "Bearer t4"]);
    }
}
