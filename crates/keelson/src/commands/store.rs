//! `keelson restore` and `keelson store`: what a stopped cluster has, and where.

use std::path::PathBuf;

use anyhow::{Context, Result};
use keelson_cluster::backend::{Backend, EtcdSettings};
use keelson_cluster::backup::{self, RestoreOptions, Target};
use serde_json::json;

use crate::cli::{EtcdArgs, Global, Output, StoreCommand, StoreKind};
use crate::output::{print_json, print_line, print_step};

/// Gets a cluster back.
pub(crate) async fn restore(
    global: &Global,
    file: PathBuf,
    force: bool,
    to: Option<StoreKind>,
    etcd: &EtcdArgs,
) -> Result<()> {
    let target = match (to, settings(etcd)?) {
        (None, None) => Target::AsBefore,
        (Some(StoreKind::Embedded), None) => Target::Embedded,
        (None | Some(StoreKind::Etcd), Some(etcd)) => Target::Etcd(etcd),
        (Some(StoreKind::Etcd), None) => return Err(backup::Error::NoEtcd.into()),
        (Some(StoreKind::Embedded), Some(_)) => anyhow::bail!("--etcd-servers is for --to etcd"),
    };
    let options = RestoreOptions {
        paths: global.paths(),
        file,
        target,
        force,
    };
    let restored = backup::restore(&options, &|step| print_step(&step)).await?;
    if global.output == Output::Json {
        return print_json(&json!({
            "restored": true,
            "dataDir": options.paths.data,
            "backend": restored.backend.kind(),
            "revision": restored.manifest.revision,
            "keys": restored.manifest.keys,
            "created": restored.manifest.created,
        }));
    }
    print_line(format_args!(
        "\nThe cluster is as it was at {}; its objects are in {}.",
        restored.manifest.created, restored.backend
    ));
    print_line("\nNext:\n  keelson up\n  kubectl get nodes");
    Ok(())
}

/// Moves the objects.
pub(crate) async fn run(global: &Global, command: StoreCommand) -> Result<()> {
    let StoreCommand::Migrate { to, etcd } = command;
    let etcd = match (to, settings(&etcd)?) {
        (StoreKind::Embedded, None) => None,
        (StoreKind::Etcd, Some(etcd)) => Some(etcd),
        (StoreKind::Etcd, None) => return Err(backup::Error::NoEtcd.into()),
        (StoreKind::Embedded, Some(_)) => anyhow::bail!("--etcd-servers is for --to etcd"),
    };
    let migrated = backup::migrate(&global.paths(), etcd, &|step| print_step(&step)).await?;
    if global.output == Output::Json {
        return print_json(&json!({
            "migrated": true,
            "from": migrated.from.kind(),
            "to": migrated.to.kind(),
            "revision": migrated.revision,
            "keys": migrated.keys,
        }));
    }
    print_line(format_args!(
        "\nThe cluster's {} keys are in {}, at revision {} as before.",
        migrated.keys, migrated.to, migrated.revision
    ));
    match (&migrated.from, &migrated.to) {
        (Backend::Embedded(path), Backend::Etcd(_)) => print_line(format_args!(
            "What was in {} is there still and is not used any more: delete it when the cluster is as you want it.",
            path.display()
        )),
        (from, _) => print_line(format_args!("{from} is left as it was and is not used any more.")),
    }
    print_line("\nNext:\n  keelson up\n  keelson status");
    Ok(())
}

fn settings(etcd: &EtcdArgs) -> Result<Option<EtcdSettings>> {
    etcd.settings().context("--etcd-cafile")
}
