//! The shim's own log.

use std::fmt::Display;
use std::io::Write;

/// Writes a line to the shim's log. On a full disk the line is lost and the shim goes on: `eprintln!` would end it, and with
/// it the pod.
pub(super) fn complain(message: impl Display) {
    if writeln!(std::io::stderr(), "shim: {message}").is_err() {
        // There is nobody to tell.
    }
}
