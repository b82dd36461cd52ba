//! Private and public keys: ECDSA P-256 made here; ECDSA P-384 and RSA accepted when somebody brings them.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{self, EcdsaKeyPair, KeyPair, RsaKeyPair};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::{Error, der, pem};

const EC_PUBLIC_KEY: &[u64] = &[1, 2, 840, 10045, 2, 1];
const P256: &[u64] = &[1, 2, 840, 10045, 3, 1, 7];
const P384: &[u64] = &[1, 3, 132, 0, 34];
const RSA: &[u64] = &[1, 2, 840, 113549, 1, 1, 1];
const NULL: &[u8] = &[5, 0];

/// Signature algorithm of a JSON web token (RFC 7518).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JwsAlgorithm {
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// ECDSA on P-384 with SHA-384.
    Es384,
    /// RSA PKCS #1 v1.5 with SHA-256.
    Rs256,
}

impl JwsAlgorithm {
    /// The `alg` header.
    pub fn name(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Rs256 => "RS256",
        }
    }
}

enum Kind {
    P256 {
        certificates: EcdsaKeyPair,
        tokens: EcdsaKeyPair,
    },
    P384 {
        certificates: EcdsaKeyPair,
        tokens: EcdsaKeyPair,
    },
    Rsa(Box<RsaKeyPair>),
}

/// A private key that can sign certificates and tokens.
pub struct PrivateKey {
    pkcs8: Vec<u8>,
    kind: Kind,
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({})", self.jws_algorithm().name())
    }
}

impl Clone for PrivateKey {
    fn clone(&self) -> Self {
        Self::from_pkcs8(self.pkcs8.clone()).expect("invariant: these bytes were a key before")
    }
}

impl PrivateKey {
    /// A new ECDSA P-256 key.
    pub fn generate() -> Result<Self, Error> {
        let document =
            EcdsaKeyPair::generate_pkcs8(&signature::ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new())
                .map_err(|_| Error::Crypto("generating a P-256 key"))?;
        Self::from_pkcs8(document.as_ref().to_vec())
    }

    /// From PKCS #8 DER.
    pub fn from_pkcs8(pkcs8: Vec<u8>) -> Result<Self, Error> {
        let random = SystemRandom::new();
        let ec = |algorithm| EcdsaKeyPair::from_pkcs8(algorithm, &pkcs8, &random);
        if let Ok(certificates) = ec(&signature::ECDSA_P256_SHA256_ASN1_SIGNING) {
            let tokens = ec(&signature::ECDSA_P256_SHA256_FIXED_SIGNING).map_err(rejected)?;
            return Ok(Self {
                kind: Kind::P256 { certificates, tokens },
                pkcs8,
            });
        }
        if let Ok(certificates) = ec(&signature::ECDSA_P384_SHA384_ASN1_SIGNING) {
            let tokens = ec(&signature::ECDSA_P384_SHA384_FIXED_SIGNING).map_err(rejected)?;
            return Ok(Self {
                kind: Kind::P384 { certificates, tokens },
                pkcs8,
            });
        }
        let rsa = RsaKeyPair::from_pkcs8(&pkcs8).map_err(rejected)?;
        Ok(Self {
            kind: Kind::Rsa(Box::new(rsa)),
            pkcs8,
        })
    }

    /// From PEM: `PRIVATE KEY`, `EC PRIVATE KEY` (P-256, P-384) or `RSA PRIVATE KEY`.
    pub fn from_pem(text: &str) -> Result<Self, Error> {
        let blocks = pem::decode(text)?;
        for block in blocks {
            match block.label.as_str() {
                "PRIVATE KEY" => return Self::from_pkcs8(block.der),
                "EC PRIVATE KEY" => {
                    let wrap = |curve| pkcs8(&[der::oid(EC_PUBLIC_KEY), der::oid(curve)], &block.der);
                    return Self::from_pkcs8(wrap(P256)).or_else(|_| Self::from_pkcs8(wrap(P384)));
                }
                "RSA PRIVATE KEY" => {
                    return Self::from_pkcs8(pkcs8(&[der::oid(RSA), NULL.to_vec()], &block.der));
                }
                _ => {}
            }
        }
        Err(Error::NoPemBlock("PRIVATE KEY"))
    }

    /// PKCS #8 in PEM.
    pub fn to_pem(&self) -> String {
        pem::encode("PRIVATE KEY", &self.pkcs8)
    }

