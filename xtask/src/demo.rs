//! `cargo xtask demo`: builds, starts a cluster on this machine and puts the sample application on it.
//!
//! With `--isolated` all of it happens in namespaces without a way out (the testkit's machine), and is taken down at the
//! end: the way to try it on a machine whose network must not be touched.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::{root, run, setup};

const MANIFEST: &str = "examples/shop/manifest.yaml";
const WORKLOADS: [&str; 3] = ["deployment/web", "statefulset/store", "daemonset/agent"];

/// Options of the task.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// In namespaces without a way out; the cluster ends with the demonstration
    #[arg(long)]
    isolated: bool,
    /// Nodes of the cluster
    #[arg(long, default_value_t = 1)]
    nodes: u16,
    /// Use this binary instead of building one
    #[arg(long, value_name = "FILE")]
    keelson: Option<PathBuf>,
    /// Set in the isolated machine: a directory on its disk
    #[arg(long, hide = true)]
    inside: Option<PathBuf>,
}

/// What the demonstration is made of, once it is built.
struct Demo {
    keelson: String,
    kubectl: String,
    images: PathBuf,
    nodes: u16,
    /// None is the default one.
    data: Option<PathBuf>,
}

/// Ends with the application serving, and says how to reach it.
pub(crate) fn run_demo(options: &Options) -> Result<()> {
    let release = root().join("target/release");
    let keelson = match &options.keelson {
        Some(keelson) => {
            std::fs::canonicalize(keelson).with_context(|| format!("cannot find {}", keelson.display()))?
        }
        None => release.join("keelson"),
    };
    let demo = Demo {
        keelson: path(keelson)?,
        kubectl: path(setup::clients().join("kubectl-1.37"))?,
        images: root().join("target/images"),
        nodes: options.nodes,
        data: options.inside.as_ref().map(|disk| disk.join("data")),
    };
    if options.inside.is_none() {
        setup::ensure()?;
        if options.keelson.is_none() {
            run("cargo", &["build", "--release", "--package", "keelson"])?;
        }
        let testkit = ["run", "--quiet", "--package", "keelson-testkit", "--"];
        let images = path(demo.images.clone())?;
        run("cargo", &[&testkit[..], &["images", &images]].concat())?;
        if options.isolated {
            let (ourselves, nodes) = (path(std::env::current_exe()?)?, demo.nodes.to_string());
            let machine = ["machine", &demo.keelson, &ourselves, "demo", "--nodes", &nodes];
            let inside = ["--keelson", &demo.keelson, "--inside"];
            return run("cargo", &[&testkit[..], &machine, &inside].concat());
        }
    }
    if options.inside.is_some() {
        let shown = demo.show();
        demo.keelson(&["down", "--purge"])?;
        return shown.map(|_| ());
    }
    demo.say_what_is_next(&demo.show()?);
    Ok(())
}

impl Demo {
    /// From nothing to the application's page; its URL.
    fn show(&self) -> Result<String> {
        self.keelson(&["up", &format!("--nodes={}", self.nodes)])?;
        for entry in std::fs::read_dir(&self.images)
            .with_context(|| format!("cannot list {}", self.images.display()))?
        {
            let archive = entry?.path();
            if archive.extension().is_some_and(|extension| extension == "tar") {
                self.keelson(&["image", "import", &path(archive)?])?;
            }
        }
        self.kubectl(&["apply", "-f", MANIFEST])?;
        for workload in WORKLOADS {
            let rollout = [
                "rollout",
                "status",
                "--namespace=shop",
                workload,
                "--timeout=120s",
            ];
            self.kubectl(&rollout).inspect_err(|_| self.say_what_is_wrong())?;
        }
        let ingress = "{.status.loadBalancer.ingress[0].ip}";
        let wait = format!("--for=jsonpath={ingress}");
        self.kubectl(&[
            "wait",
            "--namespace=shop",
            "service/web-public",
            "--timeout=30s",
            &wait,
        ])?;
        self.kubectl(&["get", "pods,services", "--namespace=shop", "--output=wide"])?;
        let url = self.url(ingress)?;
        // The proxy may still be writing the rule.
        let retry = ["--retry", "5", "--retry-all-errors", "--retry-delay", "1"];
        run(
            "curl",
            &[&["--fail", "--silent", "--show-error"][..], &retry, &[&url]].concat(),
        )?;
        Ok(url)
    }

    fn keelson(&self, arguments: &[&str]) -> Result<()> {
        let data = self
            .data
            .as_ref()
            .map(|data| format!("--data-dir={}", data.display()));
        let all: Vec<&str> = data
            .as_deref()
            .into_iter()
            .chain(arguments.iter().copied())
            .collect();
        run(&self.keelson, &all)
    }

    /// kubectl speaks to this cluster, whatever the user's own configuration says.
    fn kubectl(&self, arguments: &[&str]) -> Result<()> {
        let kubeconfig = self.kubeconfig();
        run(&self.kubectl, &[&[kubeconfig.as_str()][..], arguments].concat())
    }

    fn kubeconfig(&self) -> String {
        let default = Path::new("/var/lib/keelson");
        let data = self.data.as_deref().unwrap_or(default);
        format!("--kubeconfig={}", data.join("admin.kubeconfig").display())
    }

    /// The load balancer's URL.
    fn url(&self, ingress: &str) -> Result<String> {
        let output = Command::new(&self.kubectl)
            .arg(self.kubeconfig())
            .args(["get", "--namespace=shop", "service/web-public"])
            .arg(format!("--output=jsonpath=http://{ingress}/"))
            .output()
            .context("cannot run kubectl")?;
        ensure!(
            output.status.success(),
            "the load balancer's address cannot be read: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    /// What the cluster itself says, e.g. that the disk is too full for pods. The first failure is the one that is reported.
    fn say_what_is_wrong(&self) {
        let warnings = [
            "get",
            "events",
            "--namespace=shop",
            "--field-selector=type=Warning",
        ];
        for question in [&["describe", "nodes"][..], &warnings] {
            if let Err(error) = self.kubectl(question) {
                eprintln!("{error:#}");
            }
        }
    }

    fn say_what_is_next(&self, url: &str) {
        let kubectl = &self.kubectl;
        let keelson = &self.keelson;
        println!(
            "\nThe shop is open.\n\n\
             Next:\n  \
               curl {url}\n  \
               {kubectl} get pods --all-namespaces      # the context `keelson` is the current one\n  \
               {kubectl} --namespace=shop logs deployment/web --container=greet\n  \
               {kubectl} --namespace=shop scale deployment/web --replicas=5\n  \
               {keelson} status\n  \
               {keelson} down --purge                   # takes everything back"
        );
    }
}

fn path(path: PathBuf) -> Result<String> {
    path.into_os_string()
        .into_string()
        .ok()
        .context("the checkout's path is not UTF-8")
}
