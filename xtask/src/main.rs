//! Developer tasks: `cargo xtask help` lists them.

mod demo;
mod dependencies;
mod launch;
mod setup;
mod test;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};

/// Developer tasks of Keelson.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Check what the compiler does not: file sizes, crate arrows, names of hosts and machine paths
    Tidy,
    /// Check licences and sources of all dependencies against deny.toml
    Dependencies,
    /// Install what the tests need: Debian packages, kubectl and helm
    Setup,
    /// Build, start a cluster on this machine and put the sample application on it
    Demo(demo::Options),
    /// Set up, then run every check and every test
    Test {
        /// Only the fast ones: no clusters
        #[arg(long)]
        fast: bool,
    },
    /// Build for release and print the table of figures; `cargo xtask bench --list` says what there is
    #[command(disable_help_flag = true)]
    Bench {
        /// Options of the program `bench`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

fn main() -> ExitCode {
    let result = match Cli::parse().task {
        Task::Tidy => tidy::run(),
        Task::Dependencies => dependencies::run(),
        Task::Demo(options) => demo::run_demo(&options),
        Task::Setup => setup::ensure(),
        Task::Bench { arguments } => launch::bench(&arguments),
        Task::Test { fast } => test::run_all(fast),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The root of the workspace.
fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_owned()
}

/// Runs a program in the root, its output where ours goes.
fn run(program: &str, arguments: &[&str]) -> Result<()> {
    eprintln!("$ {program} {}", arguments.join(" "));
    let status = Command::new(program)
        .args(arguments)
        .current_dir(root())
        .status()
        .with_context(|| format!("cannot run {program}"))?;
    ensure!(
        status.success(),
        "{program} {} failed: {status}",
        arguments.join(" ")
    );
    Ok(())
}
