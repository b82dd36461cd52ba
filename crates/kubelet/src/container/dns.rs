//! Name resolution of pods: what stands in their resolv.conf, and what they are called.

use k8s_openapi::api::core::v1::Pod;
use keelson_cri::v1 as cri;

use crate::config::KubeletConfig;
use crate::pod::spec;

/// Limits that resolvers honour.
const MAX_SERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
/// Longest host name of Linux.
const MAX_HOSTNAME: usize = 63;

/// Parses a resolv.conf; what is not understood is left out.
pub(crate) fn parse_resolv_conf(text: &str) -> cri::DnsConfig {
    let mut config = cri::DnsConfig::default();
    for line in text.lines() {
        let line = line.split(['#', ';']).next().unwrap_or_default();
        let mut words = line.split_whitespace().map(str::to_owned);
        match words.next().as_deref() {
            Some("nameserver") => config.servers.extend(words.next()),
            // The last line wins.
            Some("search" | "domain") => config.searches = words.filter(|name| name != ".").collect(),
            Some("options") => config.options.extend(words),
            _ => {}
        }
    }
    config
}

/// The resolver configuration of `pod` on a node whose own one is `host`.
pub(crate) fn dns_config(pod: &Pod, config: &KubeletConfig, host: &cri::DnsConfig) -> cri::DnsConfig {
    let pod_spec = spec::spec(pod);
    let policy = match pod_spec.dns_policy.as_deref().unwrap_or("ClusterFirst") {
        "ClusterFirst" if spec::host_network(pod) => "Default",
        other => other,
    };
    let mut dns = match policy {
        "None" => cri::DnsConfig::default(),
        "ClusterFirst" | "ClusterFirstWithHostNet" if !config.cluster_dns.is_empty() => {
            let domain = &config.cluster_domain;
            let namespace = spec::namespace(pod);
            let own = [
                format!("{namespace}.svc.{domain}"),
                format!("svc.{domain}"),
                domain.clone(),
            ];
            cri::DnsConfig {
                servers: config.cluster_dns.iter().map(ToString::to_string).collect(),
                searches: own.into_iter().chain(host.searches.iter().cloned()).collect(),
                options: vec!["ndots:5".into()],
            }
        }
        _ => host.clone(),
    };
    if let Some(extra) = &pod_spec.dns_config {
        dns.servers.extend(extra.nameservers.iter().flatten().cloned());
        dns.searches.extend(extra.searches.iter().flatten().cloned());
        for option in extra.options.iter().flatten() {
            let Some(name) = &option.name else { continue };
            dns.options.retain(|other| other.split(':').next() != Some(name));
            dns.options
                .push(match option.value.as_deref().filter(|value| !value.is_empty()) {
                    Some(value) => format!("{name}:{value}"),
                    None => name.clone(),
                });
        }
    }
    dedup(&mut dns.servers);
    dedup(&mut dns.searches);
    dns.servers.truncate(MAX_SERVERS);
    dns.searches.truncate(MAX_SEARCHES);
    dns
}

fn dedup(list: &mut Vec<String>) {
    let mut seen = std::collections::HashSet::new();
    list.retain(|item| seen.insert(item.clone()));
}

/// The pod's host name and, with a subdomain, its DNS domain.
pub(crate) fn hostname_and_domain(pod: &Pod, cluster_domain: &str) -> (String, String) {
    let pod_spec = spec::spec(pod);
    let nonempty = |value: &Option<String>| value.clone().filter(|value| !value.is_empty());
    if let Some(name) = nonempty(&pod_spec.hostname_override) {
        return (name, String::new());
    }
    let name = nonempty(&pod_spec.hostname).unwrap_or_else(|| truncate(spec::name(pod)));
    let domain = nonempty(&pod_spec.subdomain)
        .map(|subdomain| format!("{subdomain}.{}.svc.{cluster_domain}", spec::namespace(pod)))
        .unwrap_or_default();
    (name, domain)
}

/// What the pod's kernel host name is: the short name, or the full one with `setHostnameAsFQDN`.
pub(crate) fn kernel_hostname(pod: &Pod, cluster_domain: &str) -> Result<String, String> {
    let (name, domain) = hostname_and_domain(pod, cluster_domain);
    if !spec::spec(pod).set_hostname_as_fqdn.unwrap_or_default() || domain.is_empty() {
        return Ok(name);
    }
    let full = format!("{name}.{domain}");
    if full.len() > 64 {
        return Err(format!(
            "failed to construct FQDN from pod hostname and cluster domain, FQDN {full} is too long (64 characters is the max, {} characters requested)",
            full.len()
        ));
    }
    Ok(full)
}

fn truncate(name: &str) -> String {
    let mut cut = name.to_owned();
    cut.truncate(MAX_HOSTNAME);
    cut.trim_end_matches(['-', '.']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[tokio::test]
    async fn policies() {
        let config = KubeletConfig::new(
            "n1",
            std::path::Path::new("/nowhere"),
            crate::cri::Cri::connect("/nowhere").unwrap(),
        );
        let host =
            parse_resolv_conf("# c\nnameserver 9.9.9.9\nsearch example.org corp\noptions edns0 timeout:1\n");
        for (spec, servers, searches, options) in [
            (
                json!({}),
                "10.96.0.10",
                "ns.svc.cluster.local svc.cluster.local cluster.local example.org corp",
                "ndots:5",
            ),
            (
                json!({"hostNetwork": true}),
                "9.9.9.9",
                "example.org corp",
                "edns0 timeout:1",
            ),
            (
                json!({"hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"}),
                "10.96.0.10",
                "ns.svc.cluster.local svc.cluster.local cluster.local example.org corp",
                "ndots:5",
            ),
            (
                json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"], "searches": ["a", "a"], "options": [{"name": "ndots", "value": "2"}]}}),
                "1.1.1.1",
                "a",
                "ndots:2",
            ),
            (
                json!({"dnsConfig": {"nameservers": ["1.1.1.1"], "options": [{"name": "ndots", "value": "1"}, {"name": "debug"}]}}),
                "10.96.0.10 1.1.1.1",
                "ns.svc.cluster.local svc.cluster.local cluster.local example.org corp",
                "ndots:1 debug",
            ),
        ] {
            let pod = serde_json::from_value(json!({"metadata": {"namespace": "ns"}, "spec": spec})).unwrap();
            let dns = dns_config(&pod, &config, &host);
            assert_eq!(
                (
                    dns.servers.join(" "),
                    dns.searches.join(" "),
                    dns.options.join(" ")
                ),
                (servers.to_owned(), searches.to_owned(), options.to_owned()),
                "{spec}"
            );
        }
    }

    #[test]
    fn names() {
        let pod = |spec: serde_json::Value| {
            serde_json::from_value(json!({"metadata": {"name": "web-0", "namespace": "ns"}, "spec": spec}))
                .unwrap()
        };
        for (spec, expected) in [
            (json!({}), "web-0"),
            (json!({"hostname": "h"}), "h"),
            (
                json!({"hostname": "h", "subdomain": "s", "setHostnameAsFQDN": true}),
                "h.s.ns.svc.cluster.local",
            ),
            (json!({"subdomain": "s"}), "web-0"),
        ] {
            assert_eq!(
                kernel_hostname(&pod(spec.clone()), "cluster.local").as_deref(),
                Ok(expected),
                "{spec}"
            );
        }
        let long = pod(json!({"hostname": "h".repeat(60), "subdomain": "s", "setHostnameAsFQDN": true}));
        assert!(kernel_hostname(&long, "cluster.local").is_err());
    }
}
