//! Limits and usage.

use keelson_cri::v1;

use crate::fixture::{Node, shell};

fn limited(name: &str, script: &str, resources: v1::LinuxContainerResources) -> v1::ContainerConfig {
    let mut config = shell(name, script);
    config.linux.as_mut().unwrap().resources = Some(resources);
    config
}

#[tokio::test]
async fn too_much_memory_is_oom_killed() {
    let mut node = Node::start().await;
    let pod = node.pod("pod");
    let sandbox = node.run_pod(&pod).await;
    let resources = v1::LinuxContainerResources {
        memory_limit_in_bytes: 32 << 20,
        ..Default::default()
    };
    let config = limited("main", "tail /dev/zero", resources);
    let id = node.start_container(&sandbox, &pod, config).await;
    let status = node.exited(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));
    node.finish().await;
}

#[tokio::test]
async fn limits_are_applied_and_updated() {
    let mut node = Node::start().await;
    let pod = node.pod("pod");
    let sandbox = node.run_pod(&pod).await;
    let resources = v1::LinuxContainerResources {
        memory_limit_in_bytes: 64 << 20,
        cpu_shares: 512,
        cpu_quota: 20_000,
        cpu_period: 100_000,
        oom_score_adj: 500,
        ..Default::default()
    };
    let id = node
        .start_container(&sandbox, &pod, limited("main", "while :; do :; done", resources))
        .await;
    assert_eq!(node.exec(&id, "cat /proc/1/oom_score_adj").await.1, "500\n");
    let request = v1::ContainerStatsRequest {
        container_id: id.clone(),
    };
    let before = node
        .cri
        .container_stats(request.clone())
        .await
        .unwrap()
        .into_inner()
        .stats
        .unwrap();
    let limit = |stats: &v1::ContainerStats| {
        let memory = stats.memory.as_ref().unwrap();
        memory.available_bytes.unwrap().value + memory.working_set_bytes.unwrap().value
    };
    assert_eq!(limit(&before), 64 << 20);
    let update = v1::UpdateContainerResourcesRequest {
        container_id: id.clone(),
        linux: Some(v1::LinuxContainerResources {
            memory_limit_in_bytes: 48 << 20,
            ..Default::default()
        }),
        ..Default::default()
    };
    node.cri.update_container_resources(update).await.unwrap();
    let used =
        |stats: &v1::ContainerStats| stats.cpu.as_ref().unwrap().usage_core_nano_seconds.unwrap().value;
    let after = loop {
        let after = node
            .cri
            .container_stats(request.clone())
            .await
            .unwrap()
            .into_inner()
            .stats
            .unwrap();
        if used(&after) > used(&before) + 10_000_000 {
            break after;
        }
    };
    assert_eq!(limit(&after), 48 << 20);
    assert!(after.cpu.as_ref().unwrap().usage_nano_cores.is_some());
    assert!(after.writable_layer.as_ref().unwrap().inodes_used.is_some());
    let reported = node.status(&id).await.resources.unwrap().linux.unwrap();
    assert_eq!(
        (reported.memory_limit_in_bytes, reported.cpu_quota),
        (48 << 20, 20_000)
    );
    let request = v1::PodSandboxStatsRequest {
        pod_sandbox_id: sandbox.clone(),
    };
    let pod_stats = node
        .cri
        .pod_sandbox_stats(request)
        .await
        .unwrap()
        .into_inner()
        .stats
        .unwrap()
        .linux
        .unwrap();
    assert_eq!(pod_stats.containers.len(), 1);
    assert!(pod_stats.memory.unwrap().usage_bytes.unwrap().value > 0);
    assert!(pod_stats.process.unwrap().process_count.unwrap().value > 0);
    node.finish().await;
}

#[tokio::test]
async fn devices_are_restricted() {
    let mut node = Node::start().await;
    let (_, _, id) = node.run("pod", "sleep 1000").await;
    // Device 1:1 is the machine's memory; making the node is allowed, opening it is not.
    let (code, _, err) = node.exec(&id, "mknod /tmp/mem c 1 1 && head -c 1 /tmp/mem").await;
    assert!(
        code != 0 && err.contains("Operation not permitted"),
        "{code} {err}"
    );
    assert_eq!(
        node.exec(&id, "echo x > /dev/null && head -c 1 /dev/urandom > /dev/null")
            .await
            .0,
        0
    );
    node.finish().await;
}
