//! CertificateApproval, CertificateSigning and CertificateSubjectRestriction: who may approve and sign for a signer, and
//! whom no request may name. And who asked, which approvers rely on: upstream's strategy writes that, here it is the first
//! mutating step, as the identity is known in admission.

use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keelson_api::status::Status;
use keelson_pki::CertificateRequest;
use serde_json::Value;

use super::object::{forbidden, text};
use super::{Attributes, MutatingPlugin, Operation, ValidatingPlugin};
use crate::authorization::{Authorizer, Decision};
use crate::request_info::RequestInfo;
use crate::user::{SYSTEM_MASTERS, UserInfo};

const GROUP: &str = "certificates.k8s.io";

/// Whether the user has a verb for a signer: for it alone, or for all of its domain (`example.com/*`).
async fn has_verb(authorizer: &dyn Authorizer, user: &UserInfo, verb: &str, signer: &str) -> bool {
    let domain = signer
        .split_once('/')
        .map(|(domain, _)| format!("{domain}/*"))
        .unwrap_or_default();
    for name in [signer, &domain] {
        let request = RequestInfo {
            is_resource: true,
            verb: verb.to_owned(),
            api_group: GROUP.to_owned(),
            api_version: "*".to_owned(),
            resource: "signers".to_owned(),
            name: name.to_owned(),
            ..RequestInfo::default()
        };
        if authorizer.authorize(user, &request).await.0 == Decision::Allow {
            return true;
        }
    }
    false
}

fn is_request(attributes: &Attributes<'_>, subresource: &str, operation: Operation) -> bool {
    attributes.resource.group == GROUP
        && attributes.resource.resource == "certificatesigningrequests"
        && attributes.subresource == subresource
        && attributes.operation == operation
}

/// Writes into a new request who made it, and keeps the spec of an existing one as it is.
pub(super) struct CertificateRequestIdentity;

fn write_identity(csr: &mut Value, user: &UserInfo) {
    let spec = &mut csr["spec"];
    if !spec.is_object() {
        // Validation says what is missing.
        return;
    }
    spec["username"] = user.name.as_str().into();
    spec["groups"] = user.groups.clone().into();
    let optional = [
        (
            "uid",
            (!user.uid.is_empty()).then(|| Value::from(user.uid.as_str())),
        ),
        (
            "extra",
            (!user.extra.is_empty()).then(|| serde_json::json!(user.extra)),
        ),
    ];
    for (field, value) in optional {
        match value {
            Some(value) => spec[field] = value,
            None => {
                spec.as_object_mut().map(|spec| spec.remove(field));
            }
        }
    }
}

#[async_trait]
impl MutatingPlugin for CertificateRequestIdentity {
    fn name(&self) -> &'static str {
        "CertificateRequestIdentity"
    }

    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        attributes.resource.group == GROUP && attributes.resource.resource == "certificatesigningrequests"
    }

    async fn admit(&self, attributes: &Attributes<'_>, object: Option<&mut Value>) -> Result<(), Status> {
        let Some(csr) = object else { return Ok(()) };
        match (attributes.operation, attributes.old_object) {
            (Operation::Create, _) => {
                write_identity(csr, attributes.user);
                csr.as_object_mut().map(|csr| csr.remove("status"));
            }
            (Operation::Update, Some(old)) => csr["spec"] = old["spec"].clone(),
            _ => {}
        }
        Ok(())
    }
}

/// The verb `approve`.
pub(super) struct CertificateApproval {
    pub(super) authorizer: Arc<dyn Authorizer>,
}

#[async_trait]
impl ValidatingPlugin for CertificateApproval {
    fn name(&self) -> &'static str {
        "CertificateApproval"
    }

    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        is_request(attributes, "approval", Operation::Update)
    }

    async fn validate(&self, attributes: &Attributes<'_>, object: Option<&Value>) -> Result<(), Status> {
        let signer = attributes
            .old_object
            .map(|csr| text(csr, "/spec/signerName"))
            .unwrap_or_default();
        if has_verb(&*self.authorizer, attributes.user, "approve", signer).await {
            return Ok(());
        }
        let why = format!("user not permitted to approve requests with signerName {signer:?}");
        Err(forbidden(attributes, object, why))
    }
}

/// The verb `sign`.
pub(super) struct CertificateSigning {
    pub(super) authorizer: Arc<dyn Authorizer>,
}

#[async_trait]
impl ValidatingPlugin for CertificateSigning {
    fn name(&self) -> &'static str {
        "CertificateSigning"
    }

    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        is_request(attributes, "status", Operation::Update)
    }

    async fn validate(&self, attributes: &Attributes<'_>, object: Option<&Value>) -> Result<(), Status> {
        let (Some(new), Some(old)) = (object, attributes.old_object) else {
            return Ok(());
        };
        let same = |field: &str| new.pointer(field) == old.pointer(field);
        if same("/status/certificate") && same("/status/conditions") {
            return Ok(());
        }
        let signer = text(old, "/spec/signerName");
        if has_verb(&*self.authorizer, attributes.user, "sign", signer).await {
            return Ok(());
        }
        let why = format!("user not permitted to sign requests with signerName {signer:?}");
        Err(forbidden(attributes, object, why))
    }
}

/// No client certificate for the group that may do everything.
pub(super) struct CertificateSubjectRestriction;

fn check_subject(csr: &Value) -> Result<(), String> {
    let signer = text(csr, "/spec/signerName");
    if signer != "kubernetes.io/kube-apiserver-client" {
        return Ok(());
    }
    let pem = STANDARD.decode(text(csr, "/spec/request")).unwrap_or_default();
    let request = CertificateRequest::from_pem(&String::from_utf8_lossy(&pem))
        .map_err(|error| format!("unable to parse csr: {error}"))?;
    if request
        .subject()
        .organizations
        .iter()
        .any(|group| group == SYSTEM_MASTERS)
    {
        return Err(format!(
            "use of {signer} signer with {SYSTEM_MASTERS} group is not allowed"
        ));
    }
    Ok(())
}

#[async_trait]
impl ValidatingPlugin for CertificateSubjectRestriction {
    fn name(&self) -> &'static str {
        "CertificateSubjectRestriction"
    }

    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        is_request(attributes, "", Operation::Create)
    }

    async fn validate(&self, attributes: &Attributes<'_>, object: Option<&Value>) -> Result<(), Status> {
        let Some(csr) = object else { return Ok(()) };
        check_subject(csr).map_err(|why| forbidden(attributes, object, why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keelson_pki::{AltNames, PrivateKey, Subject};
    use serde_json::json;

    #[test]
    fn no_masters() {
        let key = PrivateKey::generate().unwrap();
        let csr = |groups: &[&str], signer: &str| {
            let pem =
                CertificateRequest::create(&Subject::new("x", groups), &AltNames::default(), &key).unwrap();
            json!({"spec": {"signerName": signer, "request": STANDARD.encode(pem)}})
        };
        let signer = "kubernetes.io/kube-apiserver-client";
        assert_eq!(check_subject(&csr(&["dev"], signer)), Ok(()));
        assert_eq!(
            check_subject(&csr(&["system:masters"], "example.com/own")),
            Ok(())
        );
        assert_eq!(
            check_subject(&csr(&["dev", "system:masters"], signer)).unwrap_err(),
            "use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed"
        );
        assert!(check_subject(&json!({"spec": {"signerName": signer, "request": "!"}})).is_err());
    }
}
