//! Registry credentials from image pull secrets.

use std::collections::BTreeMap;

use base64::Engine;
use k8s_openapi::api::core::v1::Secret;
use keelson_cri::v1 as cri;
use serde::Deserialize;

#[derive(Debug, Deserialize)]
struct Entry {
    username: Option<String>,
    password: Option<String>,
    auth: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

#[derive(Debug, Deserialize)]
struct DockerConfigJson {
    auths: BTreeMap<String, Entry>,
}

/// The credentials of `secrets` that fit `image`, the most specific ones first.
pub(crate) fn for_image<'a>(
    image: &str,
    secrets: impl IntoIterator<Item = &'a Secret>,
) -> Vec<cri::AuthConfig> {
    let target = normalize(image);
    let mut found: Vec<(usize, cri::AuthConfig)> = Vec::new();
    for secret in secrets {
        for (registry, entry) in entries(secret) {
            let pattern = registry_pattern(&registry);
            if matches(&pattern, &target) {
                found.push((pattern.len(), auth_config(entry, &registry)));
            }
        }
    }
    found.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
    found.into_iter().map(|(_, auth)| auth).collect()
}

fn entries(secret: &Secret) -> BTreeMap<String, Entry> {
    let data = |key: &str| {
        secret
            .data
            .as_ref()
            .and_then(|data| data.get(key))
            .map(|bytes| bytes.0.as_slice())
    };
    if let Some(bytes) = data(".dockerconfigjson") {
        return serde_json::from_slice::<DockerConfigJson>(bytes)
            .map(|config| config.auths)
            .unwrap_or_default();
    }
    data(".dockercfg")
        .and_then(|bytes| serde_json::from_slice(bytes).ok())
        .unwrap_or_default()
}

fn auth_config(entry: Entry, registry: &str) -> cri::AuthConfig {
    let mut auth = cri::AuthConfig {
        username: entry.username.unwrap_or_default(),
        password: entry.password.unwrap_or_default(),
        identity_token: entry.identitytoken.unwrap_or_default(),
        registry_token: entry.registrytoken.unwrap_or_default(),
        server_address: registry.to_owned(),
        ..cri::AuthConfig::default()
    };
    let decoded = entry
        .auth
        .and_then(|text| base64::engine::general_purpose::STANDARD.decode(text.trim()).ok());
    if let Some((user, password)) = decoded.and_then(|bytes| {
        let text = String::from_utf8(bytes).ok()?;
        text.split_once(':')
            .map(|(user, password)| (user.to_owned(), password.trim_end_matches('\0').to_owned()))
    }) {
        auth.username = user;
        auth.password = password;
    }
    auth
}

/// `host[:port]/path` of an image name, with Docker Hub's host where none is named.
fn normalize(image: &str) -> String {
    let name = image.split('@').next().unwrap_or(image);
    match name.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => name.to_owned(),
        Some(_) => format!("docker.io/{name}"),
        None => format!("docker.io/library/{name}"),
    }
}

fn registry_pattern(registry: &str) -> String {
    let bare = registry
        .strip_prefix("https://")
        .or_else(|| registry.strip_prefix("http://"))
        .unwrap_or(registry);
    let bare = bare
        .trim_end_matches('/')
        .trim_end_matches("/v1")
        .trim_end_matches("/v2");
    match bare.strip_prefix("index.docker.io") {
        Some(path) => format!("docker.io{path}"),
        None => bare.to_owned(),
    }
}

/// Whether `pattern` (host with `*` labels, and a path prefix) covers `target`.
fn matches(pattern: &str, target: &str) -> bool {
    let (host, path) = pattern.split_once('/').unwrap_or((pattern, ""));
    let (target_host, target_path) = target.split_once('/').unwrap_or((target, ""));
    let labels: Vec<&str> = host.split('.').collect();
    let target_labels: Vec<&str> = target_host.split('.').collect();
    let same_host = labels.len() == target_labels.len()
        && labels
            .iter()
            .zip(&target_labels)
            .all(|(label, target)| glob(label, target));
    same_host && target_path.starts_with(path)
}

/// One label against a pattern with at most one `*`.
fn glob(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((before, after)) => {
            text.len() >= before.len() + after.len() && text.starts_with(before) && text.ends_with(after)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_specific_registry_comes_first() {
        let config = serde_json::json!({"auths": {
            "https://index.docker.io/v1/": {"username": "hub", "password": "p"},
            "registry.local:5000": {"auth": "dTpzOmVj"},
            "registry.local:5000/team": {"username": "team", "password": "p"},
            "*.example.org": {"username": "wild", "password": "p"},
        }});
        let data = base64::engine::general_purpose::STANDARD.encode(config.to_string());
        let secret: Secret =
            serde_json::from_value(serde_json::json!({"data": {".dockerconfigjson": data}})).unwrap();
        for (image, users) in [
            ("nginx", vec!["hub"]),
            ("library/nginx:1", vec!["hub"]),
            ("registry.local:5000/x:1", vec!["u"]),
            ("registry.local:5000/team/x@sha256:00", vec!["team", "u"]),
            ("a.example.org/x", vec!["wild"]),
            ("a.b.example.org/x", vec![]),
            ("other.local/x", vec![]),
        ] {
            let found: Vec<String> = for_image(image, [&secret])
                .into_iter()
                .map(|auth| auth.username)
                .collect();
            assert_eq!(found, users, "{image}");
        }
        assert_eq!(for_image("registry.local:5000/x", [&secret])[0].password, "s:ec");
    }
}
