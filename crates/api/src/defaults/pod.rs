//! Pods, pod templates, containers and probes.

use serde_json::{Map, Value};

use super::volume;
use crate::access::{
    Fields, child, default_nonzero, default_text, default_to, each, ensure, is_nil, is_unset, str_of,
};
use crate::quantity::Quantity;

const CONTAINER_LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// `Pod`.
pub(super) fn pod(fields: &mut Fields) {
    if let Some(spec) = child(fields, "spec") {
        pod_spec(spec);
        for list in ["containers", "initContainers"] {
            each(spec, list, requests_from_limits);
        }
        pod_requests(spec);
        default_to(spec, "enableServiceLinks", true);
        if spec.get("hostNetwork").and_then(Value::as_bool) == Some(true) {
            for list in ["containers", "initContainers"] {
                each(spec, list, |container| each(container, "ports", host_port));
            }
        }
    }
    if let Some(status) = child(fields, "status") {
        same_ips(status);
    }
}

/// `PodTemplate`.
pub(super) fn pod_template(fields: &mut Fields) {
    template(fields);
}

/// The pod template at `template`.
pub(super) fn template(fields: &mut Fields) {
    if let Some(spec) = child(fields, "template").and_then(|template| child(template, "spec")) {
        pod_spec(spec);
    }
}

/// `podIP` and the first of `podIPs` are the same.
fn same_ips(status: &mut Fields) {
    let single = str_of(status, "podIP").to_owned();
    let first = status
        .get("podIPs")
        .and_then(|ips| ips[0]["ip"].as_str())
        .unwrap_or_default()
        .to_owned();
    if single.is_empty() && !first.is_empty() {
        status.insert("podIP".to_owned(), Value::from(first));
    } else if !single.is_empty() && single != first {
        let mut entry = Map::new();
        entry.insert("ip".to_owned(), Value::from(single));
        status.insert("podIPs".to_owned(), Value::Array(vec![Value::Object(entry)]));
    }
}

fn host_port(port: &mut Fields) {
    let number = port
        .get("containerPort")
        .and_then(Value::as_i64)
        .unwrap_or_default();
    default_nonzero(port, "hostPort", number);
}

fn requests_from_limits(container: &mut Fields) {
    let Some(resources) = child(container, "resources") else {
        return;
    };
    let Some(Value::Object(limits)) = resources.get("limits") else {
        return;
    };
    let requests = resources.get("requests").and_then(Value::as_object);
    let missing: Vec<(String, Value)> = limits
        .iter()
        .filter(|(name, _)| requests.is_none_or(|r| !r.contains_key(*name)))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    if !missing.is_empty() {
        ensure(resources, "requests").extend(missing);
    }
}

/// Requests of the whole pod where it has limits: what its containers request, else its limits.
fn pod_requests(spec: &mut Fields) {
    let limits = match spec.get("resources").and_then(|r| r["limits"].as_object()) {
        Some(limits) if !limits.is_empty() => limits.clone(),
        _ => return,
    };
    let supported = |name: &str| name == "cpu" || name == "memory" || name.starts_with("hugepages-");
    let sums = crate::strategy::pod_resources::container_requests(spec);
    let requests = ensure(ensure(spec, "resources"), "requests");
    for (name, sum) in sums {
        if (name == "cpu" || name == "memory") && !requests.contains_key(&name) {
            requests.insert(name, Value::from(sum.to_string()));
        }
    }
    for (name, limit) in limits {
        if supported(&name) && !requests.contains_key(&name) {
            requests.insert(name, limit);
        }
    }
}

/// `PodSpec`, in pods and templates alike.
pub(super) fn pod_spec(spec: &mut Fields) {
    default_text(spec, "dnsPolicy", "ClusterFirst");
    default_text(spec, "restartPolicy", "Always");
    if is_nil(spec, "securityContext") {
        spec.insert("securityContext".to_owned(), Value::Object(Map::new()));
    }
    default_to(spec, "terminationGracePeriodSeconds", 30);
    default_text(spec, "schedulerName", "default-scheduler");
    service_account(spec);
    each(spec, "volumes", volume::volume);
    for list in CONTAINER_LISTS {
        each(spec, list, container);
    }
    if let Some(overhead) = child(spec, "overhead") {
        round_up(overhead);
    }
    if let Some(resources) = child(spec, "resources") {
        round_resources(resources);
    }
}

