//! The list of plugins, in upstream's order.

use std::sync::Arc;

use super::certificates::{
    CertificateApproval, CertificateRequestIdentity, CertificateSigning, CertificateSubjectRestriction,
};
use super::ingress_class::DefaultIngressClass;
use super::limit_ranger::LimitRanger;
use super::namespace_lifecycle::NamespaceLifecycle;
use super::node_restriction::NodeRestriction;
use super::pod_security::PodSecurity;
use super::policy::{MutatingPolicies, PolicyReferences, ValidatingPolicies};
use super::priority::Priority;
use super::resource_quota::ResourceQuota;
use super::runtime_class::RuntimeClass;
use super::service_account::ServiceAccount;
use super::storage::{DefaultStorageClass, PersistentVolumeClaimResize, StorageObjectInUseProtection};
use super::tolerations::{DefaultTolerationSeconds, TaintNodesByCondition};
use super::webhook::{MutatingWebhook, Parts, ValidatingWebhook};
use crate::admission::{Chain, Connections};
use crate::authorization::{Authorizer, Rbac, RbacEscalation};
use crate::config::ApiServerConfig;
use crate::registry::KindSource;
use crate::resources::Resources;

/// Builds the chain once at start; plugins read the cluster through `resources` and what is served through `kinds`, call
/// out over `connections`, and ask `authorizer`.
pub(crate) fn build(
    config: &ApiServerConfig,
    resources: &Resources,
    kinds: &KindSource,
    connections: &Connections,
    authorizer: Arc<dyn Authorizer>,
) -> Chain {
    let priority = Priority::new(resources);
    let outside = Parts {
        resources,
        kinds,
        connections,
        authorizer: &authorizer,
    };
    Chain {
        mutating: vec![
            Box::new(NamespaceLifecycle::new(resources)),
            Box::new(CertificateRequestIdentity),
            Box::new(LimitRanger::new(resources)),
            Box::new(ServiceAccount::new(resources)),
            Box::new(TaintNodesByCondition),
            Box::new(priority.clone()),
            Box::new(DefaultTolerationSeconds),
            Box::new(DefaultStorageClass::new(resources)),
            Box::new(StorageObjectInUseProtection),
            Box::new(RuntimeClass::new(resources)),
            Box::new(DefaultIngressClass::new(resources)),
            Box::new(MutatingPolicies::new(&outside)),
            Box::new(MutatingWebhook::new(&outside)),
        ],
        validating: vec![
            Box::new(LimitRanger::new(resources)),
            Box::new(NodeRestriction::new(resources)),
            Box::new(PodSecurity::new(resources)),
            Box::new(priority),
            Box::new(PersistentVolumeClaimResize::new(resources)),
            Box::new(CertificateApproval {
                authorizer: authorizer.clone(),
            }),
            Box::new(CertificateSigning {
                authorizer: authorizer.clone(),
            }),
            Box::new(CertificateSubjectRestriction),
            Box::new(RbacEscalation::new(Rbac::new(resources), authorizer.clone())),
            Box::new(PolicyReferences::new(&outside)),
            Box::new(ValidatingPolicies::new(&outside)),
            Box::new(ValidatingWebhook::new(&outside)),
            // Last: what it charges for shall not be refused any more.
            Box::new(ResourceQuota::new(resources, config.store.clone())),
        ],
    }
}
