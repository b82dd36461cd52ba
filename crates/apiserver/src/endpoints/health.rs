//! `/livez`, `/readyz` and `/healthz`, with single checks, `?verbose` and `?exclude`.

use std::fmt::Write;
use std::sync::Arc;

use http::{Response, StatusCode};

use crate::http::query::Query;
use crate::http::{Body, text_response};
use crate::server::Inner;

/// A check's name and whether `/livez` leaves it out.
const CHECKS: [(&str, bool); 6] = [
    ("ping", false),
    ("log", false),
    ("etcd", false),
    ("informer-sync", true),
    ("poststarthook/start-system-namespaces-controller", false),
    ("shutdown", true),
];

async fn check(server: &Inner, name: &str) -> Result<(), String> {
    match name {
        "etcd" => {
            let store = server.registry.resources().caches().store();
            store.revision().await.map(drop).map_err(|e| e.to_string())
        }
        "informer-sync" if server.registry.resources().caches().revision() == 0 => {
            Err("the watch cache has not been filled".to_owned())
        }
        "poststarthook/start-system-namespaces-controller" if !server.is_started() => {
            Err("not finished".to_owned())
        }
        "shutdown" if server.shutdown.is_cancelled() => Err("process is shutting down".to_owned()),
        _ => Ok(()),
    }
}

/// Answers a health path; `None` for other paths.
pub(super) async fn respond(server: &Arc<Inner>, path: &str, query: &Query<'_>) -> Option<Response<Body>> {
    let (endpoint, single) = match path.trim_start_matches('/').split_once('/') {
        Some((endpoint, single)) => (endpoint, Some(single)),
        None => (path.trim_start_matches('/'), None),
    };
    if !matches!(endpoint, "livez" | "readyz" | "healthz") {
        return None;
    }
    let live = endpoint == "livez";
    let checks = CHECKS
        .iter()
        .filter(|(_, ready_only)| !(live && *ready_only))
        .map(|(name, _)| *name);
    if let Some(single) = single {
        let mut checks = checks;
        let Some(name) = checks.find(|name| *name == single) else {
            return Some(super::dispatch::not_found());
        };
        return Some(match check(server, name).await {
            Ok(()) => text_response(StatusCode::OK, "ok"),
            Err(error) => text_response(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("internal server error: {error}\n"),
            ),
        });
    }
    let excluded = query.all("exclude");
    let mut text = String::new();
    let mut failed = Vec::new();
    for name in checks {
        if excluded.iter().any(|e| e == name) {
            let _ = writeln!(text, "[+]{name} excluded: ok");
            continue;
        }
        match check(server, name).await {
            Ok(()) => {
                let _ = writeln!(text, "[+]{name} ok");
            }
            Err(error) => {
                tracing::info!(check = name, %error, "{endpoint} check failed");
                let _ = writeln!(text, "[-]{name} failed: reason withheld");
                failed.push(name);
            }
        }
    }
    if !failed.is_empty() {
        let _ = writeln!(text, "{endpoint} check failed");
        return Some(text_response(StatusCode::INTERNAL_SERVER_ERROR, text));
    }
    if query.flag("verbose") {
        let _ = writeln!(text, "{endpoint} check passed");
        return Some(text_response(StatusCode::OK, text));
    }
    Some(text_response(StatusCode::OK, "ok"))
}
