//! The journal: append-only segments of checksummed frames; one frame is one group commit, whole or not at all.
//!
//! ```text
//! frame: magic u64 | sequence u64 | length u32 | crc32 u32 of (store id, sequence, length, payload) | payload
//! ```
//! Sequence numbers are dense across segments. A frame is written only after its predecessor was fsynced, so when the end
//! of the last segment does not parse, nothing acknowledged can be behind it: the tail is cut off. When a valid later frame
//! does stand behind the damage, acknowledged data was destroyed and opening fails. Segments are preallocated, so that a full
//! disk shows when a segment is made and not in the middle of a commit.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::Error;
use crate::embedded::directory::{Directory, disk_error, sync_directory, unusable};
use crate::embedded::record::{take_u32, take_u64};

const MAGIC: u64 = u64::from_le_bytes(*b"\xf1klsnJ1\xe0");
const HEADER: usize = 24;

/// A segment that takes no more frames.
#[derive(Clone, Debug)]
pub(super) struct Sealed {
    pub(super) path: PathBuf,
    /// Sequence number of its last frame.
    pub(super) last: u64,
}

struct Active {
    path: PathBuf,
    file: File,
    /// End of the last good frame.
    end: u64,
}

/// The writing end. Owned by the committer.
pub(super) struct Journal {
    folder: PathBuf,
    store_id: u64,
    segment_bytes: u64,
    next: u64,
    active: Option<Active>,
    /// A failed write may have left bytes behind `end`; they are cut off before the next write.
    dirty: bool,
    frame: Vec<u8>,
}

impl Journal {
    /// Replays every frame from sequence `from` on, oldest first, cuts off a torn tail and returns the writing end and the
    /// sealed segments. `Error::Unusable` when acknowledged frames are missing or damaged.
    pub(super) fn open(
        directory: &Directory,
        segment_bytes: u64,
        from: u64,
        mut replay: impl FnMut(u64, &[u8]) -> Result<(), Error>,
    ) -> Result<(Self, Vec<Sealed>), Error> {
        let folder = directory.journal();
        let mut names = segments(&folder)?;
        // A segment whose successor starts at or before `from` is in the checkpoint; its removal did not happen.
        let covered = names
            .iter()
            .skip(1)
            .take_while(|(first, _)| *first <= from)
            .count();
        for (_, path) in names.drain(..covered) {
            fs::remove_file(&path).map_err(|e| disk_error("remove journal segment", e))?;
        }
        let mut journal = Self {
            folder,
            store_id: directory.store_id,
            segment_bytes,
            next: from,
            active: None,
            dirty: false,
            frame: Vec::new(),
        };
        if let Some((first, path)) = names.first()
            && *first > from
        {
            return Err(unusable(
                directory.path(),
                format!(
                    "journal frames {from} to {} before {} are missing; restore a backup",
                    first - 1,
                    path.display()
                ),
            ));
        }
        let mut sealed = Vec::new();
        let count = names.len();
        for (position, (first, path)) in names.into_iter().enumerate() {
            let is_last = position + 1 == count;
            if position > 0 && first != journal.next {
                return Err(unusable(
                    directory.path(),
                    format!(
                        "journal frames {} to {} are missing; restore a backup",
                        journal.next,
                        first.saturating_sub(1)
                    ),
                ));
            }
            journal.next = first;
            let bytes = fs::read(&path).map_err(|e| disk_error("read journal", e))?;
            let mut end = 0;
            while let Some((length, payload)) = parse(&bytes[end..], journal.store_id, journal.next) {
                if journal.next >= from {
                    replay(journal.next, payload)?;
                }
                end += length;
                journal.next += 1;
            }
            if !is_last {
                // What stands behind its last frame does not matter: the next segment's number says that nothing is missing.
                sealed.push(Sealed {
                    path,
                    last: journal.next - 1,
                });
                continue;
            }
            if has_later_frame(&bytes[end..], journal.store_id, journal.next) {
                return Err(unusable(
                    directory.path(),
                    format!(
                        "{} is damaged at byte {end} with acknowledged writes behind it; restore a backup",
                        path.display()
                    ),
                ));
            }
            let file = OpenOptions::new()
                .write(true)
                .open(&path)
                .map_err(|e| disk_error("open journal", e))?;
            let active = Active {
                path,
                file,
                end: end as u64,
            };
            // Zeros behind the end are preallocated room, anything else is a torn frame.
            if bytes[end..].iter().any(|b| *b != 0) {
                tracing::warn!(path = %active.path.display(), end, "cutting off an unfinished write at the journal's end");
                cut(&active, segment_bytes).map_err(|e| disk_error("cut journal", e))?;
            }
            journal.active = Some(active);
        }
        if journal.next < from {
            return Err(unusable(
                directory.path(),
                format!("the journal ends before frame {from}, which was written; restore a backup"),
            ));
        }
        Ok((journal, sealed))
    }

