//! `cargo xtask bench`: builds the release binary and the program `bench`, and runs it.

use anyhow::Result;

use crate::run;

/// Builds, then measures with `arguments`.
pub(crate) fn bench(arguments: &[String]) -> Result<()> {
    run("cargo", &["build", "--release", "--package", "keelson"])?;
    run(
        "cargo",
        &[
            "build",
            "--release",
            "--package",
            "keelson-apiserver",
            "--example",
            "bench",
        ],
    )?;
    let mut command = vec![
        "run",
        "--release",
        "--package",
        "xtask",
        "--features",
        "bench",
        "--bin",
        "bench",
        "--",
    ];
    command.extend(arguments.iter().map(String::as_str));
    run("cargo", &command)
}
