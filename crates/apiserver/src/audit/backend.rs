//! Where events go.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{Method, Request};
use jiff::{SignedDuration, Timestamp};
use keelson_pki::{Certificate, Leaf, PrivateKey};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use url::Url;

use super::policy::AuditPolicy;
use crate::outbound::{Client, Place, TlsOptions, client_config};

/// Events that may wait for a backend.
const QUEUE: usize = 1000;
/// Largest batch that goes to a webhook at once, as `--audit-webhook-batch-max-size`.
const BATCH: usize = 400;
/// So long an attempt to reach a webhook may take.
const SEND: Duration = Duration::from_secs(30);
/// Attempts, and the pause before the second one; each further one is half as long again.
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_secs(1);
const MEGABYTE: u64 = 1024 * 1024;

/// What is recorded, and where.
#[derive(Clone)]
pub struct AuditConfig {
    /// `--audit-policy-file`
    pub policy: AuditPolicy,
    /// `--audit-log-*`
    pub log: Option<AuditLog>,
    /// `--audit-webhook-*`
    pub webhook: Option<AuditWebhook>,
}

/// A log file of JSON lines.
#[derive(Clone, Debug)]
pub struct AuditLog {
    /// The file.
    pub path: PathBuf,
    /// Megabytes before the file is put aside; 0 is never.
    pub max_size: u64,
    /// How many files put aside are kept; 0 is all.
    pub max_backups: usize,
    /// Days that they are kept; 0 is for ever.
    pub max_age: u32,
}

/// A webhook that takes lists of events.
#[derive(Clone, Default)]
pub struct AuditWebhook {
    /// `https` address.
    pub url: String,
    /// Authorities of the server (PEM); the machine's own when empty.
    pub ca_pem: Vec<u8>,
    /// Certificate and key that the client shows, both PEM.
    pub identity: Option<crate::config::CertificateAndKey>,
    /// Bearer token.
    pub token: Option<String>,
}

/// The backends cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The log file.
    #[error("the audit log {path} cannot be opened: {source}", path = path.display())]
    Log {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The webhook.
    #[error("the audit webhook cannot be used: {0}")]
    Webhook(String),
}

/// Takes events.
pub(crate) struct Audit {
    policy: AuditPolicy,
    backends: Vec<mpsc::Sender<Arc<Value>>>,
    running: Mutex<Vec<JoinHandle<()>>>,
    /// Ends the backends once their queues are empty.
    stop: CancellationToken,
    /// Ends their connections.
    disconnect: CancellationToken,
    tasks: TaskTracker,
}

/// The next event; `None` when the backend is to end and there is none left.
async fn next(events: &mut mpsc::Receiver<Arc<Value>>, stop: &CancellationToken) -> Option<Arc<Value>> {
    tokio::select! {
        biased;
        event = events.recv() => event,
        () = stop.cancelled() => events.try_recv().ok(),
    }
}

impl Audit {
    /// Opens the backends; they run until [`Self::close`].
    pub(crate) async fn open(config: AuditConfig) -> Result<Self, AuditError> {
        let (stop, disconnect) = (CancellationToken::new(), CancellationToken::new());
        let (mut backends, mut running) = (Vec::new(), Vec::new());
        let tasks = TaskTracker::new();
        if let Some(log) = config.log {
            let writer = LogWriter::open(log).await?;
            let (sender, receiver) = mpsc::channel(QUEUE);
            running.push(tokio::spawn(writer.run(receiver, stop.clone())));
            backends.push(sender);
        }
        if let Some(webhook) = config.webhook {
            let webhook = Webhook::new(&webhook, &tasks, &disconnect).map_err(AuditError::Webhook)?;
            let (sender, receiver) = mpsc::channel(QUEUE);
            running.push(tokio::spawn(webhook.run(receiver, stop.clone())));
            backends.push(sender);
        }
        Ok(Self {
            policy: config.policy,
            backends,
            running: Mutex::new(running),
            stop,
            disconnect,
            tasks,
        })
    }

