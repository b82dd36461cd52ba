//! The rows of the table.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::Method;
use serde::Serialize;
use serde_json::{Value, json};

use crate::child::Process;
use crate::client::Client;
use crate::{Options, Result, objects, serve, watchers, wrk};

const PODS: usize = 13_800;
const CONFIG_MAPS: usize = 20_000;
const DEFINITIONS: usize = 1_000;
const LEASES: usize = 100_000;
const RENEWALS_PER_SECOND: usize = 10_000;

/// One row.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) value: String,
    /// The number of the row that is held to something: per second, seconds or bytes.
    pub(crate) number: f64,
    /// The bare limit measured in the same run, in the same unit.
    pub(crate) limit: Option<f64>,
}

struct Run<'a> {
    options: &'a Options,
    directory: &'a Path,
    figures: Vec<Figure>,
    bare: Option<f64>,
    durable: Option<f64>,
}

impl Run<'_> {
    fn add(&mut self, name: &str, value: String, number: f64, limit: Option<f64>) {
        eprintln!("{name}: {value}");
        self.figures.push(Figure {
            name: name.to_owned(),
            value,
            number,
            limit,
        });
    }
}

/// Measures what the options ask for.
pub(crate) async fn run(options: &Options) -> Result<Vec<Figure>> {
    let directory = tempfile::Builder::new()
        .prefix("keelson-bench-")
        .tempdir_in(std::env::var_os("BENCH_DIR").map_or_else(std::env::temp_dir, Into::into))?;
    let mut run = Run {
        options,
        directory: directory.path(),
        figures: Vec::new(),
        bare: None,
        durable: None,
    };
    if options.wants("limits") {
        limits(&mut run).await?;
    }
    if options.wants("etcd") {
        etcd(&mut run).await?;
    }
    if options.wants("create") {
        creates(&mut run).await?;
    }
    if ["read", "memory"].iter().any(|row| options.wants(row)) {
        stored(&mut run).await?;
    }
    if ["watchers", "crds", "leases"]
        .iter()
        .any(|row| options.wants(row))
    {
        many(&mut run).await?;
    }
    Ok(run.figures)
}

async fn limits(run: &mut Run<'_>) -> Result<()> {
    let bare = Process::start("bare", run.directory, &[]).await?;
    let url = format!("https://{}/", bare.ready);
    let load = wrk::run(run.directory, &url, 64, run.options.seconds, "none", "").await?;
    bare.stop().await?;
    run.bare = Some(load.per_second);
    run.add(
        "limit: bare hyper and rustls, 4 KB",
        load.to_string(),
        load.per_second,
        None,
    );
    let seconds = run.options.seconds.to_string();
    let store = Process::start("store", run.directory, &[&seconds]).await?;
    let said = store.ready.clone();
    store.stop().await?;
    let (rate, p99) = said.split_once(' ').ok_or("store")?;
    let rate: f64 = rate.parse()?;
    run.durable = Some(rate);
    let value = format!("{rate:.0}/s, p99 {:.1} ms", p99.parse::<f64>()? / 1000.0);
    run.add(
        "limit: durable writes of 1.3 KB, 64 writers, no HTTP",
        value,
        rate,
        None,
    );
    Ok(())
}

