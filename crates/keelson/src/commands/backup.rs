//! `keelson backup`.

use std::path::PathBuf;

use anyhow::{Context, Result};
use keelson_cluster::backup::{self, BackupOptions};
use serde_json::json;

use crate::cli::{Global, Output};
use crate::commands::status::size;
use crate::output::{print_json, print_line, print_step};

/// Saves the cluster in one file.
pub(crate) async fn run(global: &Global, file: Option<PathBuf>, force: bool) -> Result<()> {
    let file = file.unwrap_or_else(default_name);
    let options = BackupOptions {
        paths: global.paths(),
        file: std::path::absolute(&file).with_context(|| file.display().to_string())?,
        force,
    };
    let taken = backup::backup(&options, &|step| print_step(&step)).await?;
    let manifest = &taken.manifest;
    if global.output == Output::Json {
        return print_json(&json!({
            "file": options.file,
            "bytes": taken.bytes,
            "backend": manifest.backend,
            "revision": manifest.revision,
            "keys": manifest.keys,
            "created": manifest.created,
        }));
    }
    print_line(format_args!(
        "\nThe backup is in {}, {}. It has every key of the cluster: keep it where only you can read it.",
        options.file.display(),
        size(taken.bytes)
    ));
    print_line(format_args!(
        "\nNext, on this machine or another:\n  keelson restore {}\n  keelson up",
        file.display()
    ));
    Ok(())
}

fn default_name() -> PathBuf {
    let now = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ");
    format!("keelson-{now}.backup").into()
}
