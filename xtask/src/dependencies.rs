//! `cargo xtask dependencies`: every crate in the lock file has a licence that `deny.toml` allows, comes from the
//! default registry, and is asked for by version.
//!
//! `deny.toml` is written for `cargo deny check licenses bans sources`, which the version that comes built cannot read; this reads the
//! same file and checks what it says in the sections `licenses`, `bans` and `sources`. Advisories need a database from
//! the network and are not checked; neither are the texts of licences.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use spdx::{Expression, ParseMode};

use crate::root;

#[derive(Debug, Deserialize)]
struct Deny {
    licenses: Licenses,
}

#[derive(Debug, Deserialize)]
struct Licenses {
    allow: BTreeSet<String>,
    #[serde(default)]
    exceptions: Vec<Exception>,
    #[serde(default)]
    clarify: Vec<Clarification>,
}

/// A licence that one crate may have.
#[derive(Debug, Deserialize)]
struct Exception {
    #[serde(rename = "crate")]
    name: String,
    allow: BTreeSet<String>,
}

/// What the licence is of a crate that does not say so.
#[derive(Debug, Deserialize)]
struct Clarification {
    #[serde(rename = "crate")]
    name: String,
    expression: String,
}

/// What `cargo metadata` says.
#[derive(Debug, Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Debug, Deserialize)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
    /// None for our own.
    source: Option<String>,
    dependencies: Vec<Dependency>,
}

#[derive(Debug, Deserialize)]
struct Dependency {
    name: String,
    req: String,
    path: Option<String>,
}

const DEFAULT_REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Checks, and reports all that is wrong.
pub(crate) fn run() -> Result<()> {
    let text = std::fs::read_to_string(root().join("deny.toml")).context("cannot read deny.toml")?;
    let rules: Deny = toml::from_str(&text).context("deny.toml")?;
    let output = Command::new("cargo")
        .args(["metadata", "--format-version=1", "--locked", "--all-features"])
        .current_dir(root())
        .output()
        .context("cannot run cargo metadata")?;
    ensure!(
        output.status.success(),
        "cargo metadata failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Metadata = serde_json::from_slice(&output.stdout).context("what cargo metadata says")?;
    let problems = check(&rules.licenses, &metadata.packages);
    if problems.is_empty() {
        println!(
            "dependencies: {} crates, nothing to complain about; {}",
            metadata.packages.len(),
            several_versions(&metadata.packages)
        );
        return Ok(());
    }
    for problem in &problems {
        eprintln!("dependencies: {problem}");
    }
    bail!("{} problems", problems.len())
}

fn check(rules: &Licenses, packages: &[Package]) -> Vec<String> {
    let mut problems = Vec::new();
    let mut used = BTreeSet::new();
    for package in packages {
        let shown = format!("{} {}", package.name, package.version);
        if let Err(problem) = check_license(rules, package, &mut used) {
            problems.push(format!("{shown}: {problem}"));
        }
        if let Some(source) = package.source.as_deref()
            && source != DEFAULT_REGISTRY
        {
            problems.push(format!("{shown} comes from {source}"));
        }
        let is_ours = package.source.is_none();
        for dependency in package.dependencies.iter().filter(|_| is_ours) {
            if dependency.req == "*" && dependency.path.is_none() {
                problems.push(format!("{shown} takes any version of {}", dependency.name));
            }
        }
    }
    for license in rules.allow.difference(&used) {
        problems.push(format!("deny.toml allows {license}, which no crate has"));
    }
    let names: BTreeSet<&str> = packages.iter().map(|package| package.name.as_str()).collect();
    let excepted = rules.exceptions.iter().map(|exception| &exception.name);
    for name in excepted.chain(rules.clarify.iter().map(|clarification| &clarification.name)) {
        if !names.contains(name.as_str()) {
            problems.push(format!("deny.toml speaks of {name}, which is not used"));
        }
    }
    problems
}

/// Notes in `used` which allowed licences the package offers.
fn check_license(rules: &Licenses, package: &Package, used: &mut BTreeSet<String>) -> Result<()> {
    let clarified = rules.clarify.iter().find(|c| c.name == package.name);
    let expression = clarified
        .map(|clarification| clarification.expression.as_str())
        .or(package.license.as_deref())
        .context("has no licence")?;
    // Lax: `MIT/Apache-2.0` is how it was once written.
    let parsed = Expression::parse_mode(expression, ParseMode::LAX)
        .map_err(|error| anyhow::anyhow!("licence {expression}: {}", error.reason))?;
    let own = rules.exceptions.iter().filter(|e| e.name == package.name);
    let own: BTreeSet<&String> = own.flat_map(|exception| &exception.allow).collect();
    let allowed = parsed.evaluate(|requirement| {
        let license = requirement.to_string();
        if rules.allow.contains(&license) {
            used.insert(license);
            return true;
        }
        own.contains(&license)
    });
    ensure!(allowed, "licence {expression} is not allowed");
    Ok(())
}

/// Which crates are there in several versions: worth knowing, not wrong.
fn several_versions(packages: &[Package]) -> String {
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for package in packages {
        versions
            .entry(&package.name)
            .or_default()
            .insert(&package.version);
    }
    let several: Vec<String> = versions
        .iter()
        .filter(|(_, versions)| versions.len() > 1)
        .map(|(name, versions)| {
            format!(
                "{name} ({})",
                versions.iter().copied().collect::<Vec<_>>().join(", ")
            )
        })
        .collect();
    format!("in several versions: {}", several.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(license: &str, source: Option<&str>, req: &str) -> Package {
        Package {
            name: "x".into(),
            version: "1.0.0".into(),
            license: Some(license.to_owned()).filter(|license| !license.is_empty()),
            source: source.map(str::to_owned),
            dependencies: vec![Dependency {
                name: "y".into(),
                req: req.into(),
                path: None,
            }],
        }
    }

    #[test]
    fn what_is_allowed_and_what_is_not() {
        let rules: Deny = toml::from_str(
            "[licenses]\nallow = ['MIT', 'Apache-2.0 WITH LLVM-exception']\n\
             exceptions = [{ crate = 'x', allow = ['MPL-2.0'] }]\n",
        )
        .unwrap();
        let both = package("MIT AND Apache-2.0 WITH LLVM-exception", None, "^1");
        let registry = Some(DEFAULT_REGISTRY);
        for (package, wrong) in [
            (package("MIT OR GPL-3.0-only", registry, "^1"), None),
            (package("MIT/GPL-2.0", registry, "*"), None),
            (package("MPL-2.0", registry, "^1"), None),
            (
                package("MIT AND GPL-3.0-only", registry, "^1"),
                Some("not allowed"),
            ),
            (package("", registry, "^1"), Some("has no licence")),
            (
                package("MIT", Some("git+https://x"), "^1"),
                Some("comes from git"),
            ),
            (package("MIT", None, "*"), Some("any version of y")),
        ] {
            let shown = format!("{package:?}");
            let problems = check(&rules.licenses, &[package, both_like(&both)]);
            match wrong {
                None => assert!(problems.is_empty(), "{shown}: {problems:?}"),
                Some(wrong) => assert!(
                    problems.iter().any(|p| p.contains(wrong)),
                    "{shown}: {problems:?}"
                ),
            }
        }
        let problems = check(&rules.licenses, &[package("MIT", registry, "^1")]);
        assert!(problems[0].contains("which no crate has"), "{problems:?}");
    }

    fn both_like(package: &Package) -> Package {
        Package {
            name: package.name.clone(),
            version: package.version.clone(),
            license: package.license.clone(),
            source: package.source.clone(),
            dependencies: Vec::new(),
        }
    }
}
