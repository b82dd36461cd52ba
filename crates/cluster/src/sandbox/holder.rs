//! The process that makes a node's namespaces and holds them.

use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use nix::sched::{CloneFlags, unshare};

use crate::sandbox::{CgroupTree, NodeSpec};

/// Entry point of `keelson internal node-holder DIR`; must run before any thread is started.
///
/// Joins the node's cgroups, unshares, starts the init as PID 1 of the new namespaces, prints its process id, and ends
/// when it ends.
pub fn hold(dir: &Path) -> ExitCode {
    match try_hold(dir) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("keelson: node holder for {}: {error}", dir.display());
            ExitCode::FAILURE
        }
    }
}

fn try_hold(dir: &Path) -> io::Result<ExitCode> {
    let spec = NodeSpec::read(dir)?;
    CgroupTree::detect()?.join(&spec.cgroup)?;
    unshare(
        CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWCGROUP
            | CloneFlags::CLONE_NEWPID,
    )?;
    // The init gets our input, on which it is told to go on; its output goes to the log.
    let mut init = Command::new("/proc/self/exe")
        .args(["internal", "node-init"])
        .arg(dir)
        .stdout(Stdio::from(
            std::fs::OpenOptions::new().append(true).open(spec.log())?,
        ))
        .spawn()?;
    let mut stdout = io::stdout();
    writeln!(stdout, "{}", init.id())?;
    stdout.flush()?;
    let status = init.wait()?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
