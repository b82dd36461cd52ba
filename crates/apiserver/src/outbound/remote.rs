//! Webhooks that a kubeconfig file describes, as the API server's own webhooks of authentication and authorization are: the
//! cluster is the webhook, the user is this server.

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Method, Request, StatusCode};
use keelson_pki::{Certificate, Leaf, PrivateKey};
use serde_json::Value;
use url::Url;

use super::client::{Client, Place};
use super::tls::{TlsOptions, client_config};
use crate::admission::Connections;

/// Largest answer that is read.
const MAX_ANSWER: usize = 4 << 20;
/// Pause before the first repetition; each further one is half as long again.
const PAUSE: Duration = Duration::from_millis(500);
/// How often a question is asked at most.
const ATTEMPTS: usize = 5;

/// A webhook.
pub(crate) struct Remote {
    client: Client,
    url: String,
    path: String,
    credentials: Option<HeaderValue>,
}

/// A webhook could not be asked. The text is for people.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct AskError {
    message: String,
    /// It may go well another time.
    again: bool,
}

impl Remote {
    /// Reads a kubeconfig file; paths in it are relative to its directory.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub(crate) fn open(file: &Path, connections: &Connections) -> Result<Self, String> {
        let failed = |why: String| format!("{}: {why}", file.display());
        let text = std::fs::read_to_string(file).map_err(|e| failed(e.to_string()))?;
        let config: Value = serde_yaml_ng::from_str(&text).map_err(|e| failed(e.to_string()))?;
        let directory = file.parent().unwrap_or(Path::new("."));
        Self::of(&config, directory, connections).map_err(failed)
    }

    fn of(config: &Value, directory: &Path, connections: &Connections) -> Result<Self, String> {
        let entry = |list: &str, name: &str, field: &str| {
            let found = config[list].as_array().into_iter().flatten();
            let found = found
                .into_iter()
                .find(|e| e["name"] == name)
                .map(|e| e[field].clone());
            found.ok_or_else(|| format!("{field} {name:?} does not exist"))
        };
        let context = config["current-context"].as_str().unwrap_or_default();
        if context.is_empty() {
            return Err("current-context is not set".to_owned());
        }
        let context = entry("contexts", context, "context")?;
        let cluster = entry(
            "clusters",
            context["cluster"].as_str().unwrap_or_default(),
            "cluster",
        )?;
        let user = match context["user"].as_str().unwrap_or_default() {
            "" => Value::Null,
            name => entry("users", name, "user")?,
        };
        if !user["exec"].is_null() || !user["auth-provider"].is_null() {
            return Err(
                "exec and auth-provider are not supported here: use a certificate or a token".to_owned(),
            );
        }
        let data = |from: &Value, field: &str| data_of(from, field, directory);
        let certificate = data(&user, "client-certificate")?;
        let key = data(&user, "client-key")?;
        let identity = match (certificate, key) {
            (None, None) => None,
            (Some(certificate), Some(key)) => {
                let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
                Some(Leaf {
                    certificate: Certificate::from_pem(&text(certificate)).map_err(|e| e.to_string())?,
                    key: PrivateKey::from_pem(&text(key)).map_err(|e| e.to_string())?,
                })
            }
            _ => return Err("a client certificate needs its key, and a key its certificate".to_owned()),
        };
        let server = cluster["server"].as_str().unwrap_or_default();
        let url = Url::parse(server).map_err(|e| format!("server {server:?}: {e}"))?;
        if url.scheme() != "https" {
            return Err(format!("server {server:?}: only https is supported"));
        }
        let tls = client_config(&TlsOptions {
            ca_bundle: &data(&cluster, "certificate-authority")?.unwrap_or_default(),
            insecure: cluster["insecure-skip-tls-verify"] == true,
            identity: identity.as_ref(),
        })?;
        let host = url.host_str().unwrap_or_default();
        let port = url.port_or_known_default().unwrap_or(443);
        let place = Place::Host(host.trim_matches(['[', ']']).to_owned(), port);
        let name = cluster["tls-server-name"].as_str().unwrap_or(host);
        let client = Client::new(place, name, tls, &connections.tasks, &connections.shutdown)?;
        let path = match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        };
        Ok(Self {
            client,
            url: server.to_owned(),
            path,
            credentials: credentials(&user, directory)?,
        })
    }

    /// Sends a document and reads the answer; asks again after a pause when the webhook is overloaded or cannot be reached.
    /// `timeout` is for each attempt.
    pub(crate) async fn ask(&self, question: &Value, timeout: Duration) -> Result<Value, AskError> {
        let body = Bytes::from(question.to_string());
        let mut pause = PAUSE;
        for _ in 1..ATTEMPTS {
            match self.ask_once(body.clone(), timeout).await {
                Err(error) if error.again => tracing::debug!(%error, "a webhook is asked again"),
                answer => return answer,
            }
            // The pause of a retry: nobody announces when the other side is well again.
            tokio::time::sleep(pause).await;
            pause = pause * 3 / 2;
        }
        self.ask_once(body, timeout).await
    }

    async fn ask_once(&self, body: Bytes, timeout: Duration) -> Result<Value, AskError> {
        let failed = |why: &dyn std::fmt::Display, again: bool| AskError {
            message: format!("Post {:?}: {why}", self.url),
            again,
        };
        let mut request = Request::new(body);
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.client.uri(&self.path).map_err(|e| failed(&e, false))?;
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json, */*"));
        if let Some(credentials) = &self.credentials {
            headers.insert(AUTHORIZATION, credentials.clone());
        }
        let answer = match tokio::time::timeout(timeout, self.client.exchange(request, MAX_ANSWER)).await {
            Ok(Ok(answer)) => answer,
            // As upstream: a connection that was reset is worth another try, one that cannot be made is not.
            Ok(Err(error)) => return Err(failed(&error, error.to_string().contains("reset"))),
            Err(_) => return Err(failed(&"context deadline exceeded", false)),
        };
        let code = answer.status();
        if !code.is_success() {
            let again = matches!(
                code,
                StatusCode::INTERNAL_SERVER_ERROR
                    | StatusCode::TOO_MANY_REQUESTS
                    | StatusCode::GATEWAY_TIMEOUT
            ) || answer.headers().contains_key(RETRY_AFTER);
            let text: String = String::from_utf8_lossy(answer.body()).chars().take(512).collect();
            return Err(failed(&format!("{code}: {text}"), again));
        }
        serde_json::from_slice(answer.body()).map_err(|e| failed(&e, false))
    }
}

/// `<field>-data` in Base64, else the file that `<field>` names.
fn data_of(from: &Value, field: &str, directory: &Path) -> Result<Option<Vec<u8>>, String> {
    if let Some(encoded) = from[format!("{field}-data")].as_str().filter(|e| !e.is_empty()) {
        let decoded = STANDARD
            .decode(encoded)
            .map_err(|e| format!("{field}-data: {e}"))?;
        return Ok(Some(decoded));
    }
    match from[field].as_str().filter(|file| !file.is_empty()) {
        Some(file) => read(directory, file).map(Some),
        None => Ok(None),
    }
}

fn read(directory: &Path, file: &str) -> Result<Vec<u8>, String> {
    let path: PathBuf = directory.join(file);
    std::fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))
}

/// The `Authorization` header of the user.
fn credentials(user: &Value, directory: &Path) -> Result<Option<HeaderValue>, String> {
    let text = |field: &str| user[field].as_str().unwrap_or_default();
    let value = if !text("tokenFile").is_empty() {
        let token = read(directory, text("tokenFile"))?;
        format!("Bearer {}", String::from_utf8_lossy(&token).trim())
    } else if !text("token").is_empty() {
        format!("Bearer {}", text("token"))
    } else if !text("username").is_empty() {
        let pair = format!("{}:{}", text("username"), text("password"));
        format!("Basic {}", STANDARD.encode(pair))
    } else {
        return Ok(None);
    };
    let mut value = HeaderValue::from_str(&value).map_err(|e| e.to_string())?;
    value.set_sensitive(true);
    Ok(Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use tokio_util::sync::CancellationToken;
    use tokio_util::task::TaskTracker;

    fn config(cluster: Value, user: Value) -> Value {
        json!({"current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "a", "user": "b"}}],
            "clusters": [{"name": "a", "cluster": cluster}], "users": [{"name": "b", "user": user}]})
    }

    fn opened(config: &Value) -> Result<Remote, String> {
        let connections = Connections {
            tasks: TaskTracker::new(),
            shutdown: CancellationToken::new(),
        };
        Remote::of(config, Path::new("/proc/self"), &connections)
    }

    #[test]
    fn what_a_kubeconfig_says() {
        let insecure = |server: &str| json!({"server": server, "insecure-skip-tls-verify": true});
        let check = |cluster: Value, user: Value, wanted: &str| match opened(&config(cluster, user)) {
            Ok(_) => assert_eq!(wanted, ""),
            Err(error) => assert!(!wanted.is_empty() && error.contains(wanted), "{error}"),
        };
        let good = insecure("https://a:8443/review?x=y");
        check(good.clone(), json!({}), "");
        check(insecure("http://a"), json!({}), "only https is supported");
        check(insecure("nowhere"), json!({}), "server \"nowhere\"");
        check(
            good.clone(),
            json!({"exec": {}}),
            "exec and auth-provider are not supported here",
        );
        check(
            good.clone(),
            json!({"client-key-data": "AAAA"}),
            "needs its key, and a key its certificate",
        );
        check(good.clone(), json!({"client-key-data": "?"}), "client-key-data: ");
        check(
            good.clone(),
            json!({"tokenFile": "no/such/file"}),
            "/proc/self/no/such/file: No such file",
        );
        let bundle = json!({"server": "https://a", "certificate-authority-data": "AAAA"});
        check(bundle, json!({}), "no certificate in the bundle can be used");
        let mut contextless = config(good.clone(), json!({}));
        contextless["current-context"] = json!("");
        assert_eq!(opened(&contextless).err().unwrap(), "current-context is not set");
        contextless["current-context"] = json!("d");
        assert_eq!(
            opened(&contextless).err().unwrap(),
            "context \"d\" does not exist"
        );

        let of = |user: Value| opened(&config(good.clone(), user)).unwrap();
        let header = |remote: &Remote| {
            remote
                .credentials
                .as_ref()
                .map(|h| h.to_str().unwrap().to_owned())
        };
        assert_eq!(header(&of(json!({}))), None);
        assert_eq!(header(&of(json!({"token": "t"}))).unwrap(), "Bearer t");
        assert_eq!(
            header(&of(json!({"token": "t", "tokenFile": "comm"})))
                .unwrap()
                .split(' ')
                .next(),
            Some("Bearer")
        );
        assert_eq!(
            header(&of(json!({"username": "u", "password": "p"}))).unwrap(),
            "Basic dTpw"
        );
        assert_eq!(of(json!({})).path, "/review?x=y");
    }
}
