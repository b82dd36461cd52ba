//! Getting a cluster back from a backup.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use keelson_store::embedded;
use keelson_store::snapshot::Snapshot;

use super::archive::{self, Backup, Manifest, SETTINGS};
use super::error::{Error, store as store_error};
use super::staging::{self, Plan, Staging};
use crate::backend::{self, Backend, EtcdSettings};
use crate::lock::DataLock;
use crate::paths::Paths;
use crate::preflight;
use crate::process::ProcessRecord;
use crate::progress::{Progress, Report};
use crate::sandbox::NodeSpec;
use crate::settings::{ClusterSettings, sandboxed_nodes};

/// Where the objects of a restored cluster go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Where they were.
    AsBefore,
    /// Into the embedded store.
    Embedded,
    /// Into this etcd.
    Etcd(EtcdSettings),
}

/// What to restore, and where to.
#[derive(Clone, Debug)]
pub struct RestoreOptions {
    /// The directories of the cluster that shall be.
    pub paths: Paths,
    /// The backup.
    pub file: PathBuf,
    /// Its store.
    pub target: Target,
    /// Replace a cluster that is there.
    pub force: bool,
}

/// A cluster that was restored and is stopped.
#[derive(Clone, Debug)]
pub struct Restored {
    /// What the backup says of itself.
    pub manifest: Manifest,
    /// Where the objects are now.
    pub backend: Backend,
}

/// Makes the data directory hold the cluster of a backup. The cluster must be stopped. The backup is checked as a whole
/// before anything is touched; whenever it is interrupted, the same command completes it, and a cluster that was there is
/// whole until the new one is.
pub async fn restore(options: &RestoreOptions, report: Report<'_>) -> Result<Restored, Error> {
    preflight::require_root()?;
    let progress = Progress::new(report);
    let paths = &options.paths;
    refuse_running(paths)?;
    let file = options.file.clone();
    let backup = tokio::task::spawn_blocking(move || archive::read(&file)).await??;
    let manifest = backup.manifest.clone();
    progress.done(format!(
        "backup checked: {} keys at revision {}",
        manifest.keys, manifest.revision
    ));
    let mut settings = backup.settings.clone();
    match &options.target {
        Target::AsBefore => {}
        Target::Embedded => settings.etcd = None,
        Target::Etcd(etcd) => settings.etcd = Some(etcd.clone()),
    }
    let backend = Backend::of(&settings, paths);

    let lock = DataLock::acquire(paths)?;
    let completed = staging::finish(&paths.data, &lock)?;
    if completed.as_deref() == Some(plan_id(&backup, &backend).as_str()) {
        progress.finished("the interrupted restore of this backup is complete");
        return Ok(Restored { manifest, backend });
    }
    if !options.force && (paths.cluster_record().exists() || paths.store().exists() || paths.pki().exists()) {
        return Err(Error::Occupied(paths.data.clone()));
    }
    let staging = Staging::begin(paths, &lock)?;
    let mut plan = Plan {
        id: plan_id(&backup, &backend),
        ..Plan::default()
    };
    stage_files(paths, &backup, &settings, &staging, &mut plan)?;
    match &settings.etcd {
        None => {
            stage_embedded(backup.snapshot, &staging, &backend).await?;
            plan.replace.push("store".into());
        }
        Some(etcd) => {
            fill_etcd(etcd, &backup.snapshot, &progress).await?;
            plan.remove.push("store".into());
        }
    }
    progress.done(format!("{} written", backend.kind()));
    staging.commit(&plan, &lock)?;
    progress.finished("keys, settings and store are in their places");
    Ok(Restored { manifest, backend })
}

/// The same for the same backup into the same store.
fn plan_id(backup: &Backup, backend: &Backend) -> String {
    format!("restore of {} into {backend}", backup.id)
}

/// An error when the cluster runs, or a part of it.
pub(super) fn refuse_running(paths: &Paths) -> Result<(), Error> {
    let server = ProcessRecord::read_running(&paths.server_record()).is_some();
    let mut nodes = sandboxed_nodes(paths).into_iter();
    if server || nodes.any(|node| node.running().is_some()) {
        return Err(Error::Running(paths.data.clone()));
    }
    Ok(())
}

