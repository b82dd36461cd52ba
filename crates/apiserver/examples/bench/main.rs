//! Figures of the API server (the table of the issue "The API server at full depth"): `bench [--json] [--seconds N] [ROW...]`.
//!
//! The server runs in a process of its own with the embedded store and fsync; wrk (Debian's package) makes the load over
//! TLS with a bearer token, and a client of ours does what wrk cannot: exact numbers of objects, watches, leases. The bare
//! limits come from the same run: a hyper and rustls server that answers 4 KB, and the store without HTTP.
//!
//! Rows: `limits`, `etcd`, `create`, `read`, `memory`, `watchers`, `crds`, `leases`; all when none is given. Everything listens
//! on loopback alone.

mod child;
mod client;
mod objects;
mod rows;
mod serve;
mod watchers;
mod wrk;

use std::time::Duration;

/// What one run does.
pub(crate) struct Options {
    /// Length of each measurement.
    pub(crate) seconds: u64,
    /// Rows to measure; empty is all.
    pub(crate) rows: Vec<String>,
    /// One JSON document instead of text.
    pub(crate) json: bool,
}

impl Options {
    pub(crate) fn duration(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }

    pub(crate) fn wants(&self, row: &str) -> bool {
        self.rows.is_empty() || self.rows.iter().any(|r| r == row)
    }
}

pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn main() -> Result<()> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let first = arguments.first().cloned().unwrap_or_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match first.as_str() {
        "serve" => return runtime.block_on(serve::api(arguments.get(1).ok_or("serve DIRECTORY")?.as_ref())),
        "bare" => return runtime.block_on(serve::bare(arguments.get(1).ok_or("bare DIRECTORY")?.as_ref())),
        "store" => {
            let seconds = arguments.get(2).and_then(|s| s.parse().ok()).unwrap_or(3);
            return runtime.block_on(serve::store(
                arguments.get(1).ok_or("store DIRECTORY")?.as_ref(),
                Duration::from_secs(seconds),
            ));
        }
        _ => {}
    }
    let mut options = Options {
        seconds: 5,
        rows: Vec::new(),
        json: false,
    };
    while !arguments.is_empty() {
        let argument = arguments.remove(0);
        match argument.as_str() {
            "--json" => options.json = true,
            "--seconds" if !arguments.is_empty() => options.seconds = arguments.remove(0).parse()?,
            row => options.rows.push(row.to_owned()),
        }
    }
    let figures = runtime.block_on(rows::run(&options))?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&figures)?);
    } else {
        for figure in figures {
            let limit = figure
                .limit
                .map(|limit| format!("{:.3} of the limit", figure.number / limit));
            println!(
                "{:<58} {} {}",
                figure.name,
                figure.value,
                limit.unwrap_or_default()
            );
        }
    }
    Ok(())
}
