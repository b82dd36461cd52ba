//! Images end to end: built here, served by a registry, pulled, unpacked, mounted.
//!
//! Mounts happen in a mount namespace of a child process, see `run_in_overlay`.

mod support;

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use keelson_runtime::images::build::{BuildConfig, LayerCompression, build_image, push_archive};
use keelson_runtime::images::{
    AuthConfig, Digest, ErrorKind, ImageConfig, ImageError, ImageRecord, ImageStore, ImportSource,
    OverlayMount, PullPhase, PullProgress, RegistriesConfig, RunConfig,
};
use support::{DockerRegistry, FakeRegistry, Faults};
use tokio::sync::watch;

struct Fixture {
    temp: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        Self {
            temp: tempfile::tempdir().expect("tempdir"),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    fn config(&self) -> ImageConfig {
        let mut config = ImageConfig::new(self.path("store"));
        config.retry_backoff = Duration::from_millis(1);
        config.io_timeout = Duration::from_secs(5);
        config
    }

    fn open(&self) -> ImageStore {
        ImageStore::open(self.config()).expect("store opens")
    }

    /// Two layers: busybox and files, then changes to them.
    fn layers(&self) -> Vec<PathBuf> {
        let (base, top) = (self.path("base"), self.path("top"));
        if base.exists() {
            return vec![base, top];
        }
        std::fs::create_dir_all(base.join("bin")).expect("dir");
        std::fs::create_dir_all(base.join("etc/deep")).expect("dir");
        std::fs::create_dir_all(base.join("replaced")).expect("dir");
        std::fs::copy("/bin/busybox", base.join("bin/busybox")).expect("busybox-static");
        std::fs::hard_link(base.join("bin/busybox"), base.join("bin/sh")).expect("link");
        std::fs::write(base.join("etc/gone"), "gone").expect("file");
        std::fs::write(base.join("etc/deep/kept"), "kept").expect("file");
        std::fs::write(base.join("replaced/old"), "old").expect("file");
        std::fs::set_permissions(base.join("etc/deep"), std::fs::Permissions::from_mode(0o1750))
            .expect("mode");
        std::fs::create_dir_all(top.join("etc/deep")).expect("dir");
        std::fs::create_dir_all(top.join("replaced")).expect("dir");
        std::fs::set_permissions(top.join("etc/deep"), std::fs::Permissions::from_mode(0o1750))
            .expect("mode");
        std::fs::write(top.join("etc/deep/added"), "added").expect("file");
        std::fs::write(top.join("replaced/new"), "new").expect("file");
        let node = std::ffi::CString::new(top.join("etc/gone").to_str().expect("utf-8")).expect("path");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &*node,
            rustix::fs::FileType::CharacterDevice,
            rustix::fs::Mode::empty(),
            0,
        )
        .expect("whiteout");
        let opaque = rustix::fs::XattrFlags::empty();
        rustix::fs::lsetxattr(top.join("replaced"), "trusted.overlay.opaque", b"y", opaque).expect("xattr");
        vec![base, top]
    }

    fn archive(&self, compression: LayerCompression) -> PathBuf {
        let output = self.path(&format!("{compression:?}.tar"));
        let config = BuildConfig {
            reference: Some("example.com/app:v1".into()),
            run: RunConfig {
                entrypoint: vec!["/bin/sh".into(), "-c".into()],
                cmd: vec!["true".into()],
                env: vec!["PATH=/bin".into()],
                user: "1000:1000".into(),
                ..RunConfig::default()
            },
            compression,
            ..BuildConfig::default()
        };
        build_image(&self.layers(), &config, &output).expect("image is built");
        output
    }

    /// Nothing half done: no ingest, and only the layers given.
    fn assert_clean(&self, layers: usize) {
        let count = |dir: &str| {
            std::fs::read_dir(self.path("store").join(dir))
                .expect("dir")
                .count()
        };
        assert_eq!(count("ingest"), 0, "half-done work is left");
        assert_eq!((count("layers"), count("l")), (layers, layers));
    }
}

