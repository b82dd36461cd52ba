//! What a pod's containers request together, and the quality of service that follows.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::access::{Fields, items, text};
use crate::quantity::Quantity;

/// Quantities by resource name.
pub type ResourceList = BTreeMap<String, Quantity>;

/// The quantities of a JSON resource list; malformed ones are left out.
pub fn resource_list(value: &Value) -> ResourceList {
    let entries = value.as_object().into_iter().flatten();
    entries
        .filter_map(|(name, q)| Some((name.clone(), Quantity::parse(q.as_str()?).ok()?)))
        .collect()
}

fn add(sum: &mut ResourceList, list: &ResourceList) {
    for (name, quantity) in list {
        let total = sum.get(name).map_or(*quantity, |known| known.add(*quantity));
        sum.insert(name.clone(), total);
    }
}

fn maximum(most: &mut ResourceList, list: &ResourceList) {
    for (name, quantity) in list {
        if most
            .get(name)
            .is_none_or(|known| known.nanos() < quantity.nanos())
        {
            most.insert(name.clone(), *quantity);
        }
    }
}

/// What the containers of a pod spec request: the sum of containers and sidecars, or what an init container needs while it
/// runs beside the sidecars before it, whichever is more. Pod-level requests and overhead are not counted.
pub fn container_requests(spec: &Fields) -> ResourceList {
    let mut sum = ResourceList::new();
    for container in spec.get("containers").map_or(&[][..], items) {
        add(&mut sum, &resource_list(&container["resources"]["requests"]));
    }
    let mut sidecars = ResourceList::new();
    let mut most = ResourceList::new();
    for container in spec.get("initContainers").map_or(&[][..], items) {
        let requests = resource_list(&container["resources"]["requests"]);
        if text(container, "restartPolicy") == "Always" {
            add(&mut sum, &requests);
            add(&mut sidecars, &requests);
            maximum(&mut most, &sidecars);
        } else {
            let mut needed = requests;
            add(&mut needed, &sidecars);
            maximum(&mut most, &needed);
        }
    }
    maximum(&mut sum, &most);
    sum
}

/// `Guaranteed`, `Burstable` or `BestEffort`, as a pod's spec has it.
pub fn qos_class(spec: &Value) -> &'static str {
    let compute = |list: &Value| -> ResourceList {
        let mut list = resource_list(list);
        list.retain(|name, quantity| matches!(&**name, "cpu" | "memory") && quantity.sign() > 0);
        list
    };
    let (mut requests, mut limits) = (ResourceList::new(), ResourceList::new());
    let mut guaranteed = true;
    let own = &spec["resources"];
    if own.is_object() && !(own["requests"].is_null() && own["limits"].is_null()) {
        requests = compute(&own["requests"]);
        limits = compute(&own["limits"]);
        guaranteed = limits.len() == 2;
    } else {
        for list in ["containers", "initContainers"] {
            for container in items(&spec[list]) {
                add(&mut requests, &compute(&container["resources"]["requests"]));
                let own = compute(&container["resources"]["limits"]);
                guaranteed &= own.len() == 2;
                add(&mut limits, &own);
            }
        }
    }
    if requests.is_empty() && limits.is_empty() {
        return "BestEffort";
    }
    let equal = requests
        .iter()
        .all(|(name, q)| limits.get(name).is_some_and(|l| l.nanos() == q.nanos()));
    if guaranteed && equal && requests.len() == limits.len() {
        "Guaranteed"
    } else {
        "Burstable"
    }
}
