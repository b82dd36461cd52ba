//! Image references, normalised as `docker/distribution` and containerd's CRI do.
//!
//! `busybox` is `docker.io/library/busybox:latest`; a reference with both a tag and a digest keeps only the digest.

use std::fmt;

use super::digest::Digest;
use super::error::ImageError;

const DEFAULT_DOMAIN: &str = "docker.io";
const LEGACY_DEFAULT_DOMAIN: &str = "index.docker.io";
const OFFICIAL_PREFIX: &str = "library/";
const NAME_TOTAL_LENGTH_MAX: usize = 255;

/// What follows the repository name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Selector {
    /// `:tag`
    Tag(String),
    /// `@digest`
    Digest(Digest),
}

/// A normalised reference: domain, repository path and either tag or digest.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    domain: String,
    path: String,
    selector: Selector,
}

impl Reference {
    /// Parses and normalises; the error carries upstream's wording.
    pub fn parse(text: &str) -> Result<Self, ImageError> {
        parse(text).map_err(|reason| ImageError::InvalidReference {
            name: text.to_owned(),
            reason,
        })
    }

    /// Registry domain with optional port, for example `docker.io` or `localhost:5000`.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Repository path below the domain, for example `library/busybox`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Tag or digest.
    pub fn selector(&self) -> &Selector {
        &self.selector
    }

    /// `domain/path`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The same repository with `digest` selected: the form of `repoDigests`.
    pub fn with_digest(&self, digest: &Digest) -> Self {
        Self {
            selector: Selector::Digest(digest.clone()),
            ..self.clone()
        }
    }

    /// The text after `:` or `@`, as the distribution API wants it in `/manifests/<…>`.
    pub fn selector_text(&self) -> String {
        match &self.selector {
            Selector::Tag(tag) => tag.clone(),
            Selector::Digest(digest) => digest.to_string(),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.selector {
            Selector::Tag(tag) => write!(f, "{}/{}:{tag}", self.domain, self.path),
            Selector::Digest(digest) => write!(f, "{}/{}@{digest}", self.domain, self.path),
        }
    }
}

fn parse(text: &str) -> Result<Reference, String> {
    let format_error = || "invalid reference format".to_owned();
    if is_identifier(text) {
        return Err(format!(
            "invalid repository name ({text}), cannot specify 64-byte hexadecimal strings"
        ));
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => {
            let digest = digest.parse::<Digest>().map_err(|e| match e {
                ImageError::InvalidDigest { reason, .. } => reason.to_owned(),
                other => other.to_string(),
            })?;
            (rest, Some(digest))
        }
        None => (text, None),
    };
    let (domain, remainder) = split_domain(rest);
    let (path, tag) = match remainder.split_once(':') {
        Some((path, tag)) => (path, Some(tag)),
        None => (remainder.as_str(), None),
    };
    if path.is_empty() {
        return Err(format_error());
    }
    if path.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(format!(
            "invalid reference format: repository name ({path}) must be lowercase"
        ));
    }
    if !is_domain(&domain) || !path.split('/').all(is_path_component) {
        return Err(format_error());
    }
    if let Some(tag) = tag
        && !is_tag(tag)
    {
        return Err(format_error());
    }
    if domain.len() + 1 + path.len() > NAME_TOTAL_LENGTH_MAX {
        return Err(format!(
            "repository name must not be more than {NAME_TOTAL_LENGTH_MAX} characters"
        ));
    }
    let selector = match digest {
        Some(digest) => Selector::Digest(digest),
        None => Selector::Tag(tag.unwrap_or("latest").to_owned()),
    };
    Ok(Reference {
        domain,
        path: path.to_owned(),
        selector,
    })
}

/// Splits off the registry domain; what has no dot, colon or upper-case letter and is not `localhost` is a path.
fn split_domain(name: &str) -> (String, String) {
    let (mut domain, mut remainder) = match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            (first.to_owned(), rest.to_owned())
        }
        _ => (DEFAULT_DOMAIN.to_owned(), name.to_owned()),
    };
    if domain == LEGACY_DEFAULT_DOMAIN {
        domain = DEFAULT_DOMAIN.to_owned();
    }
    if domain == DEFAULT_DOMAIN && !remainder.contains('/') {
        remainder.insert_str(0, OFFICIAL_PREFIX);
    }
    (domain, remainder)
}

