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
    run("cargo", &["nextest", "run", "--workspace", "--profile", profile])
}
