//! What is written about sandboxes and containers, and read again after a restart.
//!
//! `<root>/sandboxes/<id>/sandbox.json` and `<root>/containers/<id>/container.json`, replaced by rename. CRI messages
//! are kept in their protobuf encoding. Nothing is synced: a power cut ends the containers too.

use std::io;
use std::net::IpAddr;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keelson_cri::v1;
use prost::Message;
use serde::{Deserialize, Serialize};

use crate::protocol::write_atomically;

/// Name of a sandbox's record.
pub(crate) const SANDBOX_FILE: &str = "sandbox.json";
/// Name of a container's record.
pub(crate) const CONTAINER_FILE: &str = "container.json";

/// A sandbox as it is written.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SandboxRecord {
    pub(crate) id: String,
    /// Nanoseconds since the epoch.
    pub(crate) created_at: i64,
    pub(crate) runtime_handler: String,
    pub(crate) ips: Vec<IpAddr>,
    /// Creation was completed.
    pub(crate) ready: bool,
    /// `StopPodSandbox` has been asked for.
    pub(crate) stopped: bool,
    /// `PodSandboxConfig`.
    config: String,
}

impl SandboxRecord {
    pub(crate) fn new(
        id: &str,
        created_at: i64,
        runtime_handler: &str,
        config: &v1::PodSandboxConfig,
    ) -> Self {
        Self {
            id: id.to_owned(),
            created_at,
            runtime_handler: runtime_handler.to_owned(),
            ips: Vec::new(),
            ready: false,
            stopped: false,
            config: encode(config),
        }
    }

    pub(crate) fn config(&self) -> io::Result<v1::PodSandboxConfig> {
        decode(&self.config)
    }

    pub(crate) fn write(&self, directory: &Path) -> io::Result<()> {
        write_atomically(&directory.join(SANDBOX_FILE), &serde_json::to_vec(self)?)
    }

    pub(crate) fn read(directory: &Path) -> io::Result<Self> {
        Ok(serde_json::from_slice(&std::fs::read(
            directory.join(SANDBOX_FILE),
        )?)?)
    }
}

/// A container as it is written.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    pub(crate) id: String,
    pub(crate) sandbox_id: String,
    /// Nanoseconds since the epoch.
    pub(crate) created_at: i64,
    /// What the status reports.
    pub(crate) image_ref: String,
    /// The image's first tag when the container was made; empty when it had none.
    #[serde(default)]
    pub(crate) image_tag: String,
    /// Id of the image.
    pub(crate) image_id: String,
    /// User and groups that it runs as.
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) stop_signal: i32,
    /// Ids of the writable layers of its image volumes.
    pub(crate) image_volumes: Vec<String>,
    /// Group, below the mount points.
    pub(crate) cgroup: std::path::PathBuf,
    /// `StartContainer` has been asked for.
    pub(crate) started: bool,
    /// Why starting failed.
    pub(crate) start_error: Option<String>,
    /// Set when the failure was seen: nanoseconds since the epoch.
    pub(crate) failed_at: i64,
    /// `ContainerConfig`, with the resources as last updated.
    config: String,
}

impl ContainerRecord {
    pub(crate) fn new(id: &str, sandbox_id: &str, created_at: i64, config: &v1::ContainerConfig) -> Self {
        Self {
            id: id.to_owned(),
            sandbox_id: sandbox_id.to_owned(),
            created_at,
            image_ref: String::new(),
            image_tag: String::new(),
            image_id: String::new(),
            uid: 0,
            gid: 0,
            groups: Vec::new(),
            stop_signal: nix::libc::SIGTERM,
            image_volumes: Vec::new(),
            cgroup: std::path::PathBuf::new(),
            started: false,
            start_error: None,
            failed_at: 0,
            config: encode(config),
        }
    }

    pub(crate) fn config(&self) -> io::Result<v1::ContainerConfig> {
        decode(&self.config)
    }

    pub(crate) fn set_config(&mut self, config: &v1::ContainerConfig) {
        self.config = encode(config);
    }

    pub(crate) fn write(&self, directory: &Path) -> io::Result<()> {
        write_atomically(&directory.join(CONTAINER_FILE), &serde_json::to_vec(self)?)
    }

    pub(crate) fn read(directory: &Path) -> io::Result<Self> {
        Ok(serde_json::from_slice(&std::fs::read(
            directory.join(CONTAINER_FILE),
        )?)?)
    }
}

fn encode(message: &impl Message) -> String {
    STANDARD.encode(message.encode_to_vec())
}

fn decode<M: Message + Default>(text: &str) -> io::Result<M> {
    let invalid =
        |error: &dyn std::fmt::Display| io::Error::new(io::ErrorKind::InvalidData, error.to_string());
    let bytes = STANDARD.decode(text).map_err(|error| invalid(&error))?;
    M::decode(bytes.as_slice()).map_err(|error| invalid(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let config = v1::ContainerConfig {
            command: vec!["x".to_owned()],
            ..Default::default()
        };
        let mut record = ContainerRecord::new("c", "s", 7, &config);
        record.write(directory.path()).unwrap();
        assert_eq!(
            ContainerRecord::read(directory.path()).unwrap().config().unwrap(),
            config
        );
        record.set_config(&v1::ContainerConfig::default());
        record.write(directory.path()).unwrap();
        assert_eq!(
            ContainerRecord::read(directory.path()).unwrap().config().unwrap(),
            v1::ContainerConfig::default()
        );
    }
}
