//! Archives written by hand, one property each.

use std::io::Cursor;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use tar::{EntryType, Header};

use super::*;

/// One entry: type, path, link target or content.
struct Entry<'a> {
    kind: EntryType,
    path: &'a str,
    link: &'a str,
    data: &'a [u8],
    mode: u32,
    pax: Vec<(&'a str, &'a [u8])>,
}

fn entry<'a>(kind: EntryType, path: &'a str, text: &'a str) -> Entry<'a> {
    let is_link = matches!(kind, EntryType::Symlink | EntryType::Link);
    Entry {
        kind,
        path,
        link: if is_link { text } else { "" },
        data: if is_link { b"" } else { text.as_bytes() },
        mode: if kind == EntryType::Directory {
            0o755
        } else {
            0o644
        },
        pax: Vec::new(),
    }
}

fn file<'a>(path: &'a str, text: &'a str) -> Entry<'a> {
    entry(EntryType::Regular, path, text)
}

fn dir(path: &str) -> Entry<'_> {
    entry(EntryType::Directory, path, "")
}

fn symlink<'a>(path: &'a str, target: &'a str) -> Entry<'a> {
    entry(EntryType::Symlink, path, target)
}

fn hard_link<'a>(path: &'a str, target: &'a str) -> Entry<'a> {
    entry(EntryType::Link, path, target)
}

/// Writes names as they are: `tar::Builder` would refuse the hostile ones.
fn archive(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for e in entries {
        if !e.pax.is_empty() {
            builder.append_pax_extensions(e.pax.iter().copied()).expect("pax");
        }
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..e.path.len()].copy_from_slice(e.path.as_bytes());
        header.as_old_mut().linkname[..e.link.len()].copy_from_slice(e.link.as_bytes());
        header.set_entry_type(e.kind);
        header.set_mode(e.mode);
        header.set_uid(7);
        header.set_gid(8);
        header.set_mtime(1_000_000_000);
        header.set_size(e.data.len() as u64);
        header.set_cksum();
        builder.append(&header, e.data).expect("append");
    }
    builder.into_inner().expect("archive")
}

struct Case {
    temp: tempfile::TempDir,
    result: Result<Unpacked, UnpackError>,
}

impl Case {
    fn new(entries: &[Entry<'_>]) -> Self {
        let temp = tempfile::tempdir().expect("tempdir");
        std::fs::create_dir(temp.path().join("root")).expect("root");
        std::fs::write(temp.path().join("victim"), "untouched").expect("victim");
        let result = unpack(Cursor::new(archive(entries)), &temp.path().join("root"));
        Self { temp, result }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join("root").join(name)
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}: {:?}", self.result))
    }

    fn meta(&self, name: &str) -> std::fs::Metadata {
        std::fs::symlink_metadata(self.path(name))
            .unwrap_or_else(|e| panic!("{name}: {e}: {:?}", self.result))
    }

    fn is_whiteout(&self, name: &str) -> bool {
        let meta = self.meta(name);
        meta.file_type().is_char_device() && meta.rdev() == 0
    }

    fn is_opaque(&self, name: &str) -> bool {
        let mut value = [0; 1];
        fs::lgetxattr(self.path(name), OPAQUE_XATTR, &mut value[..]) == Ok(1) && value == *b"y"
    }

    /// Nothing beside the root was made or changed.
    fn assert_contained(&self) {
        let mut names: Vec<_> = std::fs::read_dir(self.temp.path())
            .expect("read")
            .map(|e| e.expect("entry").file_name().into_string().expect("utf-8"))
            .collect();
        names.sort();
        assert_eq!(names, ["root", "victim"]);
        assert_eq!(
            std::fs::read_to_string(self.temp.path().join("victim")).expect("victim"),
            "untouched"
        );
    }
}

#[test]
fn attributes_are_kept() {
    let mut setuid = file("bin/su", "x");
    setuid.mode = 0o4755;
    setuid.pax = vec![
        ("mtime", b"1000000000.25"),
        ("SCHILY.xattr.user.k", b"v\0w"),
        ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
    ];
    let case = Case::new(&[
        dir("bin"),
        setuid,
        hard_link("bin/su2", "bin/su"),
        symlink("sh", "bin/su"),
    ]);
    case.result.as_ref().expect("unpacks");
    let meta = case.meta("bin/su");
    assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid()), (0o4755, 7, 8));
    assert_eq!((meta.mtime(), meta.mtime_nsec()), (1_000_000_000, 250_000_000));
    assert_eq!(case.meta("bin/su2").ino(), meta.ino());
    assert_eq!(
        case.meta("bin").mtime(),
        1_000_000_000,
        "filling a directory does not change its time"
    );
    assert_eq!(case.meta("sh").uid(), 7);
    let mut value = [0; 8];
    assert_eq!(
        fs::lgetxattr(case.path("bin/su"), "user.k", &mut value[..]),
        Ok(3)
    );
    let redirect = fs::lgetxattr(case.path("bin/su"), "trusted.overlay.redirect", &mut value[..]);
    assert_eq!(
        redirect,
        Err(Errno::NODATA),
        "an archive cannot steer the overlay"
    );
}

