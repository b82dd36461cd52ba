//! A machine of its own for a test: network, mount, UTS, IPC and PID namespaces. Its network has only loopback and no way
//! out, so that no packet for a pod or a Service can leave; when it is dropped, the kernel ends everything in it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context, Result, ensure};

/// A running machine.
pub struct Machine {
    holder: Child,
    /// PID 1 of the machine, as the host numbers it.
    init: u32,
    keelson: PathBuf,
    directory: tempfile::TempDir,
}

impl Machine {
    /// Starts a machine called `name`; `keelson` is the binary under test.
    pub fn start(name: &str, keelson: &Path) -> Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("keelson-test-")
            .tempdir_in("/var/tmp")?;
        // A disk of its own: nodes feel pressure when the disk of the real machine is nearly full.
        let disk = directory.path().join("disk");
        fs::create_dir(&disk)?;
        let script = format!(
            "ip link set lo up && hostname {name} && mount -t tmpfs tmpfs /run && mount -t tmpfs tmpfs /root && \
             mount -t tmpfs -o size=4g tmpfs {} && mkdir -p /run/netns && echo ready && exec sleep infinity",
            disk.display()
        );
        let mut holder = Command::new("unshare")
            .args([
                "--net",
                "--mount",
                "--uts",
                "--ipc",
                "--pid",
                "--fork",
                "--kill-child",
                "--mount-proc",
            ])
            .args(["sh", "-c", &script])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot run unshare")?;
        let mut line = String::new();
        let stdout = holder.stdout.take().context("unshare has no output")?;
        BufReader::new(stdout).read_line(&mut line)?;
        ensure!(line == "ready\n", "the machine did not start");
        let children = format!("/proc/{0}/task/{0}/children", holder.id());
        let init = fs::read_to_string(children)?
            .trim()
            .parse()
            .context("unshare has no child")?;
        Ok(Self {
            holder,
            init,
            keelson: keelson.to_owned(),
            directory,
        })
    }

    /// The cluster's data directory, as the machine names it; [`Self::seen`] shows it to the test.
    pub fn data_dir(&self) -> PathBuf {
        self.directory.path().join("disk/data")
    }

    /// Where the test sees a path of the machine, whatever is mounted there.
    pub fn seen(&self, path: &Path) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{}", self.init, path.display()))
    }

    /// A directory for the test's own files; the test and the machine see it at the same path.
    pub fn scratch(&self) -> &Path {
        self.directory.path()
    }

    /// A command that runs in the machine.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.init.to_string(), "-n", "-m", "-u", "-i", "-p", "--"]);
        command.arg(program.as_ref());
        command
            .env("HOME", "/root")
            .env("KUBECONFIG", self.data_dir().join("admin.kubeconfig"));
        command
    }

    /// `keelson` with this machine's directories.
    pub fn keelson(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(&self.keelson);
        command
            .arg(format!("--data-dir={}", self.data_dir().display()))
            .args(arguments);
        // What the environment says of the host must not reach the nodes.
        command
            .env_remove("KUBECONFIG")
            .env("KEELSON_DATA_DIR", self.data_dir());
        command
    }

    /// Runs a command to its end; an error with its output when it fails.
    pub fn run(&self, mut command: Command) -> Result<String> {
        let output = command
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot run {command:?}"))?;
        text(&command, &output)
    }
}

/// Standard output of a command that succeeded.
fn text(command: &Command, output: &Output) -> Result<String> {
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    ensure!(
        output.status.success(),
        "{command:?} failed: {}\n{out}\n{err}",
        output.status
    );
    Ok(out.into_owned())
}

impl Drop for Machine {
    fn drop(&mut self) {
        let down = self.keelson(&["down", "--purge"]).output();
        if !down.is_ok_and(|output| output.status.success()) {
            eprintln!("the cluster of this test could not be taken down in order");
        }
        // Ends everything that is still in the machine. Both may fail only because it is gone.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

impl Machine {
    /// Makes a file system of the machine's own, of `gigabytes` at most, and returns where it is mounted. What is written to it
    /// can be told from what the rest of the host writes, and a kubelet on it sees a disk that is not full, whatever the
    /// host's is. It is there in the machine alone, and ends with it.
    pub fn mount_disk(&self, gigabytes: u64) -> Result<PathBuf> {
        let (image, directory) = (self.scratch().join("disk.img"), self.scratch().join("disk"));
        fs::create_dir_all(&directory)?;
        fs::File::create(&image)?.set_len(gigabytes << 30)?;
        // Nothing is left for the kernel to initialise in the background.
        let now = "lazy_itable_init=0,lazy_journal_init=0";
        let mut make = self.command("mkfs.ext4");
        make.args(["-q", "-N", "131072", "-J", "size=32", "-E", now])
            .arg(&image);
        self.run(make)?;
        let mut mount = self.command("mount");
        mount.args(["-o", "loop"]).arg(&image).arg(&directory);
        self.run(mount)?;
        Ok(directory)
    }

    /// Prints the last lines of every log, for the report of a failed test.
    pub fn show_logs(&self) {
        let data = self.seen(&self.data_dir());
        let mut logs = vec![data.join("logs/keelson.log")];
        if let Ok(nodes) = fs::read_dir(data.join("nodes")) {
            logs.extend(
                nodes
                    .flatten()
                    .map(|node| node.path().join("var/log/keelson.log")),
            );
        }
        for log in logs {
            let Ok(text) = fs::read_to_string(&log) else {
                continue;
            };
            let lines: Vec<_> = text.lines().collect();
            eprintln!("--- {}", log.display());
            for line in &lines[lines.len().saturating_sub(60)..] {
                eprintln!("{line}");
            }
        }
    }
}
