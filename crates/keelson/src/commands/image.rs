//! `keelson image`: the images of this machine's node and of the sandboxed nodes on it.

use std::path::PathBuf;

use anyhow::{Context, Result};
use keelson_cluster::control::{self, Action};
use keelson_cluster::paths::DEFAULT_RUN_DIR;
use keelson_cluster::settings::sandboxed_nodes;
use serde_json::{Value, json};

use crate::cli::{Global, ImageCommand, Output};
use crate::commands::status::size;
use crate::output::{print_json, print_line, print_table};

/// Does the action on every node of this machine.
pub(crate) async fn run(global: &Global, command: ImageCommand) -> Result<()> {
    let nodes = nodes(global);
    let actions = match command {
        ImageCommand::Import { file } => vec![Action::Import(file)],
        ImageCommand::Pull { image } => vec![Action::Pull(image)],
        ImageCommand::List => vec![Action::List],
        ImageCommand::Rm { images } => images.into_iter().map(Action::Remove).collect(),
    };
    let mut results = Vec::new();
    for (node, socket) in &nodes {
        for action in &actions {
            let show = |progress: &Value| {
                let part = |key: &str| progress.get(key).and_then(Value::as_u64).unwrap_or_default();
                eprint!(
                    "\r{node}: layers {}/{}, {}   ",
                    part("layersDone"),
                    part("layersTotal"),
                    size(part("bytesDone"))
                );
            };
            let result = control::request(socket, action, &show).await;
            if matches!(action, Action::Pull(_)) {
                eprintln!();
            }
            let result = result.with_context(|| format!("node {node}"))?;
            results.push(json!({"node": node, "result": result}));
        }
    }
    for action in &actions {
        if let Action::Remove(image) = action {
            let removed = results.iter().any(|r| r["result"].as_str() == Some(image));
            anyhow::ensure!(
                removed,
                "{image}: not found on this machine; see `keelson image list`"
            );
        }
    }
    if global.output == Output::Json {
        return print_json(&results);
    }
    match actions.first() {
        Some(Action::List) => print_list(&results),
        _ => print_done(&results),
    }
    Ok(())
}

/// Name and control socket of every node on this machine that runs.
fn nodes(global: &Global) -> Vec<(String, PathBuf)> {
    let paths = global.paths();
    let mut nodes = vec![("this machine".to_owned(), paths.control_socket())];
    for node in sandboxed_nodes(&paths) {
        if let Some(running) = node.running() {
            // The node's own /run, seen through its first process.
            let root = PathBuf::from(format!("/proc/{}/root", running.init.pid));
            let run = DEFAULT_RUN_DIR.trim_start_matches('/');
            nodes.push((node.name, root.join(run).join("control.sock")));
        }
    }
    nodes
}

fn text(value: &Value, key: &str) -> String {
    match value.get(key) {
        Some(Value::Array(items)) => items
            .iter()
            .filter_map(Value::as_str)
            .collect::<Vec<_>>()
            .join(","),
        Some(Value::String(text)) => text.clone(),
        _ => String::new(),
    }
}

fn print_list(results: &[Value]) {
    let mut rows = Vec::new();
    for result in results {
        for image in result["result"].as_array().into_iter().flatten() {
            let id = text(image, "id");
            let short = id.trim_start_matches("sha256:").chars().take(12).collect();
            let bytes = image.get("size").and_then(Value::as_u64).unwrap_or_default();
            rows.push(vec![
                text(result, "node"),
                text(image, "names"),
                short,
                size(bytes),
            ]);
        }
    }
    print_table(&["NODE", "IMAGE", "ID", "SIZE"], &rows);
}

fn print_done(results: &[Value]) {
    for result in results {
        let node = text(result, "node");
        match &result["result"] {
            Value::Array(images) => images
                .iter()
                .for_each(|image| print_line(format_args!("{node}: {}", text(image, "names")))),
            Value::String(image) => print_line(format_args!("{node}: {image} removed")),
            // The node does not have it.
            Value::Null => {}
            image => print_line(format_args!("{node}: {}", text(image, "names"))),
        }
    }
}
