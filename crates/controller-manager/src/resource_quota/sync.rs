//! One quota.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota, ResourceQuotaStatus, Service};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use keelson_api::gvk::GroupResource;
use keelson_api::quota::{Amounts, add, amounts, counted, matches_scopes, resource_of, usage};
use keelson_client::{Index, Informer, NamespacedName, Reconciled};
use kube::api::PostParams;
use kube::{Api, Client};
use serde::Serialize;
use serde_json::Value;

use super::counts::Counts;
use crate::shared::{ReconcileError, api_error};

/// `--resource-quota-sync-period`: what was charged for a create that failed is given back after this time at the latest.
const RECOUNT: Duration = Duration::from_secs(300);
/// When a resource that is not served is looked for again.
const REDISCOVER: Duration = Duration::from_secs(30);

pub(super) struct Syncer {
    pub(super) client: Client,
    pub(super) quotas: Informer<ResourceQuota>,
    pub(super) pods: Index<String, Pod>,
    pub(super) services: Index<String, Service>,
    pub(super) claims: Index<String, PersistentVolumeClaim>,
    pub(super) counts: Counts,
}

/// The object as JSON.
pub(super) fn value_of<K: Serialize>(object: &K) -> Value {
    serde_json::to_value(object).unwrap_or_default()
}

/// What all of `objects` that fall under the quota use together.
fn sum<K: Serialize>(quota: &Value, resource: &str, objects: &[Arc<K>]) -> Amounts {
    let mut sum = Amounts::new();
    for object in objects {
        let object = value_of(object.as_ref());
        if matches_scopes(quota, "", resource, &object) {
            add(&mut sum, &usage("", resource, &object));
        }
    }
    sum
}

impl Syncer {
    pub(super) async fn sync(&self, key: &NamespacedName) -> Result<Reconciled, ReconcileError> {
        let Some(quota) = self.quotas.get(key) else {
            return Ok(Reconciled::Done);
        };
        let hard = quota
            .spec
            .as_ref()
            .and_then(|spec| spec.hard.clone())
            .unwrap_or_default();
        let before = quota.status.clone().unwrap_or_default();
        let (used, complete) = self.used(&quota, &hard, &before).await?;
        let status = ResourceQuotaStatus {
            hard: Some(hard),
            used: Some(used),
        };
        if !is_same(&status, &before) {
            let mut changed = ResourceQuota::clone(&quota);
            changed.status = Some(status);
            let api: Api<ResourceQuota> = Api::namespaced(self.client.clone(), &key.namespace);
            let written = api
                .replace_status(&key.name, &PostParams::default(), &changed)
                .await;
            api_error::ignore_not_found(written)?;
        }
        Ok(Reconciled::After(if complete { RECOUNT } else { REDISCOVER }))
    }

    /// `status.used`, and whether everything that is limited could be counted.
    async fn used(
        &self,
        quota: &ResourceQuota,
        hard: &BTreeMap<String, Quantity>,
        before: &ResourceQuotaStatus,
    ) -> Result<(BTreeMap<String, Quantity>, bool), ReconcileError> {
        let namespace = quota.metadata.namespace.as_deref().unwrap_or_default();
        let value = value_of(quota);
        let resources: BTreeSet<GroupResource> = hard.keys().filter_map(|name| resource_of(name)).collect();
        let (mut sums, mut unknown) = (Amounts::new(), BTreeSet::new());
        for resource in resources {
            let found = match (&*resource.group, &*resource.resource) {
                ("", "pods") => sum(&value, "pods", &self.pods.get(namespace)),
                ("", "services") => sum(&value, "services", &self.services.get(namespace)),
                ("", "persistentvolumeclaims") => {
                    sum(&value, "persistentvolumeclaims", &self.claims.get(namespace))
                }
                // A scope that is about pods leaves everything else out.
                (group, plural) if !matches_scopes(&value, group, plural, &Value::Null) => Amounts::new(),
                (group, plural) => match self.counts.count(&resource, namespace).await? {
                    Some(number) => counted(group, plural, number),
                    None => {
                        unknown.insert(resource);
                        continue;
                    }
                },
            };
            add(&mut sums, &found);
        }
        let used = hard.keys().filter_map(|name| {
            let resource = resource_of(name).filter(|resource| !unknown.contains(resource));
            let amount = match resource {
                Some(_) => Quantity(sums.get(name).copied().unwrap_or_default().to_string()),
                // What cannot be counted keeps the amount that it had.
                None => before.used.as_ref()?.get(name)?.clone(),
            };
            Some((name.clone(), amount))
        });
        Ok((used.collect(), unknown.is_empty()))
    }
}

/// Whether both say the same amounts, however they are written.
fn is_same(a: &ResourceQuotaStatus, b: &ResourceQuotaStatus) -> bool {
    let read = |map: &Option<BTreeMap<String, Quantity>>| map.as_ref().map(|map| amounts(&value_of(map)));
    a.hard == b.hard && read(&a.used) == read(&b.used)
}
