//! `/version`.

use http::{HeaderMap, Response};
use serde_json::json;

use crate::http::{Body, Negotiated, Reply};

/// The API level that this server implements.
const MAJOR: &str = "1";
const MINOR: &str = "36";

/// `gitVersion`.
pub(crate) const GIT_VERSION: &str = concat!("v1.36.0+keelson-", env!("CARGO_PKG_VERSION"));

/// Operating system and architecture, as Go names them.
pub(crate) fn platform() -> String {
    format!("{}/{}", std::env::consts::OS, go_arch())
}

/// Answers `/version`.
pub(super) fn respond(form: Negotiated, headers: &HeaderMap) -> Response<Body> {
    let version = json!({
        "major": MAJOR,
        "minor": MINOR,
        "gitVersion": GIT_VERSION,
        "gitCommit": "",
        "gitTreeState": "",
        "buildDate": "",
        "goVersion": "",
        "compiler": "rustc",
        "platform": platform(),
    });
    let json = serde_json::to_vec(&version).expect("invariant: a value can be written");
    Reply::ok(json).into_response(Negotiated { pretty: true, ..form }, headers)
}

fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
