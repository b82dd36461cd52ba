//! Which requests are which; pure.

use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use keelson_pki::CertificateRequest;

/// Signer of kubelets' client certificates.
pub(crate) const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// Signer of kubelets' serving certificates.
pub(crate) const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
/// Signer of other clients.
pub(crate) const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
/// Signer without promises.
pub(crate) const LEGACY: &str = "kubernetes.io/legacy-unknown";

/// What a node asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NodeRequest {
    /// A first client certificate, by a bootstrap token.
    Client,
    /// A client certificate for the node that asks.
    SelfClient,
    /// A serving certificate for the node that asks.
    Serving,
}

/// The parsed request, if it is one.
pub(crate) fn parse(csr: &CertificateSigningRequest) -> Option<CertificateRequest> {
    let ByteString(pem) = &csr.spec.request;
    CertificateRequest::from_pem(std::str::from_utf8(pem).ok()?).ok()
}

/// Whether the request is a node's, by upstream's rules for subject, usages and names.
pub(crate) fn node_request(
    csr: &CertificateSigningRequest,
    request: &CertificateRequest,
) -> Option<NodeRequest> {
    let subject = request.subject();
    let is_node =
        subject.organizations == ["system:nodes"] && subject.common_name.starts_with("system:node:");
    if !is_node || request.asks_for_ca() {
        return None;
    }
    let own = csr.spec.username.as_deref() == Some(subject.common_name.as_str());
    let names = request.alt_names();
    match csr.spec.signer_name.as_str() {
        KUBELET_CLIENT if names.is_empty() && usages(csr, "client auth") => Some(if own {
            NodeRequest::SelfClient
        } else {
            NodeRequest::Client
        }),
        KUBELET_SERVING if own && usages(csr, "server auth") => {
            let has_host = !names.dns.is_empty() || !names.ips.is_empty();
            (has_host && names.emails.is_empty() && names.uris.is_empty()).then_some(NodeRequest::Serving)
        }
        _ => None,
    }
}

/// Exactly `digital signature`, `key encipherment` if wanted, and the one purpose.
fn usages(csr: &CertificateSigningRequest, purpose: &str) -> bool {
    let mut usages: Vec<&str> = csr.spec.usages.iter().flatten().map(String::as_str).collect();
    usages.retain(|usage| *usage != "key encipherment");
    usages.sort_unstable();
    let mut wanted = ["digital signature", purpose];
    wanted.sort_unstable();
    usages == wanted
}

/// Whether the request has a condition of this type.
pub(crate) fn has_condition(csr: &CertificateSigningRequest, type_: &str) -> bool {
    let conditions = csr.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|condition| condition.type_ == type_))
}

/// Whether a certificate has been issued.
pub(crate) fn is_issued(csr: &CertificateSigningRequest) -> bool {
    csr.status
        .as_ref()
        .and_then(|s| s.certificate.as_ref())
        .is_some_and(|ByteString(pem)| !pem.is_empty())
}

#[cfg(test)]
mod tests {
    use keelson_pki::{AltNames, PrivateKey, Subject};
    use serde_json::json;

    use super::*;

    fn check(
        signer: &str,
        user: &str,
        subject: &Subject,
        hosts: &[&str],
        purpose: &str,
    ) -> Option<NodeRequest> {
        let key = PrivateKey::generate().unwrap();
        let pem = CertificateRequest::create(subject, &AltNames::from_hosts(hosts), &key).unwrap();
        let mut csr: CertificateSigningRequest = serde_json::from_value(json!({
            "metadata": {},
            "spec": {"request": "", "signerName": signer, "username": user,
                     "usages": ["digital signature", purpose]},
        }))
        .unwrap();
        csr.spec.request = ByteString(pem.into_bytes());
        node_request(&csr, &parse(&csr).unwrap())
    }

    #[test]
    fn only_nodes_requests_are_recognized() {
        let node = Subject::new("system:node:n1", &["system:nodes"]);
        let admin = Subject::new("system:node:n1", &["system:nodes", "system:masters"]);
        let me = "system:node:n1";
        for (signer, user, subject, hosts, purpose, expected) in [
            (
                KUBELET_CLIENT,
                "system:bootstrap:abc",
                &node,
                &[][..],
                "client auth",
                Some(NodeRequest::Client),
            ),
            (
                KUBELET_CLIENT,
                me,
                &node,
                &[],
                "client auth",
                Some(NodeRequest::SelfClient),
            ),
            (KUBELET_CLIENT, me, &admin, &[], "client auth", None),
            (KUBELET_CLIENT, me, &node, &["n1"], "client auth", None),
            (KUBELET_CLIENT, me, &node, &[], "server auth", None),
            (
                KUBELET_SERVING,
                me,
                &node,
                &["n1", "10.0.0.1"],
                "server auth",
                Some(NodeRequest::Serving),
            ),
            (
                KUBELET_SERVING,
                "system:node:n2",
                &node,
                &["n1"],
                "server auth",
                None,
            ),
            (KUBELET_SERVING, me, &node, &[], "server auth", None),
            (CLIENT, me, &node, &[], "client auth", None),
        ] {
            assert_eq!(
                check(signer, user, subject, hosts, purpose),
                expected,
                "{signer} {user} {hosts:?} {purpose}"
            );
        }
    }
}
