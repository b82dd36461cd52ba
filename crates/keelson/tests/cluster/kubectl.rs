//! kubectl, the oldest and the newest that are supported, does with the running shop what it does on upstream.

use std::process::{Command, Stdio};

use anyhow::{Result, ensure};
use keelson_testkit::clients::{KUBECTL_VERSIONS, client};

use crate::harness::{Cluster, eventually, example, text};

/// One kubectl in the namespace of the shop.
struct Session<'a> {
    cluster: &'a Cluster,
    kubectl: String,
}

impl Session<'_> {
    fn command(&self, line: &str) -> Command {
        let mut command = self.cluster.machine.command(client(&self.kubectl));
        command
            .args(["-n", "shop"])
            .args(words(line))
            .stdin(Stdio::null());
        command
    }

    /// Runs a line that has to succeed; its output has every one of `texts`.
    fn says(&self, line: &str, texts: &[&str]) -> Result<String> {
        let said = self.cluster.machine.run(self.command(line))?;
        for text in texts {
            ensure!(
                said.contains(text),
                "{} {line}: no {text:?} in:\n{said}",
                self.kubectl
            );
        }
        Ok(said)
    }

    /// Runs a line that has to end with `code`; what it says has every one of `texts`.
    fn ends_with(&self, code: i32, line: &str, texts: &[&str]) -> Result<()> {
        let output = self.command(line).output()?;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8(said)?;
        ensure!(
            output.status.code() == Some(code),
            "{} {line}: {:?}: {said}",
            self.kubectl,
            output.status
        );
        for text in texts {
            ensure!(
                said.contains(text),
                "{} {line}: no {text:?} in:\n{said}",
                self.kubectl
            );
        }
        Ok(())
    }

    /// Writes a manifest; the path.
    fn file(&self, name: &str, manifest: &str) -> Result<String> {
        let path = self.cluster.machine.scratch().join(name);
        std::fs::write(&path, manifest)?;
        Ok(text(&path))
    }
}

/// Splits at blanks, but not between single quotes.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (index, part) in line.split('\'').enumerate() {
        if index % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(ToOwned::to_owned));
        }
    }
    words
}

pub(crate) fn is_at_home(cluster: &Cluster) -> Result<()> {
    cluster.kubectl(&["apply", "-f", &text(&example("manifest.yaml"))])?;
    for version in KUBECTL_VERSIONS {
        let session = Session {
            cluster,
            kubectl: format!("kubectl-{version}"),
        };
        for workload in ["deployment/web", "statefulset/store", "daemonset/agent"] {
            session.says(&format!("rollout status {workload} --timeout=90s"), &[])?;
        }
        reading(&session)?;
        measuring(&session)?;
        rollouts(&session)?;
        changing(&session)?;
        applying(&session)?;
        containers(&session)?;
        access(&session)?;
        draining(&session)?;
    }
    Ok(())
}

fn reading(kubectl: &Session<'_>) -> Result<()> {
    kubectl.says(
        "get all -A -o wide",
        &["deployment.apps/web", "CLUSTER-IP", "NOMINATED NODE", "kube-dns"],
    )?;
    kubectl.says(
        "get nodes -o wide",
        &["INTERNAL-IP", "CONTAINER-RUNTIME", "kubectl-2"],
    )?;
    kubectl.says(
        "get pods -l app=web --sort-by=.metadata.name -o name",
        &["pod/web-"],
    )?;
    kubectl.says(
        "describe pod store-0",
        &[
            "Events:",
            "Scheduled",
            "Pulled",
            "Created",
            "Started",
            "QoS Class:",
        ],
    )?;
    kubectl.says(
        "describe node kubectl-2",
        &[
            "Conditions:",
            "Allocatable:",
            "Non-terminated Pods:",
            "shop",
            "Events:",
        ],
    )?;
    kubectl.says(
        "describe deployment web",
        &["RollingUpdateStrategy:", "ScalingReplicaSet", "Progressing"],
    )?;
    kubectl.says("describe service web", &["Endpoints:", "TargetPort:", ":80"])?;
    kubectl.says(
        "describe statefulset store",
        &["Pods Status:", "SuccessfulCreate"],
    )?;
    kubectl.says("events --for pod/store-0", &["Scheduled"])?;
    kubectl.says(
        "explain deployment.spec",
        &["FIELDS:", "replicas", "<integer>", "template", "-required-"],
    )?;
    kubectl.says(
        "explain pod.spec.containers.livenessProbe",
        &["httpGet", "<HTTPGetAction>"],
    )?;
    kubectl.ends_with(
        1,
        "explain deployment.spec.nothing",
        &["field \"nothing\" does not exist"],
    )?;
    kubectl.says(
        "api-resources --namespaced=false",
        &["nodes", "customresourcedefinitions"],
    )?;
    kubectl.says("cluster-info", &["Kubernetes control plane", "is running at"])?;
    kubectl.ends_with(
        1,
        "get pod nothing",
        &["Error from server (NotFound): pods \"nothing\" not found"],
    )?;
    kubectl.ends_with(
        1,
        "get nothing",
        &["the server doesn't have a resource type \"nothing\""],
    )?;
    Ok(())
}

