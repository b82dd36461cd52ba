//! `keelson completion SHELL`.

use clap::CommandFactory;

use crate::cli::Cli;

/// Prints the script.
pub(crate) fn print(shell: clap_complete::Shell) {
    clap_complete::generate(shell, &mut Cli::command(), "keelson", &mut std::io::stdout());
}
