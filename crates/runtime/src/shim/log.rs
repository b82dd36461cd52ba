//! The CRI log format: `<RFC 3339 time> <stream> <tag> <content>` per line, tag `F` for a line that ends here and `P`
//! for one that goes on in the next entry.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Lines longer than this are split into partial entries, bytes. containerd's default.
const MAX_LINE: usize = 16 * 1024;

/// Which output of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    /// Standard output; everything of a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// An open log file.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
}

impl LogFile {
    /// Opens or creates the file for appending.
    ///
    /// # Errors
    /// As for any file.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = open(path)?;
        Ok(Self {
            path: path.to_owned(),
            file,
        })
    }

    /// Opens the path again, after the file was renamed. The old file is closed only when that worked.
    ///
    /// # Errors
    /// As for any file.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        self.file = open(&self.path)?;
        Ok(())
    }

    /// Appends entries. A failure (a full disk) loses these entries and nothing else: a container must not block on
    /// its log.
    pub(super) fn append(&mut self, entries: &[u8]) {
        if let Err(error) = self.file.write_all(entries) {
            super::complain::complain(format_args!("cannot write {}: {error}", self.path.display()));
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)
}

/// Turns a stream of bytes into log entries.
#[derive(Debug)]
pub(super) struct LineFormatter {
    stream: Stream,
    /// The beginning of a line whose end has not come; shorter than `MAX_LINE`.
    pending: Vec<u8>,
}

impl LineFormatter {
    pub(super) fn new(stream: Stream) -> Self {
        Self {
            stream,
            pending: Vec::new(),
        }
    }

    /// Formats what `input` completes, at the time `now` (RFC 3339), into `out`.
    pub(super) fn push(&mut self, mut input: &[u8], now: &str, out: &mut Vec<u8>) {
        loop {
            let room = MAX_LINE - self.pending.len();
            let window = &input[..input.len().min(room)];
            match window.iter().position(|byte| *byte == b'\n') {
                Some(end) => {
                    self.entry(now, 'F', &input[..end], out);
                    input = &input[end + 1..];
                }
                // The newline right after a full buffer ends the same entry.
                None if input.len() > room && input[room] == b'\n' => {
                    self.entry(now, 'F', &input[..room], out);
                    input = &input[room + 1..];
                }
                None if input.len() > room => {
                    self.entry(now, 'P', &input[..room], out);
                    input = &input[room..];
                }
                None => {
                    self.pending.extend_from_slice(input);
                    return;
                }
            }
        }
    }

    /// The stream has ended: what is pending becomes a partial entry, because no newline ended it. Readers do not add one
    /// then, as with other runtimes.
    pub(super) fn finish(&mut self, now: &str, out: &mut Vec<u8>) {
        if !self.pending.is_empty() {
            self.entry(now, 'P', &[], out);
        }
    }

    fn entry(&mut self, now: &str, tag: char, rest: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(now.as_bytes());
        out.push(b' ');
        out.extend_from_slice(self.stream.name().as_bytes());
        out.extend_from_slice(&[b' ', tag as u8, b' ']);
        out.extend_from_slice(&self.pending);
        out.extend_from_slice(rest);
        out.push(b'\n');
        self.pending = Vec::new();
    }
}

/// The present time as the log has it.
pub(super) fn now() -> String {
    format!("{:.9}", jiff::Timestamp::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(inputs: &[&[u8]], expected: &[(char, usize)]) {
        let mut formatter = LineFormatter::new(Stream::Stderr);
        let mut out = Vec::new();
        for input in inputs {
            formatter.push(input, "T", &mut out);
        }
        formatter.finish("T", &mut out);
        let text = String::from_utf8(out).unwrap();
        let entries: Vec<(char, usize)> = text
            .lines()
            .map(|line| {
                let rest = line.strip_prefix("T stderr ").unwrap();
                (rest.chars().next().unwrap(), rest.len() - 2)
            })
            .collect();
        assert_eq!(entries, expected);
    }

    #[test]
    fn lines_are_split_and_joined() {
        check(&[], &[]);
        check(&[b"one\ntwo\n"], &[('F', 3), ('F', 3)]);
        check(&[b"on", b"e\n\nx"], &[('F', 3), ('F', 0), ('P', 1)]);
        let long = vec![b'a'; MAX_LINE];
        check(&[&long, b"\n"], &[('F', MAX_LINE)]);
        check(&[&long, b"b\n"], &[('P', MAX_LINE), ('F', 1)]);
        let mut exact = long.clone();
        exact.extend_from_slice(b"\nend\n");
        check(&[&exact], &[('F', MAX_LINE), ('F', 3)]);
        let triple = vec![b'c'; 3 * MAX_LINE];
        check(&[&triple], &[('P', MAX_LINE), ('P', MAX_LINE), ('P', MAX_LINE)]);
    }

    #[test]
    fn time_has_nine_digits() {
        let now = now();
        assert_eq!(now.len(), "2026-11-22T23:35:54.000000000Z".len(), "{now}");
        assert!(now.ends_with('Z'));
    }
}
