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
    let cli = Cli::parse();
    if rustls::crypto::ring::default_provider()
        .install_default()
        .is_err()
    {
        // Installed already: it is the same provider.
    }
    match commands::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::print_error(&error);
            ExitCode::from(FAILED)
        }
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
