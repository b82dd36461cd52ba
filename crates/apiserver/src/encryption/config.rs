//! `apiserver.config.k8s.io/v1` EncryptionConfiguration.

use std::sync::Arc;

use base64::Engine;
use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::Value;

/// The configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EncryptionConfigError {
    /// It is no YAML.
    #[error("the encryption configuration cannot be read: {0}")]
    Syntax(#[from] serde_yaml_ng::Error),
    /// Something in it is wrong; says where.
    #[error("the encryption configuration is invalid: {0}")]
    Invalid(String),
}

/// Which resources are encrypted, and how.
#[derive(Clone, Debug)]
pub struct EncryptionConfig {
    rules: Vec<Rule>,
}

#[derive(Clone, Debug)]
struct Rule {
    resources: Vec<String>,
    providers: Arc<Providers>,
}

/// The providers of a rule: the first one writes.
#[derive(Debug)]
pub(super) struct Providers(Vec<Provider>);

#[derive(Debug)]
enum Provider {
    Identity,
    AesGcm(Vec<Key>),
}

#[derive(Debug)]
struct Key {
    prefix: Vec<u8>,
    key: LessSafeKey,
}

/// All encrypted values begin with this.
const ENCRYPTED: &[u8] = b"k8s:enc:";
const AES_GCM: &str = "k8s:enc:aesgcm:v1:";

/// A value could not be decrypted or encrypted; the text says why.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct TransformError(&'static str);

impl EncryptionConfig {
    /// Reads a configuration in YAML or JSON.
    pub fn parse(text: &str) -> Result<Self, EncryptionConfigError> {
        let invalid = |why: String| EncryptionConfigError::Invalid(why);
        let value: Value = serde_yaml_ng::from_str(text)?;
        let (version, kind) = (value["apiVersion"].as_str(), value["kind"].as_str());
        if kind != Some("EncryptionConfiguration") || version != Some("apiserver.config.k8s.io/v1") {
            return Err(invalid(
                "expected kind EncryptionConfiguration of apiserver.config.k8s.io/v1".to_owned(),
            ));
        }
        let rules = value["resources"].as_array().filter(|r| !r.is_empty());
        let rules = rules.ok_or_else(|| invalid("resources: Required value".to_owned()))?;
        let rules = rules
            .iter()
            .enumerate()
            .map(|(at, rule)| Rule::parse(rule).map_err(|why| invalid(format!("resources[{at}]{why}"))));
        Ok(Self {
            rules: rules.collect::<Result<_, _>>()?,
        })
    }

    /// A configuration that encrypts Secrets with a new random key; readable by [`Self::parse`].
    pub fn generate() -> Result<String, EncryptionConfigError> {
        let mut key = [0; 32];
        SystemRandom::new()
            .fill(&mut key)
            .map_err(|_| EncryptionConfigError::Invalid("there is no randomness".to_owned()))?;
        let key = base64::engine::general_purpose::STANDARD.encode(key);
        Ok(format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n  - resources:\n      \
             - secrets\n    providers:\n      - aesgcm:\n          keys:\n            - name: key1\n              \
             secret: {key}\n      - identity: {{}}\n"
        ))
    }

    /// How a stored key is treated; `None` when no rule names it.
    pub(super) fn providers(&self, key: &[u8]) -> Option<&Arc<Providers>> {
        let rest = std::str::from_utf8(key).ok()?.strip_prefix("/registry/")?;
        let mut parts = rest.split('/');
        let first = parts.next()?;
        // Groups have a dot or are one of the old ones; core resources have no group before them.
        let is_group = first.contains('.') || matches!(first, "apps" | "batch" | "policy" | "autoscaling");
        let (group, resource) = if is_group {
            (first, parts.next()?)
        } else {
            ("", first)
        };
        let name = if group.is_empty() {
            resource.to_owned()
        } else {
            format!("{resource}.{group}")
        };
        let of_group = format!("*.{group}");
        self.rules
            .iter()
            .find(|rule| {
                rule.resources
                    .iter()
                    .any(|r| *r == name || *r == of_group || r == "*.*")
            })
            .map(|rule| &rule.providers)
    }
}

impl Rule {
    fn parse(value: &Value) -> Result<Self, String> {
        let list = |field: &str| value[field].as_array().filter(|l| !l.is_empty());
        let resources = list("resources").ok_or_else(|| ".resources: Required value".to_owned())?;
        let providers = list("providers").ok_or_else(|| ".providers: Required value".to_owned())?;
        let providers = providers
            .iter()
            .enumerate()
            .map(|(at, p)| Provider::parse(p).map_err(|why| format!(".providers[{at}]{why}")));
        Ok(Self {
            resources: resources
                .iter()
                .filter_map(|r| r.as_str().map(str::to_owned))
                .collect(),
            providers: Arc::new(Providers(providers.collect::<Result<_, _>>()?)),
        })
    }
}