/// Nodes and pods are measured by what is built in.
fn measuring(kubectl: &Session<'_>) -> Result<()> {
    eventually("metrics of nodes", || {
        kubectl.says("top nodes", &["CPU(cores)", "MEMORY(bytes)", "kubectl-2", "Mi"])
    })?;
    eventually("metrics of pods", || {
        let pods = kubectl.says("top pods --sort-by=memory", &["store-0", "web-", "agent-"])?;
        let store = pods.lines().find(|line| line.starts_with("store-0"));
        ensure!(store.is_some_and(|line| !line.contains(" 0Mi")), "{pods}");
        Ok(pods)
    })?;
    kubectl.says("top pods --containers -l app=web", &["POD", "NAME", "web-"])?;
    Ok(())
}

fn rollouts(kubectl: &Session<'_>) -> Result<()> {
    kubectl.says("scale deployment web --replicas=4", &["scaled"])?;
    kubectl.says(
        "wait --for=jsonpath={.status.readyReplicas}=4 deployment/web --timeout=60s",
        &["condition met"],
    )?;
    kubectl.says(
        "scale deployment web --replicas=3 --current-replicas=4",
        &["scaled"],
    )?;
    kubectl.ends_with(
        1,
        "scale deployment web --replicas=5 --current-replicas=9",
        &["Expected replicas to be 9, was 3"],
    )?;
    kubectl.says("rollout restart deployment/web", &["restarted"])?;
    kubectl.says(
        "rollout status deployment/web --timeout=90s",
        &["successfully rolled out"],
    )?;
    kubectl.says("rollout history deployment/web", &["REVISION", "CHANGE-CAUSE"])?;
    kubectl.says("rollout undo deployment/web", &["rolled back"])?;
    kubectl.says(
        "rollout status deployment/web --timeout=90s",
        &["successfully rolled out"],
    )?;
    kubectl.says("rollout pause deployment/web", &["paused"])?;
    kubectl.ends_with(
        1,
        "rollout undo deployment/web",
        &["cannot rollback a paused deployment"],
    )?;
    kubectl.says("rollout resume deployment/web", &["resumed"])?;
    kubectl.says("rollout restart daemonset/agent", &["restarted"])?;
    kubectl.says(
        "rollout status daemonset/agent --timeout=60s",
        &["successfully rolled out"],
    )?;
    Ok(())
}

