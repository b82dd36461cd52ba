//! ResourceQuota: what a namespace may use.
//!
//! A create (or a change that takes more) is charged against every quota of the namespace that it matches, by writing
//! `status.used` with compare and swap before the object is stored, as upstream does: the sum never passes the hard limit,
//! with any number of servers. What is freed, or charged for a create that failed later, is given back by the quota
//! controller's recalculation.

use std::sync::Arc;

use async_trait::async_trait;
use keelson_api::gvk::GroupResource;
use keelson_api::quantity::Quantity;
use keelson_api::quota::{Amounts, amounts, matches_scopes, usage};
use keelson_api::status::Status;
use keelson_store::{Precondition, Store, WriteOutcome};
use serde_json::Value;

use super::object::{forbidden, list, map, present, text};
use super::{Attributes, Operation, ValidatingPlugin};
use crate::registry::{status_of, store_status};
use crate::resources::{Reader, Resources};
use crate::watch_cache::{CacheSet, CachedObject, StoredForm};

/// How often a charge is tried against concurrent ones.
const ATTEMPTS: usize = 64;

/// See the module.
pub(super) struct ResourceQuota {
    quotas: Reader,
    caches: Arc<CacheSet>,
    store: Arc<dyn Store>,
}

impl ResourceQuota {
    /// Reads quotas from the caches and charges them in the store.
    pub(super) fn new(resources: &Resources, store: Arc<dyn Store>) -> Self {
        Self {
            quotas: resources.resource("", "resourcequotas"),
            caches: resources.caches().clone(),
            store,
        }
    }
}

/// What a quota says to an additional use: what to write as `status.used`, or why not. `None`: nothing of it is limited.
fn charge(quota: &Value, delta: &Amounts) -> Result<Option<Value>, String> {
    let observed = map(quota, "/status/hard").is_some_and(|hard| !hard.is_empty());
    let hard = amounts(&quota[if observed { "status" } else { "spec" }]["hard"]);
    let used = amounts(&quota["status"]["used"]);
    let zero = Quantity::default();
    let limited: Vec<&String> = delta.keys().filter(|name| hard.contains_key(*name)).collect();
    if limited.is_empty() {
        return Ok(None);
    }
    let mut exceeded = Vec::new();
    let mut new_used = map(quota, "/status/used").cloned().unwrap_or_default();
    for name in limited {
        let have = used.get(name).copied().unwrap_or(zero);
        let sum = have.add(delta[name]);
        if delta[name].nanos() > 0 && sum.nanos() > hard[name].nanos() {
            exceeded.push(name);
        }
        new_used.insert(name.clone(), sum.to_string().into());
    }
    if exceeded.is_empty() {
        return Ok(Some(Value::Object(new_used)));
    }
    let show = |of: &dyn Fn(&str) -> String| {
        exceeded
            .iter()
            .map(|name| format!("{name}={}", of(name)))
            .collect::<Vec<_>>()
            .join(",")
    };
    Err(format!(
        "exceeded quota: {}, requested: {}, used: {}, limited: {}",
        text(quota, "/metadata/name"),
        show(&|n| delta[n].to_string()),
        show(&|n| used.get(n).copied().unwrap_or(zero).to_string()),
        show(&|n| hard[n].to_string()),
    ))
}

/// A quota on compute resources demands that every container says what it needs.
fn unspecified(quota: &Value, pod: &Value) -> Option<String> {
    const DEMANDED: [(&str, &str, &str); 6] = [
        ("cpu", "requests", "cpu"),
        ("memory", "requests", "memory"),
        ("requests.cpu", "requests", "cpu"),
        ("requests.memory", "requests", "memory"),
        ("limits.cpu", "limits", "cpu"),
        ("limits.memory", "limits", "memory"),
    ];
    let hard = map(quota, "/spec/hard")?;
    let containers = list(pod, "/spec/containers")
        .iter()
        .chain(list(pod, "/spec/initContainers"));
    let containers: Vec<&Value> = containers.collect();
    let mut missing = Vec::new();
    for (resource, kind, name) in DEMANDED {
        if !hard.contains_key(resource) {
            continue;
        }
        let without: Vec<&str> = containers
            .iter()
            .filter(|c| !present(c, &format!("/resources/{kind}/{name}")))
            .map(|c| text(c, "/name"))
            .collect();
        if !without.is_empty() && !present(pod, &format!("/spec/resources/{kind}/{name}")) {
            missing.push(format!("{resource} for: {}", without.join(",")));
        }
    }
    (!missing.is_empty()).then(|| {
        format!(
            "failed quota: {}: must specify {}",
            text(quota, "/metadata/name"),
            missing.join("; ")
        )
    })
}

