//! `cargo xtask tidy`: the rules of the house that no compiler checks.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::root;

/// No source file is longer.
const MAX_LINES: usize = 1000;

/// Which of our crates each crate may use. Arrows point towards `api` and `client`; no component uses another; only
/// `cluster` and the binary wire them.
const ARROWS: &[(&str, &[&str])] = &[
    ("api", &[]),
    ("cel", &["api"]),
    ("client", &[]),
    ("cri", &[]),
    ("sys", &[]),
    ("pki", &[]),
    ("store", &[]),
    ("nftables", &["sys"]),
    ("apiserver", &["api", "cel", "pki", "store"]),
    ("scheduler", &["api", "client"]),
    ("controller-manager", &["api", "client", "pki"]),
    ("cloud-controller-manager", &["api", "client"]),
    ("metrics-server", &["api"]),
    ("runtime", &["cri", "sys"]),
    ("kubelet", &["api", "client", "cri", "pki", "sys"]),
    ("network", &["api", "client", "nftables", "sys"]),
    ("kube-proxy", &["api", "client", "nftables", "sys"]),
];
/// These may use everything.
const WIRING: &[&str] = &["cluster", "keelson", "testkit"];

/// What must not be named: package registries' hosts and places on one developer's machine.
const FORBIDDEN: &[&str] = &[
    concat!("deb.", "debian.org"),
    concat!("pypi", ".org"),
    concat!("pythonhosted", ".org"),
    concat!("static.", "crates.io"),
    concat!("index.", "crates.io"),
    concat!("registry.", "npmjs"),
    concat!("/work", "/main"),
    concat!("/work", "/shared"),
    concat!("/tmp", "/k/"),
];

/// Runs every rule and reports all that is wrong.
pub(crate) fn run() -> Result<()> {
    let files = tracked_files()?;
    let mut problems = Vec::new();
    for file in &files {
        check_file(file, &mut problems);
    }
    check_arrows(&mut problems)?;
    if problems.is_empty() {
        println!("tidy: {} files, nothing to complain about", files.len());
        return Ok(());
    }
    for problem in &problems {
        eprintln!("tidy: {problem}");
    }
    bail!("{} problems", problems.len())
}

fn tracked_files() -> Result<Vec<PathBuf>> {
    let output = Command::new("git")
        .args(["ls-files", "-z"])
        .current_dir(root())
        .output()
        .context("git ls-files")?;
    let names = String::from_utf8(output.stdout).context("a file name is not UTF-8")?;
    Ok(names
        .split('\0')
        .filter(|name| !name.is_empty())
        .map(PathBuf::from)
        .collect())
}

fn check_file(file: &Path, problems: &mut Vec<String>) {
    // A tracked file that is deleted in the work tree, or data that is not text.
    let Ok(text) = std::fs::read_to_string(root().join(file)) else {
        return;
    };
    let shown = file.display();
    let is_rust = file.extension().is_some_and(|extension| extension == "rs");
    let is_data = file
        .components()
        .any(|part| matches!(part.as_os_str().to_str(), Some("testdata" | "data")));
    let lines = text.lines().count();
    if is_rust && !is_data && lines > MAX_LINES {
        problems.push(format!(
            "{shown} has {lines} lines, more than {MAX_LINES}: split it"
        ));
    }
    if file == Path::new("Cargo.lock") {
        return;
    }
    for (number, line) in text.lines().enumerate() {
        for name in FORBIDDEN {
            if line.contains(name) {
                problems.push(format!("{shown}:{}: names {name}", number + 1));
            }
        }
    }
}

fn check_arrows(problems: &mut Vec<String>) -> Result<()> {
    let allowed: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    let crates = root().join("crates");
    for entry in std::fs::read_dir(&crates).with_context(|| format!("cannot list {}", crates.display()))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if WIRING.contains(&name.as_str()) {
            continue;
        }
        let Some(allowed) = allowed.get(name.as_str()) else {
            problems.push(format!(
                "crate {name} is not in the table of arrows in xtask/src/tidy.rs"
            ));
            continue;
        };
        let manifest = std::fs::read_to_string(entry.path().join("Cargo.toml"))
            .with_context(|| format!("crate {name} has no Cargo.toml"))?;
        for used in our_dependencies(&manifest) {
            if !allowed.contains(&used.as_str()) {
                problems.push(format!("crate {name} must not depend on {used}"));
            }
        }
    }
    Ok(())
}

/// Our crates among `[dependencies]` and `[build-dependencies]`; tests may use what they like.
fn our_dependencies(manifest: &str) -> Vec<String> {
    let mut section = "";
    let mut found = Vec::new();
    for line in manifest.lines().map(str::trim) {
        if line.starts_with('[') {
            section = line;
        } else if matches!(section, "[dependencies]" | "[build-dependencies]")
            && let Some(rest) = line.strip_prefix("keelson-")
        {
            let end = rest
                .find(|c: char| !c.is_ascii_alphanumeric() && c != '-')
                .unwrap_or(rest.len());
            found.push(rest[..end].to_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_real_dependencies_count() {
        let manifest = "[package]\nname = \"keelson-x\"\n[dependencies]\nkeelson-api.workspace = true\n\
             serde = \"1\"\n[dev-dependencies]\nkeelson-runtime.workspace = true\n";
        assert_eq!(our_dependencies(manifest), ["api"]);
    }
}
