//! `keelson kubeconfig`.

use anyhow::{Context, Result};
use keelson_cluster::kubeconfig;

use crate::cli::{Global, Output};
use crate::output::{print_json, print_line};

/// Prints the administrator's kubeconfig or merges it.
pub(crate) fn run(global: &Global, merge: bool) -> Result<()> {
    let admin = global.paths().admin_kubeconfig();
    let text = std::fs::read_to_string(&admin).with_context(|| {
        format!(
            "cannot read {}: is there a cluster? `keelson up` starts one",
            admin.display()
        )
    })?;
    if !merge {
        if global.output == Output::Json {
            let value: serde_json::Value = serde_yaml_ng::from_str(&text)?;
            return print_json(&value);
        }
        print!("{text}");
        return Ok(());
    }
    let target = kubeconfig::user_file().context("there is no home directory: set KUBECONFIG")?;
    kubeconfig::merge(&admin, &target)?;
    print_line(format_args!(
        "context `{}` is in {} and is the current one",
        kubeconfig::CONTEXT,
        target.display()
    ));
    Ok(())
}