/// Keys, settings and sandboxed nodes.
fn stage_files(
    paths: &Paths,
    backup: &Backup,
    settings: &ClusterSettings,
    staging: &Staging,
    plan: &mut Plan,
) -> Result<(), Error> {
    stage_settings(settings, staging)?;
    let mut replace = BTreeSet::from([PathBuf::from(SETTINGS), PathBuf::from("pki")]);
    let mut nodes = BTreeSet::new();
    for (name, content) in &backup.files {
        let part = Path::new(name);
        let mode = match part.extension().and_then(|extension| extension.to_str()) {
            Some("crt" | "pub") => keelson_pki::file::PUBLIC,
            _ => keelson_pki::file::SECRET,
        };
        if let Ok(below) = part.strip_prefix("nodes") {
            nodes.extend(
                below
                    .iter()
                    .next()
                    .map(|name| name.to_string_lossy().into_owned()),
            );
            if part.ends_with("node.json") {
                staging.write(part, &relocated(paths, content, name)?, mode)?;
                replace.insert(part.into());
            } else {
                staging.write(part, content, mode)?;
                replace.extend(part.parent().map(Path::to_owned));
            }
        } else {
            staging.write(part, content, mode)?;
        }
    }
    plan.replace.extend(replace);
    // Nodes that the backup does not know are not of this cluster. The kubeconfig is written at the start.
    let unknown = sandboxed_nodes(paths)
        .into_iter()
        .filter(|node| !nodes.contains(&node.name))
        .map(|node| Path::new("nodes").join(node.name));
    plan.remove.extend(unknown);
    plan.remove.push("admin.kubeconfig".into());
    Ok(())
}

pub(super) fn stage_settings(settings: &ClusterSettings, staging: &Staging) -> Result<(), Error> {
    let part = Path::new(SETTINGS);
    let bytes = settings.to_bytes().map_err(|source| Error::Plan {
        path: part.into(),
        source,
    })?;
    staging.write(part, &bytes, keelson_pki::file::SECRET)
}

/// A sandboxed node of another data directory, for this one: what it makes in the kernel carries the directory's id.
fn relocated(paths: &Paths, spec: &[u8], name: &str) -> Result<Vec<u8>, Error> {
    let wrong = |source| Error::Plan {
        path: name.into(),
        source,
    };
    let mut spec: NodeSpec = serde_json::from_slice(spec).map_err(wrong)?;
    let number = |text: &str| text.rsplit('-').next().unwrap_or_default().to_owned();
    let id = paths.id();
    spec.dir = paths.sandbox(&spec.name);
    spec.cgroup = format!("/keelson-{id}-{}", number(&spec.cgroup));
    spec.link = format!("kl-{id}-{}", number(&spec.link));
    spec.token = None;
    serde_json::to_vec_pretty(&spec).map_err(wrong)
}

/// Makes the embedded store among the parts that replace others.
pub(super) async fn stage_embedded(
    snapshot: Snapshot,
    staging: &Staging,
    backend: &Backend,
) -> Result<(), Error> {
    let place = staging.place(Path::new("store"))?;
    let loaded = tokio::task::spawn_blocking(move || embedded::load(&place, &snapshot));
    loaded.await?.map_err(store_error(backend))
}

/// Makes an etcd hold the snapshot, and says how far it is.
pub(super) async fn fill_etcd(
    etcd: &EtcdSettings,
    snapshot: &Snapshot,
    progress: &Progress<'_>,
) -> Result<(), Error> {
    let backend = Backend::Etcd(etcd.clone());
    let store = backend::connect(etcd).await.map_err(store_error(&backend))?;
    let end = snapshot.revision.0.max(1);
    let told = std::sync::atomic::AtomicU64::new(0);
    let result = store
        .load(snapshot, &|at| {
            let tenths = at.0.saturating_mul(10) / end;
            if told.fetch_max(tenths, std::sync::atomic::Ordering::Relaxed) < tenths && tenths < 10 {
                progress.done(format!("etcd at revision {} of {end}", at.0));
            }
        })
        .await;
    store.close().await;
    result.map_err(store_error(&backend))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_come_to_another_directory() {
        let old = Paths {
            data: "/a".into(),
            run: "/run/a".into(),
        };
        let new = Paths {
            data: "/b".into(),
            run: "/run/b".into(),
        };
        let spec = |paths: &Paths| {
            let id = paths.id();
            NodeSpec {
                name: "one-2".into(),
                dir: paths.sandbox("one-2"),
                cgroup: format!("/keelson-{id}-2"),
                link: format!("kl-{id}-2"),
                address: [172, 31, 240, 3].into(),
                prefix: 24,
                gateway: [172, 31, 240, 1].into(),
                agent: vec!["--node-name=one-2".into()],
                token: None,
            }
        };
        let mut before = spec(&old);
        before.token = Some("x".into());
        let moved = relocated(&new, &serde_json::to_vec(&before).unwrap(), "node.json").unwrap();
        let moved: NodeSpec = serde_json::from_slice(&moved).unwrap();
        assert_eq!(moved, spec(&new));
    }
}