/// etcd of Debian, by its JSON gateway over plain HTTP: the nearest that wrk can load.
async fn etcd(run: &mut Run<'_>) -> Result<()> {
    let free = || -> Result<u16> { Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port()) };
    let (client, peer) = (free()?, free()?);
    let url = format!("http://127.0.0.1:{client}");
    let mut command = tokio::process::Command::new("etcd");
    command
        .args([
            "--log-level",
            "error",
            "--listen-client-urls",
            &url,
            "--advertise-client-urls",
            &url,
        ])
        .args(["--listen-peer-urls", &format!("http://127.0.0.1:{peer}")])
        .arg("--data-dir")
        .arg(run.directory.join("etcd"))
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .kill_on_drop(true);
    let Ok(mut child) = command.spawn() else {
        run.add("etcd: not installed", String::new(), 0.0, None);
        return Ok(());
    };
    let deadline = Instant::now() + Duration::from_secs(20);
    while tokio::net::TcpStream::connect(("127.0.0.1", client))
        .await
        .is_err()
    {
        if Instant::now() > deadline {
            return Err("etcd does not listen".into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await; // nothing announces that it listens
    }
    let value = "dnZ2".repeat(433);
    let script = format!(
        "local n = 0\nlocal value = '{value}'\nrequest = function()\n n = n + 1\n return wrk.format('POST', '/v3/kv/put', nil, \
         '{{\"key\":\"' .. string.format('%04d%08d', id, n) .. '\",\"value\":\"' .. value .. '\"}}')\nend\n"
    );
    let load = wrk::run(run.directory, &url, 64, run.options.seconds, "none", &script).await?;
    child.kill().await?;
    run.add(
        "peer: etcd, durable writes of 1.3 KB by its JSON gateway",
        load.to_string(),
        load.per_second,
        None,
    );
    Ok(())
}

struct Server {
    process: Process,
    client: Client,
    token: String,
    url: String,
}

impl Server {
    async fn start(directory: &Path) -> Result<Self> {
        let pki = serve::pki(directory)?;
        // Each server begins with an empty store.
        let store = directory.join("store");
        if store.exists() {
            std::fs::remove_dir_all(store)?;
        }
        let process = Process::start("serve", directory, &[]).await?;
        let client = Client::new(&pki, &process.ready)?;
        let token = client.token().await?;
        let mut connection = client.connect().await?;
        let account = json!({"metadata": {"name": "default"}});
        connection
            .post("/api/v1/namespaces/default/serviceaccounts", &account)
            .await?;
        let url = format!("https://{}", process.ready);
        Ok(Self {
            process,
            client,
            token,
            url,
        })
    }

    async fn load(&self, run: &Run<'_>, path: &str, connections: usize, script: &str) -> Result<wrk::Load> {
        let url = format!("{}{path}", self.url);
        let cpu = self.process.cpu_seconds()?;
        let mut load = wrk::run(
            run.directory,
            &url,
            connections,
            run.options.seconds,
            &self.token,
            script,
        )
        .await?;
        let requests = load.per_second * run.options.seconds as f64;
        load.cpu_micros = Some((self.process.cpu_seconds()? - cpu) / requests.max(1.0) * 1e6);
        Ok(load)
    }
}

async fn creates(run: &mut Run<'_>) -> Result<()> {
    let server = Server::start(run.directory).await?;
    let path = "/api/v1/namespaces/default/configmaps";
    let script = wrk::creating(path, &objects::config_map("NAME").to_string(), "c");
    let load = server.load(run, path, 64, &script).await?;
    run.add(
        "create ConfigMap of 1 KB",
        load.to_string(),
        load.per_second,
        run.durable,
    );
    let path = "/api/v1/namespaces/default/pods";
    let script = wrk::creating(path, &objects::pod("NAME", "default").to_string(), "p");
    let load = server.load(run, path, 64, &script).await?;
    run.add("create Pod", load.to_string(), load.per_second, run.durable);
    server.process.stop().await
}

async fn stored(run: &mut Run<'_>) -> Result<()> {
    let server = Server::start(run.directory).await?;
    let path = "/api/v1/namespaces/default/pods";
    server
        .client
        .many(PODS, move |at| {
            let pod = objects::pod(&format!("p-{at}"), "default");
            (Method::POST, path.to_owned(), pod.to_string())
        })
        .await?;
    server
        .client
        .many(CONFIG_MAPS, |at| {
            let path = "/api/v1/namespaces/default/configmaps".to_owned();
            (
                Method::POST,
                path,
                objects::config_map(&format!("c-{at}")).to_string(),
            )
        })
        .await?;
    let (all, anonymous) = (server.process.memory()?, server.process.anonymous_memory()?);
    let value = format!(
        "{:.0} MB resident ({:.0} MB anonymous)",
        all / 1e6,
        anonymous / 1e6
    );
    run.add("memory after 13,800 Pods and 20,000 ConfigMaps", value, all, None);
    if !run.options.wants("read") {
        return server.process.stop().await;
    }
    let load = server
        .load(run, "/api/v1/namespaces/default/pods/p-7", 64, "")
        .await?;
    run.add("get Pod", load.to_string(), load.per_second, run.bare);
    let load = server.load(run, "/api/v1/pods?limit=500", 8, "").await?;
    run.add("list 500 of 13,800 Pods", load.to_string(), load.per_second, None);
    let mut connection = server.client.connect().await?;
    let mut times = Vec::new();
    let mut bytes = 0;
    for _ in 0..9 {
        let begin = Instant::now();
        bytes = connection.get("/api/v1/pods").await?.len();
        times.push(begin.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    let value = format!("{:.3} s median ({:.0} MB)", times[4], bytes as f64 / 1e6);
    run.add("list 13,800 Pods", value, times[4], None);
    let after = server.process.memory()?;
    let value = format!("{:.0} MB resident", after / 1e6);
    run.add("memory after the lists", value, after, None);
    server.process.stop().await
}

async fn many(run: &mut Run<'_>) -> Result<()> {
    let server = Server::start(run.directory).await?;
    if run.options.wants("watchers") {
        let (cpu, begin) = (server.process.cpu_seconds()?, Instant::now());
        let fanout = watchers::fan_out(&server.client, 1_000, 1_000, run.options.duration()).await?;
        let cores = (server.process.cpu_seconds()? - cpu) / begin.elapsed().as_secs_f64();
        let value = format!(
            "p50 {:.0} ms, p99 {:.0} ms at {:.0} changes/s, server {cores:.2} cores",
            fanout.p50_ms, fanout.p99_ms, fanout.changes_per_second
        );
        run.add(
            "1,000 watchers, 1,000 changes/s: last watcher",
            value,
            fanout.p99_ms / 1e3,
            None,
        );
    }
    if run.options.wants("crds") {
        definitions(run, &server).await?;
    }
    if run.options.wants("leases") {
        leases(run, &server).await?;
    }
    server.process.stop().await
}

async fn definitions(run: &mut Run<'_>, server: &Server) -> Result<()> {
    let before = server.process.memory()?;
    let begin = Instant::now();
    server
        .client
        .many(DEFINITIONS, |at| {
            let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions".to_owned();
            (Method::POST, path, objects::definition(at).to_string())
        })
        .await?;
    let mut connection = server.client.connect().await?;
    let last = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions?watch=1&sendInitialEvents=true\
                &resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=1";
    loop {
        let text = connection.get(last).await?;
        let established = crate::client::count(&text, br#""type":"Established""#);
        if established >= DEFINITIONS {
            break;
        }
        if begin.elapsed() > Duration::from_secs(120) {
            return Err(format!("{established} definitions are established").into());
        }
    }
    let seconds = begin.elapsed().as_secs_f64();
    let each = (server.process.memory()? - before) / DEFINITIONS as f64;
    let value = format!("{:.0} KB, all established after {seconds:.1} s", each / 1e3);
    run.add("each of 1,000 CRDs", value, each, None);
    Ok(())
}

async fn leases(run: &mut Run<'_>, server: &Server) -> Result<()> {
    let path = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
    server
        .client
        .many(LEASES, move |at| {
            let lease = objects::lease(&format!("node-{at}"), at);
            (Method::POST, path.to_owned(), lease.to_string())
        })
        .await?;
    let length = run.options.duration().max(Duration::from_secs(10));
    let total = RENEWALS_PER_SECOND * usize::try_from(length.as_secs())?;
    let next = Arc::new(AtomicU64::new(0));
    let (cpu, begin) = (server.process.cpu_seconds()?, Instant::now());
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let mut connection = server.client.connect().await?;
        let next = next.clone();
        workers.spawn(async move {
            let mut latencies = Vec::new();
            loop {
                let at = usize::try_from(next.fetch_add(1, Ordering::Relaxed))?;
                // What cannot be sent within twice the time is not sent any more.
                if at >= total || begin.elapsed() > length * 2 {
                    return Ok::<_, Box<dyn std::error::Error + Send + Sync>>(latencies);
                }
                let due = begin + Duration::from_secs_f64(at as f64 / RENEWALS_PER_SECOND as f64);
                tokio::time::sleep_until(due.into()).await;
                let name = format!("node-{}", at % LEASES);
                let body: Value = objects::lease(&name, at + 1);
                connection
                    .send(Method::PUT, &format!("{path}/{name}"), body.to_string())
                    .await?;
                latencies.push(due.elapsed());
            }
        });
    }
    let mut latencies = Vec::new();
    while let Some(worker) = workers.join_next().await {
        latencies.extend(worker??);
    }
    let seconds = begin.elapsed().as_secs_f64();
    latencies.sort_unstable();
    let rate = latencies.len() as f64 / seconds;
    let p99 = latencies[latencies.len() * 99 / 100].as_secs_f64() * 1000.0;
    let cores = (server.process.cpu_seconds()? - cpu) / seconds;
    let value = format!("{rate:.0}/s of 10,000/s, p99 {p99:.0} ms, server {cores:.2} cores");
    run.add("100,000 Leases renewed every 10 s", value, rate, None);
    Ok(())
}
