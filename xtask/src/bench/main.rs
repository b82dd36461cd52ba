//! `bench`: measures the figures that Keelson is held to and prints them beside what must be reached, what is reached
//! for, upstream's figures, and peers that the same run can start.
//!
//! Everything runs in a machine of its own ([`Machine`]): namespaces without a way out. The program starts itself again
//! inside. A measurement is a function registered in [`MEASUREMENTS`]; it returns lines of the table.

mod api;
mod cluster;
mod containers;
mod context;
mod figure;
mod idle;
mod peer;
mod pods;
mod processes;
mod services;
mod size;
mod start;
mod store;
mod table;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, ValueEnum};
use keelson_testkit::images;
use keelson_testkit::machine::Machine;

use crate::context::{Context, Measurement};

/// Every measurement, in the order of the table.
const MEASUREMENTS: &[&[Measurement]] = &[
    size::MEASUREMENTS,
    start::MEASUREMENTS,
    idle::MEASUREMENTS,
    pods::MEASUREMENTS,
    containers::MEASUREMENTS,
    services::MEASUREMENTS,
    store::MEASUREMENTS,
    api::MEASUREMENTS,
];

/// Measure the figures of Keelson.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench")]
struct Cli {
    /// Only these measurements; may be repeated
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Say what is measured, and how, and end
    #[arg(long)]
    list: bool,
    /// Few rounds and short times: shows that every measurement works, not how fast anything is
    #[arg(long)]
    quick: bool,
    /// Format of the table
    #[arg(short, long, default_value = "text")]
    output: Output,
    /// The binary that is measured
    #[arg(long, value_name = "FILE", default_value = "target/release/keelson")]
    keelson: PathBuf,
    /// Set inside of the machine: the directory of the images
    #[arg(long, hide = true, requires = "inside")]
    images: Option<PathBuf>,
    /// Set inside of the machine: a directory on a disk of its own
    #[arg(long, hide = true, requires = "images")]
    inside: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    Text,
    Json,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = if cli.list {
        list();
        Ok(())
    } else {
        match (&cli.inside, &cli.images) {
            (Some(scratch), Some(images)) => inside(&cli, scratch, images),
            _ => outside(&cli),
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn list() {
    for measurement in MEASUREMENTS.iter().copied().flatten() {
        println!("{:12} {}", measurement.name, measurement.doc);
    }
}

/// Starts this program again in a machine of its own.
fn outside(cli: &Cli) -> Result<()> {
    for name in &cli.only {
        let known = MEASUREMENTS.iter().copied().flatten().any(|m| m.name == name);
        ensure!(known, "there is no measurement {name}: see --list");
    }
    let keelson = cli
        .keelson
        .canonicalize()
        .with_context(|| format!("{} is not there", cli.keelson.display()))?;
    let machine = Machine::start("bench", &keelson)?;
    let images = machine.scratch().join("images");
    images::build_all(&images)?;
    let mut again = machine.command(std::env::current_exe()?);
    again.env_remove("KUBECONFIG");
    again.arg("--keelson").arg(&keelson);
    again.arg("--images").arg(&images);
    again.arg("--inside").arg(machine.mount_disk(8)?);
    again.args(cli.only.iter().flat_map(|name| ["--only", name]));
    again.args(cli.quick.then_some("--quick"));
    again.args(match cli.output {
        Output::Text => ["--output", "text"],
        Output::Json => ["--output", "json"],
    });
    let status = again.status().context("cannot run the measurements")?;
    ensure!(status.success(), "the measurements ended with {status}");
    Ok(())
}

/// Measures, prints the table, and fails when something could not be measured.
fn inside(cli: &Cli, scratch: &Path, images: &Path) -> Result<()> {
    let context = Context {
        keelson: cli.keelson.canonicalize()?,
        images: images.to_owned(),
        scratch: scratch.to_owned(),
        quick: cli.quick,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let mut figures = Vec::new();
    let mut failures = Vec::new();
    for measurement in MEASUREMENTS.iter().copied().flatten() {
        if !cli.only.is_empty() && !cli.only.iter().any(|name| name == measurement.name) {
            continue;
        }
        eprintln!("measuring {}: {}", measurement.name, measurement.doc);
        match runtime.block_on((measurement.run)(&context)) {
            Ok(lines) => figures.extend(lines),
            Err(error) => {
                eprintln!("error: {}: {error:#}", measurement.name);
                failures.push(measurement.name);
            }
        }
    }
    match cli.output {
        Output::Text => print!("{}", table::text(&figures)),
        Output::Json => println!("{}", serde_json::to_string_pretty(&figures)?),
    }
    ensure!(failures.is_empty(), "could not measure {}", failures.join(", "));
    Ok(())
}
