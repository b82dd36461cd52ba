//! Configuration files that are read again when they change.
//!
//! The directory is watched, not the file: editors and ConfigMap volumes replace files by renaming others over them.

use std::path::{Path, PathBuf};

use futures::StreamExt;
use inotify::{EventStream, Inotify, WatchMask};
use tokio_util::sync::CancellationToken;

/// A file's text, and what tells of changes since it was read.
pub(crate) struct Watched {
    path: PathBuf,
    text: String,
    events: EventStream<Vec<u8>>,
}

impl Watched {
    /// Watches and then reads the file.
    ///
    /// # Errors
    /// It cannot be read, or its directory cannot be watched.
    pub(crate) fn open(path: &Path) -> std::io::Result<Self> {
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let inotify = Inotify::init()?;
        let mask = WatchMask::CLOSE_WRITE
            | WatchMask::MOVED_TO
            | WatchMask::CREATE
            | WatchMask::DELETE
            | WatchMask::ONLYDIR;
        inotify.watches().add(directory, mask)?;
        let events = inotify.into_event_stream(vec![0; 4096])?;
        Ok(Self {
            path: path.to_owned(),
            text: std::fs::read_to_string(path)?,
            events,
        })
    }

    /// The text as it was read last.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Calls `changed` with each text that differs from the one before, until `shutdown`. A file that cannot be read counts as
    /// unchanged.
    pub(crate) async fn follow(mut self, shutdown: CancellationToken, mut changed: impl FnMut(&str)) {
        let path = self.path.display().to_string();
        loop {
            let event = tokio::select! {
                () = shutdown.cancelled() => return,
                event = self.events.next() => event,
            };
            match event {
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    tracing::error!(path, %error, "changes of the file were lost; it is read at its next change");
                    continue;
                }
                None => return,
            }
            match std::fs::read_to_string(&self.path) {
                Ok(text) if text != self.text => {
                    changed(&text);
                    self.text = text;
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(path, %error, "the file cannot be read; what it said stays in force")
                }
            }
        }
    }
}