    /// PKCS #8 in DER, for rustls.
    pub fn to_rustls(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.pkcs8.clone()))
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        let spki = match &self.kind {
            Kind::P256 { certificates, .. } => ec_spki(P256, certificates.public_key().as_ref()),
            Kind::P384 { certificates, .. } => ec_spki(P384, certificates.public_key().as_ref()),
            Kind::Rsa(rsa) => der::sequence(&[
                der::sequence(&[der::oid(RSA), NULL.to_vec()]),
                der::bits(rsa.public_key().as_ref()),
            ]),
        };
        PublicKey::from_spki(spki).expect("invariant: we wrote this")
    }

    /// The signature algorithm for tokens signed by this key.
    pub fn jws_algorithm(&self) -> JwsAlgorithm {
        match &self.kind {
            Kind::P256 { .. } => JwsAlgorithm::Es256,
            Kind::P384 { .. } => JwsAlgorithm::Es384,
            Kind::Rsa(_) => JwsAlgorithm::Rs256,
        }
    }

    /// Signature as tokens carry it (RFC 7518: fixed length for ECDSA).
    pub fn sign_jws(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        match &self.kind {
            Kind::P256 { tokens, .. } | Kind::P384 { tokens, .. } => ecdsa(tokens, message),
            Kind::Rsa(rsa) => rsa_sign(rsa, message),
        }
    }

    /// The claims as a JSON web token in compact form, signed by this key, whose id its header names.
    pub fn sign_jwt(&self, claims: &serde_json::Value) -> Result<String, Error> {
        let header = serde_json::json!({"alg": self.jws_algorithm().name(), "kid": self.public().key_id()});
        let encode = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", encode(&header), encode(claims));
        let signature = self.sign_jws(signed.as_bytes())?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// Signature as certificates carry it, with its AlgorithmIdentifier in DER.
    pub(crate) fn sign_x509(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        match &self.kind {
            Kind::P256 { certificates, .. } | Kind::P384 { certificates, .. } => ecdsa(certificates, message),
            Kind::Rsa(rsa) => rsa_sign(rsa, message),
        }
    }

    /// AlgorithmIdentifier of [`Self::sign_x509`].
    pub(crate) fn x509_algorithm(&self) -> Vec<u8> {
        match &self.kind {
            Kind::P256 { .. } => der::sequence(&[der::oid(&[1, 2, 840, 10045, 4, 3, 2])]),
            Kind::P384 { .. } => der::sequence(&[der::oid(&[1, 2, 840, 10045, 4, 3, 3])]),
            Kind::Rsa(_) => der::sequence(&[der::oid(&[1, 2, 840, 113549, 1, 1, 11]), NULL.to_vec()]),
        }
    }
}

fn rejected(e: ring::error::KeyRejected) -> Error {
    Error::Key(e.to_string())
}

fn ecdsa(key: &EcdsaKeyPair, message: &[u8]) -> Result<Vec<u8>, Error> {
    let signature = key
        .sign(&SystemRandom::new(), message)
        .map_err(|_| Error::Crypto("signing with ECDSA"))?;
    Ok(signature.as_ref().to_vec())
}

fn rsa_sign(key: &RsaKeyPair, message: &[u8]) -> Result<Vec<u8>, Error> {
    let mut out = vec![0; key.public().modulus_len()];
    key.sign(
        &signature::RSA_PKCS1_SHA256,
        &SystemRandom::new(),
        message,
        &mut out,
    )
    .map_err(|_| Error::Crypto("signing with RSA"))?;
    Ok(out)
}

fn pkcs8(algorithm: &[Vec<u8>], key: &[u8]) -> Vec<u8> {
    der::sequence(&[der::unsigned(&[0]), der::sequence(algorithm), der::octets(key)])
}

fn ec_spki(curve: &[u64], point: &[u8]) -> Vec<u8> {
    der::sequence(&[
        der::sequence(&[der::oid(EC_PUBLIC_KEY), der::oid(curve)]),
        der::bits(point),
    ])
}

/// What a JSON web key says of a public key.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Numbers {
    Ec { size: usize },
    Rsa,
}

/// A public key that can verify tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    spki: Vec<u8>,
    /// Point (EC) or RSAPublicKey (RSA).
    raw: Vec<u8>,
    numbers: Numbers,
}