impl Provider {
    fn parse(value: &Value) -> Result<Self, String> {
        let fields = value.as_object().filter(|f| f.len() == 1);
        let Some((name, body)) = fields.and_then(|f| f.iter().next()) else {
            return Err(": exactly one provider is expected".to_owned());
        };
        match name.as_str() {
            "identity" => Ok(Self::Identity),
            "aesgcm" => {
                let keys = body["keys"].as_array().filter(|k| !k.is_empty());
                let keys = keys.ok_or_else(|| ".aesgcm.keys: Required value".to_owned())?;
                let keys = keys
                    .iter()
                    .enumerate()
                    .map(|(at, key)| Key::parse(key).map_err(|why| format!(".aesgcm.keys[{at}]{why}")));
                Ok(Self::AesGcm(keys.collect::<Result<_, _>>()?))
            }
            other => Err(format!(
                ".{other}: this provider is not supported; supported are aesgcm and identity"
            )),
        }
    }
}

impl Key {
    fn parse(value: &Value) -> Result<Self, String> {
        let name = value["name"].as_str().unwrap_or_default();
        if name.is_empty() || name.contains(':') {
            return Err(".name: must be set and have no ':'".to_owned());
        }
        let secret = value["secret"].as_str().unwrap_or_default();
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(secret)
            .map_err(|_| ".secret: must be base64".to_owned())?;
        let algorithm = match bytes.len() {
            16 => &AES_128_GCM,
            32 => &AES_256_GCM,
            other => return Err(format!(".secret: has {other} bytes, expected 16 or 32")),
        };
        let key = UnboundKey::new(algorithm, &bytes).map_err(|_| ".secret: cannot be used".to_owned())?;
        Ok(Self {
            prefix: format!("{AES_GCM}{name}:").into_bytes(),
            key: LessSafeKey::new(key),
        })
    }
}

impl Providers {
    /// The stored form of a value at a key of the store.
    pub(super) fn encrypt(&self, key: &[u8], value: &[u8]) -> Result<Vec<u8>, TransformError> {
        let keys = match self.0.first() {
            Some(Provider::AesGcm(keys)) => keys,
            _ => return Ok(value.to_vec()),
        };
        let first = keys.first().ok_or(TransformError("there is no key"))?;
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new()
            .fill(&mut nonce)
            .map_err(|_| TransformError("there is no randomness"))?;
        let mut out = Vec::with_capacity(first.prefix.len() + NONCE_LEN + value.len() + 16);
        out.extend_from_slice(&first.prefix);
        out.extend_from_slice(&nonce);
        let start = out.len();
        out.extend_from_slice(value);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = first
            .key
            .seal_in_place_separate_tag(nonce, Aad::from(key), &mut out[start..])
            .map_err(|_| TransformError("the value is too long"))?;
        out.extend_from_slice(tag.as_ref());
        Ok(out)
    }

