//! Approving.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use keelson_client::{Informer, NamespacedName, Reconciled, WorkQueue};
use keelson_pki::CertificateRequest;
use kube::api::PostParams;
use kube::{Api, Client};

use crate::Context;
use crate::csr::recognize::{NodeRequest, has_condition, is_issued, node_request, parse};

struct State {
    client: Client,
    requests: Informer<CertificateSigningRequest>,
    nodes: Informer<Node>,
}

/// Starts the approving controller.
pub(crate) async fn start(context: Context) {
    let queue: WorkQueue<NamespacedName> = WorkQueue::default();
    let requests = context.informer::<CertificateSigningRequest>();
    let nodes = context.informer::<Node>();
    let sink = queue.clone();
    requests.on_change(move |change| sink.add(NamespacedName::of(change.object().as_ref())));
    if !context
        .before_shutdown(async {
            tokio::join!(requests.synced(), nodes.synced());
        })
        .await
    {
        return;
    }
    let state = Arc::new(State {
        client: context.client(),
        requests,
        nodes,
    });
    context
        .work(queue, 1, state, |state, key| async move {
            reconcile(&state, &key).await
        })
        .await;
}

async fn reconcile(state: &State, key: &NamespacedName) -> Result<Reconciled, kube::Error> {
    let Some(csr) = state.requests.get(key) else {
        return Ok(Reconciled::Done);
    };
    if is_issued(&csr) || has_condition(&csr, "Approved") || has_condition(&csr, "Denied") {
        return Ok(Reconciled::Done);
    }
    let Some(request) = parse(&csr) else {
        return Ok(Reconciled::Done);
    };
    let message = match node_request(&csr, &request) {
        Some(NodeRequest::SelfClient) if allowed(&state.client, &csr, "selfnodeclient").await? => {
            "Auto approving self kubelet client certificate after SubjectAccessReview."
        }
        Some(NodeRequest::Client | NodeRequest::SelfClient)
            if allowed(&state.client, &csr, "nodeclient").await? =>
        {
            "Auto approving kubelet client certificate after SubjectAccessReview."
        }
        Some(NodeRequest::Serving) if names_are_its_own(&state.nodes, &request) => {
            "Auto approving kubelet serving certificate for the node's own names."
        }
        _ => return Ok(Reconciled::Done),
    };
    let mut approved = csr.as_ref().clone();
    let now = Time(Timestamp::now());
    approved
        .status
        .get_or_insert_default()
        .conditions
        .get_or_insert_default()
        .push(CertificateSigningRequestCondition {
            type_: "Approved".into(),
            status: "True".into(),
            reason: Some("AutoApproved".into()),
            message: Some(message.into()),
            last_update_time: Some(now.clone()),
            last_transition_time: Some(now),
        });
    let api = Api::<CertificateSigningRequest>::all(state.client.clone());
    match api
        .replace_subresource("approval", &key.name, &PostParams::default(), &approved)
        .await
    {
        Ok(_) => Ok(Reconciled::Done),
        // Changed meanwhile: the change brings the key back.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(Reconciled::Done),
        Err(error) => Err(error),
    }
}

/// Whether the requester may create `certificatesigningrequests/SUBRESOURCE`.
async fn allowed(
    client: &Client,
    csr: &CertificateSigningRequest,
    subresource: &str,
) -> Result<bool, kube::Error> {
    let extra: Option<BTreeMap<String, Vec<String>>> = csr.spec.extra.clone();
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: csr.spec.username.clone(),
            uid: csr.spec.uid.clone(),
            groups: csr.spec.groups.clone(),
            extra,
            resource_attributes: Some(ResourceAttributes {
                group: Some("certificates.k8s.io".into()),
                resource: Some("certificatesigningrequests".into()),
                verb: Some("create".into()),
                subresource: Some(subresource.into()),
                version: Some("*".into()),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let answer = Api::<SubjectAccessReview>::all(client.clone())
        .create(&PostParams::default(), &review)
        .await?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}

/// The node's name, and addresses that no other node has.
fn names_are_its_own(nodes: &Informer<Node>, request: &CertificateRequest) -> bool {
    let Some(name) = request.subject().common_name.strip_prefix("system:node:") else {
        return false;
    };
    let wanted = request.alt_names();
    let belongs_to_other = |ip: &std::net::IpAddr| {
        let text = ip.to_string();
        let has_it = |node: &Node| {
            node.metadata.name.as_deref() != Some(name)
                && node
                    .status
                    .iter()
                    .flat_map(|s| s.addresses.iter().flatten())
                    .any(|a| a.address == text)
        };
        !nodes.list_where(has_it).is_empty()
    };
    wanted.dns.iter().all(|dns| dns == name) && !wanted.ips.iter().any(belongs_to_other)
}
