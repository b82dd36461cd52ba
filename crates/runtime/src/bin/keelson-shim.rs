//! The launcher of shims as a program of its own, for tests of this crate: what `keelson shim` is in the product.

use std::process::ExitCode;

fn main() -> ExitCode {
    keelson_runtime::shim::main(std::env::args_os().skip(1))
}