fn changing(kubectl: &Session<'_>) -> Result<()> {
    kubectl.says("create configmap notes --from-literal=a=1", &["created"])?;
    kubectl.ends_with(
        1,
        "create configmap notes",
        &["error: failed to create configmap: configmaps \"notes\" already exists"],
    )?;
    kubectl.says("label configmap notes tier=back", &["labeled"])?;
    kubectl.ends_with(
        1,
        "label configmap notes tier=front",
        &["already has a value (back), and --overwrite is false"],
    )?;
    kubectl.says("annotate configmap notes why=because", &["annotated"])?;
    kubectl.says(
        "patch configmap notes -p '{\"data\":{\"b\":\"2\"}}'",
        &["patched"],
    )?;
    kubectl.says(
        "patch configmap notes --type=merge -p '{\"data\":{\"a\":null}}'",
        &["patched"],
    )?;
    kubectl.says(
        "patch configmap notes --type=json -p '[{\"op\":\"add\",\"path\":\"/data/c\",\"value\":\"3\"}]'",
        &["patched"],
    )?;
    kubectl.ends_with(
        1,
        "patch configmap notes --type=json -p '[{\"op\":\"test\",\"path\":\"/data/c\",\"value\":\"4\"}]'",
        &["The request is invalid"],
    )?;
    let mut edit = kubectl.command("edit configmap notes");
    edit.env("KUBE_EDITOR", "sed -i s/why:.*/why:\\ edited/");
    ensure!(
        kubectl
            .cluster
            .machine
            .run(edit)?
            .contains("configmap/notes edited")
    );
    let now = kubectl.says(
        "get configmap notes '-o=jsonpath={.data} {.metadata.labels} {.metadata.annotations}'",
        &[],
    )?;
    assert_eq!(now, r#"{"b":"2","c":"3"} {"tier":"back"} {"why":"edited"}"#);
    kubectl.says("delete configmap notes", &["deleted"])?;
    kubectl.ends_with(1, "delete configmap notes", &["(NotFound)"])?;
    kubectl.says("delete configmap notes --ignore-not-found", &[])?;
    Ok(())
}

fn applying(kubectl: &Session<'_>) -> Result<()> {
    let manifest = |value: &str| {
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: applied}}\ndata: {{key: {value}}}\n")
    };
    let (one, two) = (
        kubectl.file("one.yaml", &manifest("one"))?,
        kubectl.file("two.yaml", &manifest("two"))?,
    );
    kubectl.ends_with(1, &format!("diff -f {one}"), &["+  key: one"])?;
    kubectl.says(
        &format!("apply --server-side -f {one}"),
        &["configmap/applied serverside-applied"],
    )?;
    kubectl.ends_with(0, &format!("diff --server-side -f {one}"), &[])?;
    kubectl.ends_with(
        1,
        &format!("diff --server-side -f {two}"),
        &["-  key: one", "+  key: two"],
    )?;
    let other = format!("apply --server-side --field-manager=other -f {two}");
    kubectl.ends_with(
        1,
        &other,
        &["Apply failed with 1 conflict: conflict with \"kubectl\": .data.key"],
    )?;
    kubectl.says(&format!("{other} --force-conflicts"), &["serverside-applied"])?;
    kubectl.says(
        "get configmap applied -o yaml --show-managed-fields",
        &["manager: other", "operation: Apply", "f:key: {}"],
    )?;
    kubectl.says(&format!("delete -f {two}"), &["deleted"])?;
    kubectl.says(
        &format!("apply -f {one} --dry-run=server"),
        &["created (server dry run)"],
    )?;
    kubectl.ends_with(1, "get configmap applied", &["(NotFound)"])?;
    kubectl.says(&format!("replace --force -f {one}"), &["replaced"])?;
    kubectl.says(&format!("delete -f {one}"), &["deleted"])?;
    let typo = kubectl.file("typo.yaml", &manifest("one").replace("\ndata:", "\ndat:"))?;
    kubectl.ends_with(1, &format!("apply -f {typo}"), &["unknown field \"dat\""])?;
    let broken = kubectl.file(
        "broken.yaml",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a: b}\n",
    )?;
    kubectl.ends_with(1, &format!("apply -f {broken}"), &["error"])?;
    Ok(())
}

const LINES: &str = "
apiVersion: v1
kind: Pod
metadata: {name: lines}
spec:
  restartPolicy: Never
  containers:
  - name: lines
    image: 127.0.0.1:5000/busybox:1
    command: [sh, -c, 'for i in 1 2 3 4; do echo line $i; sleep 0.3; done']
";

fn containers(kubectl: &Session<'_>) -> Result<()> {
    let lines = kubectl.file("lines.yaml", LINES)?;
    kubectl.says(&format!("apply -f {lines}"), &["created"])?;
    eventually("the container has started", || {
        kubectl.says("logs lines", &["line"]).map(|_| ())
    })?;
    assert_eq!(
        kubectl.says("logs -f lines", &[])?,
        "line 1\nline 2\nline 3\nline 4\n"
    );
    assert_eq!(kubectl.says("logs --tail=1 lines", &[])?, "line 4\n");
    kubectl.says(
        "logs -l app=web --all-containers --prefix",
        &["/greet] starting on"],
    )?;
    kubectl.says("delete pod lines", &["deleted"])?;

    // A terminal: what `exec -it` is about.
    let exec = format!(
        "{} -n shop exec -it store-0 -- tty",
        text(&client(&kubectl.kubectl))
    );
    let mut script = kubectl.cluster.machine.command("script");
    script.args(["-qec", &exec, "/dev/null"]);
    let said = kubectl.cluster.machine.run(script)?;
    ensure!(said.contains("/dev/pts/"), "{said}");

    let sent = kubectl.file("sent", "there and back\n")?;
    let back = kubectl.cluster.machine.scratch().join("back");
    kubectl.says(&format!("cp {sent} store-0:/tmp/sent"), &[])?;
    kubectl.says(&format!("cp store-0:/tmp/sent {}", back.display()), &[])?;
    assert_eq!(std::fs::read_to_string(&back)?, "there and back\n");

    let name = format!("look-{}", kubectl.kubectl.replace("kubectl-1.", ""));
    kubectl.says(
        &format!("debug store-0 -c {name} --image=127.0.0.1:5000/busybox:1 --target=redis --profile=general -- sh -c 'ps; sleep 1'"),
        &[],
    )?;
    eventually("the ephemeral container has run", || {
        kubectl
            .says(&format!("logs store-0 -c {name}"), &["redis-server"])
            .map(|_| ())
    })?;
    kubectl.says("describe pod store-0", &["Ephemeral Containers:", &name])?;
    let run = "run once --image=127.0.0.1:5000/busybox:1 --restart=Never --attach --rm --quiet -- echo here";
    kubectl.says(run, &["here"])?;
    Ok(())
}

