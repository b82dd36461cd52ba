//! A store in a temporary directory and images made from busybox.
//!
//! Mounts happen in the mount namespace of a child process, see `run_in_overlay`.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use keelson_runtime::images::build::{BuildConfig, LayerCompression, build_image};
use keelson_runtime::images::{
    AuthConfig, ImageConfig, ImageError, ImageRecord, ImageStore, OverlayMount, PullProgress, RunConfig,
};
use tokio::sync::watch;

pub(crate) struct Fixture {
    temp: tempfile::TempDir,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        Self {
            temp: tempfile::tempdir().expect("tempdir"),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    pub(crate) fn config(&self) -> ImageConfig {
        let mut config = ImageConfig::new(self.path("store"));
        config.retry_backoff = Duration::from_millis(1);
        config.io_timeout = Duration::from_secs(5);
        config
    }

    pub(crate) fn open(&self) -> ImageStore {
        ImageStore::open(self.config()).expect("store opens")
    }

    /// Two layers: busybox and files, then changes to them.
    pub(crate) fn layers(&self) -> Vec<PathBuf> {
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

    pub(crate) fn archive(&self, compression: LayerCompression) -> PathBuf {
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
    pub(crate) fn assert_clean(&self, layers: usize) {
        let count = |dir: &str| {
            std::fs::read_dir(self.path("store").join(dir))
                .expect("dir")
                .count()
        };
        assert_eq!(count("ingest"), 0, "half-done work is left");
        assert_eq!((count("layers"), count("l")), (layers, layers));
    }
}

pub(crate) async fn pull(store: &ImageStore, reference: &str) -> Result<ImageRecord, ImageError> {
    pull_as(store, reference, None).await
}

pub(crate) async fn pull_as(
    store: &ImageStore,
    reference: &str,
    auth: Option<AuthConfig>,
) -> Result<ImageRecord, ImageError> {
    store
        .pull(reference, auth, watch::channel(PullProgress::default()).0)
        .await
}

pub(crate) fn user(password: &str) -> Option<AuthConfig> {
    Some(AuthConfig {
        username: "user".into(),
        password: password.into(),
        ..AuthConfig::default()
    })
}

/// Runs a shell script with the busybox of the image, chrooted into the mounted rootfs, and returns its output.
pub(crate) fn run_in_overlay(mount: &OverlayMount, target: &Path, script: &str) -> String {
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