    /// Writes one frame and waits until it is on disk. Returns the segment that was sealed to make room, if any. After an
    /// error nothing was written and the next call starts where this one did.
    pub(super) fn append(&mut self, payload: &[u8]) -> Result<Option<Sealed>, Error> {
        let length = u32::try_from(payload.len()).map_err(|_| Error::Backend {
            operation: "commit",
            source: "a group of writes exceeds 4 GiB".into(),
        })?;
        self.frame.clear();
        self.frame.extend_from_slice(&MAGIC.to_le_bytes());
        self.frame.extend_from_slice(&self.next.to_le_bytes());
        self.frame.extend_from_slice(&length.to_le_bytes());
        self.frame
            .extend_from_slice(&checksum(self.store_id, self.next, payload).to_le_bytes());
        self.frame.extend_from_slice(payload);

        let mut sealed = None;
        if let Some(active) = &self.active
            && active.end > 0
            && active.end + self.frame.len() as u64 > self.segment_bytes
        {
            let new = self
                .create_segment()
                .map_err(|e| disk_error("create journal segment", e))?;
            sealed = self.seal(new)?;
        } else if self.active.is_none() {
            self.active = Some(
                self.create_segment()
                    .map_err(|e| disk_error("create journal segment", e))?,
            );
        }
        let active = self.active.as_mut().expect("invariant: a segment was just made");
        if self.dirty {
            cut(active, self.segment_bytes).map_err(|e| disk_error("cut journal", e))?;
            self.dirty = false;
        }
        self.dirty = true;
        let written = active
            .file
            .write_all_at(&self.frame, active.end)
            .and_then(|()| active.file.sync_data());
        if let Err(e) = written {
            // Give the room back at once, where that works; otherwise before the next write.
            self.dirty = cut(active, self.segment_bytes).is_err();
            return Err(disk_error("commit", e));
        }
        self.dirty = false;
        active.end += self.frame.len() as u64;
        self.next += 1;
        if self.frame.capacity() > 1 << 20 {
            self.frame = Vec::new();
        }
        Ok(sealed)
    }

    fn seal(&mut self, new: Active) -> Result<Option<Sealed>, Error> {
        let Some(old) = self.active.take() else {
            self.active = Some(new);
            return Ok(None);
        };
        // The unused preallocated room must be gone before a frame goes to the new segment: a sealed segment is exact.
        let trimmed = old.file.set_len(old.end).and_then(|()| old.file.sync_all());
        if let Err(e) = trimmed {
            let _ = fs::remove_file(&new.path); // holds nothing yet; made again by the next write
            self.dirty = true;
            self.active = Some(old);
            return Err(disk_error("seal journal segment", e));
        }
        self.dirty = false;
        self.active = Some(new);
        Ok(Some(Sealed {
            path: old.path,
            last: self.next - 1,
        }))
    }

    fn create_segment(&self) -> io::Result<Active> {
        let path = self.folder.join(format!("{:020}.log", self.next));
        let room = self.segment_bytes.max(self.frame.len() as u64);
        let made = (|| {
            let file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .open(&path)?;
            allocate(&file, room)?;
            file.sync_all()?;
            sync_directory(&self.folder)?;
            Ok(file)
        })();
        match made {
            Ok(file) => Ok(Active { path, file, end: 0 }),
            Err(e) => {
                let _ = fs::remove_file(&path); // an empty segment is harmless where it cannot be removed
                Err(e)
            }
        }
    }
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let active = self.active.as_ref().map(|a| (&a.path, a.end));
        f.debug_struct("Journal")
            .field("next", &self.next)
            .field("active", &active)
            .finish_non_exhaustive()
    }
}

/// Removes everything behind the last good frame and takes the preallocated room again.
fn cut(active: &Active, segment_bytes: u64) -> io::Result<()> {
    active.file.set_len(active.end)?;
    active.file.sync_all()?;
    if active.end < segment_bytes {
        match allocate(&active.file, segment_bytes) {
            Err(e) if !crate::embedded::directory::is_no_space(&e) => return Err(e),
            _ => {} // a full disk shows at the next write
        }
    }
    Ok(())
}

fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, bytes) {
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(()),
        result => result.map_err(io::Error::from),
    }
}

fn checksum(store_id: u64, sequence: u64, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&store_id.to_le_bytes());
    hasher.update(&sequence.to_le_bytes());
    hasher.update(&(payload.len() as u64).to_le_bytes());
    hasher.update(payload);
    hasher.finalize()
}

/// The frame at the front of `bytes`, if it is frame `sequence`: its whole length and its payload.
fn parse(bytes: &[u8], store_id: u64, sequence: u64) -> Option<(usize, &[u8])> {
    let (found, length, payload) = parse_any(bytes, store_id)?;
    (found == sequence).then_some((length, payload))
}

fn parse_any(bytes: &[u8], store_id: u64) -> Option<(u64, usize, &[u8])> {
    let mut input = bytes;
    if take_u64(&mut input)? != MAGIC {
        return None;
    }
    let sequence = take_u64(&mut input)?;
    let length = take_u32(&mut input)? as usize;
    let crc = take_u32(&mut input)?;
    let payload = input.get(..length)?;
    (checksum(store_id, sequence, payload) == crc).then_some((sequence, HEADER + length, payload))
}

/// Whether a whole frame newer than `sequence` stands anywhere in `bytes`.
fn has_later_frame(bytes: &[u8], store_id: u64, sequence: u64) -> bool {
    memchr::memmem::find_iter(bytes, &MAGIC.to_le_bytes())
        .any(|at| parse_any(&bytes[at..], store_id).is_some_and(|(found, ..)| found > sequence))
}

fn segments(folder: &Path) -> Result<Vec<(u64, PathBuf)>, Error> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(|e| disk_error("read journal directory", e))? {
        let path = entry.map_err(|e| disk_error("read journal directory", e))?.path();
        let number = path
            .file_name()
            .and_then(|n| n.to_str())
            .and_then(|n| n.strip_suffix(".log"))
            .and_then(|n| n.parse().ok())
            .ok_or_else(|| {
                unusable(
                    folder,
                    format!("{} does not belong to the journal; remove it", path.display()),
                )
            })?;
        found.push((number, path));
    }
    found.sort();
    Ok(found)
}
