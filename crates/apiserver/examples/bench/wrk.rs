//! Runs wrk and reads what it says.

use std::path::Path;

use tokio::process::Command;

use crate::Result;

/// What wrk measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) per_second: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) failed: u64,
    /// Processor time of the server for each request, which a busy machine changes less than anything else.
    pub(crate) cpu_micros: Option<f64>,
}

impl std::fmt::Display for Load {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:.0}/s, p50 {:.1} ms, p99 {:.1} ms",
            self.per_second, self.p50_ms, self.p99_ms
        )?;
        if let Some(micros) = self.cpu_micros {
            write!(f, ", {micros:.0} us of the server each")?;
        }
        if self.failed > 0 {
            write!(f, ", {} FAILED", self.failed)?;
        }
        Ok(())
    }
}

/// The script's end: figures in one line that needs no guessing of units.
const DONE: &str = r#"
done = function(summary, latency, requests)
  io.write(string.format("figures %f %f %f %d\n", summary.requests / summary.duration * 1e6,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000,
    summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout))
end
"#;

/// Loads `url` with two threads; `script` sets `request`, and may use `id`, the thread's number.
pub(crate) async fn run(
    directory: &Path,
    url: &str,
    connections: usize,
    seconds: u64,
    token: &str,
    script: &str,
) -> Result<Load> {
    let path = directory.join("load.lua");
    let setup = r"
local threads = 0
function setup(thread) thread:set('id', threads); threads = threads + 1 end
";
    let headers = format!(
        "wrk.headers['Authorization'] = 'Bearer {token}'\nwrk.headers['Content-Type'] = 'application/json'\n"
    );
    std::fs::write(&path, format!("{setup}{headers}{script}{DONE}"))?;
    let output = Command::new("wrk")
        .args([
            "-t2",
            &format!("-c{connections}"),
            &format!("-d{seconds}s"),
            "--timeout",
            "30s",
            "-s",
        ])
        .arg(&path)
        .arg(url)
        .output()
        .await
        .map_err(|e| format!("wrk cannot be run ({e}); it is in Debian's package wrk"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text
        .lines()
        .find_map(|l| l.strip_prefix("figures "))
        .ok_or_else(|| format!("wrk failed: {text}{}", String::from_utf8_lossy(&output.stderr)))?;
    let mut numbers = line.split(' ');
    let mut next = || -> Result<f64> { Ok(numbers.next().ok_or("figures")?.parse()?) };
    Ok(Load {
        per_second: next()?,
        p50_ms: next()?,
        p99_ms: next()?,
        failed: next()? as u64,
        cpu_micros: None,
    })
}

/// A script that posts `body` with `NAME` replaced by a name that is given once.
pub(crate) fn creating(path: &str, body: &str, prefix: &str) -> String {
    let (before, after) = body.split_once("NAME").unwrap_or((body, ""));
    let quote = |text: &str| format!("[==[{text}]==]");
    format!(
        "local n = 0\nlocal before, after = {}, {}\nrequest = function()\n n = n + 1\n return wrk.format('POST', '{path}', nil, \
         before .. '{prefix}-' .. id .. '-' .. n .. after)\nend\n",
        quote(before),
        quote(after)
    )
}
