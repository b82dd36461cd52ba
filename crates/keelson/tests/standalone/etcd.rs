//! Two API servers on one etcd: what one acknowledges the other has, and either may die.

use std::process::{Child, Command, Stdio};

use keelson_pki::Identity;
use nix::sys::signal::Signal;

use crate::harness::Cluster;
use crate::support::in_own_network;

/// An etcd on the loopback of the test's own network.
struct Etcd(Child);

impl Etcd {
    fn start(cluster: &Cluster) -> Self {
        let log = std::fs::File::create(cluster.path("etcd.log")).unwrap();
        let child = Command::new("etcd")
            .arg(format!("--data-dir={}", cluster.path("etcd").display()))
            .args([
                "--listen-client-urls=http://127.0.0.1:2379",
                "--advertise-client-urls=http://127.0.0.1:2379",
            ])
            .arg("--logger=zap")
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("etcd is installed: cargo xtask setup");
        Self(child)
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        // It runs until here; what it has is the test's.
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

pub(crate) fn two_servers() {
    let cluster = Cluster::new();
    in_own_network(|| {
        let _etcd = Etcd::start(&cluster);
        let servers = ["--etcd-servers=http://127.0.0.1:2379".to_owned()];
        let first = cluster.apiserver_with(6443, &servers);
        let second = cluster.apiserver_with(6444, &servers);
        let other = "--server=https://127.0.0.1:6444";
        for n in 0..20 {
            let name = format!("m{n}");
            cluster.run(&["create", "configmap", &name, "--from-literal=a=1"]);
            // Acknowledged by the first: a read of the second sees it at once.
            let there = cluster.run(&[
                other,
                "get",
                "configmap",
                &name,
                "-o",
                "jsonpath={.metadata.resourceVersion}",
            ]);
            let here = cluster.run(&[
                "get",
                "configmap",
                &name,
                "-o",
                "jsonpath={.metadata.resourceVersion}",
            ]);
            assert_eq!(here, there, "{name}");
        }
        cluster.run(&[other, "delete", "configmap", "m0"]);
        let gone = cluster.kubectl(&["get", "configmap", "m0"]).output().unwrap();
        assert!(
            String::from_utf8_lossy(&gone.stderr).contains("NotFound"),
            "{gone:?}"
        );

        // The controllers run on the second when the first is killed.
        drop(first);
        let kubeconfig = cluster.path(Identity::Admin.file_stem());
        let text = std::fs::read_to_string(&kubeconfig)
            .unwrap()
            .replace(":6443", ":6444");
        std::fs::write(&kubeconfig, text).unwrap();
        cluster.run(&["create", "configmap", "after", "--from-literal=a=1"]);
        let names = cluster.run(&["get", "configmap", "-o", "name"]);
        assert!(
            names.contains("configmap/after") && names.contains("configmap/m19"),
            "{names}"
        );
        second.stop(Signal::SIGTERM);

        // Nothing is on this machine but in etcd.
        assert!(!cluster.path("data").join("store").exists());
        let third = cluster.apiserver_with(6444, &servers);
        let again = cluster.run(&["get", "configmap", "-o", "name"]);
        assert_eq!(names, again);
        third.stop(Signal::SIGTERM);
    });
}
