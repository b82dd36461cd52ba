//! The sample application on three nodes, from apply to delete.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use keelson_testkit::clients::client;

use crate::harness::{Cluster, eventually, example, text};

pub(crate) fn on_three_nodes(cluster: &Cluster) -> Result<()> {
    let manifest = text(&example("manifest.yaml"));
    cluster.client("kubectl-1.32", &["apply", "-f", &manifest])?;
    for workload in ["deployment/web", "statefulset/store", "daemonset/agent"] {
        cluster.kubectl(&["rollout", "status", "-n", "shop", workload, "--timeout=90s"])?;
    }
    cluster.client(
        "kubectl-1.32",
        &[
            "wait",
            "-n",
            "shop",
            "--for=condition=complete",
            "job/stock",
            "--timeout=90s",
        ],
    )?;
    let agents = cluster.kubectl(&[
        "get",
        "pods",
        "-n",
        "shop",
        "-l",
        "app=agent",
        "-o",
        "jsonpath={.items[*].spec.nodeName}",
    ])?;
    let mut nodes: Vec<_> = agents.split_whitespace().collect();
    nodes.sort_unstable();
    assert_eq!(nodes, ["shop", "shop-2", "shop-3"]);

    services(cluster)?;
    streams(cluster)?;
    applied_again(cluster, &manifest)?;
    rolling_update(cluster)?;
    chart(cluster)?;

    cluster.kubectl(&["delete", "namespace", "shop", "--timeout=90s"])?;
    let left = cluster.kubectl(&["get", "pods", "-n", "shop", "-o", "name"])?;
    assert_eq!(left, "");
    Ok(())
}

/// Reached by every kind of address, from the host and from a pod on every node.
fn services(cluster: &Cluster) -> Result<()> {
    let field = |service: &str, path: &str| {
        cluster.kubectl(&[
            "get",
            "service",
            "-n",
            "shop",
            service,
            "-o",
            &format!("jsonpath={path}"),
        ])
    };
    let cluster_ip = field("web", "{.spec.clusterIP}")?;
    let balancer = eventually("a load balancer address", || {
        let ip = field("web-public", "{.status.loadBalancer.ingress[0].ip}")?;
        ensure!(!ip.is_empty(), "no address yet");
        Ok(ip)
    })?;
    let other = cluster.kubectl(&[
        "get",
        "node",
        "shop-2",
        "-o",
        r#"jsonpath={.status.addresses[?(@.type=="InternalIP")].address}"#,
    ])?;
    let urls = [
        format!("http://{cluster_ip}/"),
        format!("http://{balancer}/"),
        "http://172.31.240.1:30080/".to_owned(),
        format!("http://{other}:30080/"),
    ];
    for url in &urls {
        let page = eventually(url, || cluster.get(url))?;
        assert_eq!(page, "welcome to the shop\n", "{url}");
    }
    let secret = cluster.get(&format!("http://{cluster_ip}/secret"))?;
    assert_eq!(secret, "open-sesame");
    let agents = cluster.kubectl(&[
        "get",
        "pods",
        "-n",
        "shop",
        "-l",
        "app=agent",
        "-o",
        "jsonpath={.items[*].metadata.name}",
    ])?;
    for agent in agents.split_whitespace() {
        for name in [
            "web",
            "web.shop",
            "web.shop.svc.cluster.local",
            &cluster_ip,
            &balancer,
        ] {
            let url = format!("http://{name}/");
            let page = eventually(&format!("{url} from {agent}"), || {
                cluster.exec("shop", agent, &["wget", "-qO-", &url])
            })?;
            assert_eq!(page, "welcome to the shop\n", "{url} from {agent}");
        }
    }
    let stored = cluster.exec(
        "shop",
        "store-1",
        &["redis-cli", "-h", "store-0.store", "get", "apples"],
    )?;
    assert_eq!(stored.trim(), "7");
    Ok(())
}

/// Logs, exec with exit codes, port-forward, cp.
fn streams(cluster: &Cluster) -> Result<()> {
    let logs = cluster.kubectl(&["logs", "-n", "shop", "job/stock"])?;
    assert!(logs.contains("OK") && logs.contains('7'), "{logs}");
    let init = cluster.kubectl(&["logs", "-n", "shop", "deploy/web", "-c", "greet"])?;
    assert!(init.starts_with("starting on shop"), "{init}");
    for kubectl in ["kubectl-1.32", "kubectl-1.37"] {
        let mut command = cluster.machine.command(client(kubectl));
        command.args([
            "exec",
            "-n",
            "shop",
            "store-0",
            "--",
            "sh",
            "-c",
            "echo out; echo err >&2; exit 7",
        ]);
        let output = command.stdin(Stdio::null()).output()?;
        assert_eq!(String::from_utf8_lossy(&output.stdout), "out\n", "{kubectl}");
        assert!(
            String::from_utf8_lossy(&output.stderr).starts_with("err\n"),
            "{kubectl}"
        );
        assert_eq!(output.status.code(), Some(7), "{kubectl}");
    }
    let file = cluster.machine.scratch().join("sent");
    std::fs::write(&file, "carried by tar\n")?;
    cluster.kubectl(&["cp", &text(&file), "shop/store-0:/tmp/received"])?;
    assert_eq!(
        cluster.exec("shop", "store-0", &["cat", "/tmp/received"])?,
        "carried by tar\n"
    );
    let mut forward = cluster.background(
        "kubectl-1.37",
        &["port-forward", "-n", "shop", "deploy/web", "18080:80"],
    )?;
    let page = eventually("port-forward", || cluster.get("http://127.0.0.1:18080/"));
    forward.kill()?;
    forward.wait()?;
    assert_eq!(page?, "welcome to the shop\n");
    Ok(())
}

