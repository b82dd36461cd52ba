//! What a store must survive: kill -9 at any moment, torn and damaged files, a full disk, a foreign or newer directory.

#![expect(clippy::unwrap_used, reason = "test code")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use keelson_store::embedded::{EmbeddedStore, Options};
use keelson_store::{Error, Event, Precondition, RangeRequest, Revision, Store, WatchMessage, WriteOutcome};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

type State = BTreeMap<String, String>;

fn options(segment_bytes: u64) -> Options {
    let mut options = Options::default();
    options.segment_bytes = segment_bytes;
    options
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

/// A value that shows from whom it is and whether it is whole.
fn value(writer: u64, n: u64) -> String {
    let length = usize::try_from((n * 37 + writer * 101) % 900).unwrap();
    format!("{writer}:{n}:{}", "z".repeat(length))
}

fn is_whole(text: &str) -> bool {
    let mut parts = text.split(':');
    let writer = parts.next().and_then(|p| p.parse().ok());
    let n = parts.next().and_then(|p| p.parse().ok());
    matches!((writer, n), (Some(writer), Some(n)) if value(writer, n) == text)
}

async fn put(store: &Arc<EmbeddedStore>, key: &str, text: &str) -> Result<u64, Error> {
    let key = Bytes::copy_from_slice(key.as_bytes());
    match store
        .put(
            key,
            Bytes::copy_from_slice(text.as_bytes()),
            Precondition::None,
            None,
        )
        .await?
    {
        WriteOutcome::Committed { revision, .. } => Ok(revision.0),
        conflict @ WriteOutcome::Conflict { .. } => panic!("{conflict:?}"),
    }
}

async fn state(store: &Arc<EmbeddedStore>) -> State {
    let text = |b: &Bytes| String::from_utf8(b.to_vec()).unwrap();
    let range = store.range(RangeRequest::prefix("")).await.unwrap();
    range
        .kvs
        .iter()
        .map(|kv| (text(&kv.key), text(&kv.value)))
        .collect()
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    write!(out, "\n{line}\n").and_then(|()| out.flush()).unwrap();
}

/// Not a test of its own: the process that `acknowledged_writes_survive_kill_9` kills.
#[test]
#[ignore = "started by acknowledged_writes_survive_kill_9"]
fn writer_process() {
    let Ok(directory) = std::env::var("KEELSON_STORE_WRITER") else {
        return;
    };
    runtime().block_on(async {
        let store = EmbeddedStore::open(directory, options(16 << 10)).unwrap();
        let start = store.revision().await.unwrap().0;
        let writers = (0..4u64).map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                for n in start.. {
                    let key = format!("/k/{writer}/{}", n % 5);
                    let revision = put(&store, &key, &value(writer, n)).await.unwrap();
                    say(&format!("ack {revision} {writer} {n}"));
                    if writer == 0 && n % 50 == 0 {
                        store.compact(Revision(revision)).await.unwrap();
                        say(&format!("compacted {revision} 0 0"));
                    }
                }
            })
        });
        for writer in writers.collect::<Vec<_>>() {
            writer.await.unwrap();
        }
    });
}

#[test]
fn acknowledged_writes_survive_kill_9() {
    let directory = tempfile::tempdir().unwrap();
    let mut random = StdRng::from_os_rng();
    let mut newest = 0;
    for round in 0..15 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "writer_process", "--nocapture"])
            .env("KEELSON_STORE_WRITER", directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let (mut acks, mut compacted) = (Vec::new(), 0);
        let kill_after = random.random_range(1..400);
        let mut killed = false;
        let mut line = String::new();
        while output.read_line(&mut line).unwrap() > 0 {
            // The last line may be cut off by the kill: it counts only when it is whole.
            let words: Vec<&str> = line.split_whitespace().collect();
            if let (true, [what, revision, writer, n]) = (line.ends_with('\n'), words.as_slice()) {
                let numbers = (revision.parse::<u64>(), writer.parse::<u64>(), n.parse::<u64>());
                match (*what, numbers) {
                    ("ack", (Ok(revision), Ok(writer), Ok(n))) => acks.push((revision, writer, n)),
                    ("compacted", (Ok(revision), ..)) => compacted = compacted.max(revision),
                    _ => {}
                }
            }
            line.clear();
            if acks.len() >= kill_after && !killed {
                child.kill().unwrap();
                killed = true;
            }
        }
        child.wait().unwrap();
        assert!(killed, "round {round}: the writer ended by itself");
        newest = check_after_kill(directory.path(), &acks, compacted, newest);
    }
}

