//! From the endpoints that are wanted and the slices that are there to the fewest writes; pure.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

/// Label with the name of the service.
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Label with the name of the controller that writes the slice.
pub(crate) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// Annotation: when what the slice tells began to change.
pub(crate) const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";
/// Longest name that leaves room for what the server adds to it.
const PREFIX: usize = 57;

/// What all slices of a service have in common.
#[derive(Clone, Debug, Default)]
pub(crate) struct Common {
    pub(crate) namespace: String,
    /// The slices' names begin with it.
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) annotations: BTreeMap<String, String>,
    /// Whether slices must have these annotations and no others; else they are added when a slice is written anyway.
    pub(crate) only_these_annotations: bool,
    pub(crate) owner: OwnerReference,
    /// Most endpoints of a slice.
    pub(crate) max: usize,
}

/// Endpoints of one address family with the same ports.
#[derive(Clone, Debug, Default)]
pub(crate) struct Group {
    pub(crate) address_type: String,
    pub(crate) ports: Vec<EndpointPort>,
    pub(crate) endpoints: Vec<Endpoint>,
}

/// The writes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plan {
    pub(crate) create: Vec<EndpointSlice>,
    pub(crate) update: Vec<EndpointSlice>,
    /// Names.
    pub(crate) delete: Vec<String>,
}

type Identity = (String, String);

fn identity(endpoint: &Endpoint) -> Identity {
    let uid = endpoint.target_ref.as_ref().and_then(|target| target.uid.clone());
    (endpoint.addresses.join(","), uid.unwrap_or_default())
}

struct Slot {
    slice: EndpointSlice,
    endpoints: Vec<Endpoint>,
    changed: bool,
}

/// The writes that make `existing` be `groups`.
pub(crate) fn plan(existing: &[Arc<EndpointSlice>], groups: Vec<Group>, common: &Common) -> Plan {
    let mut plan = Plan::default();
    let mut used = HashSet::new();
    for group in groups {
        let of_group = existing.iter().filter(|slice| {
            slice.address_type == group.address_type
                && same_ports(slice.ports.as_deref().unwrap_or_default(), &group.ports)
        });
        let slices: Vec<&Arc<EndpointSlice>> = of_group
            .filter(|slice| used.insert(name(slice).to_owned()))
            .collect();
        plan_group(&slices, group, common, &mut plan);
    }
    plan.delete.extend(
        existing
            .iter()
            .map(|slice| name(slice))
            .filter(|name| !used.contains(*name))
            .map(str::to_owned),
    );
    plan
}

fn plan_group(slices: &[&Arc<EndpointSlice>], group: Group, common: &Common, plan: &mut Plan) {
    let is_placeholder = group.endpoints.is_empty();
    let mut wanted: HashMap<Identity, Endpoint> = group
        .endpoints
        .iter()
        .map(|endpoint| (identity(endpoint), endpoint.clone()))
        .collect();
    let mut slots: Vec<Slot> = slices
        .iter()
        .map(|slice| keep_wanted(slice, &mut wanted, common))
        .collect();
    // In the order that was given, so that the same input makes the same slices.
    let mut rest: Vec<Endpoint> = group
        .endpoints
        .iter()
        .filter_map(|endpoint| wanted.remove(&identity(endpoint)))
        .collect();
    // First into slices that are written anyway, the fullest first; then into the fullest other with room for all.
    slots.sort_by_key(|slot| (!slot.changed, std::cmp::Reverse(slot.endpoints.len())));
    for slot in slots
        .iter_mut()
        .filter(|slot| slot.changed && !slot.endpoints.is_empty())
    {
        let room = common.max.saturating_sub(slot.endpoints.len());
        slot.endpoints.extend(rest.drain(..room.min(rest.len())));
    }
    if !rest.is_empty() {
        let fits = |slot: &&mut Slot| slot.endpoints.len() + rest.len() % common.max <= common.max;
        let part = rest.len() % common.max;
        if part > 0
            && let Some(slot) = slots.iter_mut().find(fits)
        {
            slot.endpoints.extend(rest.drain(..part));
            slot.changed = true;
        }
    }
    let mut kept = false;
    for slot in slots {
        if slot.endpoints.is_empty() && (!is_placeholder || kept) {
            plan.delete.push(name(&slot.slice).to_owned());
            continue;
        }
        kept = true;
        if slot.changed {
            plan.update.push(with(slot.slice, slot.endpoints, common));
        }
    }
    let mut rest = rest.into_iter().peekable();
    while rest.peek().is_some() || (is_placeholder && !kept) {
        kept = true;
        let endpoints = rest.by_ref().take(common.max).collect();
        plan.create
            .push(with(new_slice(&group, common), endpoints, common));
    }
}

fn keep_wanted(slice: &EndpointSlice, wanted: &mut HashMap<Identity, Endpoint>, common: &Common) -> Slot {
    let mut changed = !has_common(&slice.metadata, common);
    let mut endpoints = Vec::new();
    for endpoint in slice.endpoints.iter().flatten() {
        match wanted.remove(&identity(endpoint)) {
            Some(new) => {
                changed |= new != *endpoint;
                endpoints.push(new);
            }
            None => changed = true,
        }
    }
    Slot {
        slice: slice.clone(),
        endpoints,
        changed,
    }
}

