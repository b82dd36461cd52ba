//! Moving a cluster's objects from one store to another.

use super::error::Error;
use super::restore::{fill_etcd, refuse_running, stage_embedded, stage_settings};
use super::staging::{self, Plan, Staging};
use super::take::snapshot;
use crate::backend::{Backend, EtcdSettings};
use crate::lock::DataLock;
use crate::paths::Paths;
use crate::preflight;
use crate::progress::{Progress, Report};
use crate::settings::ClusterSettings;

/// A cluster whose objects have moved.
#[derive(Clone, Debug)]
pub struct Migrated {
    /// Where they were, and are still, unused.
    pub from: Backend,
    /// Where they are.
    pub to: Backend,
    /// The revision of both.
    pub revision: u64,
    /// How many keys there are.
    pub keys: u64,
}

/// Moves the objects of a stopped cluster into `etcd`, or into the embedded store, with all their revisions. Until the new
/// store is complete, the cluster has the old one; interrupted, the same command goes on.
pub async fn migrate(
    paths: &Paths,
    etcd: Option<EtcdSettings>,
    report: Report<'_>,
) -> Result<Migrated, Error> {
    preflight::require_root()?;
    let progress = Progress::new(report);
    refuse_running(paths)?;
    let no_cluster = || Error::NoCluster(paths.data.clone());
    if !paths.data.exists() {
        return Err(no_cluster());
    }
    let lock = DataLock::acquire(paths)?;
    staging::finish(&paths.data, &lock)?;
    let settings = ClusterSettings::read(paths)?.ok_or_else(no_cluster)?;
    let from = Backend::of(&settings, paths);
    let to = Backend::new(etcd.clone(), paths);
    if from == to {
        return Err(Error::SamePlace(to));
    }
    let snapshot = snapshot(&from).await?;
    let (revision, keys) = (snapshot.revision.0, snapshot.kvs.len() as u64);
    progress.done(format!("{from} read: {keys} keys at revision {revision}"));
    let moved = ClusterSettings { etcd, ..settings };
    match &moved.etcd {
        Some(etcd) => {
            fill_etcd(etcd, &snapshot, &progress).await?;
            progress.done(format!("{to} written"));
            moved.write(paths)?;
        }
        None => {
            let staging = Staging::begin(paths, &lock)?;
            stage_settings(&moved, &staging)?;
            stage_embedded(snapshot, &staging, &to).await?;
            progress.done(format!("{to} written"));
            let plan = Plan {
                id: format!("migration of revision {revision}"),
                remove: Vec::new(),
                replace: vec!["store".into(), "cluster.json".into()],
            };
            staging.commit(&plan, &lock)?;
        }
    }
    progress.finished("the cluster's settings name it");
    Ok(Migrated {
        from,
        to,
        revision,
        keys,
    })
}
