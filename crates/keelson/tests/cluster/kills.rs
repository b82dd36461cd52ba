//! kill -9 of what a pod stands on.

use anyhow::{Result, ensure};

use crate::harness::{Cluster, PAIR, eventually};

/// kill -9 of a container, of keelson itself, of a shim: each ends as Kubernetes promises.
pub(crate) fn are_survived(cluster: &Cluster) -> Result<()> {
    cluster.apply(PAIR)?;
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/pair", "--timeout=60s"])?;
    let field = |path: &str| cluster.kubectl(&["get", "pod", "pair", "-o", &format!("jsonpath={path}")]);
    let restarts = r#"{.status.containerStatuses[?(@.name=="a")].restartCount}"#;

    // The container's only process; the other container does not notice.
    cluster.shell("kill -9 $(pgrep -o -f '^sleep 3600')")?;
    eventually("a restarted container", || {
        let counts = field("{.status.containerStatuses[*].restartCount}")?;
        ensure!(counts == "1 0" || counts == "0 1", "{counts}");
        Ok(())
    })?;
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/pair", "--timeout=60s"])?;

    // Keelson itself: containers go on, and are found again by the next one.
    let before =
        field("{.status.containerStatuses[*].containerID} {.status.containerStatuses[*].restartCount}")?;
    cluster.shell("kill -9 $(pgrep -o -f 'keelson server|/proc/self/exe server')")?;
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
    cluster.shell("kill -9 $(pgrep -o -x keelson-shim)")?;
    eventually("a pod with running containers", || {
        let now = field("{.status.containerStatuses[*].containerID}")?;
        let ready = field("{.status.containerStatuses[*].ready}")?;
        ensure!(ready == "true true" && !before.starts_with(&now), "{ready} {now}");
        Ok(())
    })?;
    Ok(())
}