fn has_common(meta: &ObjectMeta, common: &Common) -> bool {
    let annotations = meta.annotations.clone().unwrap_or_default();
    meta.labels.as_ref() == Some(&common.labels)
        && (!common.only_these_annotations || annotations == common.annotations)
        && meta
            .owner_references
            .iter()
            .flatten()
            .any(|owner| *owner == common.owner)
}

fn new_slice(group: &Group, common: &Common) -> EndpointSlice {
    let prefix: String = common.name.chars().take(PREFIX).collect();
    EndpointSlice {
        address_type: group.address_type.clone(),
        ports: Some(group.ports.clone()),
        metadata: ObjectMeta {
            generate_name: Some(format!("{prefix}-")),
            namespace: Some(common.namespace.clone()),
            ..ObjectMeta::default()
        },
        endpoints: None,
    }
}

fn with(mut slice: EndpointSlice, endpoints: Vec<Endpoint>, common: &Common) -> EndpointSlice {
    slice.endpoints = Some(endpoints);
    slice.metadata.labels = Some(common.labels.clone());
    slice.metadata.owner_references = Some(vec![common.owner.clone()]);
    let annotations = slice.metadata.annotations.get_or_insert_default();
    annotations.retain(|key, _| !common.only_these_annotations && key != TRIGGER_TIME);
    annotations.extend(common.annotations.clone());
    slice
}

fn name(slice: &EndpointSlice) -> &str {
    slice.metadata.name.as_deref().unwrap_or_default()
}

fn same_ports(a: &[EndpointPort], b: &[EndpointPort]) -> bool {
    a.len() == b.len()
        && a.iter()
            .all(|port| b.iter().any(|other| is_same_port(port, other)))
}

fn is_same_port(a: &EndpointPort, b: &EndpointPort) -> bool {
    let key = |port: &EndpointPort| {
        (
            port.name.clone().unwrap_or_default(),
            port.port,
            port.protocol.clone().unwrap_or_else(|| "TCP".into()),
            port.app_protocol.clone(),
        )
    };
    key(a) == key(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(address: usize) -> Endpoint {
        Endpoint {
            addresses: vec![format!("10.0.0.{address}")],
            ..Endpoint::default()
        }
    }

    fn group(addresses: impl IntoIterator<Item = usize>) -> Group {
        Group {
            address_type: "IPv4".into(),
            ports: vec![],
            endpoints: addresses.into_iter().map(endpoint).collect(),
        }
    }

    fn common() -> Common {
        Common {
            namespace: "ns".into(),
            name: "svc".into(),
            labels: BTreeMap::from([("a".into(), "b".into())]),
            annotations: BTreeMap::new(),
            only_these_annotations: false,
            owner: OwnerReference::default(),
            max: 3,
        }
    }

    fn existing(name: &str, addresses: impl IntoIterator<Item = usize>) -> Arc<EndpointSlice> {
        let group = group(addresses);
        let mut slice = with(new_slice(&group, &common()), group.endpoints, &common());
        slice.metadata.name = Some(name.into());
        Arc::new(slice)
    }

    /// `+` created, `~` updated, `-` deleted, with the last numbers of the addresses.
    fn check(there: &[Arc<EndpointSlice>], wanted: Vec<Group>, expected: &[&str]) {
        let plan = plan(there, wanted, &common());
        let list = |slice: &EndpointSlice| {
            let of = |endpoint: &Endpoint| endpoint.addresses[0].trim_start_matches("10.0.0.").to_owned();
            slice
                .endpoints
                .iter()
                .flatten()
                .map(of)
                .collect::<Vec<_>>()
                .join(",")
        };
        let mut found: Vec<String> = plan
            .create
            .iter()
            .map(|slice| format!("+ {}", list(slice)))
            .collect();
        found.extend(
            plan.update
                .iter()
                .map(|slice| format!("~{} {}", name(slice), list(slice))),
        );
        found.extend(plan.delete.iter().map(|name| format!("-{name}")));
        assert_eq!(found, expected);
    }

    #[test]
    fn few_writes() {
        check(&[], vec![group(1..=7)], &["+ 1,2,3", "+ 4,5,6", "+ 7"]);
        check(&[], vec![group([])], &["+ "]);
        let two = [existing("x", 1..=3), existing("y", 4..=5)];
        check(&two, vec![group(1..=5)], &[]);
        // One more goes where there is room; one less is one write; a replacement goes where one went.
        check(&two, vec![group(1..=6)], &["~y 4,5,6"]);
        check(&two, vec![group([1, 3, 4, 5])], &["~x 1,3"]);
        check(&two, vec![group([1, 3, 4, 5, 9])], &["~x 1,3,9"]);
        check(&two, vec![group([4, 5])], &["-x"]);
        check(&two, vec![group([])], &["~x ", "-y"]);
        check(&[existing("x", [])], vec![group([])], &[]);
        check(&[existing("x", [])], vec![group([1])], &["~x 1"]);
        // Other ports are other slices.
        let mut other = group([1]);
        other.ports = vec![EndpointPort {
            port: Some(80),
            ..EndpointPort::default()
        }];
        check(&[existing("x", [1])], vec![other], &["+ 1", "-x"]);
    }
}
