//! `up` and `down`, again and again.

use anyhow::{Result, ensure};

use crate::harness::{Cluster, PAIR, eventually, text};

/// After `down --purge` nothing is left: no process, mount, cgroup, link, table or file.
pub(crate) fn down_leaves_nothing(cluster: &Cluster) -> Result<()> {
    cluster.apply(PAIR)?;
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/pair", "--timeout=60s"])?;
    let status = cluster.keelson(&["status", "-o", "json"])?;
    assert!(status.contains("\"running\": true"), "{status}");
    cluster.keelson(&["down", "--purge"])?;
    let shell = |script: &str| cluster.shell(script);
    assert_eq!(shell("ip -br link | cut -d' ' -f1")?, "lo\n");
    assert_eq!(shell("nft list tables")?, "");
    assert_eq!(
        shell("pgrep -f '[k]eelson server|[i]nternal|[s]leep 3600' || true")?,
        ""
    );
    let data = cluster.machine.data_dir();
    let mounts = shell("cat /proc/self/mountinfo")?;
    assert!(
        !mounts.contains(&text(&data)) && !mounts.contains("/run/keelson"),
        "{mounts}"
    );
    assert!(!cluster.machine.seen(&data).exists());
    assert_eq!(shell("ls -d /run/keelson 2>/dev/null || true")?, "");
    Ok(())
}

/// A page on every node, and a load balancer before it.
const PAGES: &str = "
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: page}
spec:
  selector: {matchLabels: {app: page}}
  template:
    metadata: {labels: {app: page}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: page
        image: 127.0.0.1:5000/busybox:1
        command: [sh, -c, 'mkdir /www && echo found > /www/index.html && exec httpd -f -p 80 -h /www']
---
apiVersion: v1
kind: Service
metadata: {name: page}
spec: {type: LoadBalancer, selector: {app: page}, ports: [{port: 80}]}
";

/// Networks and names that are not the defaults reach every node, survive `down` and need not be said twice.
pub(crate) fn settings_are_kept(cluster: &Cluster) -> Result<()> {
    let networks = [
        "--cluster-cidr=10.30.0.0/16",
        "--service-cidr=10.20.0.0/16",
        "--load-balancer-cidr=10.40.0.0/16",
        "--cluster-domain=shop.internal",
        "--api-port=7443",
    ];
    cluster.up(&[&["--nodes=3", "--no-kubeconfig"], &networks[..]].concat())?;
    cluster.apply(PAGES)?;
    pages_are_found(cluster)?;

    // Asked for again, for nothing, for something else.
    let node_ids = || cluster.field(&["nodes"], "{.items[*].metadata.uid}");
    let before = node_ids()?;
    cluster.keelson(&["up", "--timeout=60"])?;
    for (flag, message) in [
        (
            "--service-cidr=10.21.0.0/16",
            "has --service-cidr 10.20.0.0/16, not 10.21.0.0/16",
        ),
        ("--nodes=2", "has 3 nodes"),
    ] {
        let (said, code) = cluster.fails(cluster.machine.keelson(&["up", flag]))?;
        ensure!(said.contains(message) && code == Some(1), "{said}");
    }

    cluster.keelson(&["down"])?;
    for node in ["kept-2", "kept-3"] {
        let log = cluster
            .machine
            .data_dir()
            .join(format!("nodes/{node}/var/log/keelson.log"));
        let log = std::fs::read_to_string(cluster.machine.seen(&log))?;
        ensure!(
            log.contains("the agent ended: Exited("),
            "{node} was killed while it stopped:\n{log}"
        );
    }
    status_of_a_stopped_cluster(cluster)?;

    cluster.keelson(&["up", "--timeout=90"])?;
    assert_eq!(node_ids()?, before, "the same nodes, joined once");
    let merged = cluster.shell("ls /root/.kube/config 2>/dev/null || true")?;
    assert_eq!(merged, "", "--no-kubeconfig is kept too");
    pages_are_found(cluster)
}

/// By name and by the load balancer's address, from a pod on every node.
fn pages_are_found(cluster: &Cluster) -> Result<()> {
    cluster.kubectl(&["rollout", "status", "daemonset/page", "--timeout=60s"])?;
    let balancer = eventually("an address", || {
        let ip = cluster.field(&["service", "page"], "{.status.loadBalancer.ingress[0].ip}")?;
        ensure!(ip.starts_with("10.40."), "{ip}");
        Ok(ip)
    })?;
    let cluster_ip = cluster.field(&["service", "page"], "{.spec.clusterIP}")?;
    ensure!(cluster_ip.starts_with("10.20."), "{cluster_ip}");
    let pods = eventually("a ready pod on each of three nodes", || {
        let ready = r#"{range .items[?(@.status.containerStatuses[0].ready==true)]}{.metadata.name} {end}"#;
        let pods = cluster.field(&["pods", "-l", "app=page"], ready)?;
        ensure!(pods.split_whitespace().count() == 3, "{pods}");
        Ok(pods)
    })?;
    let ips = cluster.field(&["pods", "-l", "app=page"], "{.items[*].status.podIP}")?;
    ensure!(ips.split_whitespace().all(|ip| ip.starts_with("10.30.")), "{ips}");
    for pod in pods.split_whitespace() {
        for host in ["page", "page.default.svc.shop.internal", &balancer] {
            let url = format!("http://{host}/");
            let page = eventually(&format!("{url} from {pod}"), || {
                cluster.exec("default", pod, &["wget", "-qO-", &url])
            })?;
            assert_eq!(page, "found\n", "{url} from {pod}");
        }
        // A process of a container has no signal blocked, on whatever node it runs.
        let blocked = cluster.exec("default", pod, &["grep", "SigBlk", "/proc/1/status"])?;
        assert_eq!(blocked, "SigBlk:\t0000000000000000\n", "{pod}");
    }
    Ok(())
}

/// It says that the cluster is stopped, by its exit code too, and touches nothing.
fn status_of_a_stopped_cluster(cluster: &Cluster) -> Result<()> {
    let lost = cluster.machine.data_dir().join("pki/scheduler.crt");
    let lost = cluster.machine.seen(&lost);
    std::fs::remove_file(&lost)?;
    let output = cluster.machine.keelson(&["status"]).output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.code() == Some(3), "{output:?}");
    ensure!(said.contains("stopped; `keelson up` starts it"), "{said}");
    let scheduler = said.lines().find(|line| line.starts_with("scheduler "));
    ensure!(scheduler.is_some_and(|line| line.contains("missing")), "{said}");
    ensure!(!lost.exists(), "status has written a certificate");
    Ok(())
}
