//! What is reset and set when an object is created.

use serde_json::{Value, json};

use super::job;
use super::kinds::{Generation, rule_of};
use super::pod_resources::qos_class;
use crate::access::{Fields, default_nonzero, ensure, int, is_empty, items, text};
use crate::gvk::GroupVersionKind;

/// Makes of a decoded, defaulted object with a uid what may be created. `now` is a `metav1.Time`.
pub fn prepare_for_create(gvk: &GroupVersionKind, object: &mut Value, now: &str) {
    let rule = rule_of(gvk);
    if rule.generation != Generation::None {
        object["metadata"]["generation"] = Value::from(1);
    }
    if rule.resets_status {
        object["status"] = json!({});
    }
    match (&*gvk.group, &*gvk.kind) {
        ("", "Pod") => pod(object),
        ("", "Namespace") => {
            object["status"] = json!({"phase": "Active"});
            let finalizers = &mut object["spec"]["finalizers"];
            if !items(finalizers).iter().any(|f| f == "kubernetes") {
                let mut list = finalizers.as_array().cloned().unwrap_or_default();
                list.push(Value::from("kubernetes"));
                *finalizers = Value::Array(list);
            }
        }
        ("", "PersistentVolume") => {
            object["status"] = json!({"phase": "Pending", "lastPhaseTransitionTime": now});
        }
        ("", "PersistentVolumeClaim") => {
            object["status"] = json!({"phase": "Pending"});
            normalize_data_sources(object);
        }
        ("", "Service") => object["status"] = json!({"loadBalancer": {}}),
        ("networking.k8s.io", "Ingress") => object["status"] = json!({"loadBalancer": {}}),
        ("storage.k8s.io", "VolumeAttachment") => object["status"] = json!({"attached": false}),
        ("policy", "PodDisruptionBudget") => {
            object["status"] =
                json!({"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0});
        }
        ("apps", "Deployment" | "ReplicaSet" | "StatefulSet") => workload_status(gvk, object),
        ("", "ReplicationController") => object["status"] = json!({"replicas": 0}),
        ("apps", "DaemonSet") => daemon_set(object),
        ("batch", "Job") => job::generate_selector(object),
        ("autoscaling", "HorizontalPodAutoscaler") => autoscaler_status(gvk, object),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => custom_resource_definition(object),
        ("apiregistration.k8s.io", "APIService") => api_service(object, now),
        _ => {}
    }
}

/// Counters that Go writes even when they are zero.
fn workload_status(gvk: &GroupVersionKind, object: &mut Value) {
    object["status"] = match &*gvk.kind {
        "ReplicaSet" => json!({"replicas": 0}),
        "StatefulSet" => json!({"replicas": 0, "availableReplicas": 0}),
        _ => json!({}),
    };
}

fn autoscaler_status(gvk: &GroupVersionKind, object: &mut Value) {
    object["status"] = if gvk.version == "v1" {
        json!({"currentReplicas": 0, "desiredReplicas": 0})
    } else {
        json!({"desiredReplicas": 0, "currentMetrics": null})
    };
}

fn pod(pod: &mut Value) {
    pod["status"] = json!({"phase": "Pending", "qosClass": qos_class(&pod["spec"])});
    if !is_empty(&pod["spec"]["schedulingGates"]) {
        pod["status"]["conditions"] = json!([{
            "type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates",
            "lastProbeTime": null, "lastTransitionTime": null}]);
    }
    match_label_keys(pod);
}

/// Writes the values of `matchLabelKeys` and `mismatchLabelKeys` into the label selectors beside them.
fn match_label_keys(pod: &mut Value) {
    let labels = pod["metadata"]["labels"].clone();
    let Some(spec) = pod["spec"].as_object_mut() else {
        return;
    };
    let mut terms: Vec<&mut Value> = Vec::new();
    for (name, value) in spec.iter_mut() {
        match (&**name, value) {
            ("topologySpreadConstraints", Value::Array(list)) => terms.extend(list),
            ("affinity", Value::Object(affinity)) => {
                for (_, kind) in affinity.iter_mut().filter(|(name, _)| *name != "nodeAffinity") {
                    let Some(kind) = kind.as_object_mut() else {
                        continue;
                    };
                    for (name, list) in kind.iter_mut() {
                        let Some(list) = list.as_array_mut() else { continue };
                        if name.starts_with("preferred") {
                            terms.extend(list.iter_mut().filter_map(|t| t.get_mut("podAffinityTerm")));
                        } else {
                            terms.extend(list);
                        }
                    }
                }
            }
            _ => {}
        }
    }
    for term in terms {
        for (field, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
            let keys: Vec<String> = items(&term[field])
                .iter()
                .filter_map(|k| Some(k.as_str()?.to_owned()))
                .collect();
            if !term["labelSelector"].is_object() {
                continue;
            }
            for key in keys {
                let Some(value) = labels[&*key].as_str() else {
                    continue;
                };
                let requirement = json!({"key": key, "operator": operator, "values": [value]});
                match term["labelSelector"]["matchExpressions"].as_array_mut() {
                    Some(list) => list.push(requirement),
                    None => term["labelSelector"]["matchExpressions"] = json!([requirement]),
                }
            }
        }
    }
}

/// `dataSource` and `dataSourceRef` say the same when one is given.
fn normalize_data_sources(claim: &mut Value) {
    let spec = &mut claim["spec"];
    let (source, reference) = (spec["dataSource"].clone(), spec["dataSourceRef"].clone());
    if source.is_object() && reference.is_null() {
        spec["dataSourceRef"] = source;
    } else if reference.is_object() && source.is_null() && text(&reference, "namespace").is_empty() {
        spec["dataSource"] = reference;
    }
}

const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

fn daemon_set(object: &mut Value) {
    object["status"] = json!({"currentNumberScheduled": 0, "numberMisscheduled": 0,
        "desiredNumberScheduled": 0, "numberReady": 0});
    let given = text(&object["metadata"]["annotations"], TEMPLATE_GENERATION)
        .parse::<i64>()
        .unwrap_or_default();
    object["metadata"]["annotations"][TEMPLATE_GENERATION] = Value::from(given.max(1).to_string());
}

/// Raises the annotation that counts the templates of a DaemonSet.
pub(super) fn raise_template_generation(new: &mut Value, old: &Value) {
    let count = text(&old["metadata"]["annotations"], TEMPLATE_GENERATION)
        .parse::<i64>()
        .unwrap_or_default();
    let changed = new["spec"]["template"] != old["spec"]["template"];
    let count = if changed { count + 1 } else { count };
    new["metadata"]["annotations"][TEMPLATE_GENERATION] = Value::from(count.to_string());
}

fn custom_resource_definition(object: &mut Value) {
    let stored = items(&object["spec"]["versions"])
        .iter()
        .find(|v| v["storage"] == true);
    let stored: Vec<Value> = stored
        .map(|version| version["name"].clone())
        .into_iter()
        .collect();
    object["status"] =
        json!({"conditions": null, "acceptedNames": {"plural": "", "kind": ""}, "storedVersions": stored});
}

fn api_service(object: &mut Value, now: &str) {
    object["status"] = json!({});
    if object["spec"]["service"].is_null() {
        object["status"]["conditions"] = json!([{"type": "Available", "status": "True", "reason": "Local",
            "message": "Local APIServices are always available", "lastTransitionTime": now}]);
    } else if let Some(service) = object["spec"]["service"].as_object_mut() {
        default_nonzero(service, "port", 443);
    }
}

/// Raises the generation of `old` by one in `new`.
pub(super) fn raise_generation(new: &mut Value, old: &Value) {
    let generation = int(&old["metadata"], "generation");
    if let Some(fields) = new.as_object_mut() {
        let metadata: &mut Fields = ensure(fields, "metadata");
        metadata.insert("generation".to_owned(), Value::from(generation + 1));
    }
}
