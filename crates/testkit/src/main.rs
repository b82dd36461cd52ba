//! `keelson-testkit images DIR` makes the sample application's images; `keelson-testkit machine KEELSON PROGRAM …` runs a
//! program in a machine of its own, with a directory on a disk of its own as the last argument.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, ensure};
use keelson_testkit::images;
use keelson_testkit::machine::Machine;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["images", directory] => images::build_all(Path::new(directory)),
        ["machine", keelson, program, ref arguments @ ..] => in_machine(keelson, program, arguments),
        _ => {
            eprintln!(
                "usage: keelson-testkit images DIR\n       keelson-testkit machine KEELSON PROGRAM [ARGUMENT…]"
            );
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(images) => {
            for image in images {
                println!("{}", image.display());
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn in_machine(keelson: &str, program: &str, arguments: &[&str]) -> Result<Vec<PathBuf>> {
    let machine = Machine::start("machine", Path::new(keelson))?;
    let status = machine
        .command(program)
        .args(arguments)
        .arg(machine.mount_disk(8)?)
        .status()?;
    ensure!(status.success(), "{program} ended with {status}");
    Ok(Vec::new())
}
