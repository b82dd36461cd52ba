//! `keelson down`.

use anyhow::Result;

use crate::cli::{Global, Output};
use crate::output::{print_json, print_line, print_step};

/// Stops the cluster.
pub(crate) async fn run(global: &Global, purge: bool) -> Result<()> {
    let paths = global.paths();
    keelson_cluster::down::down(&paths, purge, &|step| print_step(&step)).await?;
    if global.output == Output::Json {
        return print_json(&serde_json::json!({"stopped": true, "purged": purge, "dataDir": paths.data}));
    }
    if purge {
        print_line(format_args!(
            "\nThe cluster and its data are gone. `keelson up` starts a new one."
        ));
    } else {
        print_line(format_args!(
            "\nThe cluster is stopped; its data stays in {}.",
            paths.data.display()
        ));
        print_line(format_args!(
            "`keelson up` starts it again, `keelson down --purge` deletes it."
        ));
    }
    Ok(())
}
