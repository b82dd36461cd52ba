//! `keelson server`.

use std::io::Write;

use anyhow::Result;
use keelson_cluster::backup;
use keelson_cluster::paths::Paths;
use keelson_cluster::preflight;
use keelson_cluster::progress::Step;
use keelson_cluster::server;
use keelson_cluster::settings::ClusterSettings;

use crate::cli::{Global, UpArgs};
use crate::commands::{stop_signal, up};

/// Set by `keelson up` for the process that it leaves behind.
const BACKGROUND: &str = "KEELSON_BACKGROUND";

/// Runs until a signal. Settings are kept as `up` keeps them.
pub(crate) async fn run(global: &Global, args: &UpArgs) -> Result<()> {
    preflight::require_root()?;
    let paths = global.paths();
    if std::env::var_os(BACKGROUND).is_some() {
        // A session of its own: closing the terminal does not end the cluster.
        nix::unistd::setsid()?;
        // `up` has written the settings.
        return serve(&paths).await;
    }
    if backup::resume(&paths)?.is_some() {
        tracing::info!("the interrupted restore or migration is complete");
    }
    let existing = ClusterSettings::read(&paths)?;
    let mut settings = up::requested(args)?.resolve(existing.as_ref(), &paths)?;
    settings.merged_into = existing
        .as_ref()
        .and_then(|existing| existing.merged_into.clone());
    if existing.as_ref() != Some(&settings) {
        settings.write(&paths)?;
    }
    serve(&paths).await
}

async fn serve(paths: &Paths) -> Result<()> {
    let report = |step: Step| {
        tracing::info!(after_ms = step.after_ms, "{}", step.done);
        if let Ok(line) = serde_json::to_string(&step) {
            // `keelson up` reads these and goes away after the last one.
            let _ = writeln!(std::io::stdout(), "{line}");
        }
    };
    server::run(paths, &report, stop_signal()?).await?;
    Ok(())
}
