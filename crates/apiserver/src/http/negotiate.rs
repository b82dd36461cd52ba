//! Content negotiation: the `Accept` header, `?pretty`.

use http::HeaderMap;
use http::header::{ACCEPT, USER_AGENT};
use keelson_api::status::Status;

use super::query::Query;

/// How an answer is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `application/json`
    Json,
    /// `application/yaml`
    Yaml,
    /// `application/vnd.kubernetes.protobuf`
    Protobuf,
}

/// What an endpoint can answer with besides JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// YAML: not for streams, which have no frames in it.
    pub yaml: bool,
    /// Protobuf: built-in kinds only.
    pub protobuf: bool,
}

/// What an answer is turned into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transform {
    /// The object itself.
    None,
    /// `as=Table;g=meta.k8s.io;v=v1`
    Table,
    /// `as=PartialObjectMetadata;g=meta.k8s.io;v=v1`
    PartialObjectMetadata,
    /// `as=PartialObjectMetadataList;g=meta.k8s.io;v=v1`
    PartialObjectMetadataList,
}

/// The agreed form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// Encoding.
    pub format: Format,
    /// Shape.
    pub transform: Transform,
    /// Indented.
    pub pretty: bool,
}

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

impl Negotiated {
    /// Compact JSON of the object itself.
    pub const JSON: Self = Self {
        format: Format::Json,
        transform: Transform::None,
        pretty: false,
    };

    /// Reads `Accept`.
    pub fn of(headers: &HeaderMap, query: &Query<'_>, offer: Offer) -> Result<Self, Status> {
        let pretty = match query.get("pretty") {
            Some(value) => !matches!(value.as_ref(), "false" | "0"),
            None => is_for_people(headers),
        };
        let accept = headers
            .get(ACCEPT)
            .and_then(|a| a.to_str().ok())
            .unwrap_or("")
            .trim();
        if accept.is_empty() {
            return Ok(Self { pretty, ..Self::JSON });
        }
        let mut clauses: Vec<(f32, &str)> = accept.split(',').map(|c| (quality(c), c.trim())).collect();
        clauses.sort_by(|a, b| b.0.total_cmp(&a.0));
        for (_, clause) in clauses {
            if let Some((format, transform)) = accepts(clause, offer) {
                return Ok(Self {
                    format,
                    transform,
                    pretty,
                });
            }
        }
        let mut supported = vec!["application/json"];
        if offer.yaml {
            supported.push("application/yaml");
        }
        if offer.protobuf {
            supported.push(PROTOBUF);
        }
        Err(Status::not_acceptable(&supported))
    }

    /// The `Content-Type` of the answer.
    pub fn content_type(self) -> &'static str {
        match self.format {
            Format::Json => "application/json",
            Format::Yaml => "application/yaml",
            Format::Protobuf => PROTOBUF,
        }
    }
}

fn is_for_people(headers: &HeaderMap) -> bool {
    let agent = headers
        .get(USER_AGENT)
        .and_then(|a| a.to_str().ok())
        .unwrap_or("");
    ["curl", "Wget", "Mozilla/5.0"]
        .iter()
        .any(|p| agent.starts_with(p))
}

fn quality(clause: &str) -> f32 {
    let q = clause
        .split(';')
        .skip(1)
        .find_map(|p| p.trim().strip_prefix("q="));
    q.and_then(|q| q.parse().ok()).unwrap_or(1.0)
}

fn accepts(clause: &str, offer: Offer) -> Option<(Format, Transform)> {
    let mut parts = clause.split(';').map(str::trim);
    let format = match parts.next()? {
        "application/json" | "*/*" | "application/*" => Format::Json,
        "application/yaml" if offer.yaml => Format::Yaml,
        PROTOBUF if offer.protobuf => Format::Protobuf,
        _ => return None,
    };
    let (mut shape, mut group, mut version) = ("", "", "");
    for part in parts {
        match part.split_once('=') {
            Some(("as", v)) => shape = v,
            Some(("g", v)) => group = v,
            Some(("v", v)) => version = v,
            _ => {}
        }
    }
    let transform = match shape {
        "" => Transform::None,
        _ if group != "meta.k8s.io" || version != "v1" => return None,
        "Table" if format == Format::Protobuf => return None,
        "Table" => Transform::Table,
        "PartialObjectMetadata" => Transform::PartialObjectMetadata,
        "PartialObjectMetadataList" => Transform::PartialObjectMetadataList,
        _ => return None,
    };
    Some((format, transform))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(accept: &str, expected: Option<(Format, Transform)>) {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, accept.parse().unwrap());
        let got = Negotiated::of(
            &headers,
            &Query::new(""),
            Offer {
                yaml: true,
                protobuf: true,
            },
        )
        .ok()
        .map(|n| (n.format, n.transform));
        assert_eq!(got, expected, "{accept}");
    }

    #[test]
    fn accept_headers() {
        check("application/json", Some((Format::Json, Transform::None)));
        check("*/*", Some((Format::Json, Transform::None)));
        check(
            "application/vnd.kubernetes.protobuf,application/json",
            Some((Format::Protobuf, Transform::None)),
        );
        check(
            "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io",
            None,
        );
        check(
            "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json",
            Some((Format::Json, Transform::Table)),
        );
        check(
            "application/json;q=0.5,application/yaml",
            Some((Format::Yaml, Transform::None)),
        );
        check("application/cbor", None);
        check("application/json;as=Table;v=v9;g=meta.k8s.io", None);
    }
}