impl PublicKey {
    /// From SubjectPublicKeyInfo in DER.
    pub fn from_spki(spki: Vec<u8>) -> Result<Self, Error> {
        use x509_parser::prelude::FromDer;
        let (rest, info) = x509_parser::x509::SubjectPublicKeyInfo::from_der(&spki)
            .map_err(|e| Error::Key(e.to_string()))?;
        if !rest.is_empty() {
            return Err(Error::Key("trailing bytes after the public key".into()));
        }
        let raw = info.subject_public_key.data.to_vec();
        let numbers = match info.parsed() {
            Ok(x509_parser::public_key::PublicKey::EC(point)) => match point.key_size() {
                256 => Numbers::Ec { size: 32 },
                384 => Numbers::Ec { size: 48 },
                other => return Err(Error::Key(format!("elliptic curve of {other} bits"))),
            },
            Ok(x509_parser::public_key::PublicKey::RSA(_)) => Numbers::Rsa,
            _ => return Err(Error::Key("neither ECDSA nor RSA".into())),
        };
        Ok(Self { raw, numbers, spki })
    }

    /// All public keys of a PEM text (`PUBLIC KEY`); private keys count with their public half.
    pub fn all_from_pem(text: &str) -> Result<Vec<Self>, Error> {
        let mut keys = Vec::new();
        for block in pem::decode(text)? {
            match block.label.as_str() {
                "PUBLIC KEY" => keys.push(Self::from_spki(block.der)?),
                label if label.ends_with("PRIVATE KEY") => {
                    keys.push(PrivateKey::from_pem(&pem::encode(label, &block.der))?.public());
                }
                _ => {}
            }
        }
        if keys.is_empty() {
            Err(Error::NoPemBlock("PUBLIC KEY"))
        } else {
            Ok(keys)
        }
    }

    /// `PUBLIC KEY` in PEM.
    pub fn to_pem(&self) -> String {
        pem::encode("PUBLIC KEY", &self.spki)
    }

    /// SubjectPublicKeyInfo in DER.
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// The only algorithm accepted with this key.
    pub fn jws_algorithm(&self) -> JwsAlgorithm {
        match self.numbers {
            Numbers::Ec { size: 32 } => JwsAlgorithm::Es256,
            Numbers::Ec { .. } => JwsAlgorithm::Es384,
            Numbers::Rsa => JwsAlgorithm::Rs256,
        }
    }

    /// Whether the signature of a token over `message` is by this key.
    pub fn verify_jws(&self, message: &[u8], signature: &[u8]) -> bool {
        let algorithm: &'static dyn signature::VerificationAlgorithm = match self.jws_algorithm() {
            JwsAlgorithm::Es256 => &signature::ECDSA_P256_SHA256_FIXED,
            JwsAlgorithm::Es384 => &signature::ECDSA_P384_SHA384_FIXED,
            JwsAlgorithm::Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
        };
        signature::UnparsedPublicKey::new(algorithm, &self.raw)
            .verify(message, signature)
            .is_ok()
    }

    /// Key identifier as upstream derives it: unpadded base64url of the SHA-256 of the SubjectPublicKeyInfo.
    pub fn key_id(&self) -> String {
        base64url(ring::digest::digest(&ring::digest::SHA256, &self.spki).as_ref())
    }

    /// Modulus and exponent, without leading zeros.
    fn rsa_numbers(&self) -> (Vec<u8>, Vec<u8>) {
        use x509_parser::prelude::FromDer;
        let trim = |bytes: &[u8]| bytes.iter().copied().skip_while(|b| *b == 0).collect::<Vec<u8>>();
        match x509_parser::x509::SubjectPublicKeyInfo::from_der(&self.spki).map(|(_, info)| info) {
            Ok(info) => match info.parsed() {
                Ok(x509_parser::public_key::PublicKey::RSA(key)) => (trim(key.modulus), trim(key.exponent)),
                _ => (Vec::new(), Vec::new()),
            },
            Err(_) => (Vec::new(), Vec::new()),
        }
    }

    /// The key as JSON web key (RFC 7517), use `sig`.
    pub fn to_jwk(&self) -> serde_json::Value {
        let mut jwk = serde_json::json!({
            "use": "sig", "kid": self.key_id(), "alg": self.jws_algorithm().name(),
        });
        match &self.numbers {
            Numbers::Ec { size } => {
                jwk["kty"] = "EC".into();
                jwk["crv"] = if *size == 32 { "P-256" } else { "P-384" }.into();
                jwk["x"] = base64url(&self.raw[1..=*size]).into();
                jwk["y"] = base64url(&self.raw[1 + size..]).into();
            }
            Numbers::Rsa => {
                let (modulus, exponent) = self.rsa_numbers();
                jwk["kty"] = "RSA".into();
                jwk["n"] = base64url(&modulus).into();
                jwk["e"] = base64url(&exponent).into();
            }
        }
        jwk
    }
}

fn base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
