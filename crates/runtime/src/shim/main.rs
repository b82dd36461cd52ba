//! Entry points of the launcher and of the shim process.

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use super::complain::complain;
use super::event_loop::EventLoop;
use super::launcher;
use super::setup::{self, ShimConfig};

/// The hidden subcommand under which a program runs [`main`].
pub const SUBCOMMAND: &str = "shim";

/// Runs the launcher of a node's shims, until the runtime at the other end of standard input is gone; see
/// `launcher.rs`. `args` are the arguments after the subcommand: `--launcher DIR`, where DIR is the runtime's directory,
/// which tells people and `keelson down` whose shims these are.
///
/// Must be called before the process starts any thread.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut args = args.into_iter();
    let known = args.next().is_some_and(|flag| flag == "--launcher") && args.count() == 1;
    let result = if known {
        launcher::run(shim).map_err(|error| error.to_string())
    } else {
        Err(format!("usage: {SUBCOMMAND} --launcher DIR"))
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            complain(format_args!("{message}"));
            ExitCode::FAILURE
        }
    }
}

/// Runs a shim until its sandbox is removed; returns whether all went well. `directory` holds a [`ShimConfig`] as
/// `shim.json`.
///
/// When the sandbox is ready it writes `ok` and a newline to stdout, otherwise the error's text; then it closes stdout.
fn shim(directory: &Path) -> bool {
    let result = ShimConfig::read(directory)
        .map_err(|error| error.to_string())
        .and_then(|config| {
            let sandbox = setup::prepare(&config).map_err(|error| error.to_string())?;
            EventLoop::new(sandbox).map_err(|error| format!("cannot start the shim's event loop: {error}"))
        });
    let mut event_loop = match result {
        Ok(event_loop) => event_loop,
        Err(message) => {
            // The runtime reads this; if it is gone there is nobody to tell.
            let _ = writeln!(std::io::stdout(), "{message}");
            return false;
        }
    };
    let told = writeln!(std::io::stdout(), "ok").and_then(|()| std::io::stdout().flush());
    if told.is_err() || setup::detach_stdio().is_err() {
        return false;
    }
    match event_loop.run() {
        Ok(()) => true,
        Err(error) => {
            complain(format_args!("{error}"));
            false
        }
    }
}
