//! Certificate authorities: made here or brought along, and what they sign.

use jiff::{SignedDuration, Timestamp};
use ring::rand::{SecureRandom, SystemRandom};

use crate::{
    AltNames, Certificate, CertificateRequest, Error, ExtendedUsage, KeyUsage, PrivateKey, Subject, der,
};

/// Clocks of machines differ: certificates are valid from five minutes ago, as upstream's are.
const BACKDATE: SignedDuration = SignedDuration::from_mins(5);

/// What a certificate is for and how long it lasts.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Key usages.
    pub usages: Vec<KeyUsage>,
    /// Extended key usages.
    pub extended: Vec<ExtendedUsage>,
    /// Life from now on.
    pub validity: SignedDuration,
}

impl Profile {
    /// For a client (`digital signature`, `key encipherment`, `client auth`).
    pub fn client(validity: SignedDuration) -> Self {
        Self::of(&[ExtendedUsage::ClientAuth], validity)
    }

    /// For a server.
    pub fn server(validity: SignedDuration) -> Self {
        Self::of(&[ExtendedUsage::ServerAuth], validity)
    }

    fn of(extended: &[ExtendedUsage], validity: SignedDuration) -> Self {
        Self {
            usages: vec![KeyUsage::DigitalSignature, KeyUsage::KeyEncipherment],
            extended: extended.to_vec(),
            validity,
        }
    }

    /// From the `usages` of a CertificateSigningRequest; unknown names are returned as error.
    pub fn from_usage_names<S: AsRef<str>>(names: &[S], validity: SignedDuration) -> Result<Self, Error> {
        let mut profile = Self {
            usages: Vec::new(),
            extended: Vec::new(),
            validity,
        };
        for name in names {
            let name = name.as_ref();
            if let Some(usage) = KeyUsage::from_name(name) {
                profile.usages.push(usage);
            } else if let Some(usage) = ExtendedUsage::from_name(name) {
                profile.extended.push(usage);
            } else {
                return Err(Error::Request(format!("unrecognized usage {name:?}")));
            }
        }
        Ok(profile)
    }
}

/// A certificate authority: certificate and key.
#[derive(Clone, Debug)]
pub struct CertificateAuthority {
    certificate: Certificate,
    key: PrivateKey,
}

/// Everything of a certificate but who signs it.
struct Body<'a> {
    issuer: &'a [u8],
    subject: &'a [u8],
    spki: &'a [u8],
    not_before: Timestamp,
    not_after: Timestamp,
    ca: bool,
    usages: &'a [KeyUsage],
    extended: &'a [ExtendedUsage],
    alt_names: &'a AltNames,
    authority_key_id: &'a [u8],
}

impl CertificateAuthority {
    /// A new self-signed authority.
    pub fn create(common_name: &str, validity: SignedDuration, now: Timestamp) -> Result<Self, Error> {
        let key = PrivateKey::generate()?;
        let subject = Subject::new(common_name, &[]).to_der();
        let spki = key.public().spki().to_vec();
        let body = Body {
            issuer: &subject,
            subject: &subject,
            spki: &spki,
            not_before: now - BACKDATE,
            not_after: now + validity,
            ca: true,
            usages: &[
                KeyUsage::DigitalSignature,
                KeyUsage::KeyEncipherment,
                KeyUsage::CertSign,
            ],
            extended: &[],
            alt_names: &AltNames {
                dns: vec![common_name.to_string()],
                ..AltNames::default()
            },
            authority_key_id: &key_id(&spki),
        };
        Ok(Self {
            certificate: sign(&body, &key)?,
            key,
        })
    }

    /// From a certificate and its key; refuses what is no authority or does not fit together.
    pub fn from_parts(certificate: Certificate, key: PrivateKey) -> Result<Self, Error> {
        if !certificate.is_ca() {
            return Err(Error::Certificate(
                "the certificate is not a certificate authority".into(),
            ));
        }
        if certificate.public_key()? != key.public() {
            return Err(Error::Mismatch);
        }
        Ok(Self { certificate, key })
    }

    /// The authority's certificate.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// The authority's key.
    pub fn key(&self) -> &PrivateKey {
        &self.key
    }