fn access(kubectl: &Session<'_>) -> Result<()> {
    kubectl.says("auth whoami", &["kubernetes-admin", "kubeadm:cluster-admins"])?;
    kubectl.says("auth can-i create pods", &["yes"])?;
    kubectl.ends_with(
        1,
        "auth can-i create pods --as=system:serviceaccount:shop:default",
        &["no"],
    )?;
    kubectl.says(
        "auth can-i --list --as=system:serviceaccount:shop:default",
        &["selfsubjectaccessreviews"],
    )?;
    let token = kubectl.says("create token default --duration=10m", &["."])?;
    let who = format!(
        "auth whoami --token={} --kubeconfig=/dev/null --server=https://127.0.0.1:6443 --insecure-skip-tls-verify",
        token.trim()
    );
    kubectl.says(&who, &["system:serviceaccount:shop:default"])?;
    kubectl.ends_with(
        1,
        "get secrets --as=system:serviceaccount:shop:default",
        &[
            "Error from server (Forbidden)",
            "cannot list resource \"secrets\"",
        ],
    )?;
    Ok(())
}

const BUDGET: &str = "
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web, namespace: shop}
spec: {minAvailable: 3, selector: {matchLabels: {app: web}}}
";

fn draining(kubectl: &Session<'_>) -> Result<()> {
    let budget = kubectl.file("budget.yaml", BUDGET)?;
    kubectl.says(&format!("apply -f {budget}"), &["created"])?;
    kubectl.says(
        "wait --for=jsonpath={.status.currentHealthy}=3 pdb/web --timeout=60s",
        &["condition met"],
    )?;
    let ready = || kubectl.says("get deployment web -o jsonpath={.status.readyReplicas}", &[]);
    let drain = "drain kubectl-2 --ignore-daemonsets --delete-emptydir-data";
    kubectl.ends_with(1, "drain kubectl-2 --timeout=5s", &["DaemonSet-managed"])?;
    kubectl.ends_with(
        1,
        &format!("{drain} --timeout=7s"),
        &["would violate the pod's disruption budget"],
    )?;
    assert_eq!(ready()?, "3", "the budget holds");
    kubectl.says("get node kubectl-2", &["SchedulingDisabled"])?;
    kubectl.says(
        "patch pdb web --type=merge -p '{\"spec\":{\"minAvailable\":2}}'",
        &["patched"],
    )?;
    kubectl.says(&format!("{drain} --timeout=90s"), &["drained"])?;
    let left = kubectl.says(
        "get pods '-o=jsonpath={.items[?(@.spec.nodeName==\"kubectl-2\")].metadata.name}'",
        &[],
    )?;
    let running: Vec<_> = left
        .split_whitespace()
        .filter(|name| name.starts_with("web") || name.starts_with("store"))
        .collect();
    ensure!(running.is_empty(), "{left}");
    kubectl.says("uncordon kubectl-2", &["uncordoned"])?;
    kubectl.says("rollout status deployment/web --timeout=90s", &[])?;
    kubectl.says("rollout status statefulset/store --timeout=90s", &[])?;
    kubectl.says("cordon kubectl-2", &["cordoned"])?;
    kubectl.says("uncordon kubectl-2", &["uncordoned"])?;
    kubectl.says("delete pdb web", &["deleted"])?;
    let events = kubectl.says("get events -A", &[])?;
    ensure!(
        events.contains("NodeNotSchedulable") || events.contains("Killing"),
        "{events}"
    );
    Ok(())
}