async fn pull(store: &ImageStore, reference: &str) -> Result<ImageRecord, ImageError> {
    pull_as(store, reference, None).await
}

async fn pull_as(
    store: &ImageStore,
    reference: &str,
    auth: Option<AuthConfig>,
) -> Result<ImageRecord, ImageError> {
    store
        .pull(reference, auth, watch::channel(PullProgress::default()).0)
        .await
}

fn user(password: &str) -> Option<AuthConfig> {
    Some(AuthConfig {
        username: "user".into(),
        password: password.into(),
        ..AuthConfig::default()
    })
}

/// Runs a shell script with the busybox of the image, chrooted into the mounted rootfs, and returns its output.
fn run_in_overlay(mount: &OverlayMount, target: &Path, script: &str) -> String {
    std::fs::create_dir_all(target).expect("target");
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-ec"])
        .arg(r#"mount -t overlay overlay -o "$1" "$2"; exec chroot "$2" /bin/sh -ec "$3""#)
        .args(["sh", &mount.options()])
        .arg(target)
        .arg(script)
        .output()
        .expect("unshare");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("utf-8")
}

const LOOK: &str = "busybox cat etc/deep/kept etc/deep/added replaced/new; busybox ls etc replaced; \
     busybox stat -c %a etc/deep";

#[tokio::test(flavor = "multi_thread")]
async fn pull_from_docker_registry_and_run() {
    let fixture = Fixture::new();
    let registry = DockerRegistry::start().await;
    let store = fixture.open();
    let mut records = Vec::new();
    for compression in [
        LayerCompression::Gzip,
        LayerCompression::Zstd,
        LayerCompression::None,
    ] {
        let tag = format!("{compression:?}").to_lowercase();
        let reference = format!("localhost:{}/a/app:{tag}", registry.port);
        let archive = fixture.archive(compression);
        let digest = push_archive(&archive, &reference, None, &fixture.config())
            .await
            .expect("push");
        let (sender, progress) = watch::channel(PullProgress::default());
        let record = store.pull(&reference, None, sender).await.expect("pull");
        let last = progress.borrow().clone();
        assert_eq!(
            (last.phase, last.layers_done, last.layers_total),
            (PullPhase::Done, 2, 2)
        );
        assert_eq!(last.bytes_done, last.bytes_total);
        assert!(record.repo_tags.contains(&reference));
        let repo_digest = format!("localhost:{}/a/app@{digest}", registry.port);
        assert!(record.repo_digests.contains(&repo_digest));
        records.push(record);
    }
    // The configuration names the same uncompressed layers: one image, three names, layers shared.
    assert!(records.iter().all(|r| r.id == records[0].id));
    assert_eq!(records[2].repo_tags.len(), 3);
    fixture.assert_clean(2);
    assert_eq!(records[0].config.cri_user(), (Some(1000), String::new()));
    assert_eq!(records[0].config.entrypoint, ["/bin/sh", "-c"]);

    let rootfs = store
        .prepare_rootfs(&records[0].id.to_string(), "c1")
        .await
        .expect("rootfs");
    let text = run_in_overlay(
        &rootfs.overlay,
        &fixture.path("mnt"),
        &format!("{LOOK}; echo 12345 > written"),
    );
    assert_eq!(text, "keptaddednewetc:\ndeep\n\nreplaced:\nnew\n1750\n");
    assert_eq!(
        std::fs::read_to_string(rootfs.overlay.upper.join("written")).expect("upper"),
        "12345\n"
    );
    assert!(store.rootfs_usage("c1").await.expect("usage").inodes >= 2);
    assert!(matches!(
        store.prepare_rootfs("nope", "c2").await,
        Err(ImageError::NotFound(_))
    ));
    let again = store.prepare_rootfs(&records[0].id.to_string(), "c1").await;
    assert!(matches!(again, Err(ImageError::RootfsExists(_))));
    let info = store.fs_info().await.expect("info");
    assert!(
        info.images.bytes > 1_000_000 && info.images.inodes > 5 && info.containers.inodes > 2,
        "{info:?}"
    );

    // The image goes, the container keeps its layers, also over a restart.
    store.remove(&records[0].repo_tags[0]).await.expect("remove");
    assert!(store.list(None).is_empty());
    fixture.assert_clean(2);
    drop(store);
    let store = fixture.open();
    assert_eq!(store.rootfs_ids(), ["c1"]);
    let mount = store.mount_options("c1").expect("mount");
    assert_eq!(mount, rootfs.overlay);
    assert_eq!(
        run_in_overlay(&mount, &fixture.path("mnt"), "busybox cat written"),
        "12345\n"
    );
    store.remove_rootfs("c1").await.expect("remove");
    store.remove_rootfs("c1").await.expect("removing twice is fine");
    fixture.assert_clean(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_images_and_registries() {
    let fixture = Fixture::new();
    let registry = FakeRegistry::start(Faults::default()).await;
    let store = fixture.open();
    let error = pull(&store, &registry.reference("none:v9"))
        .await
        .expect_err("missing");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let name = registry.reference("none:v9");
    assert_eq!(
        error.to_string(),
        format!("failed to pull and unpack image \"{name}\": {name}: not found")
    );
    let error = pull(&store, "Bad Name").await.expect_err("invalid");
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    // Nothing listens on the discard port of loopback.
    let error = pull(&store, "127.0.0.1:9/x").await.expect_err("down");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("RegistryUnavailable"), "{error}");
    fixture.assert_clean(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials() {
    let fixture = Fixture::new();
    let archive = fixture.archive(LayerCompression::Gzip);
    for faults in [
        Faults {
            basic: true,
            ..Faults::default()
        },
        // Tokens wear out in the middle of the pull and are fetched anew.
        Faults {
            token_uses: Some(2),
            ..Faults::default()
        },
    ] {
        let registry = FakeRegistry::start(faults).await;
        registry.add_archive(&archive, "app", "v1");
        let store = fixture.open();
        let reference = registry.reference("app:v1");
        for auth in [None, user("wrong")] {
            let error = pull_as(&store, &reference, auth).await.expect_err("refused");
            assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
        }
        let elsewhere = Some(AuthConfig {
            server_address: "other.example".into(),
            ..user("secret").expect("auth")
        });
        let error = pull_as(&store, &reference, elsewhere)
            .await
            .expect_err("credentials of another server");
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        fixture.assert_clean(0);
        pull_as(&store, &reference, user("secret")).await.expect("pull");
        let encoded = Some(AuthConfig {
            auth: "dXNlcjpzZWNyZXQ=".into(),
            ..AuthConfig::default()
        });
        pull_as(&store, &reference, encoded).await.expect("pull");
        store.remove(&reference).await.expect("remove");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_carry_no_credentials() {
    let fixture = Fixture::new();
    let archive = fixture.archive(LayerCompression::Gzip);
    let storage = FakeRegistry::start(Faults::default()).await;
    storage.add_archive(&archive, "app", "v1");
    let faults = Faults {
        basic: true,
        redirect_to: Some(storage.address),
        ..Faults::default()
    };
    let registry = FakeRegistry::start(faults).await;
    registry.add_archive(&archive, "app", "v1");
    pull_as(&fixture.open(), &registry.reference("app:v1"), user("secret"))
        .await
        .expect("pull");
    let seen = storage.seen();
    assert_eq!(seen.len(), 3, "configuration and two layers");
    assert!(seen.iter().all(|s| !s.headers.contains_key("authorization")));
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_downloads_resume() {
    let fixture = Fixture::new();
    let archive = fixture.archive(LayerCompression::Gzip);
    for no_ranges in [false, true] {
        let faults = Faults {
            cut_after: Some((300_000, 2)),
            no_ranges,
            unavailable: 2,
            ..Faults::default()
        };
        let registry = FakeRegistry::start(faults).await;
        let layers = registry.add_archive(&archive, "app", "v1");
        let store = fixture.open();
        let reference = registry.reference("app:v1");
        pull(&store, &reference).await.expect("pull");
        let requests = registry.blob_requests(&layers[0]);
        let ranges: Vec<_> = requests
            .iter()
            .filter_map(|s| s.headers.get("range")?.to_str().ok().map(str::to_owned))
            .collect();
        if no_ranges {
            assert_eq!(ranges.len(), 2);
        } else {
            assert_eq!(ranges, ["bytes=300000-", "bytes=600000-"]);
        }
        store.remove(&reference).await.expect("remove");
        fixture.assert_clean(0);
    }
    // A connection that never brings anything more is given up in the end.
    let registry = FakeRegistry::start(Faults {
        cut_after: Some((0, 1000)),
        ..Faults::default()
    })
    .await;
    registry.add_archive(&archive, "app", "v1");
    let error = pull(&fixture.open(), &registry.reference("app:v1"))
        .await
        .expect_err("truncated");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("ended after 0 of"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_content_is_refused() {
    let fixture = Fixture::new();
    let archive = fixture.archive(LayerCompression::Gzip);
    let store = fixture.open();
    let registry = FakeRegistry::start(Faults {
        corrupt: true,
        ..Faults::default()
    })
    .await;
    registry.add_archive(&archive, "app", "v1");
    let error = pull(&store, &registry.reference("app:v1"))
        .await
        .expect_err("corrupt");
    assert!(error.to_string().contains("unexpected digest"), "{error}");
    fixture.assert_clean(0);
    registry.set_faults(Faults::default());
    pull(&store, &registry.reference("app:v1"))
        .await
        .expect("the same store pulls the true content");

    let layer = registry.add_blob(vec![0_u8; 1024]);
    let config = |arch: &str, diff: &Digest| {
        format!(
            r#"{{"os":"linux","architecture":"{arch}","rootfs":{{"type":"layers","diff_ids":["{diff}"]}}}}"#
        )
    };
    let arch = if cfg!(target_arch = "x86_64") {
        "amd64"
    } else {
        "arm64"
    };
    let other = Digest::sha256(b"something else");
    let oci = "application/vnd.oci.image.manifest.v1+json";
    let table = [
        (
            "diff-id",
            config(arch, &other),
            layer.clone(),
            1024,
            "uncompressed layer",
        ),
        (
            "too-long",
            config(arch, &layer),
            layer.clone(),
            1000,
            "unexpected size",
        ),
        ("missing", config(arch, &other), other.clone(), 9, "not found"),
        (
            "arch",
            config("s390x", &layer),
            layer.clone(),
            1024,
            "no match for platform in manifest",
        ),
        (
            "schema",
            "{".to_owned(),
            layer.clone(),
            1024,
            "invalid image configuration",
        ),
    ];
    for (name, config, layer, size, expected) in table {
        let id = registry.add_blob(config.clone());
        let manifest = format!(
            r#"{{"schemaVersion":2,"config":{{"digest":"{id}","size":{}}},"layers":[{{"digest":"{layer}","size":{size}}}]}}"#,
            config.len()
        );
        registry.add_manifest("bad", name, oci, manifest.as_bytes());
        let error = pull(&store, &registry.reference(&format!("bad:{name}")))
            .await
            .expect_err(name);
        assert!(error.to_string().contains(expected), "{name}: {error}");
        fixture.assert_clean(2);
    }
    let list = "application/vnd.docker.distribution.manifest.list.v2+json";
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"digest":"{other}","size":1,"platform":{{"os":"linux","architecture":"s390x"}}}}]}}"#
    );
    registry.add_manifest("bad", "index", list, index.as_bytes());
    let error = pull(&store, &registry.reference("bad:index"))
        .await
        .expect_err("index");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("linux/s390x"), "{error}");
    registry.add_manifest(
        "bad",
        "v1",
        "application/vnd.docker.distribution.manifest.v1+json",
        b"{\"schemaVersion\":1}",
    );
    let error = pull(&store, &registry.reference("bad:v1"))
        .await
        .expect_err("schema 1");
    assert_eq!(error.kind(), ErrorKind::Unimplemented);
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_pulls_share_layers() {
    let fixture = Fixture::new();
    let faults = Faults {
        layer_delay: Some(Duration::from_millis(50)),
        ..Faults::default()
    };
    let registry = FakeRegistry::start(faults).await;
    let layers = registry.add_archive(&fixture.archive(LayerCompression::Gzip), "app", "v1");
    let store = fixture.open();
    let reference = registry.reference("app:v1");
    let pulls = (0..4).map(|_| pull(&store, &reference));
    let records: Vec<_> = futures::future::join_all(pulls).await;
    assert!(records.iter().all(Result::is_ok), "{records:?}");
    for layer in &layers {
        assert_eq!(
            registry.blob_requests(layer).len(),
            1,
            "{layer} is downloaded once"
        );
    }
    // A pull that is given up leaves nothing behind, and the next one works.
    store.remove(&reference).await.expect("remove");
    registry.set_faults(Faults {
        layer_delay: Some(Duration::from_millis(200)),
        ..Faults::default()
    });
    let abandoned = tokio::time::timeout(Duration::from_millis(300), pull(&store, &reference)).await;
    assert!(abandoned.is_err());
    pull(&store, &reference).await.expect("pull");
    fixture.assert_clean(2);
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_move_and_mirrors_stand_in() {
    let fixture = Fixture::new();
    let registry = FakeRegistry::start(Faults::default()).await;
    let archive = fixture.archive(LayerCompression::Gzip);
    registry.add_archive(&archive, "library/app", "v1");
    let mut config = fixture.config();
    let yaml = format!(
        "mirrors: {{docker.io: {{endpoint: ['http://127.0.0.1:9', 'http://{}']}}}}",
        registry.address
    );
    config.registries = RegistriesConfig::from_yaml(&yaml).expect("yaml");
    let store = ImageStore::open(config).expect("open");
    let first = pull_as(&store, "app:v1", user("secret"))
        .await
        .expect("pull through the mirror");
    assert_eq!(first.repo_tags, ["docker.io/library/app:v1"]);
    let seen = registry.seen();
    assert!(seen.iter().all(|s| s.query == "ns=docker.io"), "{seen:?}");
    assert!(
        seen.iter().all(|s| !s.headers.contains_key("authorization")),
        "a mirror gets no pull secret"
    );

    std::fs::write(fixture.path("top/etc/changed"), "x").expect("change");
    registry.add_archive(&fixture.archive(LayerCompression::Gzip), "library/app", "v1");
    let second = pull(&store, "docker.io/library/app:v1").await.expect("pull");
    assert_ne!(first.id, second.id);
    let old = store.status(&first.id.to_string()).expect("the old image stays");
    assert!(old.repo_tags.is_empty() && old.repo_digests.len() == 1);
    assert_eq!(store.status("app:v1").expect("moved").id, second.id);
    assert_eq!(
        store.status(&second.id.hex()[..12]).expect("prefix").id,
        second.id
    );
    assert_eq!(store.status(&old.repo_digests[0]).expect("digest").id, first.id);
    assert!(store.status("app:v2").is_none() && store.status("").is_none());
    fixture.assert_clean(3);
    store.remove(&first.id.to_string()).await.expect("remove");
    fixture.assert_clean(2);
    assert_eq!(store.list(Some("app:v1")).len(), 1);
}

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
