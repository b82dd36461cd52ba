//! Where etcd is.

use std::path::PathBuf;
use std::time::Duration;

use etcd_client::{Certificate, ConnectOptions, Identity, TlsOptions};

use crate::Error;

/// Which etcd, and how to reach it.
#[derive(Clone, Debug)]
pub struct EtcdOptions {
    /// URLs of the members' client ports, e.g. `https://10.0.0.1:2379`. At least one.
    pub endpoints: Vec<String>,
    /// For `https` endpoints.
    pub tls: Option<EtcdTls>,
    /// How long a request may take, repetitions included.
    pub timeout: Duration,
}

/// Files in PEM form by which the two sides know each other.
#[derive(Clone, Debug)]
pub struct EtcdTls {
    /// The authority of the members' certificates.
    pub ca_file: PathBuf,
    /// Our certificate and its key, where etcd asks for one.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl EtcdOptions {
    /// These endpoints, without TLS, with ten seconds of patience.
    pub fn new(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            tls: None,
            timeout: Duration::from_secs(10),
        }
    }

    /// What the client library takes. Reads the files; `Error::Unusable` names one that cannot be read.
    pub(super) async fn connect_options(&self) -> Result<ConnectOptions, Error> {
        let mut options = ConnectOptions::new()
            .with_connect_timeout(Duration::from_secs(2))
            .with_keep_alive(Duration::from_secs(10), Duration::from_secs(5))
            .with_keep_alive_while_idle(true)
            .with_require_leader(true);
        if let Some(tls) = &self.tls {
            let mut config =
                TlsOptions::new().ca_certificate(Certificate::from_pem(read(&tls.ca_file).await?));
            if let Some((certificate, key)) = &tls.identity {
                config = config.identity(Identity::from_pem(read(certificate).await?, read(key).await?));
            }
            options = options.with_tls(config);
        }
        Ok(options)
    }
}

async fn read(path: &PathBuf) -> Result<Vec<u8>, Error> {
    tokio::fs::read(path).await.map_err(|error| Error::Unusable {
        path: path.display().to_string(),
        problem: format!("cannot be read: {error}; it is named by the options for etcd"),
    })
}
