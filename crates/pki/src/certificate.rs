//! Reading certificates, and the words they are described with.

use std::net::IpAddr;

use jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Name;

use crate::{Error, PublicKey, der, pem};

/// Object identifier that upstream reads a user's UID from (feature of v1.33+: `authentication user UID`).
pub(crate) const UID_OID: &[u64] = &[1, 3, 6, 1, 4, 1, 57683, 2];

/// Who a certificate speaks of: as a client, user name, groups and UID.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// CN: the user name.
    pub common_name: String,
    /// O: the groups.
    pub organizations: Vec<String>,
    /// UID, when there is one.
    pub uid: Option<String>,
}

impl Subject {
    /// A subject without UID.
    pub fn new(common_name: &str, organizations: &[&str]) -> Self {
        Self {
            common_name: common_name.to_string(),
            organizations: organizations.iter().map(|s| (*s).to_string()).collect(),
            uid: None,
        }
    }

    /// As RDNSequence; organizations first, as Go writes them.
    pub(crate) fn to_der(&self) -> Vec<u8> {
        let rdn = |oid: &[u64], value: &str| der::set(&[der::sequence(&[der::oid(oid), der::utf8(value)])]);
        let mut rdns: Vec<Vec<u8>> = self
            .organizations
            .iter()
            .map(|o| rdn(&[2, 5, 4, 10], o))
            .collect();
        if !self.common_name.is_empty() {
            rdns.push(rdn(&[2, 5, 4, 3], &self.common_name));
        }
        if let Some(uid) = &self.uid {
            rdns.push(rdn(UID_OID, uid));
        }
        der::sequence(&rdns)
    }

    pub(crate) fn from_name(name: &X509Name<'_>) -> Self {
        let text =
            |a: &x509_parser::x509::AttributeTypeAndValue<'_>| a.as_str().unwrap_or_default().to_string();
        Self {
            common_name: name.iter_common_name().last().map(text).unwrap_or_default(),
            organizations: name.iter_organization().map(text).collect(),
            uid: name
                .iter_attributes()
                .find(|a| {
                    a.attr_type()
                        .iter()
                        .is_some_and(|arcs| arcs.eq(UID_OID.iter().copied()))
                })
                .map(text),
        }
    }
}

/// The names a server answers to, and the other kinds a request may ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AltNames {
    /// DNS names.
    pub dns: Vec<String>,
    /// Addresses.
    pub ips: Vec<IpAddr>,
    /// E-mail addresses.
    pub emails: Vec<String>,
    /// URIs.
    pub uris: Vec<String>,
}

impl AltNames {
    /// Sorts names into DNS names and addresses.
    pub fn from_hosts<S: AsRef<str>>(hosts: &[S]) -> Self {
        let mut names = Self::default();
        for host in hosts {
            match host.as_ref().parse() {
                Ok(ip) => names.ips.push(ip),
                Err(_) => names.dns.push(host.as_ref().to_string()),
            }
        }
        names
    }

    /// No name at all.
    pub fn is_empty(&self) -> bool {
        self.dns.is_empty() && self.ips.is_empty() && self.emails.is_empty() && self.uris.is_empty()
    }

    /// Whether every name of `wanted` is here.
    pub fn covers(&self, wanted: &Self) -> bool {
        wanted.dns.iter().all(|d| self.dns.contains(d)) && wanted.ips.iter().all(|i| self.ips.contains(i))
    }

    pub(crate) fn to_der(&self) -> Result<Vec<u8>, Error> {
        let mut names = Vec::new();
        let text = [(0x81, &self.emails), (0x82, &self.dns), (0x86, &self.uris)];
        for (tag, values) in text {
            for value in values {
                if !value.is_ascii() || value.is_empty() {
                    return Err(Error::Name(value.clone()));
                }
                names.push(der::tlv(tag, value.as_bytes()));
            }
        }
        for ip in &self.ips {
            names.push(match ip {
                IpAddr::V4(v4) => der::tlv(0x87, &v4.octets()),
                IpAddr::V6(v6) => der::tlv(0x87, &v6.octets()),
            });
        }
        Ok(der::sequence(&names))
    }

