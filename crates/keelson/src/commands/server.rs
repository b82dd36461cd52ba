//! `keelson server`.

use std::io::Write;

use anyhow::Result;
use keelson_cluster::preflight;
use keelson_cluster::progress::Step;
use keelson_cluster::server;
use keelson_cluster::settings::ClusterSettings;

use crate::cli::{Global, UpArgs};
use crate::commands::{stop_signal, up};

/// Set by `keelson up` for the process that it leaves behind.
const BACKGROUND: &str = "KEELSON_BACKGROUND";

/// Runs until a signal. The first start in the foreground writes the settings that `up` would.
pub(crate) async fn run(global: &Global, args: &UpArgs) -> Result<()> {
    preflight::require_root()?;
    if std::env::var_os(BACKGROUND).is_some() {
        // A session of its own: closing the terminal does not end the cluster.
        nix::unistd::setsid()?;
    }
    let paths = global.paths();
    if ClusterSettings::read(&paths)?.is_none() {
        up::settings(args)?.write(&paths)?;
    }
    let report = |step: Step| {
        tracing::info!(after_ms = step.after_ms, "{}", step.done);
        if let Ok(line) = serde_json::to_string(&step) {
            // `keelson up` reads these and goes away after the last one.
            let _ = writeln!(std::io::stdout(), "{line}");
        }
    };
    server::run(&paths, &report, stop_signal()?).await?;
    Ok(())
}
