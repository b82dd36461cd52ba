//! `cargo xtask test`: everything that must hold before a change lands, the fast checks first.

use anyhow::Result;

use crate::{run, setup, tidy};

/// Sets up, then checks and tests.
pub(crate) fn run_all(fast: bool) -> Result<()> {
    setup::ensure()?;
    tidy::run()?;
    run("cargo", &["fmt", "--all", "--check"])?;
    run(
        "cargo",
        &[
            "clippy",
            "--workspace",
            "--all-targets",
            "--",
            "--deny",
            "warnings",
        ],
    )?;
    let profile = if fast { "fast" } else { "ci" };
    run("cargo", &["nextest", "run", "--workspace", "--profile", profile])
}
