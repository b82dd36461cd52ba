//! Entry point of the shim process.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use super::complain::complain;
use super::event_loop::EventLoop;
use super::setup::{self, ShimConfig};

/// The hidden subcommand under which a program runs [`main`].
pub const SUBCOMMAND: &str = "shim";

/// Runs a shim until its sandbox is removed. `args` are the arguments after the subcommand:
/// `--bundle-dir DIR`, where DIR holds a [`ShimConfig`] as `shim.json`.
///
/// Must be called before the process starts any thread. When the sandbox is ready it writes `ok` and a newline to
/// stdout, otherwise the error's text; then it closes stdout.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let result = bundle_dir(args).and_then(|directory| {
        let config = ShimConfig::read(&directory).map_err(|error| error.to_string())?;
        let sandbox = setup::prepare(&config).map_err(|error| error.to_string())?;
        EventLoop::new(sandbox).map_err(|error| format!("cannot start the shim's event loop: {error}"))
    });
    let mut event_loop = match result {
        Ok(event_loop) => event_loop,
        Err(message) => {
            // The runtime reads this; if it is gone there is nobody to tell.
            let _ = writeln!(std::io::stdout(), "{message}");
            return ExitCode::FAILURE;
        }
    };
    let told = writeln!(std::io::stdout(), "ok").and_then(|()| std::io::stdout().flush());
    if told.is_err() || setup::detach_stdio().is_err() {
        return ExitCode::FAILURE;
    }
    keelson_sys::process::trim_heap();
    match event_loop.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(format_args!("{error}"));
            ExitCode::FAILURE
        }
    }
}

fn bundle_dir(args: impl IntoIterator<Item = OsString>) -> Result<PathBuf, String> {
    let mut args = args.into_iter();
    match (args.next(), args.next(), args.next()) {
        (Some(flag), Some(directory), None) if flag == "--bundle-dir" => Ok(PathBuf::from(directory)),
        _ => Err(format!("usage: {SUBCOMMAND} --bundle-dir DIR")),
    }
}
