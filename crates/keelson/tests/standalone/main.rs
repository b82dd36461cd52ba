//! The components as processes of their own, as on a control plane that somebody puts together by hand: certificates, one
//! kubeconfig each, upstream's flags, and kubectl as the user.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod etcd;
mod harness;
mod kubelet;
#[path = "../support/mod.rs"]
mod support;

use std::process::Command;

use keelson_pki::Identity;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::Cluster;
use crate::support::in_own_network;

#[test]
fn cluster_standalone_components() {
    let cluster = Cluster::new();
    in_own_network(|| {
        let apiserver = cluster.apiserver();
        let manager = cluster.controller_manager();
        let scheduler = cluster.component("kube-scheduler", &[cluster.kubeconfig(Identity::Scheduler)]);

        cluster.run(&["create", "namespace", "shop"]);
        cluster.run(&[
            "create",
            "deployment",
            "web",
            "-n",
            "shop",
            "--image=registry.example/web:1",
            "--replicas=2",
        ]);
        let wait = |what: &str, subject: &[&str]| {
            let condition = format!("--for=jsonpath={what}");
            let arguments = ["wait", "-n", "shop", "--timeout=60s", &condition];
            cluster.run(&arguments.iter().chain(subject).copied().collect::<Vec<_>>());
        };
        wait("{.status.replicas}=2", &["deployment/web"]);
        let pods = ["pod", "-l", "app=web"];
        wait(
            "{.status.conditions[?(@.type==\"PodScheduled\")].reason}=Unschedulable",
            &pods,
        );
        let sets = cluster.get(&["replicaset", "-n", "shop"]);
        let owner = &sets["items"][0]["metadata"]["ownerReferences"][0];
        assert_eq!(
            (owner["kind"].as_str(), owner["name"].as_str()),
            (Some("Deployment"), Some("web"))
        );
        let list = cluster.get(&["pod", "-n", "shop"]);
        let list = list["items"].as_array().unwrap();
        assert_eq!(list.len(), 2);
        for pod in list {
            assert_eq!(pod["status"]["phase"], "Pending", "{pod}");
            assert_eq!(
                pod["metadata"]["ownerReferences"][0]["kind"], "ReplicaSet",
                "{pod}"
            );
            assert_eq!(pod["spec"]["nodeName"], Value::Null, "{pod}");
            assert_eq!(pod["spec"]["serviceAccountName"], "default", "{pod}");
        }
        let event = cluster.watch(&["get", "events", "-n", "shop"], "FailedScheduling");
        assert!(event.contains("no nodes available to schedule pods"), "{event}");

        // Each leads under an identity of its own.
        for lease in ["kube-scheduler", "kube-controller-manager"] {
            let lease = cluster.get(&["lease", "-n", "kube-system", lease]);
            let holder = lease["spec"]["holderIdentity"].as_str().unwrap();
            assert!(
                holder.rsplit_once('_').is_some_and(|(_, id)| id.len() == 36),
                "{holder}"
            );
        }
        // The controllers' files and service accounts are in use.
        cluster.watch(
            &["get", "configmap", "-n", "shop", "kube-root-ca.crt"],
            "kube-root-ca.crt",
        );
        cluster.run(&[
            "get",
            "serviceaccount",
            "-n",
            "kube-system",
            "deployment-controller",
        ]);

        scheduler.stop(Signal::SIGTERM);
        manager.stop(Signal::SIGINT);
        apiserver.stop(Signal::SIGTERM);

        // The objects are in the data directory, and leases were given back: the next ones lead at once.
        let apiserver = cluster.apiserver();
        let manager = cluster.controller_manager();
        cluster.run(&["scale", "deployment", "web", "-n", "shop", "--replicas=3"]);
        wait("{.status.replicas}=3", &["deployment/web"]);
        manager.stop(Signal::SIGTERM);
        apiserver.stop(Signal::SIGTERM);
    });
}

#[test]
fn cluster_standalone_proxy() {
    let cluster = Cluster::new();
    in_own_network(|| {
        let apiserver = cluster.apiserver();
        let arguments = [
            cluster.kubeconfig(Identity::KubeProxy),
            "--hostname-override=one".into(),
        ];
        let mut proxy = cluster.component("kube-proxy", &arguments);
        let line = proxy.wait_for("starting the proxy");
        assert!(
            line.contains("10.96.0.0/12"),
            "the Service range of the API: {line}"
        );
        let curl = Command::new("curl")
            .args([
                "-fsS",
                "--retry",
                "30",
                "--retry-all-errors",
                "--retry-delay",
                "1",
            ])
            .arg("http://127.0.0.1:10256/healthz")
            .output()
            .unwrap();
        assert!(curl.status.success(), "{curl:?}");
        let rules = Command::new("nft")
            .args(["list", "table", "ip", "kube-proxy"])
            .output()
            .unwrap();
        let rules = String::from_utf8(rules.stdout).unwrap();
        assert!(
            rules.contains("10.96.0.1") && rules.contains("192.0.2.1"),
            "{rules}"
        );
        proxy.stop(Signal::SIGTERM);
        apiserver.stop(Signal::SIGTERM);
    });
}

#[test]
fn cluster_standalone_on_etcd() {
    etcd::two_servers();
}

#[test]
fn cluster_standalone_kubelet() {
    kubelet::runs_pods();
}