    pub(crate) fn from_general(names: &[GeneralName<'_>]) -> Self {
        let mut out = Self::default();
        for name in names {
            match name {
                GeneralName::DNSName(s) => out.dns.push((*s).to_string()),
                GeneralName::RFC822Name(s) => out.emails.push((*s).to_string()),
                GeneralName::URI(s) => out.uris.push((*s).to_string()),
                GeneralName::IPAddress(bytes) => {
                    if let Ok(v4) = <[u8; 4]>::try_from(*bytes) {
                        out.ips.push(IpAddr::from(v4));
                    } else if let Ok(v6) = <[u8; 16]>::try_from(*bytes) {
                        out.ips.push(IpAddr::from(v6));
                    }
                }
                _ => {}
            }
        }
        out
    }
}

/// Key usages, by their bit in the extension; names are those of `certificates.k8s.io`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyUsage {
    /// `digital signature`
    DigitalSignature = 0,
    /// `content commitment`
    ContentCommitment = 1,
    /// `key encipherment`
    KeyEncipherment = 2,
    /// `data encipherment`
    DataEncipherment = 3,
    /// `key agreement`
    KeyAgreement = 4,
    /// `cert sign`
    CertSign = 5,
    /// `crl sign`
    CrlSign = 6,
    /// `encipher only`
    EncipherOnly = 7,
    /// `decipher only`
    DecipherOnly = 8,
}

impl KeyUsage {
    /// From the name that a CertificateSigningRequest uses (`signing` and `digital signature` are the same).
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "signing" | "digital signature" => Self::DigitalSignature,
            "content commitment" => Self::ContentCommitment,
            "key encipherment" => Self::KeyEncipherment,
            "data encipherment" => Self::DataEncipherment,
            "key agreement" => Self::KeyAgreement,
            "cert sign" => Self::CertSign,
            "crl sign" => Self::CrlSign,
            "encipher only" => Self::EncipherOnly,
            "decipher only" => Self::DecipherOnly,
            _ => return None,
        })
    }
}

/// Extended key usages; names are those of `certificates.k8s.io`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtendedUsage {
    /// `server auth`
    ServerAuth,
    /// `client auth`
    ClientAuth,
    /// `code signing`
    CodeSigning,
    /// `email protection`, also `s/mime`
    EmailProtection,
    /// `timestamping`
    TimeStamping,
    /// `ocsp signing`
    OcspSigning,
    /// `any`
    Any,
}

impl ExtendedUsage {
    /// From the name that a CertificateSigningRequest uses.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "server auth" => Self::ServerAuth,
            "client auth" => Self::ClientAuth,
            "code signing" => Self::CodeSigning,
            "email protection" | "s/mime" => Self::EmailProtection,
            "timestamping" => Self::TimeStamping,
            "ocsp signing" => Self::OcspSigning,
            "any" => Self::Any,
            _ => return None,
        })
    }

    pub(crate) fn oid(self) -> Vec<u8> {
        let last = match self {
            Self::Any => return der::oid(&[2, 5, 29, 37, 0]),
            Self::ServerAuth => 1,
            Self::ClientAuth => 2,
            Self::CodeSigning => 3,
            Self::EmailProtection => 4,
            Self::TimeStamping => 8,
            Self::OcspSigning => 9,
        };
        der::oid(&[1, 3, 6, 1, 5, 5, 7, 3, last])
    }
}

/// A certificate, parsed once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    der: CertificateDer<'static>,
    subject: Subject,
    subject_der: Vec<u8>,
    issuer_der: Vec<u8>,
    alt_names: AltNames,
    not_before: Timestamp,
    not_after: Timestamp,
    serial: Vec<u8>,
    is_ca: bool,
    server_auth: bool,
    client_auth: bool,
    key_id: Option<Vec<u8>>,
}

