//! Container logs in CRI's format: parsing, tail, since, limits, and following a file through rotations by inotify.

use std::io::SeekFrom;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::StreamExt;
use inotify::{EventMask, Inotify, WatchMask};
use k8s_openapi::jiff::Timestamp;
use tokio::fs::File;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncSeekExt, BufReader};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Blocks in which a file is searched for line ends from its end.
const BLOCK: u64 = 64 << 10;

/// Which stream of a container a line is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

/// One entry of a log. A partial entry is continued by the next one of its stream.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry<'a> {
    pub(crate) timestamp: &'a str,
    pub(crate) stream: Stream,
    pub(crate) partial: bool,
    pub(crate) content: &'a [u8],
}

/// Parses `2026-01-01T00:00:00.0Z stdout F text`, without the line end.
pub(crate) fn parse(line: &[u8]) -> Option<Entry<'_>> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let timestamp = std::str::from_utf8(parts.next()?).ok()?;
    let stream = match parts.next()? {
        b"stdout" => Stream::Stdout,
        b"stderr" => Stream::Stderr,
        _ => return None,
    };
    let tags = parts.next()?;
    let partial = tags.split(|byte| *byte == b':').next() == Some(b"P");
    Some(Entry {
        timestamp,
        stream,
        partial,
        content: parts.next().unwrap_or_default(),
    })
}

/// What of a log is wanted.
#[derive(Clone, Debug, Default)]
pub(crate) struct LogOptions {
    pub(crate) follow: bool,
    pub(crate) timestamps: bool,
    /// Lines from the end.
    pub(crate) tail: Option<u64>,
    pub(crate) since: Option<Timestamp>,
    pub(crate) limit: Option<u64>,
    /// Only this stream.
    pub(crate) stream: Option<Stream>,
}

struct Writer {
    options: LogOptions,
    sender: mpsc::Sender<Bytes>,
    left: u64,
    /// Whether the last entry was not the end of a line, so that a timestamp is not repeated.
    within_line: bool,
}

impl Writer {
    /// Returns `false` when nobody wants more.
    async fn write(&mut self, line: &[u8]) -> bool {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let Some(entry) = parse(line) else {
            tracing::debug!("log line not understood");
            return true;
        };
        if self.options.stream.is_some_and(|stream| stream != entry.stream) {
            return true;
        }
        if let Some(since) = self.options.since
            && entry.timestamp.parse::<Timestamp>().is_ok_and(|at| at < since)
        {
            return true;
        }
        let mut text = Vec::with_capacity(line.len() + 1);
        if self.options.timestamps && !self.within_line {
            text.extend_from_slice(entry.timestamp.as_bytes());
            text.push(b' ');
        }
        text.extend_from_slice(entry.content);
        if !entry.partial {
            text.push(b'\n');
        }
        self.within_line = entry.partial;
        let take = usize::try_from(self.left).unwrap_or(usize::MAX).min(text.len());
        text.truncate(take);
        self.left = self.left.saturating_sub(take as u64);
        self.sender.send(text.into()).await.is_ok() && self.left > 0
    }
}

/// Sends the log at `path` to `sender`. With `follow` it goes on until `running` says that the container has ended and all
/// is read, the receiver is gone, or `cancel`.
pub(crate) async fn read(
    path: PathBuf,
    options: LogOptions,
    sender: mpsc::Sender<Bytes>,
    running: impl Fn() -> bool,
    cancel: CancellationToken,
) -> std::io::Result<()> {
    if options.limit == Some(0) || (options.tail == Some(0) && !options.follow) {
        return Ok(());
    }
    let mut events = if options.follow { Some(watch(&path)?) } else { None };
    let mut file = BufReader::new(File::open(&path).await?);
    if let Some(tail) = options.tail {
        let start = tail_offset(file.get_mut(), tail).await?;
        file.seek(SeekFrom::Start(start)).await?;
    }
    let left = options.limit.unwrap_or(u64::MAX);
    let mut writer = Writer {
        options,
        sender,
        left,
        within_line: false,
    };
    let mut line = Vec::new();
    // Once the container has ended, one more pass gets what was written before.
    let mut last_pass = false;
    loop {
        loop {
            let read = file.read_until(b'\n', &mut line).await?;
            if read == 0 || line.last() != Some(&b'\n') {
                break;
            }
            if !writer.write(&line).await {
                return Ok(());
            }
            line.clear();
        }
        let Some(events) = &mut events else {
            if !line.is_empty() {
                writer.write(&line).await;
            }
            return Ok(());
        };
        if last_pass {
            return Ok(());
        }
        if rotated(&file, &path).await {
            file = BufReader::new(File::open(&path).await?);
            line.clear();
            continue;
        }
        if !running() {
            last_pass = true;
            continue;
        }
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            () = writer.sender.closed() => return Ok(()),
            event = next_change(events, &path) => if !event { return Ok(()) },
            // The runtime closes the file when the container ends; this is for those that do not.
            () = tokio::time::sleep(std::time::Duration::from_secs(1)) => {}
        }
    }
}

type Events = inotify::EventStream<Vec<u8>>;

fn watch(path: &Path) -> std::io::Result<Events> {
    let inotify = Inotify::init()?;
    let dir = path.parent().unwrap_or(Path::new("/"));
    inotify.watches().add(
        dir,
        WatchMask::MODIFY | WatchMask::CREATE | WatchMask::MOVED_TO | WatchMask::CLOSE_WRITE,
    )?;
    inotify.into_event_stream(vec![0; 4096])
}

/// Waits for a change that concerns `path`; `false` when there will be none.
async fn next_change(events: &mut Events, path: &Path) -> bool {
    loop {
        match events.next().await {
            Some(Ok(event)) => {
                let ours = event
                    .name
                    .as_deref()
                    .is_none_or(|name| Some(name) == path.file_name());
                if ours || event.mask.contains(EventMask::Q_OVERFLOW) {
                    return true;
                }
            }
            Some(Err(_)) | None => return false,
        }
    }
}

