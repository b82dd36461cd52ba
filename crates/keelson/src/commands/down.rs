//! `keelson down`.

use anyhow::Result;

use crate::cli::{Global, Output};
use crate::output::{print_json, print_step};

/// Stops the cluster.
pub(crate) async fn run(global: &Global, purge: bool) -> Result<()> {
    let paths = global.paths();
    keelson_cluster::down::down(&paths, purge, &|step| print_step(&step)).await?;
    if global.output == Output::Json {
        return print_json(&serde_json::json!({"stopped": true, "purged": purge, "dataDir": paths.data}));
    }
    if purge {
        println!("\nThe cluster and its data are gone. `keelson up` starts a new one.");
    } else {
        println!("\nThe cluster is stopped; its data stays in {}.", paths.data.display());
        println!("`keelson up` starts it again, `keelson down --purge` deletes it.");
    }
    Ok(())
}
