//! `keelson internal …`: the processes that keelson starts of itself. They are single-threaded when they begin.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

/// Runs an internal entry point if the arguments name one.
pub(crate) fn dispatch(arguments: &[OsString]) -> Option<ExitCode> {
    let mut arguments = arguments.iter().skip(1);
    if arguments.next()?.to_str()? != "internal" {
        return None;
    }
    let name = arguments
        .next()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    let rest: Vec<&OsString> = arguments.collect();
    match (name, rest.as_slice()) {
        ("node-holder", [dir]) => Some(keelson_cluster::sandbox::hold(Path::new(dir))),
        ("node-init", [dir]) => Some(keelson_cluster::sandbox::init(Path::new(dir))),
        ("shim", _) => Some(keelson_runtime::shim::main(rest.into_iter().cloned())),
        _ => {
            eprintln!("error: `keelson internal` is for processes that keelson starts itself");
            Some(ExitCode::from(2))
        }
    }
}