/// Opens what a killed process left and checks it; returns the newest revision.
fn check_after_kill(directory: &Path, acks: &[(u64, u64, u64)], compacted: u64, before: u64) -> u64 {
    runtime().block_on(async {
        let store = EmbeddedStore::open(directory, options(16 << 10)).unwrap();
        let current = store.revision().await.unwrap().0;
        assert!(current >= before);
        for (revision, writer, n) in acks {
            assert!(
                *revision <= current,
                "acknowledged revision {revision} is gone, the newest is {current}"
            );
            let key = format!("/k/{writer}/{}", n % 5);
            match store.get(key.as_bytes(), Some(Revision(*revision))).await {
                Ok(found) => {
                    let found = found.unwrap_or_else(|| panic!("{key} at {revision} is gone"));
                    assert_eq!(found.mod_revision.0, *revision);
                    assert_eq!(found.value, value(*writer, *n));
                }
                // A compaction whose acknowledgement was not read may have happened.
                Err(Error::Compacted { compacted, .. }) => assert!(*revision < compacted.0),
                Err(e) => panic!("{key} at {revision}: {e}"),
            }
        }
        for text in state(&store).await.values() {
            assert!(is_whole(text), "half a value: {text}");
        }
        let mark = match store.get(b"/", Some(Revision(0))).await {
            Err(Error::Compacted { compacted, .. }) => compacted.0,
            _ => 0,
        };
        assert!(
            mark >= compacted,
            "compaction to {compacted} was acknowledged, the mark is {mark}"
        );
        if mark < current {
            let events = history(&store, mark + 1, current).await;
            let revisions: Vec<u64> = events.iter().map(|e| e.kv.mod_revision.0).collect();
            assert_eq!(
                revisions,
                (mark + 1..=current).collect::<Vec<_>>(),
                "revisions are dense"
            );
            assert!(
                events
                    .iter()
                    .all(|e| is_whole(std::str::from_utf8(&e.kv.value).unwrap()))
            );
        }
        store.close().await;
        current
    })
}

async fn history(store: &Arc<EmbeddedStore>, from: u64, through: u64) -> Vec<Event> {
    let mut watch = store.watch(Bytes::new(), Some(Revision(from))).await.unwrap();
    let mut events: Vec<Event> = Vec::new();
    while events.last().is_none_or(|e| e.kv.mod_revision.0 < through) {
        match watch.next().await.unwrap() {
            WatchMessage::Events(more) => events.extend(more),
            WatchMessage::Progress(_) => {}
            WatchMessage::Lagged => panic!("lagged"),
        }
    }
    events
}

/// A closed store with `writes` writes, each in a frame of its own, and the state after each revision.
fn prepared(directory: &Path, segment_bytes: u64, writes: u64) -> Vec<State> {
    runtime().block_on(async {
        let store = EmbeddedStore::open(directory, options(segment_bytes)).unwrap();
        let mut states = vec![State::new()];
        for n in 0..writes {
            let key = format!("/k/{}", n % 7);
            put(&store, &key, &value(0, n)).await.unwrap();
            let mut next = states.last().unwrap().clone();
            next.insert(key, value(0, n));
            states.push(next);
        }
        store.close().await;
        states
    })
}

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to.join("journal")).unwrap();
    for folder in ["", "journal"] {
        for entry in fs::read_dir(from.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                fs::copy(&path, to.join(folder).join(path.file_name().unwrap())).unwrap();
            }
        }
    }
}

/// Opens a damaged store. `Some(revision)` when it opened, having checked that its state is exactly that of the revision and
/// that it takes writes and opens again; `None` when it was refused with a message that says what to do.
fn open_damaged(directory: &Path, segment_bytes: u64, states: &[State], what: &str) -> Option<u64> {
    runtime().block_on(async {
        let store = match EmbeddedStore::open(directory, options(segment_bytes)) {
            Ok(store) => store,
            Err(Error::Unusable { problem, .. }) => {
                assert!(
                    problem.contains("restore") || problem.contains("remove it"),
                    "{what}: {problem}"
                );
                return None;
            }
            Err(e) => panic!("{what}: {e:?}"),
        };
        let revision = store.revision().await.unwrap().0;
        assert_eq!(
            state(&store).await,
            states[usize::try_from(revision).unwrap()],
            "{what}: at {revision}"
        );
        assert_eq!(put(&store, "/after", "1").await.unwrap(), revision + 1, "{what}");
        store.close().await;
        drop(store);
        let store = EmbeddedStore::open(directory, options(segment_bytes)).unwrap();
        assert_eq!(store.revision().await.unwrap().0, revision + 1, "{what}");
        store.close().await;
        Some(revision)
    })
}