    /// Delivers what waits and ends the backends.
    pub(crate) async fn close(&self) {
        self.stop.cancel();
        let running = std::mem::take(&mut *self.running.lock());
        for task in running {
            if let Err(error) = task.await {
                tracing::error!(%error, "an audit backend failed");
            }
        }
        self.disconnect.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    pub(super) fn policy(&self) -> &AuditPolicy {
        &self.policy
    }

    /// Hands an event to all backends; waits while their queues are full.
    pub(super) async fn send(&self, event: Value) {
        let event = Arc::new(event);
        for backend in &self.backends {
            if backend.send(event.clone()).await.is_err() {
                tracing::error!("an audit event is lost: its backend has ended");
            }
        }
    }

    /// As [`Self::send`], from where nobody can wait.
    pub(super) fn send_later(&self, event: Value) {
        let event = Arc::new(event);
        for backend in &self.backends {
            if let Err(mpsc::error::TrySendError::Full(event)) = backend.try_send(event.clone()) {
                let backend = backend.clone();
                self.tasks.spawn(async move {
                    if backend.send(event).await.is_err() {
                        tracing::error!("an audit event is lost: its backend has ended");
                    }
                });
            }
        }
    }
}

struct LogWriter {
    config: AuditLog,
    file: tokio::io::BufWriter<tokio::fs::File>,
    size: u64,
}

impl LogWriter {
    async fn open(config: AuditLog) -> Result<Self, AuditError> {
        let (file, size) = open(&config.path).await.map_err(|source| AuditError::Log {
            path: config.path.clone(),
            source,
        })?;
        Ok(Self { config, file, size })
    }

    async fn run(mut self, mut events: mpsc::Receiver<Arc<Value>>, stop: CancellationToken) {
        while let Some(event) = next(&mut events, &stop).await {
            let mut batch = vec![event];
            while let Ok(more) = events.try_recv() {
                batch.push(more);
            }
            if let Err(error) = self.write(&batch).await {
                tracing::error!(%error, lost = batch.len(), path = %self.config.path.display(), "the audit log cannot be written");
            }
        }
    }

    async fn write(&mut self, events: &[Arc<Value>]) -> std::io::Result<()> {
        for event in events {
            let mut line = event.to_string();
            line.push('\n');
            let length = line.len() as u64;
            if self.config.max_size > 0
                && self.size > 0
                && self.size + length > self.config.max_size * MEGABYTE
            {
                self.rotate().await?;
            }
            self.file.write_all(line.as_bytes()).await?;
            self.size += length;
        }
        self.file.flush().await
    }

    /// Puts the file aside under the time's name and begins a new one.
    async fn rotate(&mut self) -> std::io::Result<()> {
        self.file.flush().await?;
        let path = &self.config.path;
        let (stem, extension) = parts(path);
        let now = Timestamp::now().strftime("%Y-%m-%dT%H-%M-%S%.3f").to_string();
        tokio::fs::rename(path, path.with_file_name(format!("{stem}-{now}{extension}"))).await?;
        (self.file, self.size) = open(path).await?;
        self.clean().await
    }

