//! `cargo xtask test`: everything that must hold before a change lands, the fast checks first.

use anyhow::Result;

use crate::{dependencies, run, setup, tidy};

/// Sets up, then checks and tests.
pub(crate) fn run_all(fast: bool) -> Result<()> {
    setup::ensure()?;
    tidy::run()?;
    dependencies::run()?;
    run("cargo", &["fmt", "--all", "--check"])?;
    run(
        "cargo",
        &[
            "clippy",
            "--workspace",
            "--all-targets",
            "--features=xtask/bench",
            "--",
            "--deny",
            "warnings",
        ],
    )?;
    let profile = if fast { "fast" } else { "ci" };
    let tests = [
        "nextest",
        "run",
        "--workspace",
        "--features=xtask/bench",
        "--profile",
        profile,
    ];
    run("cargo", &tests)?;
    if fast {
        return Ok(());
    }
    // The other promises of the README, kept on the binary that the tests have built: they must not rot.
    let keelson = ["--keelson", "target/debug/keelson"];
    let xtask = ["run", "--quiet", "--package", "xtask"];
    run(
        "cargo",
        &[&xtask[..], &["--", "demo", "--isolated"], &keelson].concat(),
    )?;
    // The rows that do not need dozens of containers.
    let bench = ["--features=bench", "--bin=bench", "--", "--quick"];
    let rows = ["--only=start", "--only=idle", "--only=pods", "--only=store"];
    run("cargo", &[&xtask[..], &bench, &rows, &keelson].concat())
}