    /// The value of a stored form, and whether the first provider and key would write it otherwise.
    pub(super) fn decrypt(&self, key: &[u8], stored: &[u8]) -> Result<(Vec<u8>, bool), TransformError> {
        if !stored.starts_with(ENCRYPTED) {
            let stale = !matches!(self.0.first(), Some(Provider::Identity));
            return Ok((stored.to_vec(), stale));
        }
        for (at, provider) in self.0.iter().enumerate() {
            let Provider::AesGcm(keys) = provider else {
                continue;
            };
            for (number, candidate) in keys.iter().enumerate() {
                let Some(rest) = stored.strip_prefix(candidate.prefix.as_slice()) else {
                    continue;
                };
                let Some((nonce, sealed)) = rest.split_first_chunk::<NONCE_LEN>() else {
                    return Err(TransformError("the stored data is too short"));
                };
                let mut buffer = sealed.to_vec();
                let nonce = Nonce::assume_unique_for_key(*nonce);
                let plain = candidate.key.open_in_place(nonce, Aad::from(key), &mut buffer);
                let length = match plain {
                    Ok(plain) => plain.len(),
                    Err(_) => continue,
                };
                buffer.truncate(length);
                return Ok((buffer, at > 0 || number > 0));
            }
        }
        Err(TransformError(
            "no key of the encryption configuration decrypts it",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keys by name and one byte that fills them.
    fn config(keys: &[(&str, u8)], identity_first: bool) -> EncryptionConfig {
        let keys: String = keys
            .iter()
            .map(|(name, byte)| {
                let secret = base64::engine::general_purpose::STANDARD.encode([*byte; 32]);
                format!("{{name: {name}, secret: {secret}}},")
            })
            .collect();
        let gcm = format!("{{aesgcm: {{keys: [{keys}]}}}}");
        let providers = if identity_first {
            format!("[{{identity: {{}}}}, {gcm}]")
        } else {
            format!("[{gcm}, {{identity: {{}}}}]")
        };
        EncryptionConfig::parse(&format!(
            "{{apiVersion: apiserver.config.k8s.io/v1, kind: EncryptionConfiguration, \
             resources: [{{resources: [secrets, widgets.example.com], providers: {providers}}}]}}"
        ))
        .unwrap()
    }

    const KEY: &[u8] = b"/registry/secrets/ns/a";

    #[test]
    fn keys_rotate() {
        let (old, new) = (
            config(&[("k1", 1)], false),
            config(&[("k2", 2), ("k1", 1)], false),
        );
        let (old, new) = (old.providers(KEY).unwrap(), new.providers(KEY).unwrap());
        let sealed = old.encrypt(KEY, b"value").unwrap();
        assert!(sealed.starts_with(b"k8s:enc:aesgcm:v1:k1:"));
        assert!(!sealed.windows(5).any(|w| w == b"value"));
        assert_eq!(old.decrypt(KEY, &sealed).unwrap(), (b"value".to_vec(), false));
        assert_eq!(new.decrypt(KEY, &sealed).unwrap(), (b"value".to_vec(), true));
        let resealed = new.encrypt(KEY, b"value").unwrap();
        assert!(resealed.starts_with(b"k8s:enc:aesgcm:v1:k2:"));
        assert!(old.decrypt(KEY, &resealed).is_err());
        // Bound to its place, and unchanged.
        assert!(old.decrypt(b"/registry/secrets/ns/b", &sealed).is_err());
        let mut damaged = sealed.clone();
        *damaged.last_mut().unwrap() ^= 1;
        assert!(old.decrypt(KEY, &damaged).is_err());
        assert!(old.decrypt(KEY, &sealed[..24]).is_err());
    }

    #[test]
    fn plain_values_are_read() {
        let gcm = config(&[("k1", 1)], false);
        assert_eq!(
            gcm.providers(KEY).unwrap().decrypt(KEY, b"{}").unwrap(),
            (b"{}".to_vec(), true)
        );
        let off = config(&[("k1", 1)], true);
        let off = off.providers(KEY).unwrap();
        assert_eq!(off.encrypt(KEY, b"{}").unwrap(), b"{}");
        assert_eq!(off.decrypt(KEY, b"{}").unwrap(), (b"{}".to_vec(), false));
        let sealed = gcm.providers(KEY).unwrap().encrypt(KEY, b"{}").unwrap();
        assert_eq!(off.decrypt(KEY, &sealed).unwrap(), (b"{}".to_vec(), true));
    }

    #[test]
    fn rules_name_resources() {
        let config = config(&[("k1", 1)], false);
        for (key, expected) in [
            ("/registry/secrets/a/b", true),
            ("/registry/configmaps/a/b", false),
            ("/registry/example.com/widgets/a/b", true),
            ("/registry/example.com/secrets/a/b", false),
            ("/registry/apps/secrets/a/b", false),
            ("/other/secrets/a/b", false),
        ] {
            assert_eq!(config.providers(key.as_bytes()).is_some(), expected, "{key}");
        }
    }

    #[test]
    fn generated_configurations_can_be_used() {
        let text = EncryptionConfig::generate().unwrap();
        let config = EncryptionConfig::parse(&text).unwrap();
        let sealed = config.providers(KEY).unwrap().encrypt(KEY, b"x").unwrap();
        assert!(sealed.starts_with(b"k8s:enc:aesgcm:v1:key1:"));
    }

    #[test]
    fn mistakes_are_named() {
        let parse = |rule: &str| {
            let text = format!(
                "{{apiVersion: apiserver.config.k8s.io/v1, kind: EncryptionConfiguration, resources: [{rule}]}}"
            );
            EncryptionConfig::parse(&text).unwrap_err().to_string()
        };
        for (rule, expected) in [
            ("", "resources: Required value"),
            ("{resources: [secrets]}", "resources[0].providers: Required value"),
            (
                "{resources: [secrets], providers: [{kms: {}}]}",
                "resources[0].providers[0].kms: this provider is not supported",
            ),
            (
                "{resources: [secrets], providers: [{aesgcm: {keys: [{name: a, secret: AAAA}]}}]}",
                "resources[0].providers[0].aesgcm.keys[0].secret: has 3 bytes, expected 16 or 32",
            ),
        ] {
            let got = parse(rule);
            assert!(got.contains(expected), "{got}");
        }
        assert!(EncryptionConfig::parse("kind: Pod").is_err());
    }
}
