//! Environment variables that name the services of a namespace.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Service;

fn variable(name: &str) -> String {
    name.to_uppercase().replace('-', "_")
}

fn cluster_ip(service: &Service) -> Option<&str> {
    let ip = service.spec.as_ref()?.cluster_ip.as_deref()?;
    (!ip.is_empty() && ip != "None").then_some(ip)
}

/// The variables of every service with a cluster IP: `NAME_SERVICE_HOST`, `NAME_SERVICE_PORT` and Docker's link variables.
pub(crate) fn variables<'a>(services: impl IntoIterator<Item = &'a Service>) -> BTreeMap<String, String> {
    let mut result = BTreeMap::new();
    for service in services {
        let (Some(ip), Some(spec)) = (cluster_ip(service), &service.spec) else {
            continue;
        };
        let Some(ports) = spec.ports.as_ref().filter(|ports| !ports.is_empty()) else {
            continue;
        };
        let name = variable(service.metadata.name.as_deref().unwrap_or_default());
        let host = if ip.contains(':') {
            format!("[{ip}]")
        } else {
            ip.to_owned()
        };
        result.insert(format!("{name}_SERVICE_HOST"), ip.to_owned());
        result.insert(format!("{name}_SERVICE_PORT"), ports[0].port.to_string());
        for (index, port) in ports.iter().enumerate() {
            if let Some(port_name) = port.name.as_deref().filter(|name| !name.is_empty()) {
                result.insert(
                    format!("{name}_SERVICE_PORT_{}", variable(port_name)),
                    port.port.to_string(),
                );
            }
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let lower = protocol.to_lowercase();
            let number = port.port;
            let url = format!("{lower}://{host}:{number}");
            if index == 0 {
                result.insert(format!("{name}_PORT"), url.clone());
            }
            let prefix = format!("{name}_PORT_{number}_{}", protocol.to_uppercase());
            result.insert(prefix.clone(), url);
            result.insert(format!("{prefix}_PROTO"), lower);
            result.insert(format!("{prefix}_PORT"), number.to_string());
            result.insert(format!("{prefix}_ADDR"), ip.to_owned());
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn services_become_variables() {
        let service = |spec: serde_json::Value| -> Service {
            serde_json::from_value(json!({"metadata": {"name": "my-db"}, "spec": spec})).unwrap()
        };
        let headless = service(json!({"clusterIP": "None", "ports": [{"port": 1}]}));
        let normal = service(json!({"clusterIP": "10.96.0.7", "ports": [
            {"name": "sql", "port": 5432, "protocol": "TCP"}, {"name": "dns-u", "port": 53, "protocol": "UDP"}]}));
        let found = variables([&headless, &normal]);
        let lines: Vec<String> = found
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        assert_eq!(
            lines,
            [
                "MY_DB_PORT=tcp://10.96.0.7:5432",
                "MY_DB_PORT_53_UDP=udp://10.96.0.7:53",
                "MY_DB_PORT_53_UDP_ADDR=10.96.0.7",
                "MY_DB_PORT_53_UDP_PORT=53",
                "MY_DB_PORT_53_UDP_PROTO=udp",
                "MY_DB_PORT_5432_TCP=tcp://10.96.0.7:5432",
                "MY_DB_PORT_5432_TCP_ADDR=10.96.0.7",
                "MY_DB_PORT_5432_TCP_PORT=5432",
                "MY_DB_PORT_5432_TCP_PROTO=tcp",
                "MY_DB_SERVICE_HOST=10.96.0.7",
                "MY_DB_SERVICE_PORT=5432",
                "MY_DB_SERVICE_PORT_DNS_U=53",
                "MY_DB_SERVICE_PORT_SQL=5432",
            ]
        );
    }
}