#[test]
fn whiteouts_and_opaque_directories() {
    let case = Case::new(&[
        dir("a"),
        file("a/.wh.gone", ""),
        file("a/.wh..wh.plnk", ""),
        dir("b"),
        file("b/.wh..wh..opq", ""),
        // Whiteout first, then the same name again: a directory must not show what lies below.
        file(".wh.c", ""),
        dir("c"),
        // The other order.
        dir("d"),
        file("d/x", "new"),
        file(".wh.d", ""),
        file("e", "mine"),
        file(".wh.e", ""),
        file("f/.wh.g", ""),
    ]);
    let unpacked = case.result.as_ref().expect("unpacks");
    assert!(case.is_whiteout("a/gone") && !case.path("a/.wh..wh.plnk").exists());
    assert!(case.is_opaque("b") && case.is_opaque("c") && case.is_opaque("d") && !case.is_opaque("a"));
    assert_eq!(case.read("d/x"), "new");
    assert_eq!(case.read("e"), "mine");
    assert!(case.is_whiteout("f/g"));
    assert_eq!(unpacked.implicit_dirs, [PathBuf::from("f")]);
}

#[test]
fn later_entries_replace_earlier_ones() {
    let case = Case::new(&[
        file("f", "1"),
        file("f", "2"),
        dir("d"),
        file("d/x", "x"),
        file("d", "file"),
        file("g", "file"),
        dir("g"),
        file("g/y", "y"),
        symlink("l", "f"),
        file("l", "3"),
    ]);
    case.result.as_ref().expect("unpacks");
    assert_eq!(
        (case.read("f"), case.read("d"), case.read("g/y")),
        ("2".into(), "file".into(), "y".into())
    );
    assert_eq!(case.read("l"), "3");
}

#[test]
fn symlinked_directories_stay_inside() {
    let case = Case::new(&[
        dir("usr"),
        dir("usr/lib"),
        symlink("lib", "usr/lib"),
        symlink("abs", "/usr/lib"),
        file("lib/a", "a"),
        file("abs/b", "b"),
        symlink("up", "../../../.."),
        file("up/c", "c"),
        symlink("out", "../victim"),
        file("out", "replaced the link itself"),
    ]);
    case.result.as_ref().expect("unpacks");
    assert_eq!(
        (case.read("usr/lib/a"), case.read("usr/lib/b"), case.read("c")),
        ("a".into(), "b".into(), "c".into())
    );
    case.assert_contained();
}

#[test]
fn hostile_paths_are_refused() {
    let table: [&[Entry<'_>]; 7] = [
        &[file("../victim", "x")],
        &[file("a/../../victim", "x")],
        &[hard_link("h", "../victim")],
        &[symlink("s", ".."), hard_link("h", "s/victim")],
        &[file(".wh...", "")],
        &[file(".wh.", "")],
        &[hard_link("h", "missing")],
    ];
    for (number, entries) in table.iter().enumerate() {
        let case = Case::new(entries);
        assert!(
            matches!(case.result, Err(UnpackError::Entry(..))),
            "{number}: {:?}",
            case.result
        );
        case.assert_contained();
    }
    // An absolute path is relative to the layer.
    let case = Case::new(&[file("/victim", "inside")]);
    assert_eq!(case.read("victim"), "inside");
    case.assert_contained();
}

#[test]
fn truncated_archives_are_errors() {
    let bytes = archive(&[dir("d"), file("d/f", &"x".repeat(5000))]);
    for cut in [100, 512 + 100, 1024 + 10, 1024 + 4096] {
        let temp = tempfile::tempdir().expect("tempdir");
        let result = unpack(Cursor::new(&bytes[..cut]), temp.path());
        assert!(matches!(result, Err(UnpackError::Read(_))), "{cut}: {result:?}");
    }
}

#[test]
fn times_of_pax_records() {
    for (text, expected) in [
        ("12", Some((12, 0))),
        ("12.5", Some((12, 500_000_000))),
        ("12.1234567899", Some((12, 123_456_789))),
        ("-1.25", Some((-2, 750_000_000))),
        ("x", None),
        ("1.x", None),
        ("", None),
    ] {
        assert_eq!(
            parse_time(text).map(|t| (t.tv_sec, t.tv_nsec)),
            expected,
            "{text}"
        );
    }
}
