//! The /etc/hosts that the kubelet writes for a pod.

use k8s_openapi::api::core::v1::{HostAlias, Pod};

use super::dns;
use crate::pod::spec;

/// Content for a pod with its own network.
fn managed(ips: &[String], hostname: &str, domain: &str, aliases: &[HostAlias]) -> String {
    let mut text = String::from(
        "# Kubernetes-managed hosts file.\n\
         127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\n\
         fe00::0\tip6-mcastprefix\n\
         fe00::1\tip6-allnodes\n\
         fe00::2\tip6-allrouters\n",
    );
    for ip in ips {
        let names = if domain.is_empty() {
            hostname.to_owned()
        } else {
            format!("{hostname}.{domain}\t{hostname}")
        };
        text.push_str(&format!("{ip}\t{names}\n"));
    }
    text.push_str(&alias_lines(aliases));
    text
}

fn alias_lines(aliases: &[HostAlias]) -> String {
    if aliases.is_empty() {
        return String::new();
    }
    let mut text = String::from("\n# Entries added by HostAliases.\n");
    for alias in aliases {
        text.push_str(&format!(
            "{}\t{}\n",
            alias.ip,
            alias.hostnames.as_deref().unwrap_or_default().join("\t")
        ));
    }
    text
}

/// The file's content; `node_hosts` is the node's own file, for pods on its network.
pub(crate) fn content(pod: &Pod, ips: &[String], cluster_domain: &str, node_hosts: &str) -> String {
    let aliases = spec::spec(pod).host_aliases.as_deref().unwrap_or_default();
    if spec::host_network(pod) {
        return format!(
            "# Kubernetes-managed hosts file (host network).\n{node_hosts}{}",
            alias_lines(aliases)
        );
    }
    let (hostname, domain) = dns::hostname_and_domain(pod, cluster_domain);
    managed(ips, &hostname, &domain, aliases)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn own_names_and_aliases_are_in_the_file() {
        let pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns"},
            "spec": {"subdomain": "s", "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a", "b"]}]}}))
        .unwrap();
        let text = content(&pod, &["10.0.0.1".into()], "cluster.local", "");
        assert!(text.ends_with(
            "10.0.0.1\tp.s.ns.svc.cluster.local\tp\n\n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n"
        ));
    }
}
