//! Whole clusters in machines of their own, driven by the real clients. Each test starts a cluster and takes it down.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use keelson_testkit::clients::client;
use keelson_testkit::images;
use keelson_testkit::machine::Machine;
use keelson_testkit::registry::Registry;

/// A machine with a cluster on it.
struct Cluster {
    // Ends before the machine.
    _registry: Option<Registry>,
    machine: Machine,
}

impl Cluster {
    /// A cluster of `nodes` nodes that pulls from a registry with the sample images.
    fn start(name: &str, nodes: u16) -> Result<Self> {
        let machine = Machine::start(name, Path::new(env!("CARGO_BIN_EXE_keelson")))?;
        let archives = images::build_all(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("images"))?;
        let registry = Registry::start(&machine, &archives)?;
        // In a sandboxed node, 127.0.0.1 is the node itself.
        let registries = machine.scratch().join("registries.yaml");
        std::fs::write(
            &registries,
            format!(
                "mirrors:\n  \"{}\":\n    endpoint: [\"http://172.31.240.1:5000\"]\n",
                images::REGISTRY
            ),
        )?;
        let cluster = Self {
            _registry: Some(registry),
            machine,
        };
        let file = format!("--registries={}", registries.display());
        let up = cluster.keelson(&["up", &format!("--nodes={nodes}"), &file, "--timeout=90"])?;
        ensure!(up.contains("The cluster is ready"), "{up}");
        Ok(cluster)
    }

    fn keelson(&self, arguments: &[&str]) -> Result<String> {
        self.machine.run(self.machine.keelson(arguments))
    }

    /// The newest kubectl.
    fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.client("kubectl-1.37", arguments)
    }

    fn client(&self, name: &str, arguments: &[&str]) -> Result<String> {
        let mut command = self.machine.command(client(name));
        command.args(arguments);
        self.machine.run(command)
    }

    fn get(&self, url: &str) -> Result<String> {
        let mut curl = self.machine.command("curl");
        curl.args(["-fsS", "--max-time", "5", url]);
        self.machine.run(curl)
    }

    /// Runs a command in a pod.
    fn exec(&self, namespace: &str, pod: &str, command: &[&str]) -> Result<String> {
        let mut arguments = vec!["exec", "-n", namespace, pod, "--"];
        arguments.extend(command);
        self.kubectl(&arguments)
    }

    fn background(&self, name: &str, arguments: &[&str]) -> Result<Child> {
        let mut command = self.machine.command(client(name));
        Ok(command
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?)
    }
}

/// Tries until it succeeds: what it waits for is outside of our processes.
fn eventually<T>(what: &str, attempt: impl Fn() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() > deadline => return Err(error.context(format!("never: {what}"))),
            Err(_) => std::thread::sleep(Duration::from_millis(300)),
        }
    }
}

fn example(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../examples/shop")
        .join(path)
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

#[test]
fn cluster_shop_on_three_nodes() -> Result<()> {
    let cluster = Cluster::start("shop", 3)?;
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

    services(&cluster)?;
    streams(&cluster)?;
    rolling_update(&cluster)?;
    chart(&cluster)?;

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

const PAIR: &str = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"pair"},"spec":{"terminationGracePeriodSeconds":1,
"containers":[{"name":"a","image":"127.0.0.1:5000/busybox:1","command":["sleep","3600"]},
{"name":"b","image":"127.0.0.1:5000/busybox:1","command":["sleep","3600"]}]}}"#;

/// kill -9 of a container, of keelson itself, of a shim: each ends as Kubernetes promises.
#[test]
fn cluster_survives_kills() -> Result<()> {
    let cluster = Cluster::start("kills", 1)?;
    let file = cluster.machine.scratch().join("pair.json");
    std::fs::write(&file, PAIR)?;
    eventually("the default service account", || {
        cluster.kubectl(&["get", "serviceaccount", "default"])
    })?;
    cluster.kubectl(&["apply", "-f", &text(&file)])?;
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/pair", "--timeout=60s"])?;
    let field = |path: &str| cluster.kubectl(&["get", "pod", "pair", "-o", &format!("jsonpath={path}")]);
    let restarts = r#"{.status.containerStatuses[?(@.name=="a")].restartCount}"#;
    let kill = |what: &str| {
        let mut command = cluster.machine.command("sh");
        command.args(["-c", what]);
        cluster.machine.run(command)
    };

    // The container's only process; the other container does not notice.
    kill("kill -9 $(pgrep -o -f '^sleep 3600')")?;
    eventually("a restarted container", || {
        let counts = field("{.status.containerStatuses[*].restartCount}")?;
        ensure!(counts == "1 0" || counts == "0 1", "{counts}");
        Ok(())
    })?;
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/pair", "--timeout=60s"])?;

    // Keelson itself: containers go on, and are found again by the next one.
    let before =
        field("{.status.containerStatuses[*].containerID} {.status.containerStatuses[*].restartCount}")?;
    kill("kill -9 $(pgrep -o -f 'keelson server|/proc/self/exe server')")?;
    cluster.keelson(&["up", "--no-kubeconfig", "--timeout=60"])?;
    let after =
        field("{.status.containerStatuses[*].containerID} {.status.containerStatuses[*].restartCount}")?;
    assert_eq!(after, before);
    assert_eq!(
        cluster.exec("default", "pair", &["echo", "still here"])?,
        "still here\n"
    );
    assert_ne!(field(restarts)?, "");

    // The shim: its pod is lost, and made again because it has to run always.
    kill("kill -9 $(pgrep -o -f 'internal shim')")?;
    eventually("a pod with running containers", || {
        let now = field("{.status.containerStatuses[*].containerID}")?;
        let ready = field("{.status.containerStatuses[*].ready}")?;
        ensure!(ready == "true true" && !before.starts_with(&now), "{ready} {now}");
        Ok(())
    })?;
    Ok(())
}

/// After `down --purge` nothing is left: no process, mount, cgroup, link, table or file.
#[test]
fn cluster_down_leaves_nothing() -> Result<()> {
    let cluster = Cluster::start("down", 2)?;
    let file = cluster.machine.scratch().join("pair.json");
    std::fs::write(&file, PAIR)?;
    eventually("the default service account", || {
        cluster.kubectl(&["get", "serviceaccount", "default"])
    })?;
    cluster.kubectl(&["apply", "-f", &text(&file)])?;
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/pair", "--timeout=60s"])?;
    let status = cluster.keelson(&["status", "-o", "json"])?;
    assert!(status.contains("\"running\": true"), "{status}");
    cluster.keelson(&["down", "--purge"])?;
    let shell = |script: &str| {
        let mut command = cluster.machine.command("sh");
        command.args(["-c", script]);
        cluster.machine.run(command)
    };
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
    assert!(!data.exists());
    assert_eq!(shell("ls -d /run/keelson 2>/dev/null || true")?, "");
    Ok(())
}
