//! Continue tokens of paged lists: base64url of a small JSON object, as upstream's, with the number of objects left.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

const VERSION: &str = "meta.k8s.io/v1";

/// Where a paged list goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContinueToken {
    v: String,
    /// The revision of the whole list; -1 to go on at the newest.
    pub rv: i64,
    /// First key wanted, relative to the kind's prefix.
    pub start: String,
    /// Objects left when the token was given out, where they were counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<u64>,
}

/// The token cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("continue key is not valid: {0}")]
pub struct ContinueError(String);

impl ContinueToken {
    /// The token behind the object at `last` (a relative key).
    pub fn after(last: &str, revision: u64, left: Option<u64>) -> Self {
        Self {
            v: VERSION.to_owned(),
            rv: i64::try_from(revision).unwrap_or(i64::MAX),
            start: format!("{last}\0"),
            left,
        }
    }

    /// As clients see it.
    pub fn encode(&self) -> String {
        let json = serde_json::to_vec(self).expect("invariant: a token is plain data");
        URL_SAFE_NO_PAD.encode(json)
    }

    /// Reads what a client sends back.
    pub fn decode(text: &str) -> Result<Self, ContinueError> {
        let json = URL_SAFE_NO_PAD
            .decode(text.trim_end_matches('='))
            .map_err(|e| ContinueError(e.to_string()))?;
        let token: Self = serde_json::from_slice(&json).map_err(|e| ContinueError(e.to_string()))?;
        if token.v != VERSION {
            return Err(ContinueError(format!(
                "server does not recognize this encoded version {:?}",
                token.v
            )));
        }
        if token.rv == 0 {
            return Err(ContinueError(
                "incorrect encoded start resourceVersion (version meta.k8s.io/v1)".to_owned(),
            ));
        }
        if token.start.is_empty() || token.start.split('/').any(|part| part == "." || part == "..") {
            return Err(ContinueError(format!(
                "incorrect encoded start key {:?}",
                token.start
            )));
        }
        Ok(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_refusals() {
        let token = ContinueToken::after("default/a", 7, Some(3));
        assert_eq!(ContinueToken::decode(&token.encode()), Ok(token));
        for bad in [
            "",
            "%%%",
            "e30",
            &URL_SAFE_NO_PAD.encode(r#"{"v":"x","rv":1,"start":"a"}"#),
        ] {
            assert!(ContinueToken::decode(bad).is_err(), "{bad}");
        }
        let up = URL_SAFE_NO_PAD.encode(r#"{"v":"meta.k8s.io/v1","rv":1,"start":"../a"}"#);
        assert!(ContinueToken::decode(&up).is_err());
    }
}
