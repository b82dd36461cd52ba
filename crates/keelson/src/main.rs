//! The keelson binary: parses the command line and runs one command.

mod cli;
mod commands;
mod output;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command};

/// Exit code of a command that failed. (2 is a wrong command line, as clap has it.)
const FAILED: u8 = 1;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    // These must run before any thread is started.
    if let Some(code) = commands::internal::dispatch(&arguments) {
        return code;
    }
    accept_signals();
    let cli = Cli::parse();
    if rustls::crypto::ring::default_provider()
        .install_default()
        .is_err()
    {
        // Installed already: it is the same provider.
    }
    match commands::run(cli) {
        Ok(code) => code,
        Err(error) => {
            output::print_error(&error);
            ExitCode::from(FAILED)
        }
    }
}

/// Lets signals through that whoever started this process had blocked: the init of a sandboxed node waits for its own with
/// SIGTERM and SIGCHLD blocked, and a process inherits that. Containers would too. Must run before any thread is started.
fn accept_signals() {
    if let Err(error) = nix::sys::signal::SigSet::all().thread_unblock() {
        eprintln!("warning: signals stay blocked: {error}");
    }
}

impl Command {
    /// Whether the command is a long-running process that logs, rather than one that a person waits for.
    fn is_daemon(&self) -> bool {
        matches!(
            self,
            Self::Server(_)
                | Self::Agent(_)
                | Self::KubeApiserver(_)
                | Self::KubeScheduler(_)
                | Self::KubeControllerManager(_)
                | Self::Kubelet(_)
                | Self::KubeProxy(_)
        )
    }
}
