//! Pulling from Debian's docker-registry and from a registry with faults.

use std::time::Duration;

use keelson_runtime::images::build::{LayerCompression, push_archive};
use keelson_runtime::images::{
    AuthConfig, Digest, ErrorKind, ImageError, ImageStore, PullPhase, PullProgress, RegistriesConfig,
};
use tokio::sync::watch;

use crate::fixture::{Fixture, pull, pull_as, run_in_overlay, user};
use crate::registry::{DockerRegistry, FakeRegistry, Faults};

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
async fn certificates_are_checked() {
    let fixture = Fixture::new();
    let (registry, pem) = FakeRegistry::start_tls(Faults {
        basic: true,
        ..Faults::default()
    })
    .await;
    registry.add_archive(&fixture.archive(LayerCompression::Gzip), "app", "v1");
    let reference = registry.reference("app:v1");
    let store = fixture.open();
    let error = pull_as(&store, &reference, user("secret"))
        .await
        .expect_err("not trusted");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("TLS handshake"), "{error}");
    assert!(
        registry.seen().is_empty(),
        "nothing is said to a server that is not trusted"
    );
    drop(store);

    let ca = fixture.path("ca.pem");
    std::fs::write(&ca, pem).expect("write");
    let yaml = format!(
        "configs: {{'{}': {{auth: {{username: user, password: secret}}, tls: {{ca_file: '{}'}}}}}}",
        registry.address,
        ca.display()
    );
    let mut config = fixture.config();
    config.registries = RegistriesConfig::from_yaml(&yaml).expect("yaml");
    let store = ImageStore::open(config).expect("open");
    pull(&store, &reference)
        .await
        .expect("trusted, with the configured credentials");
}
