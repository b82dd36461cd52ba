//! Programs that Keelson is compared with, started for one measurement.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// Longest wait for a peer to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running program; killed when it is dropped.
pub(crate) struct Peer {
    process: Child,
    log: PathBuf,
}

impl Peer {
    /// Starts it with its output in `log`; `None` when the program is not installed.
    pub(crate) fn start(command: &mut Command, log: &Path) -> Result<Option<Self>> {
        let file = std::fs::File::create(log).with_context(|| format!("cannot make {}", log.display()))?;
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file);
        match command.spawn() {
            Ok(process) => Ok(Some(Self {
                process,
                log: log.to_owned(),
            })),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot start {command:?}")),
        }
    }

    /// Asks until there is an answer. Programs that are not ours do not say when they are ready.
    pub(crate) async fn answers<T, E, F>(&mut self, mut ask: impl FnMut() -> F) -> Result<T>
    where
        E: std::fmt::Display,
        F: Future<Output = Result<T, E>>,
    {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match ask().await {
                Ok(answer) => return Ok(answer),
                Err(_) if Instant::now() < deadline && self.process.try_wait()?.is_none() => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(error) => {
                    let log = std::fs::read_to_string(&self.log).unwrap_or_default();
                    bail!("it does not answer: {error}; its log:\n{log}");
                }
            }
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Either fails only when it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