/// Whether `path` is another file than the one that is open.
async fn rotated(file: &BufReader<File>, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let (Ok(open), Ok(named)) = (file.get_ref().metadata().await, tokio::fs::metadata(path).await) else {
        return false;
    };
    (open.dev(), open.ino()) != (named.dev(), named.ino())
}

/// Offset from which the last `lines` lines begin.
async fn tail_offset(file: &mut File, lines: u64) -> std::io::Result<u64> {
    let mut end = file.seek(SeekFrom::End(0)).await?;
    if lines == 0 {
        return Ok(end);
    }
    // The line end of the last line does not count.
    let mut wanted = lines + 1;
    let mut block = vec![0; usize::try_from(BLOCK).unwrap_or(usize::MAX)];
    while end > 0 {
        let start = end.saturating_sub(BLOCK);
        let length = usize::try_from(end - start).unwrap_or(usize::MAX);
        file.seek(SeekFrom::Start(start)).await?;
        file.read_exact(&mut block[..length]).await?;
        for (index, _) in block[..length]
            .iter()
            .enumerate()
            .rev()
            .filter(|(_, byte)| **byte == b'\n')
        {
            wanted -= 1;
            if wanted == 0 {
                return Ok(start + index as u64 + 1);
            }
        }
        end = start;
    }
    Ok(0)
}

/// The last `lines` lines of a log as text of at most `bytes`; `None` when there is nothing.
pub(crate) async fn tail_text(path: &Path, lines: usize, bytes: usize) -> Option<String> {
    let (sender, mut receiver) = mpsc::channel(64);
    let options = LogOptions {
        tail: Some(lines as u64),
        ..LogOptions::default()
    };
    let reader = read(
        path.to_path_buf(),
        options,
        sender,
        || false,
        CancellationToken::new(),
    );
    let collect = async {
        let mut text = Vec::new();
        while let Some(chunk) = receiver.recv().await {
            text.extend_from_slice(&chunk);
        }
        text
    };
    let (read, text) = tokio::join!(reader, collect);
    read.ok()?;
    let start = text.len().saturating_sub(bytes);
    Some(String::from_utf8_lossy(&text[start..]).into_owned()).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    async fn collect(path: &Path, options: LogOptions) -> String {
        let (sender, mut receiver) = mpsc::channel(64);
        let reader = tokio::spawn(read(
            path.to_path_buf(),
            options,
            sender,
            || false,
            CancellationToken::new(),
        ));
        let mut text = Vec::new();
        while let Some(chunk) = receiver.recv().await {
            text.extend_from_slice(&chunk);
        }
        reader.await.unwrap().unwrap();
        String::from_utf8(text).unwrap()
    }

    #[tokio::test]
    async fn options_select_what_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::fs::write(
            &path,
            "2026-01-01T00:00:01.5Z stdout F one\n2026-01-01T00:00:02Z stderr F two\n\
             2026-01-01T00:00:03Z stdout P thr\n2026-01-01T00:00:03Z stdout F ee\n2026-01-01T00:00:04Z stdout F \n",
        )
        .unwrap();
        let default = LogOptions::default;
        for (options, expected) in [
            (default(), "one\ntwo\nthree\n\n"),
            (
                LogOptions {
                    tail: Some(1),
                    ..default()
                },
                "\n",
            ),
            (
                LogOptions {
                    tail: Some(4),
                    stream: Some(Stream::Stderr),
                    ..default()
                },
                "two\n",
            ),
            (
                LogOptions {
                    tail: Some(100),
                    limit: Some(6),
                    ..default()
                },
                "one\ntw",
            ),
            (
                LogOptions {
                    tail: Some(0),
                    ..default()
                },
                "",
            ),
            (
                LogOptions {
                    since: Some("2026-01-01T00:00:02Z".parse().unwrap()),
                    ..default()
                },
                "two\nthree\n\n",
            ),
            (
                LogOptions {
                    timestamps: true,
                    tail: Some(3),
                    ..default()
                },
                "2026-01-01T00:00:03Z three\n2026-01-01T00:00:04Z \n",
            ),
        ] {
            assert_eq!(collect(&path, options.clone()).await, expected, "{options:?}");
        }
        assert_eq!(
            tail_text(&path, 80, 7).await.as_deref(),
            Some("hree\n\n").map(|_| "three\n\n")
        );
    }

    #[tokio::test]
    async fn following_sees_new_lines_and_rotations_and_ends_with_the_container() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::fs::write(&path, "2026-01-01T00:00:01Z stdout F a\n").unwrap();
        let (sender, mut receiver) = mpsc::channel(8);
        let (alive, is_alive) = tokio::sync::watch::channel(true);
        let options = LogOptions {
            follow: true,
            ..LogOptions::default()
        };
        let reading = tokio::spawn(read(
            path.clone(),
            options,
            sender,
            move || *is_alive.borrow(),
            CancellationToken::new(),
        ));
        assert_eq!(receiver.recv().await.unwrap(), "a\n");
        let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"2026-01-01T00:00:02Z stdout F b\n").unwrap();
        assert_eq!(receiver.recv().await.unwrap(), "b\n");
        std::fs::rename(&path, dir.path().join("0.log.20260101-000002")).unwrap();
        std::fs::write(&path, "2026-01-01T00:00:03Z stdout F c\n").unwrap();
        assert_eq!(receiver.recv().await.unwrap(), "c\n");
        alive.send(false).unwrap();
        assert_eq!(receiver.recv().await, None);
        reading.await.unwrap().unwrap();
    }
}
