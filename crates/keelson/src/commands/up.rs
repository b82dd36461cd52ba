//! `keelson up`.

use std::time::Duration;

use anyhow::{Context, Result};
use keelson_cluster::settings::Requested;
use keelson_cluster::up::{self, Summary, UpOptions};
use keelson_cluster::{kubeconfig, preflight};
use serde_json::json;

use crate::cli::{Global, Output, UpArgs};
use crate::output::{print_json, print_line, print_step};

/// Starts the cluster and says what to do next.
pub(crate) async fn run(global: &Global, args: &UpArgs) -> Result<()> {
    preflight::require_root()?;
    let options = UpOptions {
        paths: global.paths(),
        requested: requested(args)?,
        server_arguments: server_arguments(global),
        timeout: Duration::from_secs(args.timeout),
        merge_into: kubeconfig::user_file(),
        no_merge: args.no_kubeconfig,
    };
    let summary = up::up(&options, &|step| print_step(&step)).await?;
    match global.output {
        Output::Json => print_json(&json!({
            "ready": true,
            "nodes": summary.nodes,
            "kubeconfig": summary.kubeconfig,
            "mergedInto": summary.merged_into,
        })),
        Output::Text => {
            print_next_steps(&summary);
            Ok(())
        }
    }
}

/// What the flags ask for.
pub(crate) fn requested(args: &UpArgs) -> Result<Requested> {
    // The server process and later commands have other working directories.
    let registries = args.registries.as_ref().map(std::path::absolute).transpose();
    Ok(Requested {
        node_name: args.node_name.clone(),
        node_ip: args.node_ip,
        api_port: args.api_port,
        cluster_cidr: args.cluster_cidr,
        service_cidr: args.service_cidr,
        load_balancer_cidr: args.load_balancer_cidr,
        underlay_cidr: args.underlay_cidr,
        cluster_domain: args.cluster_domain.clone(),
        nodes: args.nodes,
        tls_sans: (!args.tls_sans.is_empty()).then(|| args.tls_sans.clone()),
        registries: registries.context("--registries")?,
        etcd: args.etcd.settings().context("--etcd-cafile")?,
    })
}

/// The server process reads everything else from `cluster.json`.
fn server_arguments(global: &Global) -> Vec<String> {
    vec![
        "server".into(),
        format!("--data-dir={}", global.data_dir.display()),
        format!("--run-dir={}", global.run_dir.display()),
        format!("--log={}", global.log),
    ]
}

fn print_next_steps(summary: &Summary) {
    let nodes = summary.nodes.len();
    print_line(format_args!(
        "\nThe cluster is ready: {nodes} node{}.",
        if nodes == 1 { "" } else { "s" }
    ));
    match &summary.merged_into {
        Some(file) => print_line(format_args!(
            "kubectl is set up: context `{}` in {}.",
            kubeconfig::CONTEXT,
            file.display()
        )),
        None => print_line(format_args!(
            "Use it with: export KUBECONFIG={}",
            summary.kubeconfig.display()
        )),
    }
    print_line(format_args!(
        "\nNext:\n  kubectl get nodes\n  kubectl create deployment web --image=nginx\n  keelson status\n  keelson down"
    ));
}
