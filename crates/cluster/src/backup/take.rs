//! Making a backup.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use keelson_store::snapshot::Snapshot;

use super::archive::{FORMAT, MANIFEST, Manifest, SETTINGS, STORE, Writer};
use super::error::{Error, io as io_error, store as store_error};
use super::{staging, stream};
use crate::backend::Backend;
use crate::lock::DataLock;
use crate::paths::Paths;
use crate::preflight;
use crate::process::ProcessRecord;
use crate::progress::{Progress, Report};
use crate::sandbox::NodeSpec;
use crate::settings::{ClusterSettings, sandboxed_nodes};

/// What to back up, and where to.
#[derive(Clone, Debug)]
pub struct BackupOptions {
    /// The cluster.
    pub paths: Paths,
    /// The file.
    pub file: PathBuf,
    /// Replace a file that is there.
    pub force: bool,
}

/// A backup that was made.
#[derive(Clone, Debug)]
pub struct Taken {
    /// What it says of itself.
    pub manifest: Manifest,
    /// Its length.
    pub bytes: u64,
}

/// A file that is not there any more when this is dropped, unless it was kept.
struct Temporary(PathBuf);

impl Temporary {
    fn beside(file: &Path, suffix: &str) -> Self {
        let mut name = file.as_os_str().to_owned();
        name.push(suffix);
        Self(name.into())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // It may never have been made, or it has become the backup.
        let _ = fs::remove_file(&self.0);
    }
}

/// Makes a backup of a cluster, running or stopped. The file is there as a whole or not at all, and only its owner may
/// read it: it has all keys of the cluster.
pub async fn backup(options: &BackupOptions, report: Report<'_>) -> Result<Taken, Error> {
    preflight::require_root()?;
    let progress = Progress::new(report);
    let BackupOptions { paths, file, force } = options;
    if !force && file.symlink_metadata().is_ok() {
        return Err(Error::Exists(file.clone()));
    }
    let spool = Temporary::beside(file, ".store.new");
    let running = ProcessRecord::read_running(&paths.server_record()).is_some();
    // Nobody starts or restores the cluster meanwhile.
    let lock = if running { None } else { lock_existing(paths)? };
    let no_cluster = || Error::NoCluster(paths.data.clone());
    let settings = ClusterSettings::read(paths)?.ok_or_else(no_cluster)?;
    let backend = Backend::of(&settings, paths);
    if running {
        stream::fetch(&paths.control_socket(), &spool.0).await?;
    } else {
        of_stopped(&backend, &spool.0).await?;
    }
    progress.done(format!("{backend} read"));

    let (paths, file) = (paths.clone(), file.clone());
    let written = tokio::task::spawn_blocking(move || write(&paths, &settings, &backend, &spool, &file));
    let taken = written.await??;
    drop(lock);
    progress.finished(format!(
        "backup of {} keys at revision {} written",
        taken.manifest.keys, taken.manifest.revision
    ));
    Ok(taken)
}

/// The lock of a directory that is there, with what was interrupted completed.
fn lock_existing(paths: &Paths) -> Result<Option<DataLock>, Error> {
    if !paths.data.exists() {
        return Ok(None);
    }
    let lock = DataLock::acquire(paths)?;
    staging::finish(&paths.data, &lock)?;
    Ok(Some(lock))
}

/// Opens the store of a stopped cluster for its snapshot.
async fn of_stopped(backend: &Backend, spool: &Path) -> Result<(), Error> {
    let snapshot = snapshot(backend).await?;
    let spool = spool.to_owned();
    let written = tokio::task::spawn_blocking(move || {
        let out = BufWriter::with_capacity(1 << 20, create(&spool)?);
        snapshot.write_to(out).map_err(io_error("write", &spool))
    });
    written.await?
}

/// All of a store that nobody uses.
pub(super) async fn snapshot(backend: &Backend) -> Result<Snapshot, Error> {
    let open = backend.open().await.map_err(store_error(backend))?;
    let snapshot = Snapshot::take(open.store().as_ref()).await;
    open.close().await;
    snapshot.map_err(store_error(backend))
}

/// A new file that only its owner may read.
pub(super) fn create(path: &Path) -> Result<File, Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(io_error("replace", path)(error));
        }
        _ => {}
    }
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(io_error("write", path))
}

/// Puts everything into the file. `spool` is the snapshot.
fn write(
    paths: &Paths,
    settings: &ClusterSettings,
    backend: &Backend,
    spool: &Temporary,
    file: &Path,
) -> Result<Taken, Error> {
    let opened = File::open(&spool.0).map_err(io_error("read", &spool.0))?;
    let length = opened.metadata().map_err(io_error("read", &spool.0))?.len();
    // Checked now, not when it is needed.
    let snapshot = Snapshot::read_from(BufReader::with_capacity(1 << 20, opened))?;
    let manifest = Manifest {
        format: FORMAT,
        keelson: env!("CARGO_PKG_VERSION").into(),
        created: Timestamp::now(),
        backend: backend.kind().into(),
        revision: snapshot.revision.0,
        keys: snapshot.kvs.len() as u64,
    };
    drop(snapshot);
    let new = Temporary::beside(file, ".new");
    let out = BufWriter::with_capacity(1 << 20, create(&new.0)?);
    let written = members(out, paths, settings, &manifest, &spool.0, length);
    let mut out = written.map_err(io_error("write", &new.0))?;
    let synced = out.flush().and_then(|()| {
        out.get_ref().sync_all()?;
        out.get_ref().metadata()
    });
    let bytes = synced.map_err(io_error("write", &new.0))?.len();
    fs::rename(&new.0, file).map_err(io_error("write", file))?;
    let directory = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(io_error("write", file))?;
    Ok(Taken { manifest, bytes })
}

fn members(
    out: BufWriter<File>,
    paths: &Paths,
    settings: &ClusterSettings,
    manifest: &Manifest,
    spool: &Path,
    length: u64,
) -> io::Result<BufWriter<File>> {
    let mut writer = Writer::new(out, manifest.created);
    writer.add_bytes(MANIFEST, &serde_json::to_vec_pretty(manifest)?)?;
    writer.add_bytes(SETTINGS, &settings.to_bytes()?)?;
    directory(&mut writer, "pki", &paths.pki())?;
    for node in sandboxed_nodes(paths) {
        let below = format!("nodes/{}", node.name);
        writer.add_bytes(
            &format!("{below}/node.json"),
            &fs::read(NodeSpec::file(&node.dir))?,
        )?;
        let pki = "var/lib/keelson/pki";
        directory(&mut writer, &format!("{below}/{pki}"), &node.dir.join(pki))?;
    }
    writer.add(STORE, length, BufReader::new(File::open(spool)?))?;
    writer.finish()
}

/// Adds the files of a directory that are not about to be renamed; there need be no directory.
fn directory<W: Write>(writer: &mut Writer<W>, name: &str, path: &Path) -> io::Result<()> {
    let mut entries = match fs::read_dir(path) {
        Ok(entries) => entries.collect::<io::Result<Vec<_>>>()?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let file = entry.file_name();
        let file = file.to_string_lossy();
        if file.ends_with(".new") {
            continue;
        }
        let name = format!("{name}/{file}");
        if entry.file_type()?.is_dir() {
            directory(writer, &name, &entry.path())?;
        } else {
            writer.add_bytes(&name, &fs::read(entry.path())?)?;
        }
    }
    Ok(())
}