impl Certificate {
    /// From DER.
    pub fn from_der(bytes: &[u8]) -> Result<Self, Error> {
        let (rest, x509) = x509_parser::certificate::X509Certificate::from_der(bytes)
            .map_err(|e| Error::Certificate(e.to_string()))?;
        if !rest.is_empty() {
            return Err(Error::Certificate("trailing bytes".into()));
        }
        let second = |t: x509_parser::time::ASN1Time| {
            Timestamp::from_second(t.timestamp()).map_err(|e| Error::Certificate(e.to_string()))
        };
        let (mut server_auth, mut client_auth, mut key_id) = (false, false, None);
        let mut alt_names = AltNames::default();
        for extension in x509.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::SubjectAlternativeName(san) => {
                    alt_names = AltNames::from_general(&san.general_names);
                }
                ParsedExtension::ExtendedKeyUsage(eku) => {
                    server_auth = eku.any || eku.server_auth;
                    client_auth = eku.any || eku.client_auth;
                }
                ParsedExtension::SubjectKeyIdentifier(id) => key_id = Some(id.0.to_vec()),
                _ => {}
            }
        }
        Ok(Self {
            subject: Subject::from_name(x509.subject()),
            subject_der: x509.subject().as_raw().to_vec(),
            issuer_der: x509.issuer().as_raw().to_vec(),
            alt_names,
            not_before: second(x509.validity().not_before)?,
            not_after: second(x509.validity().not_after)?,
            serial: x509.raw_serial().to_vec(),
            is_ca: x509.is_ca(),
            server_auth,
            client_auth,
            key_id,
            der: CertificateDer::from(bytes.to_vec()),
        })
    }

    /// The first certificate of a PEM text.
    pub fn from_pem(text: &str) -> Result<Self, Error> {
        Self::all_from_pem(text)?
            .into_iter()
            .next()
            .ok_or(Error::NoPemBlock("CERTIFICATE"))
    }

    /// All certificates of a PEM text (a bundle); blocks of other kinds are skipped.
    pub fn all_from_pem(text: &str) -> Result<Vec<Self>, Error> {
        pem::decode(text)?
            .iter()
            .filter(|block| block.label == "CERTIFICATE")
            .map(|block| Self::from_der(&block.der))
            .collect()
    }

    /// In PEM.
    pub fn to_pem(&self) -> String {
        pem::encode("CERTIFICATE", &self.der)
    }

    /// In DER, for rustls.
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// User name, groups and UID.
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// Subject alternative names.
    pub fn alt_names(&self) -> &AltNames {
        &self.alt_names
    }

    /// First second of validity.
    pub fn not_before(&self) -> Timestamp {
        self.not_before
    }

    /// Last second of validity.
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// Serial number, big endian.
    pub fn serial(&self) -> &[u8] {
        &self.serial
    }

    /// Whether it may sign others.
    pub fn is_ca(&self) -> bool {
        self.is_ca
    }

    /// Whether it may be used by a server.
    pub fn server_auth(&self) -> bool {
        self.server_auth
    }

    /// Whether it may be used by a client.
    pub fn client_auth(&self) -> bool {
        self.client_auth
    }

    /// Lower-case hex of the SHA-256 of the whole certificate, as in upstream's credential id `X509SHA256=…`.
    pub fn sha256(&self) -> String {
        hex::encode(ring::digest::digest(&ring::digest::SHA256, &self.der))
    }

    /// The public key, when it is of a kind that tokens and we use.
    pub fn public_key(&self) -> Result<PublicKey, Error> {
        let (_, x509) = x509_parser::certificate::X509Certificate::from_der(&self.der)
            .map_err(|e| Error::Certificate(e.to_string()))?;
        PublicKey::from_spki(x509.public_key().raw.to_vec())
    }

    /// Whether `issuer` signed this one (name and signature; not validity).
    pub fn is_signed_by(&self, issuer: &Self) -> bool {
        if self.issuer_der != issuer.subject_der {
            return false;
        }
        let parse = x509_parser::certificate::X509Certificate::from_der;
        match (parse(&self.der), parse(&issuer.der)) {
            (Ok((_, child)), Ok((_, parent))) => child.verify_signature(Some(parent.public_key())).is_ok(),
            _ => false,
        }
    }

    /// Whether less than 30 % of the life is left (upstream's kubelet renews between 70 and 90 %), or it is over.
    pub fn needs_renewal(&self, now: Timestamp) -> bool {
        let life = self.not_after.as_second() - self.not_before.as_second();
        self.not_after.as_second() - now.as_second() < life * 3 / 10
    }

    pub(crate) fn subject_der(&self) -> &[u8] {
        &self.subject_der
    }

    pub(crate) fn key_id(&self) -> Option<&[u8]> {
        self.key_id.as_deref()
    }
}
