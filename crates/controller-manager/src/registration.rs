//! The one list of controllers.

use futures::future::BoxFuture;

use crate::Context;

/// A controller as the list knows it.
pub struct Controller {
    /// Upstream's name, as in `--controllers` and in leader migration.
    pub name: &'static str,
    /// The service account in `kube-system` that it acts as; empty: the manager's own identity, as upstream's token
    /// controller, which no account's token can serve.
    pub account: &'static str,
    /// Starts it. The future registers handlers before it first waits, and ends when the context's token is
    /// cancelled and all work is done.
    pub start: fn(Context) -> BoxFuture<'static, ()>,
}

/// A line of the list; `start` is an `async fn(Context)`.
macro_rules! controller {
    ($name:literal, $account:literal, $start:path) => {
        Controller {
            name: $name,
            account: $account,
            start: |context| Box::pin($start(context)),
        }
    };
}

/// All controllers, in the order in which they start.
pub const CONTROLLERS: &[Controller] = &[
    // Workloads.
    controller!(
        "deployment-controller",
        "deployment-controller",
        crate::deployment::start
    ),
    controller!(
        "replicaset-controller",
        "replicaset-controller",
        crate::replicaset::start
    ),
    controller!(
        "replicationcontroller-controller",
        "replication-controller",
        crate::replicaset::start_replication
    ),
    controller!(
        "daemonset-controller",
        "daemon-set-controller",
        crate::daemonset::start
    ),
    controller!(
        "statefulset-controller",
        "statefulset-controller",
        crate::statefulset::start
    ),
    controller!("job-controller", "job-controller", crate::job::start),
    controller!("cronjob-controller", "cronjob-controller", crate::cronjob::start),
    controller!(
        "horizontal-pod-autoscaler-controller",
        "horizontal-pod-autoscaler",
        crate::podautoscaler::start
    ),
    // Cluster.
    controller!(
        "garbage-collector-controller",
        "generic-garbage-collector",
        crate::garbage_collector::start
    ),
    controller!(
        "namespace-controller",
        "namespace-controller",
        crate::namespace::start
    ),
    controller!(
        "endpointslice-controller",
        "endpointslice-controller",
        crate::endpointslice::start
    ),
    controller!(
        "node-lifecycle-controller",
        "node-controller",
        crate::node_lifecycle::start
    ),
    controller!(
        "taint-eviction-controller",
        "node-controller",
        crate::node_lifecycle::start_eviction
    ),
    controller!(
        "pod-garbage-collector-controller",
        "pod-garbage-collector",
        crate::pod_gc::start
    ),
    controller!(
        "ttl-after-finished-controller",
        "ttl-after-finished-controller",
        crate::ttl_after_finished::start
    ),
    controller!(
        "clusterrole-aggregation-controller",
        "clusterrole-aggregation-controller",
        crate::clusterrole_aggregation::start
    ),
    controller!(
        "disruption-controller",
        "disruption-controller",
        crate::disruption::start
    ),
    controller!(
        "persistentvolumeclaim-protection-controller",
        "pvc-protection-controller",
        crate::storage_protection::start_claims
    ),
    controller!(
        "persistentvolume-protection-controller",
        "pv-protection-controller",
        crate::storage_protection::start_volumes
    ),
    controller!(
        "persistentvolume-binder-controller",
        "persistent-volume-binder",
        crate::persistent_volume::start
    ),
    controller!(
        "endpoints-controller",
        "endpoint-controller",
        crate::endpoints::start
    ),
    controller!(
        "certificatesigningrequest-cleaner-controller",
        "certificate-controller",
        crate::csr::start_cleaning
    ),
    controller!(
        "token-cleaner-controller",
        "token-cleaner",
        crate::token_cleaner::start
    ),
    controller!(
        "serviceaccount-controller",
        "service-account-controller",
        crate::serviceaccount::start
    ),
    controller!(
        "root-ca-certificate-publisher-controller",
        "root-ca-cert-publisher",
        crate::root_ca::start
    ),
    controller!(
        "serviceaccount-token-controller",
        "",
        crate::service_account_token::start
    ),
    controller!(
        "endpointslice-mirroring-controller",
        "endpointslicemirroring-controller",
        crate::endpointslice_mirroring::start
    ),
    controller!(
        "resourcequota-controller",
        "resourcequota-controller",
        crate::resource_quota::start
    ),
    controller!(
        "ephemeral-volume-controller",
        "ephemeral-volume-controller",
        crate::ephemeral_volume::start
    ),
    controller!("ttl-controller", "ttl-controller", crate::ttl::start),
    controller!(
        "bootstrap-signer-controller",
        "bootstrap-signer",
        crate::bootstrap_signer::start
    ),
    controller!(
        "volumeattributesclass-protection-controller",
        "volumeattributesclass-protection-controller",
        crate::storage_protection::start_attributes_classes
    ),
    controller!(
        "service-cidr-controller",
        "service-cidrs-controller",
        crate::service_cidrs::start
    ),
    controller!("node-ipam-controller", "node-controller", crate::node_ipam::start),
    controller!(
        "certificatesigningrequest-approving-controller",
        "certificate-controller",
        crate::csr::start_approving
    ),
    controller!(
        "certificatesigningrequest-signing-controller",
        "certificate-controller",
        crate::csr::start_signing
    ),
];
