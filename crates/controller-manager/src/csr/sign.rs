//! Signing what has been approved.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use keelson_client::{Informer, NamespacedName, Reconciled, WorkQueue};
use keelson_pki::{CertificateAuthority, Profile};
use kube::api::PostParams;
use kube::{Api, Client};

use crate::Context;
use crate::csr::recognize::{
    CLIENT, KUBELET_CLIENT, KUBELET_SERVING, LEGACY, NodeRequest, has_condition, is_issued, node_request,
    parse,
};

/// The shortest certificate that can be asked for.
const SHORTEST: SignedDuration = SignedDuration::from_mins(10);

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("cannot sign: {0}")]
    Pki(#[from] keelson_pki::Error),
    #[error("cannot update the request: {0}")]
    Api(#[from] kube::Error),
}

struct State {
    client: Client,
    requests: Informer<CertificateSigningRequest>,
    authority: Arc<CertificateAuthority>,
    longest: SignedDuration,
}

/// Starts the signing controller; without an authority somebody else signs.
pub(crate) async fn start(context: Context) {
    let Some(authority) = context.config().signing_ca.clone() else {
        return;
    };
    let longest = SignedDuration::try_from(context.config().cluster_signing_duration)
        .unwrap_or(SignedDuration::from_hours(24 * 365));
    let queue: WorkQueue<NamespacedName> = WorkQueue::default();
    let requests = context.informer::<CertificateSigningRequest>();
    let sink = queue.clone();
    requests.on_change(move |change| sink.add(NamespacedName::of(change.object().as_ref())));
    if !context.before_shutdown(requests.synced()).await {
        return;
    }
    let state = Arc::new(State {
        client: context.client(),
        requests,
        authority,
        longest,
    });
    context
        .work(queue, 1, state, |state, key| async move {
            reconcile(&state, &key).await
        })
        .await;
}

async fn reconcile(state: &State, key: &NamespacedName) -> Result<Reconciled, Error> {
    let Some(csr) = state.requests.get(key) else {
        return Ok(Reconciled::Done);
    };
    let decided =
        has_condition(&csr, "Approved") && !has_condition(&csr, "Denied") && !has_condition(&csr, "Failed");
    if !decided || is_issued(&csr) {
        return Ok(Reconciled::Done);
    }
    let Some(request) = parse(&csr) else {
        return Ok(Reconciled::Done);
    };
    let node = node_request(&csr, &request);
    let ours = match csr.spec.signer_name.as_str() {
        KUBELET_CLIENT => matches!(node, Some(NodeRequest::Client | NodeRequest::SelfClient)),
        KUBELET_SERVING => node == Some(NodeRequest::Serving),
        CLIENT | LEGACY => !request.asks_for_ca(),
        _ => false,
    };
    if !ours {
        return Ok(Reconciled::Done);
    }
    let asked = csr
        .spec
        .expiration_seconds
        .map(|seconds| SignedDuration::from_secs(seconds.into()));
    let validity = asked.map_or(state.longest, |asked| asked.clamp(SHORTEST, state.longest));
    let profile = Profile::from_usage_names(csr.spec.usages.as_deref().unwrap_or_default(), validity)?;
    let certificate = state
        .authority
        .sign_request(&request, &profile, Timestamp::now())?;
    let mut signed = csr.as_ref().clone();
    signed.status.get_or_insert_default().certificate = Some(ByteString(certificate.to_pem().into_bytes()));
    let api = Api::<CertificateSigningRequest>::all(state.client.clone());
    match api
        .replace_status(&key.name, &PostParams::default(), &signed)
        .await
    {
        Ok(_) => Ok(Reconciled::Done),
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(Reconciled::Done),
        Err(error) => Err(error.into()),
    }
}