impl ResourceQuota {
    /// Charges the quota as the store has it, by compare and swap.
    async fn write(
        &self,
        namespace: &str,
        name: &str,
        delta: &Amounts,
    ) -> Result<Result<(), String>, Status> {
        let spec = self.caches.kind("", "resourcequotas").spec().clone();
        let key = spec.key(namespace, name);
        for _ in 0..ATTEMPTS {
            let stored = self.store.get(&key, None).await.map_err(|e| store_status(&e))?;
            // A quota deleted in the meantime limits nothing.
            let Some(kv) = stored else { return Ok(Ok(())) };
            let revision = kv.mod_revision;
            let mut quota = CachedObject::new(&spec, &kv.key, kv.value, revision.0)
                .map_err(|e| status_of(&e))?
                .parse();
            let used = match charge(&quota, delta) {
                Ok(Some(used)) => used,
                Ok(None) => return Ok(Ok(())),
                Err(why) => return Ok(Err(why)),
            };
            quota["status"]["used"] = used;
            if !present(&quota, "/status/hard") {
                quota["status"]["hard"] = quota["spec"]["hard"].clone();
            }
            let bytes = StoredForm::encode(&spec, &quota);
            let condition = Precondition::ModRevision(revision);
            let outcome = self.store.put(key.clone(), bytes, condition, kv.lease).await;
            if let WriteOutcome::Committed { .. } = outcome.map_err(|e| store_status(&e))? {
                return Ok(Ok(()));
            }
        }
        let resource = GroupResource::new("", "resourcequotas");
        Err(Status::conflict(
            &resource,
            name,
            "too many writers at once; please try again",
        ))
    }
}

#[async_trait]
impl ValidatingPlugin for ResourceQuota {
    fn name(&self) -> &'static str {
        "ResourceQuota"
    }

    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        !attributes.namespace.is_empty()
            && attributes.subresource.is_empty()
            && matches!(attributes.operation, Operation::Create | Operation::Update)
            && attributes.resource.resource != "resourcequotas"
            && attributes.resource.resource != "events"
    }

    async fn validate(&self, attributes: &Attributes<'_>, object: Option<&Value>) -> Result<(), Status> {
        let Some(value) = object else { return Ok(()) };
        let quotas = self.quotas.list(Some(attributes.namespace));
        if quotas.is_empty() {
            return Ok(());
        }
        let (group, resource) = (&*attributes.resource.group, &*attributes.resource.resource);
        let mut delta = usage(group, resource, value);
        if attributes.operation == Operation::Update {
            let old = attributes
                .old_object
                .map(|old| usage(group, resource, old))
                .unwrap_or_default();
            for (name, amount) in &mut delta {
                *amount = amount.sub(old.get(name).copied().unwrap_or_default());
            }
        }
        delta.retain(|_, amount| amount.nanos() > 0);
        if delta.is_empty() {
            return Ok(());
        }
        let is_pod = group.is_empty() && resource == "pods";
        for quota in quotas {
            let quota = quota.parse();
            if !matches_scopes(&quota, group, resource, value) {
                continue;
            }
            if let Some(why) = is_pod.then(|| unspecified(&quota, value)).flatten() {
                return Err(forbidden(attributes, object, why));
            }
            let why = match charge(&quota, &delta) {
                Ok(None) => continue,
                Ok(Some(_)) if attributes.dry_run => continue,
                // The cache may be behind: only the store's answer refuses for good.
                Ok(Some(_)) | Err(_) if !attributes.dry_run => {
                    self.write(attributes.namespace, text(&quota, "/metadata/name"), &delta)
                        .await?
                }
                Ok(Some(_)) => Ok(()),
                Err(why) => Err(why),
            };
            why.map_err(|why| forbidden(attributes, object, why))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keelson_api::quota::count;
    use serde_json::json;

    #[test]
    fn charges() {
        let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"pods": "2", "requests.cpu": "1"}},
            "status": {"hard": {"pods": "2", "requests.cpu": "1"}, "used": {"pods": "1", "requests.cpu": "800m"}}});
        let delta = |pods: usize, cpu: &str| {
            Amounts::from([
                ("pods".to_owned(), count(pods)),
                ("requests.cpu".to_owned(), Quantity::parse(cpu).unwrap()),
            ])
        };
        let used = charge(&quota, &delta(1, "200m")).unwrap().unwrap();
        assert_eq!(used, json!({"pods": "2", "requests.cpu": "1"}));
        assert_eq!(
            charge(&quota, &delta(1, "300m")).unwrap_err(),
            "exceeded quota: q, requested: requests.cpu=300m, used: requests.cpu=800m, limited: requests.cpu=1"
        );
        let other = Amounts::from([("services".to_owned(), count(1))]);
        assert_eq!(charge(&quota, &other), Ok(None));
        let pod = json!({"spec": {"containers": [{"name": "a"}, {"name": "b", "resources": {"requests": {"cpu": "1"}}}]}});
        assert_eq!(
            unspecified(&quota, &pod).unwrap(),
            "failed quota: q: must specify requests.cpu for: a"
        );
    }
}
