//! `keelson status`.

use std::process::ExitCode;

use anyhow::Result;
use keelson_cluster::status::{self, Status};

use crate::cli::{Global, Output};
use crate::output::{print_json, print_line, print_table};

/// Exit code of a cluster that is there and does not run; `systemctl status` has the same.
const STOPPED: u8 = 3;

/// Prints the status; an error when there is no cluster.
pub(crate) async fn run(global: &Global) -> Result<ExitCode> {
    let paths = global.paths();
    let data = paths.data.display();
    anyhow::ensure!(
        paths.cluster_record().exists(),
        "there is no cluster in {data}; start one with `keelson up`"
    );
    let status = status::gather(&paths).await?;
    match global.output {
        Output::Json => print_json(&status)?,
        Output::Text => print(&status),
    }
    Ok(if status.running {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(STOPPED)
    })
}

fn print(status: &Status) {
    let state = if status.running {
        "running"
    } else {
        "stopped; `keelson up` starts it"
    };
    print_line(format_args!("keelson {}, {state}", status.version));
    if let Some(version) = &status.kubernetes_version {
        print_line(format_args!("Kubernetes {version} at {}", status.server));
    }
    let bytes = status.store_bytes.map(|bytes| format!(" {}", size(bytes)));
    print_line(format_args!(
        "data in {}, store {}{}, memory {}",
        status.data_dir,
        status.store,
        bytes.unwrap_or_default(),
        size(status.memory_bytes)
    ));
    if !status.nodes.is_empty() {
        print_line("");
        let rows: Vec<Vec<String>> = status
            .nodes
            .iter()
            .map(|node| {
                let ready = if node.ready { "Ready" } else { "NotReady" };
                vec![
                    node.name.clone(),
                    ready.into(),
                    node.version.clone(),
                    node.address.clone(),
                    node.kind.into(),
                ]
            })
            .collect();
        print_table(&["NODE", "STATUS", "VERSION", "ADDRESS", "KIND"], &rows);
    }
    if !status.components.is_empty() {
        print_line("");
        let rows: Vec<Vec<String>> = status
            .components
            .iter()
            .map(|c| vec![c.name.clone(), c.status.clone()])
            .collect();
        print_table(&["CHECK", "STATUS"], &rows);
    }
    if !status.certificates.is_empty() {
        print_line("");
        let rows: Vec<Vec<String>> = status
            .certificates
            .iter()
            .map(|c| {
                let left = c
                    .days
                    .map_or_else(|| "-".to_owned(), |days| format!("{days} days"));
                vec![c.name.clone(), c.expires.clone(), left]
            })
            .collect();
        print_table(&["CERTIFICATE", "EXPIRES", "LEFT"], &rows);
    }
}

/// Bytes for people.
pub(crate) fn size(bytes: u64) -> String {
    let mut value = bytes;
    let mut unit = "B";
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 10 * 1024 {
            break;
        }
        value /= 1024;
        unit = next;
    }
    format!("{value} {unit}")
}
