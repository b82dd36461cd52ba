//! What specs ask of sandboxes and volumes, as conformance asks for it.

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use serde_json::json;

use super::Test;
use super::fixture::{Cluster, IDLE, on_cluster, shell};

pub(crate) const TESTS: &[Test] = &[
    ("what_a_spec_asks_of_the_sandbox_is_there", sandbox_settings),
    (
        "volumes_have_the_modes_and_paths_that_were_asked_for",
        volume_details,
    ),
];

/// All that the only container of a pod prints until it ends.
async fn whole_log(cluster: &Cluster, pod: &str) -> String {
    let parameters = kube::api::LogParams {
        follow: true,
        ..Default::default()
    };
    cluster.pods().logs(pod, &parameters).await.unwrap()
}

fn sandbox_settings() {
    on_cluster(async |cluster| {
        let script = "cat /proc/sys/kernel/shm_rmid_forced; grep -A9 HostAliases /etc/hosts; hostname; \
                      cat /etc/resolv.conf; grep sandbox-name /etc/hosts";
        let spec = json!({
            "restartPolicy": "Never",
            "hostname": "sandbox-name",
            "subdomain": "sub",
            "hostAliases": [{"ip": "123.45.67.89", "hostnames": ["foo", "bar"]}],
            "securityContext": {"sysctls": [{"name": "kernel.shm_rmid_forced", "value": "1"}]},
            "dnsPolicy": "None",
            "dnsConfig": {"nameservers": ["1.1.1.1"], "searches": ["resolv.conf.local"],
                          "options": [{"name": "ndots", "value": "2"}]},
            "containers": [shell("main", script)],
        });
        cluster.pod("settings", spec).await;
        let pod = cluster.until_phase("settings", "Succeeded").await;
        let ip = pod.status.unwrap().pod_ip.unwrap();
        let expected = format!(
            "1\n# Entries added by HostAliases.\n123.45.67.89\tfoo\tbar\nsandbox-name\n\
             search resolv.conf.local\nnameserver 1.1.1.1\noptions ndots:2\n\
             {ip}\tsandbox-name.sub.default.svc.cluster.local\tsandbox-name\n"
        );
        assert_eq!(whole_log(cluster, "settings").await, expected);
        // Nobody may set these without the node's leave.
        let spec = json!({
            "securityContext": {"sysctls": [{"name": "kernel.msgmax", "value": "10000000000"}]},
            "containers": [shell("main", IDLE)],
        });
        cluster.pod("unsafe", spec).await;
        let pod = cluster.until_phase("unsafe", "Failed").await;
        assert_eq!(pod.status.unwrap().reason.as_deref(), Some("SysctlForbidden"));
    });
}

fn volume_details() {
    on_cluster(async |cluster| {
        cluster
            .create::<ConfigMap>(json!({"metadata": {"name": "cm"}, "data": {"a": "1", "b": "2"}}))
            .await;
        cluster
            .create::<Secret>(json!({"metadata": {"name": "s"}, "stringData": {"x": "3"}}))
            .await;
        let script = "stat -c %a /disk /mem; grep -c ' /mem tmpfs ' /proc/mounts; stat -c %a /p/cm/renamed /p/s/x; \
                      cat /p/cm/renamed /p/s/x /p/name /p/cpu; test -e /p/cm/a || echo gone; ls /expanded";
        let mut main = shell(
            "main",
            &format!("{script}; echo x > /expanded/file; ls /disk/main-dir"),
        );
        main["env"] = json!([{"name": "DIR", "value": "main-dir"}]);
        main["resources"] = json!({"limits": {"cpu": "1500m"}});
        main["volumeMounts"] = json!([
            {"name": "disk", "mountPath": "/disk"}, {"name": "mem", "mountPath": "/mem"},
            {"name": "p", "mountPath": "/p"},
            {"name": "disk", "mountPath": "/expanded", "subPathExpr": "$(DIR)"},
        ]);
        let sources = json!([
            {"configMap": {"name": "cm", "items": [{"key": "b", "path": "cm/renamed", "mode": 0o400}]}},
            {"configMap": {"name": "absent", "optional": true}},
            {"secret": {"name": "s", "items": [{"key": "x", "path": "s/x"}]}},
            {"downwardAPI": {"items": [
                {"path": "name", "fieldRef": {"fieldPath": "metadata.name"}},
                {"path": "cpu", "resourceFieldRef": {"containerName": "main", "resource": "limits.cpu", "divisor": "1m"}},
            ]}},
        ]);
        let spec = json!({
            "restartPolicy": "Never",
            "containers": [main],
            "volumes": [
                {"name": "disk", "emptyDir": {}}, {"name": "mem", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
                {"name": "p", "projected": {"defaultMode": 0o440, "sources": sources}},
            ],
        });
        cluster.pod("volumes", spec).await;
        cluster.until_phase("volumes", "Succeeded").await;
        assert_eq!(
            whole_log(cluster, "volumes").await,
            "777\n777\n1\n400\n440\n23volumes1500gone\nfile\n"
        );
    });
}