fn segments(directory: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(directory.join("journal"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    paths.sort();
    paths
}

/// Ends of the frames in a segment, from their length fields.
fn frame_ends(bytes: &[u8]) -> Vec<usize> {
    let mut ends = vec![0];
    loop {
        let at = *ends.last().unwrap();
        match bytes.get(at..at + 24) {
            Some(header) if header[0] != 0 => {
                let length = u32::from_le_bytes(header[16..20].try_into().unwrap()) as usize;
                ends.push(at + 24 + length);
            }
            _ => return ends,
        }
    }
}

#[test]
fn a_torn_tail_is_cut_off_and_damage_before_it_refused() {
    let segment = 64 << 10;
    let original = tempfile::tempdir().unwrap();
    let states = prepared(original.path(), segment, 40);
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("store");
    let file = segments(original.path()).pop().unwrap();
    let pristine = fs::read(&file).unwrap();
    let ends = frame_ends(&pristine);
    assert_eq!(ends.len(), states.len(), "one frame per write");
    let end = *ends.last().unwrap();
    let mut random = StdRng::seed_from_u64(7);
    let mut offsets: Vec<usize> = (0..50).map(|_| random.random_range(0..end)).collect();
    offsets.extend(
        ends.iter()
            .step_by(6)
            .flat_map(|e| [e.saturating_sub(1), *e, e + 1, e + 23])
            .filter(|o| *o < end),
    );
    for offset in offsets {
        let whole = ends.iter().filter(|e| **e <= offset).count() as u64 - 1;
        let last_frame = whole + 1 == states.len() as u64 - 1;
        for damage in ["truncate", "zero", "garbage", "flip", "hole"] {
            copy(original.path(), &path);
            let mut bytes = pristine.clone();
            let expected = match damage {
                "truncate" => {
                    bytes.truncate(offset);
                    Some(whole)
                }
                "zero" => {
                    bytes[offset..].fill(0);
                    // Nothing was lost when only zeros were overwritten.
                    if pristine[offset..end].iter().all(|b| *b == 0) {
                        Some(whole + 1)
                    } else {
                        Some(whole)
                    }
                }
                "garbage" => {
                    bytes[offset..].iter_mut().for_each(|b| *b = random.random());
                    bytes[offset] = !pristine[offset];
                    Some(whole)
                }
                "flip" => {
                    bytes[offset] ^= 1 << random.random_range(0..8);
                    if last_frame { Some(whole) } else { None }
                }
                _ => {
                    // A page of a frame that did not reach the disk while what is behind it did.
                    let hole = offset..(offset + 512).min(end);
                    if pristine[hole.clone()].iter().all(|b| *b == 0) {
                        continue;
                    }
                    bytes[hole.clone()].fill(0);
                    let reaches_last = ends[ends.len() - 2] < hole.end;
                    if reaches_last { Some(whole) } else { None }
                }
            };
            fs::write(path.join("journal").join(file.file_name().unwrap()), bytes).unwrap();
            let what = format!("{damage} at {offset} of {end}");
            assert_eq!(open_damaged(&path, segment, &states, &what), expected, "{what}");
        }
    }
}

#[test]
fn damage_anywhere_never_shows_a_wrong_state() {
    let segment = 4 << 10;
    let original = tempfile::tempdir().unwrap();
    let states = prepared(original.path(), segment, 120);
    // Let the checkpointer finish what was sealed, so that there is a checkpoint to damage.
    assert_eq!(prepared_again(original.path(), segment), 120);
    assert!(original.path().join("checkpoint.redb").exists());
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("store");
    let mut random = StdRng::seed_from_u64(11);
    let mut refused = 0;
    for round in 0..120 {
        copy(original.path(), &path);
        let mut files = segments(&path);
        files.push(path.join("checkpoint.redb"));
        files.push(path.join("checkpoint.redb"));
        let file = files[random.random_range(0..files.len())].clone();
        let mut bytes = fs::read(&file).unwrap();
        let what = match random.random_range(0..4) {
            0 => {
                fs::remove_file(&file).unwrap();
                format!("{round}: remove {}", file.display())
            }
            1 => {
                let length = random.random_range(0..bytes.len());
                bytes.truncate(length);
                fs::write(&file, &bytes).unwrap();
                format!("{round}: truncate {} to {length}", file.display())
            }
            _ => {
                let used = bytes.iter().rposition(|b| *b != 0).unwrap_or(0) + 1;
                let at = random.random_range(0..used);
                bytes[at] ^= 1 << random.random_range(0..8);
                fs::write(&file, &bytes).unwrap();
                format!("{round}: flip {} at {at}", file.display())
            }
        };
        if open_damaged(&path, segment, &states, &what).is_none() {
            refused += 1;
        }
    }
    assert!(refused > 20, "damage is noticed, {refused} times of 120");
}

/// Opens and closes the store once, waiting until the checkpointer has nothing to do.
fn prepared_again(directory: &Path, segment_bytes: u64) -> u64 {
    runtime().block_on(async {
        let store = EmbeddedStore::open(directory, options(segment_bytes)).unwrap();
        store.wait_for_checkpoint().await;
        let revision = store.revision().await.unwrap().0;
        store.close().await;
        revision
    })
}

#[test]
fn foreign_newer_and_used_directories_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let problem = |result: Result<Arc<EmbeddedStore>, Error>| match result {
        Err(Error::Unusable { problem, path: named }) => {
            assert_eq!(Path::new(&named), path);
            problem
        }
        Err(e) => panic!("{e:?}"),
        Ok(_) => panic!("opened"),
    };
    let store = EmbeddedStore::open(path, Options::default()).unwrap();
    let text = problem(EmbeddedStore::open(path, Options::default()));
    assert!(
        text.contains(&format!("process {}", std::process::id())),
        "{text}"
    );
    drop(store);
    drop(EmbeddedStore::open(path, Options::default()).unwrap());

    let version = fs::read_to_string(path.join("VERSION")).unwrap();
    fs::write(path.join("VERSION"), version.replace("store 1 ", "store 2 ")).unwrap();
    let text = problem(EmbeddedStore::open(path, Options::default()));
    assert!(text.contains("newer keelson"), "{text}");
    for damaged in ["", "rubbish\n", "keelson-store one 0\n", "keelson-store 1\n"] {
        fs::write(path.join("VERSION"), damaged).unwrap();
        assert!(problem(EmbeddedStore::open(path, Options::default())).contains("damaged"));
    }
    fs::write(path.join("VERSION"), version).unwrap();
    runtime().block_on(async {
        let store = EmbeddedStore::open(path, Options::default()).unwrap();
        put(&store, "/k", "v").await.unwrap();
        store.close().await;
        assert!(matches!(put(&store, "/k", "v").await, Err(Error::Closed)));
        assert!(matches!(store.get(b"/k", None).await, Err(Error::Closed)));
    });
    fs::remove_file(path.join("VERSION")).unwrap();
    assert!(problem(EmbeddedStore::open(path, Options::default())).contains("VERSION is missing"));
}

/// Takes what is left of a small disk.
fn fill(ballast: &Path) {
    let mut file = fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(ballast)
        .unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}
}

