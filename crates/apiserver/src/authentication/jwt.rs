//! JSON web tokens in compact form, and their verification as far as service accounts need it: ES256, ES384 and RS256, one
//! key per algorithm choice (the key decides the algorithm, never the token).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keelson_pki::PublicKey;
use serde_json::Value;

/// A token cannot be read or its signature is by none of the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum JwtError {
    /// Not three parts of base64url, or not JSON.
    #[error("invalid bearer token")]
    Malformed,
    /// No key fits.
    #[error("invalid signature")]
    Signature,
}

/// A token taken apart; nothing of it is verified.
pub(super) struct Signed<'a> {
    /// What the signature is over.
    pub(super) message: &'a str,
    /// `alg` of the header.
    pub(super) algorithm: String,
    /// `kid` of the header, empty without one.
    pub(super) key_id: String,
    /// The signature.
    pub(super) signature: Vec<u8>,
}

impl<'a> Signed<'a> {
    /// Reads a token in compact form. One whose header says that there is something that must be understood (`crit`) is
    /// refused: nothing of that kind is.
    pub(super) fn of(token: &'a str) -> Result<Self, JwtError> {
        let (message, signature) = token.rsplit_once('.').ok_or(JwtError::Malformed)?;
        let (header, _) = message.split_once('.').ok_or(JwtError::Malformed)?;
        let header = decode(header)?;
        if header.get("crit").is_some() {
            return Err(JwtError::Malformed);
        }
        let text = |name: &str| {
            header
                .get(name)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let signature = URL_SAFE_NO_PAD
            .decode(signature)
            .map_err(|_| JwtError::Malformed)?;
        Ok(Self {
            message,
            algorithm: text("alg"),
            key_id: text("kid"),
            signature,
        })
    }

    /// The claims.
    pub(super) fn claims(&self) -> Result<Value, JwtError> {
        let (_, claims) = self.message.split_once('.').ok_or(JwtError::Malformed)?;
        decode(claims)
    }
}

/// The claims of a token, not verified.
pub(super) fn claims_unverified(token: &str) -> Result<Value, JwtError> {
    let mut parts = token.split('.');
    let (Some(_), Some(claims), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(JwtError::Malformed);
    };
    decode(claims)
}

fn decode(part: &str) -> Result<Value, JwtError> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| JwtError::Malformed)?;
    let value: Value = serde_json::from_slice(&bytes).map_err(|_| JwtError::Malformed)?;
    if value.is_object() {
        Ok(value)
    } else {
        Err(JwtError::Malformed)
    }
}

/// The claims of a token signed by one of `keys`. Times and audiences are the caller's.
pub(super) fn verify(token: &str, keys: &[PublicKey]) -> Result<Value, JwtError> {
    let signed = Signed::of(token)?;
    let fits = |key: &&PublicKey| key.jws_algorithm().name() == signed.algorithm;
    let named = keys
        .iter()
        .filter(fits)
        .filter(|key| key.key_id() == signed.key_id);
    let others = keys
        .iter()
        .filter(fits)
        .filter(|key| key.key_id() != signed.key_id);
    // As upstream: the key that the header names first, then every other one.
    if named
        .chain(others)
        .any(|key| key.verify_jws(signed.message.as_bytes(), &signed.signature))
    {
        signed.claims()
    } else {
        Err(JwtError::Signature)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keelson_pki::PrivateKey;
    use serde_json::json;

    #[test]
    fn signed_and_verified() {
        let (key, other) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
        let token = key.sign_jwt(&json!({"iss": "me"})).unwrap();
        assert_eq!(
            verify(&token, &[other.public(), key.public()]).unwrap()["iss"],
            "me"
        );
        assert_eq!(verify(&token, &[other.public()]), Err(JwtError::Signature));
        assert_eq!(claims_unverified(&token).unwrap()["iss"], "me");
        let none = format!(
            "{}.{}.",
            URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#),
            URL_SAFE_NO_PAD.encode("{}")
        );
        assert_eq!(verify(&none, &[key.public()]), Err(JwtError::Signature));
        for bad in ["", "a.b", "a.b.c", "....", &token[1..]] {
            assert!(verify(bad, &[key.public()]).is_err(), "{bad}");
        }
        let (head, tail) = token.split_at(token.len() / 2);
        let changed = format!("{head}A{}", &tail[1..]);
        assert!(changed == token || verify(&changed, &[key.public()]).is_err());
    }
}
