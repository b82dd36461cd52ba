//! `keelson logs`.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::cli::Global;

/// Prints the log, filtered by component.
pub(crate) fn run(global: &Global, component: Option<&str>, follow: bool) -> Result<()> {
    let (file, filter) = source(global, component);
    let log =
        File::open(&file).with_context(|| format!("cannot read {}: is there a cluster?", file.display()))?;
    let mut reader = BufReader::new(log);
    // The watch is there before the file is read to its end: nothing falls in between.
    let watch = follow.then(|| watch(&file)).transpose()?;
    loop {
        match copy(&mut reader, filter.as_deref()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            other => other?,
        }
        let Some(watch) = &watch else { return Ok(()) };
        watch.read_events().context("cannot follow the log")?;
    }
}

/// The file and the name of the crate whose lines are wanted.
fn source(global: &Global, component: Option<&str>) -> (PathBuf, Option<String>) {
    let paths = global.paths();
    match component {
        None => (paths.server_log(), None),
        Some(component) => match component.strip_prefix("node/") {
            Some(node) => (paths.sandbox(node).join("var/log/keelson.log"), None),
            None => (paths.server_log(), Some(module(component))),
        },
    }
}

/// Lines say the module they come from: `keelson_scheduler::queue`.
fn module(component: &str) -> String {
    let name = match component {
        "kube-apiserver" => "apiserver",
        "kube-scheduler" => "scheduler",
        "kube-controller-manager" => "controller-manager",
        "containerd" | "cri" => "runtime",
        "dns" | "coredns" => "network",
        other => other,
    };
    format!("keelson_{}", name.replace('-', "_"))
}

fn watch(file: &Path) -> Result<Inotify> {
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC)?;
    inotify.add_watch(file, AddWatchFlags::IN_MODIFY)?;
    Ok(inotify)
}

fn copy(reader: &mut impl BufRead, module: Option<&str>) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    let mut line = Vec::new();
    loop {
        line.clear();
        if reader.read_until(b'\n', &mut line)? == 0 {
            return stdout.flush();
        }
        if module.is_none_or(|module| memchr_find(&line, module.as_bytes())) {
            stdout.write_all(&line)?;
        }
    }
}

fn memchr_find(line: &[u8], wanted: &[u8]) -> bool {
    line.windows(wanted.len()).any(|window| window == wanted)
}
