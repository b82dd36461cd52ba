use std::sync::Arc;

use serde_json::{Value, json};

use super::*;

fn check(container: Value) -> Result<(Environment, Invalid), Error> {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "ns", "labels": {"app": "web"}},
        "spec": {"containers": [container.clone()]},
    }))
    .unwrap();
    let container: Container = serde_json::from_value(container).unwrap();
    let allocatable = serde_json::from_value(json!({"cpu": "2", "memory": "1Gi"})).unwrap();
    let context = FieldContext {
        pod: &pod,
        pod_ips: &["10.0.0.9".to_owned()],
        host_ips: &["192.168.0.1".to_owned()],
        allocatable: &allocatable,
    };
    let services = BTreeMap::from([("DB_SERVICE_HOST".to_owned(), "10.96.0.7".to_owned())]);
    let config_map: ConfigMap =
        serde_json::from_value(json!({"data": {"A": "from-map", "k=y": "bad"}})).unwrap();
    let secret: Secret = serde_json::from_value(json!({"data": {"PASS": "c2VjcmV0"}})).unwrap();
    let sources = Sources {
        config_maps: HashMap::from([("cm".to_owned(), Arc::new(config_map))]),
        secrets: HashMap::from([("s".to_owned(), Arc::new(secret))]),
    };
    make(&container, &context, &services, &sources)
}

fn lines(container: Value) -> Vec<String> {
    let (environment, _) = check(container).unwrap();
    environment
        .into_iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect()
}

#[test]
fn later_sources_win_and_references_see_what_came_before() {
    let container = json!({
        "name": "c",
        "envFrom": [{"configMapRef": {"name": "cm"}}, {"prefix": "X_", "secretRef": {"name": "s"}}],
        "env": [
            {"name": "A", "value": "own"},
            {"name": "B", "value": "$(A)-$(X_PASS)-$(DB_SERVICE_HOST)-$(C)"},
            {"name": "C", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "D", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "A"}}},
            {"name": "E", "valueFrom": {"secretKeyRef": {"name": "s", "key": "PASS"}}},
            {"name": "F", "valueFrom": {"secretKeyRef": {"name": "s", "key": "none", "optional": true}}},
            {"name": "G", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
            {"name": "DB_SERVICE_HOST", "value": "mine"},
        ],
    });
    assert_eq!(
        lines(container.clone()),
        [
            "A=own",
            "X_PASS=secret",
            "B=own-secret-10.96.0.7-$(C)",
            "C=10.0.0.9",
            "D=from-map",
            "E=secret",
            "G=2",
            "DB_SERVICE_HOST=mine",
        ]
    );
    let (_, invalid) = check(container).unwrap();
    assert_eq!(invalid, [("configMap ns/cm".to_owned(), vec!["k=y".to_owned()])]);
}

#[test]
fn what_cannot_be_found_is_an_error_with_upstreams_text() {
    let with = |from: Value| json!({"name": "c", "env": [{"name": "V", "valueFrom": from}]});
    for (from, expected) in [
        (
            json!({"configMapKeyRef": {"name": "cm", "key": "k"}}),
            "couldn't find key k in ConfigMap ns/cm",
        ),
        (
            json!({"secretKeyRef": {"name": "s", "key": "k"}}),
            "couldn't find key k in Secret ns/s",
        ),
        (
            json!({"fieldRef": {"fieldPath": "spec.x"}}),
            "unsupported fieldPath: spec.x",
        ),
        (
            json!({"fileKeyRef": {"volumeName": "v", "path": "p", "key": "k"}}),
            "fileKeyRef is not supported by this kubelet (environment variable V)",
        ),
    ] {
        assert_eq!(check(with(from)).unwrap_err().to_string(), expected);
    }
}