/// The second time, nothing changes, whichever kubectl applies.
fn applied_again(cluster: &Cluster, manifest: &str) -> Result<()> {
    let versions = || {
        let path = "{range .items[*]}{.kind}/{.metadata.name} {.metadata.resourceVersion}{\"\\n\"}{end}";
        cluster.field(&["-n", "shop", "secrets,configmaps,deployments"], path)
    };
    // The controllers are done with the deployment.
    cluster.kubectl(&[
        "wait",
        "-n",
        "shop",
        "--for=condition=Available",
        "deployment/web",
    ])?;
    for kubectl in ["kubectl-1.32", "kubectl-1.37"] {
        let before = versions()?;
        for line in cluster.client(kubectl, &["apply", "-f", manifest])?.lines() {
            // kubectl sends `stringData` always, as it cannot be read back, and calls that a change.
            let expected = if line.starts_with("secret/") {
                " configured"
            } else {
                " unchanged"
            };
            ensure!(line.ends_with(expected), "{kubectl}: {line}");
        }
        assert_eq!(versions()?, before, "{kubectl}");
    }
    Ok(())
}

/// A new version under load: not one request fails.
fn rolling_update(cluster: &Cluster) -> Result<()> {
    let ip = cluster.kubectl(&[
        "get",
        "service",
        "-n",
        "shop",
        "web",
        "-o",
        "jsonpath={.spec.clusterIP}",
    ])?;
    let script = format!(
        "ok=0; bad=0; while [ ! -e {stop} ]; do if curl -fsS --max-time 5 -o /dev/null http://{ip}/; then ok=$((ok+1)); \
         else bad=$((bad+1)); fi; done; echo $ok $bad",
        stop = cluster.machine.scratch().join("stop").display()
    );
    let mut load = cluster.machine.command("sh");
    let load = load
        .args(["-c", &script])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let set = cluster.kubectl(&[
        "set",
        "image",
        "-n",
        "shop",
        "deploy/web",
        "nginx=127.0.0.1:5000/nginx:2",
    ]);
    let rolled = cluster.kubectl(&["rollout", "status", "-n", "shop", "deploy/web", "--timeout=120s"]);
    let undone = cluster.kubectl(&["rollout", "undo", "-n", "shop", "deploy/web"]);
    let back = cluster.kubectl(&["rollout", "status", "-n", "shop", "deploy/web", "--timeout=120s"]);
    std::fs::write(cluster.machine.scratch().join("stop"), "")?;
    let output = load.wait_with_output()?;
    set.and(rolled).and(undone).and(back)?;
    let counts = String::from_utf8(output.stdout)?;
    let (ok, bad) = counts
        .trim()
        .split_once(' ')
        .context("the load generator said nothing")?;
    assert!(ok.parse::<u32>()? > 20, "too few requests to mean anything: {ok}");
    assert_eq!(bad, "0", "of {ok} requests");
    Ok(())
}

/// Install, upgrade, rollback with the real helm.
fn chart(cluster: &Cluster) -> Result<()> {
    let path = text(&example("chart"));
    let page = |expected: &str| {
        let ip = cluster.kubectl(&["get", "service", "front-web", "-o", "jsonpath={.spec.clusterIP}"])?;
        eventually(expected, || {
            let page = cluster.get(&format!("http://{ip}/"))?;
            ensure!(page == expected, "{page}");
            Ok(())
        })
    };
    cluster.client(
        "helm-1.37",
        &["install", "front", &path, "--wait", "--timeout=90s"],
    )?;
    page("welcome to the chart")?;
    let greeting = "--set=greeting=a new season";
    cluster.client(
        "helm-1.37",
        &["upgrade", "front", &path, greeting, "--wait", "--timeout=90s"],
    )?;
    page("a new season")?;
    cluster.client(
        "helm-1.37",
        &["rollback", "front", "1", "--wait", "--timeout=90s"],
    )?;
    page("welcome to the chart")?;
    cluster.client("helm-1.37", &["uninstall", "front", "--wait", "--timeout=90s"])?;
    Ok(())
}
