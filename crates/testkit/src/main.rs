//! `keelson-testkit images DIR`: makes the sample application's images.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["images", directory] => keelson_testkit::images::build_all(Path::new(directory)),
        _ => {
            eprintln!("usage: keelson-testkit images DIR");
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
