//! Ends of the runtime and of shims.

use std::time::Duration;

use keelson_cri::v1;

use crate::fixture::{Node, read_log, shell};

#[tokio::test]
async fn containers_outlive_the_runtime() {
    let mut node = Node::start().await;
    let go = node.dir.join("go");
    let mount = v1::Mount {
        host_path: node.dir.display().to_string(),
        container_path: "/host".to_owned(),
        ..Default::default()
    };
    let pod = node.pod("pod");
    let sandbox = node.run_pod(&pod).await;
    let mut quick = shell(
        "quick",
        "while [ ! -e /host/go ]; do sleep 0.05; done; echo done; touch /host/gone; exit 42",
    );
    quick.mounts.push(mount.clone());
    let quick = node.start_container(&sandbox, &pod, quick).await;
    let long = node
        .start_container(&sandbox, &pod, shell("long", "sleep 1000"))
        .await;
    let failed = node
        .create(&sandbox, &pod, shell("created", "true"))
        .await
        .unwrap();
    let gone = node.dir.join("gone");
    let mut node = {
        // While the runtime is away, one container ends.
        let dir = node.dir.clone();
        let restarting = node.restart();
        let ending = async {
            std::fs::write(&go, "").unwrap();
            while !dir.join("gone").exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let (node, ()) = tokio::join!(restarting, ending);
        assert!(gone.exists());
        node
    };
    let status = node.exited(&quick).await;
    assert_eq!(status.exit_code, 42);
    assert_eq!(read_log(&status.log_path).last().unwrap().1, "done");
    assert_eq!(
        node.status(&long).await.state,
        v1::ContainerState::ContainerRunning as i32
    );
    assert_eq!(
        node.status(&failed).await.state,
        v1::ContainerState::ContainerCreated as i32
    );
    // The sandbox goes on as before.
    node.cri
        .start_container(v1::StartContainerRequest {
            container_id: failed.clone(),
        })
        .await
        .unwrap();
    assert_eq!(node.exited(&failed).await.reason, "Completed");
    assert_eq!(node.exec(&long, "echo still here").await.1, "still here\n");
    let mut node = node.restart().await;
    assert_eq!(node.status(&quick).await.exit_code, 42);
    node.cri
        .stop_container(v1::StopContainerRequest {
            container_id: long.clone(),
            timeout: 0,
        })
        .await
        .unwrap();
    assert_eq!(node.status(&long).await.exit_code, 137);
    node.finish().await;
}

async fn kill_shim(node: &mut Node, sandbox: &str) {
    let pid = node.shim_pid(sandbox).await;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
}

#[tokio::test]
async fn a_killed_launcher_is_replaced_and_takes_nobody_along() {
    let parent = |pid: i32| -> i32 {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("PPid:"))
            .unwrap();
        line.trim().parse().unwrap()
    };
    let mut node = Node::start().await;
    let (_, sandbox, id) = node.run("pod", "sleep 1000").await;
    let (_, second, _) = node.run("second", "sleep 1000").await;
    let shim = node.shim_pid(&sandbox).await;
    let launcher = parent(shim);
    assert_eq!(parent(node.shim_pid(&second).await), launcher, "one for all");
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(launcher),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
    while parent(shim) == launcher {
        tokio::task::yield_now().await;
    }
    assert_eq!(node.exec(&id, "echo still here").await.1, "still here\n");
    let (_, third, _) = node.run("third", "sleep 1000").await;
    assert_ne!(parent(node.shim_pid(&third).await), launcher);
    assert_eq!(node.shim_pid(&sandbox).await, shim);
    node.finish().await;
}

#[tokio::test]
async fn a_killed_shim_ends_its_containers() {
    let mut node = Node::start().await;
    let (_, sandbox, id) = node.run("pod", "sleep 1000").await;
    let (_, other_sandbox, other) = node.run("other", "sleep 1000").await;
    kill_shim(&mut node, &sandbox).await;
    let status = node.exited(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "Error"));
    let request = v1::PodSandboxStatusRequest {
        pod_sandbox_id: sandbox.clone(),
        verbose: false,
    };
    let state = node
        .cri
        .pod_sandbox_status(request)
        .await
        .unwrap()
        .into_inner()
        .status
        .unwrap()
        .state;
    assert_eq!(state, v1::PodSandboxState::SandboxNotready as i32);
    assert_eq!(
        node.status(&other).await.state,
        v1::ContainerState::ContainerRunning as i32
    );
    // Also when nobody watched.
    let pid = node.shim_pid(&other_sandbox).await;
    let dir = node.dir.clone();
    let restarting = node.restart();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    let mut node = restarting.await;
    assert!(dir.exists());
    assert_eq!(node.exited(&other).await.exit_code, 137);
    node.finish().await;
}