/// Not a test of its own: runs in a mount namespace whose tmpfs is small.
#[test]
#[ignore = "started by a_full_disk_refuses_writes_until_there_is_room"]
fn small_disk_process() {
    let Ok(directory) = std::env::var("KEELSON_STORE_SMALL_DISK") else {
        return;
    };
    let directory = PathBuf::from(directory);
    runtime().block_on(async {
        let store = EmbeddedStore::open(directory.join("store"), options(256 << 10)).unwrap();
        let ballast = directory.join("ballast");
        let mut expected = State::new();
        let mut n = 0;
        for round in 0..3 {
            // A checkpoint may give room back between two writes; twice in a row is full.
            let mut refusals = 0;
            while refusals < 2 {
                n += 1;
                let key = format!("/k/{n}");
                match put(&store, &key, &value(1, 899)).await {
                    Ok(_) => {
                        expected.insert(key, value(1, 899));
                        refusals = 0;
                    }
                    Err(Error::NoSpace(_)) => refusals += 1,
                    Err(e) => panic!("round {round}: {e:?}"),
                }
                if n % 300 == 0 || refusals > 0 {
                    store.wait_for_checkpoint().await;
                    fill(&ballast);
                }
            }
            assert!(state(&store).await == expected, "reads go on");
            fs::remove_file(&ballast).unwrap();
            put(&store, "/room", "1").await.unwrap();
            expected.insert("/room".into(), "1".into());
        }
        fill(&ballast);
        store.close().await;
        drop(store);
        let store = EmbeddedStore::open(directory.join("store"), options(256 << 10)).unwrap();
        assert!(state(&store).await == expected, "opens on a full disk");
        println!("\nsmall disk ok after {n} writes");
    });
}

#[test]
fn a_full_disk_refuses_writes_until_there_is_room() {
    let directory = tempfile::tempdir().unwrap();
    let script = r#"mount -t tmpfs -o size=12m tmpfs "$0" && exec "$@""#;
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", script])
        .arg(directory.path())
        .arg(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "small_disk_process", "--nocapture"])
        .env("KEELSON_STORE_SMALL_DISK", directory.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("small disk ok"),
        "{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
