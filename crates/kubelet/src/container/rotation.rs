//! Rotation of container logs by size: rename, let the runtime reopen, compress the older ones, drop the oldest.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use keelson_cri::v1 as cri;
use tokio::time::sleep;

use crate::kubelet::Kubelet;
use crate::pod::runtime_status::State;

/// How often sizes are looked at; upstream's period.
const PERIOD: Duration = Duration::from_secs(10);

/// A log could not be rotated.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("cannot rotate {}", .0.display())]
    Io(PathBuf, #[source] std::io::Error),
    #[error("the runtime did not reopen the log")]
    Reopen(#[from] tonic::Status),
}

/// Rotates until shutdown.
pub(crate) async fn run(kubelet: Arc<Kubelet>) {
    loop {
        tokio::select! {
            () = kubelet.shutdown.cancelled() => return,
            () = sleep(PERIOD) => {}
        }
        for handle in kubelet.pods.list() {
            let runtime = handle.runtime();
            for container in runtime
                .containers
                .iter()
                .filter(|container| container.state == State::Running)
            {
                let path = PathBuf::from(&container.log_path);
                let size = tokio::fs::metadata(&path)
                    .await
                    .map(|metadata| metadata.len())
                    .unwrap_or_default();
                if size < kubelet.config.container_log_max_size {
                    continue;
                }
                if let Err(error) = rotate(&kubelet, &container.id, &path).await {
                    tracing::warn!(path = %path.display(), %error, "log not rotated");
                }
            }
        }
    }
}

async fn rotate(kubelet: &Kubelet, container_id: &str, path: &Path) -> Result<(), Error> {
    let io = |source| Error::Io(path.to_path_buf(), source);
    let stamp = Timestamp::now().strftime("%Y%m%d-%H%M%S").to_string();
    let mut rotated = path.as_os_str().to_owned();
    rotated.push(format!(".{stamp}"));
    let rotated = PathBuf::from(rotated);
    tokio::fs::rename(path, &rotated).await.map_err(io)?;
    let request = cri::ReopenContainerLogRequest {
        container_id: container_id.to_owned(),
    };
    if let Err(status) = kubelet.config.cri.runtime().reopen_container_log(request).await {
        // The runtime goes on writing to the old file: give it its name back.
        tokio::fs::rename(&rotated, path).await.map_err(io)?;
        return Err(status.into());
    }
    let (path, keep) = (
        path.to_path_buf(),
        kubelet.config.container_log_max_files.max(2) - 1,
    );
    let path_ = path.clone();
    let tidied = tokio::task::spawn_blocking(move || tidy(&path_, &rotated, keep)).await;
    tidied.unwrap_or(Ok(())).map_err(|source| Error::Io(path, source))
}

/// Compresses all rotated logs but the newest, and removes all but the newest `keep`.
fn tidy(path: &Path, newest: &Path, keep: usize) -> std::io::Result<()> {
    let prefix = format!("{}.", path.file_name().unwrap_or_default().to_string_lossy());
    let mut rotated: Vec<PathBuf> = std::fs::read_dir(path.parent().unwrap_or(Path::new("/")))?
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .map(|entry| entry.path())
        .collect();
    rotated.sort();
    let excess = rotated.len().saturating_sub(keep);
    for (index, file) in rotated.iter().enumerate() {
        if index < excess {
            std::fs::remove_file(file)?;
        } else if file != newest && file.extension().is_none_or(|extension| extension != "gz") {
            compress(file)?;
        }
    }
    Ok(())
}

fn compress(file: &Path) -> std::io::Result<()> {
    let mut name = file.as_os_str().to_owned();
    name.push(".gz");
    let target = PathBuf::from(name);
    let mut encoder =
        flate2::write::GzEncoder::new(std::fs::File::create(&target)?, flate2::Compression::default());
    std::io::copy(&mut std::fs::File::open(file)?, &mut encoder)?;
    encoder.finish()?.flush()?;
    std::fs::remove_file(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_logs_are_compressed_and_the_oldest_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        for name in [
            "0.log",
            "0.log.20260101-000001.gz",
            "0.log.20260101-000002",
            "0.log.20260101-000003",
            "1.log",
        ] {
            std::fs::write(dir.path().join(name), name).unwrap();
        }
        tidy(&path, &dir.path().join("0.log.20260101-000003"), 2).unwrap();
        let mut names: Vec<String> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(
            names,
            [
                "0.log",
                "0.log.20260101-000002.gz",
                "0.log.20260101-000003",
                "1.log"
            ]
        );
    }
}