/// `serviceAccount` is the old name of `serviceAccountName`; both are kept equal.
fn service_account(spec: &mut Fields) {
    let name = match str_of(spec, "serviceAccountName") {
        "" => str_of(spec, "serviceAccount"),
        name => name,
    };
    if name.is_empty()
        || (str_of(spec, "serviceAccount") == name && str_of(spec, "serviceAccountName") == name)
    {
        return;
    }
    let name = Value::from(name);
    spec.insert("serviceAccount".to_owned(), name.clone());
    spec.insert("serviceAccountName".to_owned(), name);
}

fn container(container: &mut Fields) {
    if is_unset(container, "imagePullPolicy") {
        let policy = pull_policy(str_of(container, "image"));
        container.insert("imagePullPolicy".to_owned(), Value::from(policy));
    }
    default_text(container, "terminationMessagePath", "/dev/termination-log");
    default_text(container, "terminationMessagePolicy", "File");
    each(container, "ports", |port| default_text(port, "protocol", "TCP"));
    each(container, "env", |env| {
        if let Some(source) = child(env, "valueFrom") {
            if let Some(field) = child(source, "fieldRef") {
                field_ref(field);
            }
            if let Some(file) = child(source, "fileKeyRef") {
                default_to(file, "optional", false);
            }
        }
    });
    if let Some(resources) = child(container, "resources") {
        round_resources(resources);
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(fields) = child(container, name) {
            probe(fields);
        }
    }
    if let Some(lifecycle) = child(container, "lifecycle") {
        for name in ["postStart", "preStop"] {
            if let Some(get) = child(lifecycle, name).and_then(|hook| child(hook, "httpGet")) {
                http_get(get);
            }
        }
    }
}

/// `ObjectFieldSelector`.
pub(super) fn field_ref(fields: &mut Fields) {
    default_text(fields, "apiVersion", "v1");
}

fn probe(probe: &mut Fields) {
    default_nonzero(probe, "timeoutSeconds", 1);
    default_nonzero(probe, "periodSeconds", 10);
    default_nonzero(probe, "successThreshold", 1);
    default_nonzero(probe, "failureThreshold", 3);
    if let Some(get) = child(probe, "httpGet") {
        http_get(get);
    }
    if let Some(grpc) = child(probe, "grpc") {
        default_to(grpc, "service", "");
    }
}

fn http_get(get: &mut Fields) {
    default_text(get, "path", "/");
    default_text(get, "scheme", "HTTP");
}

/// Limits and requests in steps of no less than a thousandth.
pub(super) fn round_resources(resources: &mut Fields) {
    for list in ["limits", "requests"] {
        if let Some(list) = child(resources, list) {
            round_up(list);
        }
    }
}

/// Quantities in steps of no less than a thousandth.
pub(super) fn round_up(list: &mut Fields) {
    for value in list.values_mut() {
        // Only these suffixes say less than a thousandth in the canonical form.
        if let Value::String(text) = value
            && text.ends_with(['n', 'u'])
            && let Ok(quantity) = Quantity::parse(text)
        {
            *text = quantity.round_up(-3).to_string();
        }
    }
}

/// The pull policy of an image without one: Always when its tag is `latest` or it has neither tag nor digest.
pub(super) fn pull_policy(image: &str) -> &'static str {
    if tag(image) == Some("latest") {
        "Always"
    } else {
        "IfNotPresent"
    }
}

/// The tag of an image name; `None` for a digest alone and for what is no image name.
fn tag(image: &str) -> Option<&str> {
    let (name, digest) = match image.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (image, None),
    };
    let last = name.rfind('/').map_or(0, |at| at + 1);
    let (name, tag) = match name[last..].rfind(':') {
        Some(at) => (&name[..last + at], Some(&name[last + at + 1..])),
        None => (name, None),
    };
    let path_is_valid = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-:[]".contains(&b))
    };
    let mut parts = name.split('/');
    let first = parts.next().unwrap_or_default();
    // The first part may be a host, which may have capitals.
    let first_valid =
        path_is_valid(first) || (name.contains('/') && path_is_valid(&first.to_ascii_lowercase()));
    if !first_valid || !parts.all(path_is_valid) {
        return None;
    }
    match (tag, digest) {
        (Some(tag), _) => Some(tag),
        (None, Some(_)) => None,
        (None, None) => Some("latest"),
    }
}
