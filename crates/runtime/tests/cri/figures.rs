//! Times and memory, printed. Run with `--run-ignored only`.

use std::time::{Duration, Instant};

use crate::fixture::{Node, secure, shell};
use keelson_cri::v1;

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn resident(pid: i32) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    status
        .lines()
        .filter(|l| ["Rss", "Pss:", "Private_Dirty"].iter().any(|k| l.starts_with(k)))
        .collect::<Vec<_>>()
        .join(" ")
}

#[tokio::test]
#[ignore = "a measurement, not a check"]
async fn pod_start_and_shim_memory() {
    let mut node = Node::start().await;
    let (mut sandboxes, mut starts, mut execs, mut stops) = (vec![], vec![], vec![], vec![]);
    for number in 0..15 {
        let pod = node.pod(&format!("pod{number}"));
        let begin = Instant::now();
        let sandbox = node.run_pod(&pod).await;
        sandboxes.push(begin.elapsed());
        let config = secure(shell("main", "sleep 1000"), |security| {
            security.seccomp = Some(v1::SecurityProfile {
                profile_type: v1::security_profile::ProfileType::RuntimeDefault as i32,
                ..Default::default()
            });
        });
        let begin = Instant::now();
        let id = node.start_container(&sandbox, &pod, config).await;
        starts.push(begin.elapsed());
        let begin = Instant::now();
        node.exec(&id, "true").await;
        execs.push(begin.elapsed());
        if number == 0 {
            println!("shim: {}", resident(node.shim_pid(&sandbox).await));
        }
        let begin = Instant::now();
        node.cri
            .remove_pod_sandbox(v1::RemovePodSandboxRequest {
                pod_sandbox_id: sandbox,
            })
            .await
            .unwrap();
        stops.push(begin.elapsed());
    }
    println!(
        "medians: sandbox {:?}, create and start {:?}, exec {:?}, remove {:?}",
        median(sandboxes),
        median(starts),
        median(execs),
        median(stops)
    );
    node.finish().await;
}
