//! A child process and what the kernel says about it.

use std::path::Path;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::Result;

/// A child that said it is ready; it ends when its standard input closes.
pub(crate) struct Process {
    child: Child,
    id: u32,
    /// What it said behind `ready`.
    pub(crate) ready: String,
    _output: Lines<BufReader<ChildStdout>>,
}

impl Process {
    /// Starts this program in another role.
    pub(crate) async fn start(role: &str, directory: &Path, more: &[&str]) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(role).arg(directory).args(more);
        Self::of(command).await
    }

    async fn of(mut command: Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let output = child.stdout.take().ok_or("no standard output")?;
        let mut lines = BufReader::new(output).lines();
        while let Some(line) = lines.next_line().await? {
            if let Some(ready) = line.strip_prefix("ready ") {
                return Ok(Self {
                    id: child.id().ok_or("the child has ended")?,
                    ready: ready.to_owned(),
                    child,
                    _output: lines,
                });
            }
        }
        Err("the child ended before it was ready".into())
    }

    pub(crate) async fn stop(mut self) -> Result<()> {
        drop(self.child.stdin.take());
        self.child.wait().await?;
        Ok(())
    }

    /// Resident bytes that belong to no file.
    pub(crate) fn anonymous_memory(&self) -> Result<f64> {
        Ok(self.status("RssAnon:")? * 1024.0)
    }

    /// Resident bytes.
    pub(crate) fn memory(&self) -> Result<f64> {
        Ok(self.status("VmRSS:")? * 1024.0)
    }

    fn status(&self, field: &str) -> Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id))?;
        let line = status
            .lines()
            .find_map(|l| l.strip_prefix(field))
            .ok_or("no such field")?;
        Ok(line.split_whitespace().next().ok_or("no value")?.parse()?)
    }

    /// Seconds of processor time so far.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id))?;
        let after = stat.rsplit_once(')').ok_or("stat")?.1;
        let ticks: f64 = after
            .split_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|t| t.parse::<f64>().ok())
            .sum();
        Ok(ticks / 100.0)
    }
}