fn is_identifier(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = if let Some(rest) = domain.strip_prefix('[') {
        let Some((v6, after)) = rest.split_once(']') else {
            return false;
        };
        if v6.is_empty() || !v6.bytes().all(|b| b.is_ascii_hexdigit() || b == b':') {
            return false;
        }
        match after {
            "" => return true,
            _ => match after.strip_prefix(':') {
                Some(port) => ("v6", Some(port)),
                None => return false,
            },
        }
    } else {
        match domain.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (domain, None),
        }
    };
    if let Some(port) = port
        && (port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit()))
    {
        return false;
    }
    host.split('.').all(|label| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    })
}

/// `[a-z0-9]+` runs joined by `.`, `_`, `__` or any number of `-`.
fn is_path_component(component: &str) -> bool {
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    if !bytes.first().copied().is_some_and(alnum) || !bytes.last().copied().is_some_and(alnum) {
        return false;
    }
    bytes.split(|&b| alnum(b)).all(|separator| {
        matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|&b| b == b'-')
    })
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (1..=128).contains(&tag.len())
        && word(tag.as_bytes()[0])
        && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalises_as_upstream() {
        let d = format!("sha256:{}", "a".repeat(64));
        let with_digest = format!("docker.io/library/busybox@{d}");
        let long = format!("example.com/{}", "a/".repeat(120) + "a");
        let too_long = format!("example.com/{}", "a/".repeat(130) + "a");
        let table: &[(&str, Result<&str, &str>)] = &[
            ("busybox", Ok("docker.io/library/busybox:latest")),
            ("busybox:1.36", Ok("docker.io/library/busybox:1.36")),
            ("library/busybox", Ok("docker.io/library/busybox:latest")),
            ("foo/bar", Ok("docker.io/foo/bar:latest")),
            ("index.docker.io/busybox", Ok("docker.io/library/busybox:latest")),
            ("localhost/x", Ok("localhost/x:latest")),
            ("localhost:5000/x:v1", Ok("localhost:5000/x:v1")),
            ("127.0.0.1:5000/a/b/c:v1", Ok("127.0.0.1:5000/a/b/c:v1")),
            ("[::1]:5000/a:v1", Ok("[::1]:5000/a:v1")),
            ("Host/x", Ok("Host/x:latest")),
            ("registry.k8s.io/pause:3.10", Ok("registry.k8s.io/pause:3.10")),
            ("a__b/c-d--e.f_g", Ok("docker.io/a__b/c-d--e.f_g:latest")),
            (&format!("busybox@{d}"), Ok(&with_digest)),
            (&format!("busybox:1.36@{d}"), Ok(&with_digest)),
            (&long, Ok(&format!("{long}:latest"))),
            (
                &too_long,
                Err("repository name must not be more than 255 characters"),
            ),
            ("", Err("invalid reference format")),
            (
                "UPPER",
                Err("invalid reference format: repository name (library/UPPER) must be lowercase"),
            ),
            (
                "a/B",
                Err("invalid reference format: repository name (a/B) must be lowercase"),
            ),
            ("busybox:", Err("invalid reference format")),
            ("busybox:-x", Err("invalid reference format")),
            ("busy box", Err("invalid reference format")),
            ("a//b", Err("invalid reference format")),
            ("-a", Err("invalid reference format")),
            ("a.-b", Err("invalid reference format")),
            ("../etc", Err("invalid reference format")),
            ("example.com:port/x", Err("invalid reference format")),
            ("busybox@sha256:12", Err("invalid checksum digest length")),
            ("busybox@md5:12", Err("unsupported digest algorithm")),
        ];
        for (input, expected) in table {
            let actual = Reference::parse(input);
            match (actual, expected) {
                (Ok(reference), Ok(text)) => assert_eq!(reference.to_string(), *text, "{input}"),
                (Err(ImageError::InvalidReference { reason, .. }), Err(text)) => {
                    assert_eq!(reason, *text, "{input}");
                }
                (actual, expected) => panic!("{input}: {actual:?}, expected {expected:?}"),
            }
        }
        let id = "a".repeat(64);
        assert!(Reference::parse(&id).is_err());
    }
}
