//! `cargo xtask demo`: builds, starts a cluster on this machine and puts the sample application on it.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::{root, run, setup};

const MANIFEST: &str = "examples/shop/manifest.yaml";

/// Ends with the application serving, and says how to reach it.
pub(crate) fn run_demo() -> Result<()> {
    setup::ensure()?;
    run(
        "cargo",
        &[
            "build",
            "--release",
            "--package",
            "keelson",
            "--package",
            "keelson-testkit",
        ],
    )?;
    let release = root().join("target/release");
    let keelson = path(release.join("keelson"))?;
    let images = path(root().join("target/images"))?;
    run(&path(release.join("keelson-testkit"))?, &["images", &images])?;
    run(&keelson, &["up"])?;
    for entry in std::fs::read_dir(&images).with_context(|| format!("cannot list {images}"))? {
        run(&keelson, &["image", "import", &path(entry?.path())?])?;
    }
    let kubectl = path(setup::clients().join("kubectl-1.37"))?;
    run(&kubectl, &["apply", "-f", MANIFEST])?;
    for workload in ["deployment/web", "statefulset/store", "daemonset/agent"] {
        run(
            &kubectl,
            &[
                "rollout",
                "status",
                "--namespace=shop",
                workload,
                "--timeout=120s",
            ],
        )?;
    }
    run(&kubectl, &["get", "pods,services", "--namespace=shop"])?;
    let url = address(&kubectl)?;
    run(
        "curl",
        &[
            "--fail",
            "--silent",
            "--show-error",
            "--retry",
            "5",
            "--retry-all-errors",
            &url,
        ],
    )?;
    println!("\nThe shop is open: curl {url}\nTake it down with: {keelson} down --purge");
    Ok(())
}

/// The load balancer's URL.
fn address(kubectl: &str) -> Result<String> {
    let output = Command::new(kubectl)
        .args(["wait", "--namespace=shop", "service/web-public", "--timeout=30s"])
        .args(["--for=jsonpath={.status.loadBalancer.ingress[0].ip}"])
        .output()
        .context("cannot run kubectl")?;
    ensure!(
        output.status.success(),
        "the load balancer has no address: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let output = Command::new(kubectl)
        .args(["get", "--namespace=shop", "service/web-public"])
        .args(["--output=jsonpath=http://{.status.loadBalancer.ingress[0].ip}/"])
        .output()
        .context("cannot run kubectl")?;
    Ok(String::from_utf8(output.stdout)?)
}

fn path(path: PathBuf) -> Result<String> {
    path.into_os_string()
        .into_string()
        .ok()
        .context("the checkout's path is not UTF-8")
}
