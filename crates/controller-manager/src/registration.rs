//! The one list of controllers.

use futures::future::BoxFuture;

use crate::{Context, csr, deployment, node_ipam, replicaset, root_ca, serviceaccount};

/// A controller as the list knows it.
pub struct Controller {
    /// Upstream's name, as in `--controllers` and in leader migration.
    pub name: &'static str,
    /// The service account in `kube-system` that it acts as.
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
        deployment::start
    ),
    controller!(
        "replicaset-controller",
        "replicaset-controller",
        replicaset::start
    ),
    controller!(
        "replicationcontroller-controller",
        "replication-controller",
        replicaset::start_replication
    ),
    controller!("daemonset-controller", "daemon-set-controller", daemonset::start),
    // Cluster.
    controller!(
        "serviceaccount-controller",
        "service-account-controller",
        serviceaccount::start
    ),
    controller!(
        "root-ca-certificate-publisher-controller",
        "root-ca-cert-publisher",
        root_ca::start
    ),
    controller!("node-ipam-controller", "node-controller", node_ipam::start),
    controller!(
        "certificatesigningrequest-approving-controller",
        "certificate-controller",
        csr::start_approving
    ),
    controller!(
        "certificatesigningrequest-signing-controller",
        "certificate-controller",
        csr::start_signing
    ),
];
