//! Archives, layers on disk, mounts, crashes, full disks.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use keelson_runtime::images::build::LayerCompression;
use keelson_runtime::images::{Digest, ErrorKind, ImageError, ImageStore, ImportSource, OverlayMount};

use crate::fixture::{Fixture, pull, run_in_overlay};
use crate::registry::{FakeRegistry, Faults};

#[tokio::test(flavor = "multi_thread")]
async fn import_archives() {
    let fixture = Fixture::new();
    let store = fixture.open();
    let plain = fixture.archive(LayerCompression::Gzip);
    let records = store
        .import(ImportSource::Path(plain.clone()))
        .await
        .expect("import");
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].repo_tags, ["example.com/app:v1"]);
    assert!(records[0].repo_digests.is_empty());
    assert_eq!(records[0].image_ref(), records[0].id.to_string());
    store.remove("example.com/app:v1").await.expect("remove");
    fixture.assert_clean(0);

    let bytes = std::fs::read(&plain).expect("read");
    let zstd = zstd::encode_all(&bytes[..], 1).expect("zstd");
    let records = store
        .import(ImportSource::Reader(Box::new(std::io::Cursor::new(zstd.clone()))))
        .await;
    assert_eq!(records.expect("import")[0].repo_tags, ["example.com/app:v1"]);
    store.remove("example.com/app:v1").await.expect("remove");

    let docker = docker_save(&fixture);
    let records = store.import(ImportSource::Path(docker)).await.expect("import");
    assert_eq!(
        records[0].repo_tags,
        ["docker.io/library/saved:1", "docker.io/library/saved:2"]
    );
    let rootfs = store.prepare_rootfs("saved:2", "c").await.expect("rootfs");
    let script = "busybox cat file linked";
    let text = run_in_overlay(&rootfs.overlay, &fixture.path("mnt"), script);
    assert_eq!(text, "onetwo");
    store.remove_rootfs("c").await.expect("remove");
    store.remove("saved:1").await.expect("remove");

    let cut = bytes[..bytes.len() / 2].to_vec();
    let cut_zstd = zstd[..zstd.len() / 2].to_vec();
    let mut corrupt = bytes.clone();
    let middle = bytes.len() / 2;
    corrupt[middle] ^= 0xff;
    for (name, content) in [
        ("cut", cut),
        ("cut-zstd", cut_zstd),
        ("corrupt", corrupt),
        ("empty", Vec::new()),
        ("text", b"not an archive".to_vec()),
    ] {
        let path = fixture.path(name);
        std::fs::write(&path, content).expect("write");
        let error = store.import(ImportSource::Path(path)).await.expect_err(name);
        assert_eq!(error.kind(), ErrorKind::DataLoss, "{name}: {error}");
        fixture.assert_clean(0);
    }
    assert!(store.list(None).is_empty());
}

/// What `docker save` writes: layers as plain tar files, one of them a symlink to another.
fn docker_save(fixture: &Fixture) -> PathBuf {
    let layer = |files: &[(&str, &[u8])]| {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, data) in files {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o755);
            header.set_size(data.len() as u64);
            tar.append_data(&mut header, name, *data).expect("append");
        }
        tar.into_inner().expect("tar")
    };
    let busybox = std::fs::read("/bin/busybox").expect("busybox-static");
    // `./bin` is implicit in the second layer and must keep what the first says.
    let one = layer(&[("bin/busybox", &busybox), ("bin/sh", &busybox), ("file", b"one")]);
    let two = layer(&[("linked", b"two"), ("bin/extra", b"")]);
    let config = format!(
        r#"{{"os":"linux","rootfs":{{"type":"layers","diff_ids":["{}","{}","{}"]}}}}"#,
        Digest::sha256(&one),
        Digest::sha256(&two),
        Digest::sha256(&two)
    );
    let id = Digest::sha256(config.as_bytes());
    let manifest = format!(
        r#"[{{"Config":"{}.json","RepoTags":["saved:1","saved:2"],"Layers":["a/layer.tar","b/layer.tar","c/layer.tar"]}}]"#,
        id.hex()
    );
    let output = fixture.path("docker.tar");
    let mut tar = tar::Builder::new(std::fs::File::create(&output).expect("create"));
    let mut add = |name: &str, data: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(data.len() as u64);
        tar.append_data(&mut header, name, data).expect("append");
    };
    add("a/layer.tar", &one);
    add("b/layer.tar", &two);
    add(&format!("{}.json", id.hex()), config.as_bytes());
    add("manifest.json", manifest.as_bytes());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    tar.append_link(&mut header, "c/layer.tar", "../b/layer.tar")
        .expect("link");
    tar.into_inner().expect("tar");
    output
}