    /// Issues a certificate for a new key.
    pub fn issue(
        &self,
        subject: &Subject,
        alt_names: &AltNames,
        profile: &Profile,
        now: Timestamp,
    ) -> Result<(Certificate, PrivateKey), Error> {
        let key = PrivateKey::generate()?;
        let certificate = self.sign_body(&subject.to_der(), key.public().spki(), alt_names, profile, now)?;
        Ok((certificate, key))
    }

    /// Signs a request: its subject (byte for byte), its names and its key; usages and life are the profile's.
    /// The certificate never outlives the authority. Policy is the caller's.
    pub fn sign_request(
        &self,
        request: &CertificateRequest,
        profile: &Profile,
        now: Timestamp,
    ) -> Result<Certificate, Error> {
        if request.asks_for_ca() {
            return Err(Error::Request(
                "a certificate authority cannot be requested".into(),
            ));
        }
        self.sign_body(
            request.subject_der(),
            request.spki(),
            request.alt_names(),
            profile,
            now,
        )
    }

    fn sign_body(
        &self,
        subject: &[u8],
        spki: &[u8],
        alt_names: &AltNames,
        profile: &Profile,
        now: Timestamp,
    ) -> Result<Certificate, Error> {
        let own_id = key_id(self.key.public().spki());
        let body = Body {
            issuer: self.certificate.subject_der(),
            subject,
            spki,
            not_before: now - BACKDATE,
            not_after: (now + profile.validity).min(self.certificate.not_after()),
            ca: false,
            usages: &profile.usages,
            extended: &profile.extended,
            alt_names,
            authority_key_id: self.certificate.key_id().unwrap_or(&own_id),
        };
        sign(&body, &self.key)
    }
}

/// Identifier of a key: first 20 bytes of the SHA-256 of its SubjectPublicKeyInfo (RFC 7093, method 1).
fn key_id(spki: &[u8]) -> Vec<u8> {
    ring::digest::digest(&ring::digest::SHA256, spki).as_ref()[..20].to_vec()
}

fn sign(body: &Body<'_>, key: &PrivateKey) -> Result<Certificate, Error> {
    let mut serial = [0u8; 16];
    SystemRandom::new()
        .fill(&mut serial)
        .map_err(|_| Error::Crypto("reading random bytes"))?;
    serial[0] = serial[0] & 0x7f | 0x01;
    let extension = |oid: &[u64], critical: bool, value: &[u8]| {
        let mut parts = vec![der::oid(oid)];
        if critical {
            parts.push(der::yes());
        }
        parts.push(der::octets(value));
        der::sequence(&parts)
    };
    let mut extensions = Vec::new();
    if !body.usages.is_empty() {
        let bits = body
            .usages
            .iter()
            .fold(0u16, |bits, usage| bits | 1 << (*usage as u16));
        extensions.push(extension(&[2, 5, 29, 15], true, &der::named_bits(bits)));
    }
    if !body.extended.is_empty() {
        let oids: Vec<_> = body.extended.iter().map(|usage| usage.oid()).collect();
        extensions.push(extension(&[2, 5, 29, 37], false, &der::sequence(&oids)));
    }
    let constraints = if body.ca {
        der::sequence(&[der::yes()])
    } else {
        der::sequence::<Vec<u8>>(&[])
    };
    extensions.push(extension(&[2, 5, 29, 19], true, &constraints));
    extensions.push(extension(
        &[2, 5, 29, 14],
        false,
        &der::octets(&key_id(body.spki)),
    ));
    let authority = der::sequence(&[der::tlv(0x80, body.authority_key_id)]);
    extensions.push(extension(&[2, 5, 29, 35], false, &authority));
    if !body.alt_names.is_empty() {
        extensions.push(extension(&[2, 5, 29, 17], false, &body.alt_names.to_der()?));
    }
    let tbs = der::sequence(&[
        der::tlv(0xa0, &der::unsigned(&[2])),
        der::unsigned(&serial),
        key.x509_algorithm(),
        body.issuer.to_vec(),
        der::sequence(&[der::time(body.not_before)?, der::time(body.not_after)?]),
        body.subject.to_vec(),
        body.spki.to_vec(),
        der::tlv(0xa3, &der::sequence(&extensions)),
    ]);
    let signature = key.sign_x509(&tbs)?;
    Certificate::from_der(&der::sequence(&[
        tbs,
        key.x509_algorithm(),
        der::bits(&signature),
    ]))
}
