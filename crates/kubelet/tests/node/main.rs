//! A kubelet with the built-in runtime against a real API server, all in this process; pods are real containers.
//!
//! The runtime starts `/proc/self/exe shim`, so this binary has a `main` of its own that speaks the little of libtest's
//! command line that test runners use.

#[expect(clippy::unwrap_used, reason = "a test")]
mod containerd;
#[expect(clippy::unwrap_used, reason = "a test")]
mod fixture;
#[expect(clippy::unwrap_used, reason = "a test")]
mod pods;
#[expect(clippy::unwrap_used, reason = "a test")]
mod pressure;
#[expect(clippy::unwrap_used, reason = "a test")]
mod resize;
#[expect(clippy::unwrap_used, reason = "a test")]
mod server;
#[expect(clippy::unwrap_used, reason = "a test")]
mod settings;

use std::process::ExitCode;

/// A named test; each runs in its own process under nextest, one after the other otherwise.
pub(crate) type Test = (&'static str, fn());

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    if args
        .next()
        .is_some_and(|first| first == keelson_runtime::shim::SUBCOMMAND)
    {
        return keelson_runtime::shim::main(args);
    }
    let tests: Vec<Test> = [
        pods::TESTS,
        pressure::TESTS,
        resize::TESTS,
        server::TESTS,
        settings::TESTS,
        containerd::TESTS,
    ]
    .concat();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| args.iter().any(|arg| arg == flag);
    if has("--list") {
        for (name, _) in tests.iter().filter(|_| !has("--ignored")) {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    let wanted: Vec<&String> = args.iter().filter(|arg| !arg.starts_with('-')).collect();
    let selected = |name: &str| {
        wanted.is_empty()
            || wanted.iter().any(|part| {
                if has("--exact") {
                    *part == name
                } else {
                    name.contains(part.as_str())
                }
            })
    };
    let _ = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .try_init();
    for (name, test) in tests {
        if selected(name) {
            test();
            println!("test {name} ... ok");
        }
    }
    ExitCode::SUCCESS
}
