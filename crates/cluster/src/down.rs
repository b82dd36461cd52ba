//! `keelson down`: ends every process of the cluster and takes back everything it made in the kernel.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::backend::Backend;
use crate::paths::Paths;
use crate::process::ProcessRecord;
use crate::progress::{Progress, Report};
use crate::sandbox::{self, CgroupTree};
use crate::settings::{self, ClusterSettings, sandboxed_nodes};
use crate::{kubeconfig, leftovers};

/// How long the server may take to stop its pods and close its store.
const PATIENCE: Duration = Duration::from_secs(40);

/// Something could not be taken back.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not root.
    #[error(transparent)]
    Preflight(#[from] crate::preflight::Error),
    /// The data directory does not fit.
    #[error(transparent)]
    Settings(#[from] settings::Error),
    /// A process would not end.
    #[error("cannot stop the server process")]
    Stop(#[source] io::Error),
    /// A sandboxed node.
    #[error(transparent)]
    Sandbox(#[from] sandbox::Error),
    /// The underlay.
    #[error(transparent)]
    Underlay(#[from] crate::underlay::Error),
    /// What pods left in the kernel.
    #[error(transparent)]
    Leftovers(#[from] leftovers::Error),
    /// The user's kubeconfig.
    #[error(transparent)]
    Kubeconfig(#[from] kubeconfig::Error),
    /// Files.
    #[error("cannot remove {path}", path = path.display())]
    Remove {
        /// The path.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// Stops everything; with `purge` the data goes too. Doing it again, or after a crash, is harmless.
pub async fn down(paths: &Paths, purge: bool, report: Report<'_>) -> Result<(), Error> {
    crate::preflight::require_root()?;
    let progress = Progress::new(report);
    let settings = match ClusterSettings::read(paths) {
        Ok(settings) => settings,
        // A damaged or newer directory can still be purged.
        Err(error) if purge => {
            tracing::warn!(%error, "going on without the cluster's settings");
            None
        }
        Err(error) => return Err(error.into()),
    };
    let nodes = sandboxed_nodes(paths);
    if let Some(settings) = &settings {
        let underlay = settings.underlay(paths);
        // All at once, then one by one.
        for node in &nodes {
            sandbox::ask_to_stop(node)?;
        }
        for node in &nodes {
            sandbox::stop(node, &underlay, PATIENCE).await?;
            progress.done(format!("node {} stopped", node.name));
        }
        underlay.remove().await?;
    }
    if let Some(server) = ProcessRecord::read_running(&paths.server_record()) {
        server.terminate(PATIENCE).map_err(Error::Stop)?;
        progress.done("server process stopped");
    }
    leftovers::remove(paths).await?;
    if let Some(settings) = &settings {
        leftovers::remove_network(paths, settings).await?;
    }
    let tree = CgroupTree::detect().map_err(Error::Stop)?;
    tree.remove(&paths.cgroup()).map_err(Error::Stop)?;
    remove(&paths.run)?;
    progress.done("pods, mounts, cgroups, links and tables removed");
    if let Some(target) = settings.as_ref().and_then(|s| s.merged_into.as_ref()) {
        kubeconfig::unmerge(&paths.admin_kubeconfig(), target)?;
        progress.done(format!(
            "context {} removed from {}",
            kubeconfig::CONTEXT,
            target.display()
        ));
    }
    if purge {
        remove(&paths.data)?;
        progress.done(format!("{} deleted", paths.data.display()));
        if let Some(settings) = settings.filter(|settings| settings.etcd.is_some()) {
            let etcd = Backend::of(&settings, paths);
            progress.done(format!(
                "{etcd} is left as it is; without the keys that are gone, no cluster can use what it has"
            ));
        }
    }
    Ok(())
}

fn remove(path: &Path) -> Result<(), Error> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // A disk of its own is mounted there: it is empty now.
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy && is_empty(path) => Ok(()),
        result => result.map_err(|source| Error::Remove {
            path: path.into(),
            source,
        }),
    }
}

fn is_empty(path: &Path) -> bool {
    std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}