#[tokio::test(flavor = "multi_thread")]
async fn implicit_directories_keep_the_attributes_below() {
    let fixture = Fixture::new();
    let registry = FakeRegistry::start(Faults::default()).await;
    let layer = |entries: &[(&str, bool, u32)]| {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, is_dir, mode) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(if *is_dir {
                tar::EntryType::Directory
            } else {
                tar::EntryType::Regular
            });
            header.set_mode(*mode);
            header.set_uid(u64::from(*is_dir) * 33);
            header.set_size(0);
            tar.append_data(&mut header, name, std::io::empty())
                .expect("append");
        }
        registry.add_blob(tar.into_inner().expect("tar"))
    };
    let lower = layer(&[
        ("tmp/", true, 0o1777),
        ("tmp/a/", true, 0o700),
        ("srv/", true, 0o755),
    ]);
    let upper = layer(&[("tmp/a/file", false, 0o644), ("new/file", false, 0o644)]);
    let arch = if cfg!(target_arch = "x86_64") {
        "amd64"
    } else {
        "arm64"
    };
    let config = format!(
        r#"{{"os":"linux","architecture":"{arch}","rootfs":{{"type":"layers","diff_ids":["{lower}","{upper}"]}}}}"#
    );
    let id = registry.add_blob(config.clone());
    let size = |d: &Digest| if *d == lower { 2560 } else { 2048 };
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{{"digest":"{id}","size":{}}},"layers":[{{"digest":"{lower}","size":{}}},{{"digest":"{upper}","size":{}}}]}}"#,
        config.len(),
        size(&lower),
        size(&upper)
    );
    registry.add_manifest(
        "app",
        "v1",
        "application/vnd.oci.image.manifest.v1+json",
        manifest.as_bytes(),
    );
    let store = fixture.open();
    pull(&store, &registry.reference("app:v1")).await.expect("pull");
    fixture.assert_clean(3);
    let rootfs = store
        .prepare_rootfs(&registry.reference("app:v1"), "c")
        .await
        .expect("rootfs");
    let top = &rootfs.overlay.lowerdirs[0];
    for (path, mode) in [("tmp", 0o1777), ("tmp/a", 0o700)] {
        let meta = std::fs::metadata(top.join(path)).expect("in the correcting layer");
        assert_eq!((meta.mode() & 0o7777, meta.uid()), (mode, 33), "{path}");
    }
    assert!(!top.join("new").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn half_done_work_of_a_killed_process_goes_at_open() {
    let fixture = Fixture::new();
    let store = fixture.open();
    store
        .import(ImportSource::Path(fixture.archive(LayerCompression::None)))
        .await
        .expect("import");
    let second = ImageStore::open(fixture.config());
    assert!(
        matches!(second, Err(ImageError::Io { .. })),
        "one process at a time"
    );
    drop(store);
    let root = fixture.path("store");
    std::fs::create_dir_all(root.join("ingest/half/fs/bin")).expect("dir");
    std::fs::create_dir_all(root.join("layers/broken/fs")).expect("dir");
    std::fs::create_dir_all(root.join("containers/broken/diff")).expect("dir");
    std::fs::write(root.join("blobs/stray"), "x").expect("file");
    let store = fixture.open();
    fixture.assert_clean(2);
    assert!(!root.join("blobs/stray").exists() && store.rootfs_ids().is_empty());
    assert_eq!(store.list(None).len(), 1);
    drop(store);
    let index = std::fs::read_to_string(root.join("index.json")).expect("index");
    std::fs::write(
        root.join("index.json"),
        index.replace("\"version\": 1", "\"version\": 99"),
    )
    .expect("write");
    assert!(matches!(
        ImageStore::open(fixture.config()),
        Err(ImageError::NewerVersion { found: 99, .. })
    ));
}

/// Runs `test` on a thread with a mount namespace of its own, and a runtime whose threads share it.
fn in_mount_namespace<T: Send>(test: impl FnOnce(&tokio::runtime::Runtime) -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            use nix::mount::{MsFlags, mount};
            use nix::sched::{CloneFlags, unshare};
            unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FS).expect("unshare");
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(None::<&str>, "/", None::<&str>, private, None::<&str>).expect("private mounts");
            test(
                &tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .expect("runtime"),
            )
        });
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[test]
fn overlay_is_mounted_layer_by_layer() {
    let fixture = Fixture::new();
    let archive = fixture.archive(LayerCompression::None);
    in_mount_namespace(|runtime| {
        let store = fixture.open();
        runtime
            .block_on(store.import(ImportSource::Path(archive)))
            .expect("import");
        let rootfs = runtime
            .block_on(store.prepare_rootfs("example.com/app:v1", "c"))
            .expect("rootfs");
        let target = fixture.path("mnt");
        std::fs::create_dir(&target).expect("target");
        rootfs.overlay.mount(&target).expect("mount");
        assert!(!target.join("etc/gone").exists() && !target.join("replaced/old").exists());
        assert_eq!(
            std::fs::read_to_string(target.join("etc/deep/added")).expect("file"),
            "added"
        );
        std::fs::write(target.join("written"), "x").expect("write");
        assert!(rootfs.overlay.upper.join("written").exists());
        // Far more layers than one page of options has room for.
        let many: Vec<_> = (0..200)
            .map(|n| fixture.path(&format!("many-{n}-{}", "x".repeat(60))))
            .collect();
        for (number, layer) in many.iter().enumerate() {
            std::fs::create_dir(layer).expect("layer");
            std::fs::write(layer.join(number.to_string()), "x").expect("file");
        }
        let other = runtime
            .block_on(store.prepare_rootfs("example.com/app:v1", "d"))
            .expect("rootfs");
        let mount = OverlayMount {
            lowerdirs: many,
            ..other.overlay
        };
        mount.mount(&target).expect("mount with many layers");
        assert_eq!(std::fs::read_dir(&target).expect("read").count(), 200);
    });
}

#[test]
fn full_disk_is_told_and_leaves_nothing() {
    let fixture = Fixture::new();
    let archive = fixture.archive(LayerCompression::None);
    let compressed = fixture.archive(LayerCompression::Gzip);
    in_mount_namespace(|runtime| {
        use nix::mount::{MsFlags, mount};
        let root = fixture.path("store");
        std::fs::create_dir(&root).expect("root");
        mount(
            Some("tmpfs"),
            &root,
            Some("tmpfs"),
            MsFlags::empty(),
            Some("size=1m"),
        )
        .expect("tmpfs");
        let store = fixture.open();
        let error = runtime
            .block_on(store.import(ImportSource::Path(archive)))
            .expect_err("full");
        assert!(matches!(error, ImageError::DiskFull { .. }), "{error}");
        assert!(
            error.to_string().starts_with("no space left on device"),
            "{error}"
        );
        fixture.assert_clean(0);
        let error = runtime.block_on(async {
            let registry = FakeRegistry::start(Faults::default()).await;
            registry.add_archive(&compressed, "app", "v1");
            pull(&store, &registry.reference("app:v1"))
                .await
                .expect_err("full")
        });
        assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{error}");
        fixture.assert_clean(0);
        assert!(store.list(None).is_empty());
    });
}
