//! Debian's docker-registry on a machine's loopback.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::images;
use crate::machine::Machine;

/// A running registry; ends when it is dropped.
pub struct Registry {
    process: Child,
}

impl Registry {
    /// Starts the registry on `127.0.0.1:5000` of `machine` and pushes `archives` to it with skopeo.
    pub fn start(machine: &Machine, archives: &[PathBuf]) -> Result<Self> {
        let config = machine.scratch().join("registry.yml");
        let storage = machine.scratch().join("registry");
        std::fs::write(
            &config,
            format!(
                "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '{}'}}\n",
                storage.display(),
                "0.0.0.0:5000"
            ),
        )?;
        let process = machine
            .command("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start docker-registry")?;
        let registry = Self { process };
        registry.wait(machine)?;
        for archive in archives {
            push(machine, archive)?;
        }
        Ok(registry)
    }

    /// Returns when the registry answers.
    fn wait(&self, machine: &Machine) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let probe = machine.run({
                let mut curl = machine.command("curl");
                curl.args([
                    "-fsS",
                    "--retry",
                    "20",
                    "--retry-connrefused",
                    "--retry-delay",
                    "1",
                ]);
                curl.arg(format!("http://{}/v2/", images::REGISTRY));
                curl
            });
            match probe {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > deadline => bail!("the registry does not answer: {error}"),
                Err(_) => {}
            }
        }
    }
}

fn push(machine: &Machine, archive: &Path) -> Result<()> {
    let name = archive
        .file_stem()
        .and_then(|stem| stem.to_str())
        .context("archive without a name")?;
    let (image, tag) = name.rsplit_once('-').context("archive without a tag")?;
    let mut skopeo = machine.command("skopeo");
    skopeo.args(["copy", "--quiet", "--dest-tls-verify=false", "--insecure-policy"]);
    skopeo.arg(format!("oci-archive:{}", archive.display()));
    skopeo.arg(format!("docker://{}/{image}:{tag}", images::REGISTRY));
    machine.run(skopeo).map(|_| ())
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It may have ended with its machine.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
