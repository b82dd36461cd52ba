//! Certificate signing requests (PKCS #10): made by kubelets, judged and signed by the CSR controllers.

use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer;

use crate::{AltNames, Error, PrivateKey, Subject, der, pem};

const EXTENSION_REQUEST: &[u64] = &[1, 2, 840, 113549, 1, 9, 14];
const SUBJECT_ALT_NAME: &[u64] = &[2, 5, 29, 17];

/// A request whose signature by its own key has been verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateRequest {
    subject: Subject,
    subject_der: Vec<u8>,
    alt_names: AltNames,
    spki: Vec<u8>,
    asks_for_ca: bool,
}

impl CertificateRequest {
    /// Parses and verifies the first `CERTIFICATE REQUEST` of a PEM text.
    pub fn from_pem(text: &str) -> Result<Self, Error> {
        let blocks = pem::decode(text)?;
        let block = blocks
            .iter()
            .find(|b| b.label == "CERTIFICATE REQUEST" || b.label == "NEW CERTIFICATE REQUEST")
            .ok_or(Error::NoPemBlock("CERTIFICATE REQUEST"))?;
        Self::from_der(&block.der)
    }

    /// Parses and verifies DER.
    pub fn from_der(bytes: &[u8]) -> Result<Self, Error> {
        let (rest, request) =
            X509CertificationRequest::from_der(bytes).map_err(|e| Error::Request(e.to_string()))?;
        if !rest.is_empty() {
            return Err(Error::Request("trailing bytes".into()));
        }
        request.verify_signature().map_err(|_| Error::RequestSignature)?;
        let info = &request.certification_request_info;
        let (mut alt_names, mut asks_for_ca) = (AltNames::default(), false);
        for extension in request.requested_extensions().into_iter().flatten() {
            match extension {
                ParsedExtension::SubjectAlternativeName(san) => {
                    alt_names = AltNames::from_general(&san.general_names);
                }
                ParsedExtension::BasicConstraints(constraints) => asks_for_ca = constraints.ca,
                _ => {}
            }
        }
        Ok(Self {
            subject: Subject::from_name(&info.subject),
            subject_der: info.subject.as_raw().to_vec(),
            alt_names,
            spki: info.subject_pki.raw.to_vec(),
            asks_for_ca,
        })
    }

    /// Makes a request signed by `key`, in PEM.
    pub fn create(subject: &Subject, alt_names: &AltNames, key: &PrivateKey) -> Result<String, Error> {
        let mut attributes = Vec::new();
        if !alt_names.is_empty() {
            let extension = der::sequence(&[der::oid(SUBJECT_ALT_NAME), der::octets(&alt_names.to_der()?)]);
            attributes = der::sequence(&[
                der::oid(EXTENSION_REQUEST),
                der::set(&[der::sequence(&[extension])]),
            ]);
        }
        let info = der::sequence(&[
            der::unsigned(&[0]),
            subject.to_der(),
            key.public().spki().to_vec(),
            der::tlv(0xa0, &attributes),
        ]);
        let signature = key.sign_x509(&info)?;
        let request = der::sequence(&[info, key.x509_algorithm(), der::bits(&signature)]);
        Ok(pem::encode("CERTIFICATE REQUEST", &request))
    }

    /// Who asks to be named.
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// The names asked for.
    pub fn alt_names(&self) -> &AltNames {
        &self.alt_names
    }

    /// Whether the request asks for a certificate authority (never granted here).
    pub fn asks_for_ca(&self) -> bool {
        self.asks_for_ca
    }

    pub(crate) fn subject_der(&self) -> &[u8] {
        &self.subject_der
    }

    pub(crate) fn spki(&self) -> &[u8] {
        &self.spki
    }
}