    /// Removes files that are too old or too many.
    async fn clean(&self) -> std::io::Result<()> {
        let path = &self.config.path;
        let (stem, extension) = parts(path);
        let directory = path
            .parent()
            .filter(|p| !p.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        let mut old = Vec::new();
        let mut entries = tokio::fs::read_dir(directory).await?;
        while let Some(entry) = entries.next_entry().await? {
            let name = entry.file_name().to_string_lossy().into_owned();
            let time = name
                .strip_prefix(&format!("{stem}-"))
                .and_then(|n| n.strip_suffix(&extension));
            if time.is_some_and(|t| t.len() == 23 && t.as_bytes()[10] == b'T') {
                old.push(name);
            }
        }
        old.sort();
        let age = SignedDuration::from_hours(24 * i64::from(self.config.max_age));
        let oldest = Timestamp::now()
            .checked_sub(age)
            .unwrap_or(Timestamp::MIN)
            .strftime("%Y-%m-%dT%H-%M-%S%.3f")
            .to_string();
        let oldest = format!("{stem}-{oldest}{extension}");
        let many = match self.config.max_backups {
            0 => 0,
            most => old.len().saturating_sub(most),
        };
        for (at, name) in old.iter().enumerate() {
            if at < many || (self.config.max_age > 0 && *name < oldest) {
                tokio::fs::remove_file(directory.join(name)).await?;
            }
        }
        Ok(())
    }
}

/// The name without its extension, and the extension with its dot.
fn parts(path: &Path) -> (String, String) {
    let text = |part: Option<&std::ffi::OsStr>| part.map(|p| p.to_string_lossy().into_owned());
    let extension = text(path.extension()).map(|e| format!(".{e}"));
    (
        text(path.file_stem()).unwrap_or_default(),
        extension.unwrap_or_default(),
    )
}

async fn open(path: &Path) -> std::io::Result<(tokio::io::BufWriter<tokio::fs::File>, u64)> {
    let file = tokio::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
        .await?;
    let size = file.metadata().await?.len();
    Ok((tokio::io::BufWriter::new(file), size))
}

struct Webhook {
    client: Client,
    path: String,
    token: Option<HeaderValue>,
}

impl Webhook {
    fn new(
        config: &AuditWebhook,
        tasks: &TaskTracker,
        connections: &CancellationToken,
    ) -> Result<Self, String> {
        let url = Url::parse(&config.url).map_err(|e| format!("{:?}: {e}", config.url))?;
        if url.scheme() != "https" {
            return Err(format!("{:?}: only https is supported", config.url));
        }
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let identity = config.identity.as_ref().map(|files| {
            Ok::<_, keelson_pki::Error>(Leaf {
                certificate: Certificate::from_pem(&text(&files.certificate_pem))?,
                key: PrivateKey::from_pem(&text(&files.key_pem))?,
            })
        });
        let identity = identity.transpose().map_err(|e| e.to_string())?;
        let tls = client_config(&TlsOptions {
            ca_bundle: &config.ca_pem,
            insecure: false,
            identity: identity.as_ref(),
        })?;
        let host = url.host_str().unwrap_or_default();
        let bare = host.trim_matches(['[', ']']).to_owned();
        let place = Place::Host(bare, url.port_or_known_default().unwrap_or(443));
        let token = config
            .token
            .as_ref()
            .map(|t| HeaderValue::from_str(&format!("Bearer {t}")));
        Ok(Self {
            client: Client::new(place, host, tls, tasks, connections)?,
            path: url.path().to_owned(),
            token: token.transpose().map_err(|e| e.to_string())?,
        })
    }

    async fn run(self, mut events: mpsc::Receiver<Arc<Value>>, stop: CancellationToken) {
        while let Some(event) = next(&mut events, &stop).await {
            // What waits goes together; nothing waits for more to come.
            let mut batch = vec![event];
            while batch.len() < BATCH
                && let Ok(more) = events.try_recv()
            {
                batch.push(more);
            }
            let list =
                json!({"kind": "EventList", "apiVersion": "audit.k8s.io/v1", "metadata": {}, "items": batch});
            let body = Bytes::from(list.to_string());
            let mut pause = PAUSE;
            for attempt in 1..=ATTEMPTS {
                match tokio::time::timeout(SEND, self.send(body.clone())).await {
                    Ok(Ok(())) => break,
                    Ok(Err(error)) if attempt == ATTEMPTS => {
                        tracing::error!(
                            error,
                            lost = batch.len(),
                            "the audit webhook does not take events"
                        );
                    }
                    Err(_) if attempt == ATTEMPTS => {
                        tracing::error!(lost = batch.len(), "the audit webhook does not answer");
                    }
                    // The pause of a retry: nobody announces when the other side is well again.
                    _ => tokio::time::sleep(pause).await,
                }
                pause = pause * 3 / 2;
            }
        }
    }

    async fn send(&self, body: Bytes) -> Result<(), String> {
        let mut request = Request::new(body);
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.client.uri(&self.path).map_err(|e| e.to_string())?;
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(token) = &self.token {
            headers.insert(AUTHORIZATION, token.clone());
        }
        let answer = self
            .client
            .exchange(request, 1 << 20)
            .await
            .map_err(|e| e.to_string())?;
        match answer.status().is_success() {
            true => Ok(()),
            false => Err(format!("it answers {}", answer.status())),
        }
    }
}
