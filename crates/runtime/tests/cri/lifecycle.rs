//! Sandboxes and containers from creation to removal.

use keelson_cri::v1;

use crate::fixture::{IMAGE, Node, read_log, read_tagged_log, shell};

#[tokio::test]
async fn a_container_runs_logs_and_exits() {
    let mut node = Node::start().await;
    let (_, sandbox, id) = node
        .run("pod", "echo out; echo err >&2; printf unfinished; exit 3")
        .await;
    let status = node.exited(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (3, "Error"));
    assert!(
        status.created_at <= status.started_at && status.started_at <= status.finished_at,
        "{status:?}"
    );
    let mut log = read_tagged_log(&status.log_path);
    log.sort();
    let expected = [
        ("stderr", "F", "err"),
        ("stdout", "F", "out"),
        ("stdout", "P", "unfinished"),
    ];
    assert_eq!(
        log,
        expected.map(|(stream, tag, line)| (stream.to_owned(), tag.to_owned(), line.to_owned()))
    );
    let request = v1::PodSandboxStatusRequest {
        pod_sandbox_id: sandbox.clone(),
        verbose: true,
    };
    let response = node.cri.pod_sandbox_status(request).await.unwrap().into_inner();
    assert_eq!(
        response.status.unwrap().state,
        v1::PodSandboxState::SandboxReady as i32
    );
    assert_eq!(response.containers_statuses.len(), 1);
    node.finish().await;
}

#[tokio::test]
async fn the_images_command_is_the_default() {
    let mut node = Node::start().await;
    let config = v1::ContainerConfig {
        command: Vec::new(),
        ..shell("main", "")
    };
    let log = node.output("pod", config).await;
    assert_eq!(log, [("stdout".to_owned(), "default command".to_owned())]);
    node.finish().await;
}

#[tokio::test]
async fn a_container_names_its_image_by_tag() {
    let mut node = Node::start().await;
    let id = node.runtime.images().status(IMAGE).unwrap().id.to_string();
    let pod = node.pod("pod");
    let sandbox = node.run_pod(&pod).await;
    let mut config = shell("main", "true");
    config.image.as_mut().unwrap().image.clone_from(&id);
    let container = node.create(&sandbox, &pod, config).await.unwrap();
    let mut node = node.restart().await;
    let status = node.status(&container).await;
    assert_eq!(status.image.unwrap().image, IMAGE);
    assert_eq!((status.image_id, status.image_ref), (id.clone(), id));
    node.finish().await;
}

#[tokio::test]
async fn stopping_asks_before_it_kills() {
    let mut node = Node::start().await;
    let polite = "trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.05; done";
    let (pod, sandbox, id) = node.run("pod", polite).await;
    while read_log(&node.status(&id).await.log_path).is_empty() {
        tokio::task::yield_now().await;
    }
    node.cri
        .stop_container(v1::StopContainerRequest {
            container_id: id.clone(),
            timeout: 10,
        })
        .await
        .unwrap();
    let status = node.status(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (5, "Error"));

    let stubborn = node
        .start_container(
            &sandbox,
            &pod,
            shell("stubborn", "trap '' TERM; sleep 1000 & wait; wait"),
        )
        .await;
    node.cri
        .stop_container(v1::StopContainerRequest {
            container_id: stubborn.clone(),
            timeout: 1,
        })
        .await
        .unwrap();
    assert_eq!(node.status(&stubborn).await.exit_code, 137);

    // Stopping what is stopped or gone is no error.
    node.cri
        .stop_container(v1::StopContainerRequest {
            container_id: id.clone(),
            timeout: 1,
        })
        .await
        .unwrap();
    let absent = "0".repeat(64);
    node.cri
        .stop_container(v1::StopContainerRequest {
            container_id: absent.clone(),
            timeout: 1,
        })
        .await
        .unwrap();
    node.cri
        .remove_container(v1::RemoveContainerRequest {
            container_id: absent.clone(),
        })
        .await
        .unwrap();
    let request = v1::ContainerStatusRequest {
        container_id: absent,
        verbose: false,
    };
    assert_eq!(
        node.cri.container_status(request).await.unwrap_err().code(),
        tonic::Code::NotFound
    );
    node.finish().await;
}

#[tokio::test]
async fn a_program_that_cannot_be_started_says_why() {
    let mut node = Node::start().await;
    let pod = node.pod("pod");
    let sandbox = node.run_pod(&pod).await;
    for (program, expected) in [
        (
            "no-such-program",
            "exec: \"no-such-program\": executable file not found in $PATH",
        ),
        (
            "/no/such/program",
            "exec: \"/no/such/program\": stat /no/such/program: no such file or directory",
        ),
        (
            "/bin/not-executable",
            "exec: \"/bin/not-executable\": permission denied",
        ),
    ] {
        let mut config = shell(&program.replace('/', "-"), "");
        config.command = vec![program.to_owned()];
        let id = node.create(&sandbox, &pod, config).await.unwrap();
        let request = v1::StartContainerRequest {
            container_id: id.clone(),
        };
        let error = node.cri.start_container(request).await.unwrap_err();
        assert!(error.message().ends_with(expected), "{}", error.message());
        let status = node.status(&id).await;
        assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"));
        assert!(status.message.contains(expected));
    }
    let mut config = shell("format", "");
    config.command = vec!["/bin/not-a-program".to_owned()];
    let id = node.start_container(&sandbox, &pod, config).await;
    let status = node.exited(&id).await;
    assert_eq!(status.exit_code, 255);
    assert_eq!(
        read_log(&status.log_path)[0].1,
        "exec /bin/not-a-program: exec format error"
    );
    let mut config = shell("image", "");
    config.image.as_mut().unwrap().image = "example.test/none:1".to_owned();
    assert_eq!(
        node.create(&sandbox, &pod, config).await.unwrap_err().code(),
        tonic::Code::NotFound
    );
    node.finish().await;
}

#[tokio::test]
async fn lists_are_filtered() {
    let mut node = Node::start().await;
    let (_, sandbox, running) = node.run("one", "sleep 1000").await;
    let (_, _, ended) = node.run("two", "true").await;
    node.exited(&ended).await;
    let state = |state: v1::ContainerState| v1::ContainerFilter {
        state: Some(v1::ContainerStateValue { state: state as i32 }),
        ..Default::default()
    };
    for (filter, expected) in [
        (v1::ContainerFilter::default(), vec![&ended, &running]),
        (state(v1::ContainerState::ContainerRunning), vec![&running]),
        (state(v1::ContainerState::ContainerExited), vec![&ended]),
        (
            v1::ContainerFilter {
                pod_sandbox_id: sandbox.clone(),
                ..Default::default()
            },
            vec![&running],
        ),
        (
            v1::ContainerFilter {
                id: ended[..12].to_owned(),
                ..Default::default()
            },
            vec![&ended],
        ),
    ] {
        let request = v1::ListContainersRequest {
            filter: Some(filter.clone()),
        };
        let list = node
            .cri
            .list_containers(request)
            .await
            .unwrap()
            .into_inner()
            .containers;
        let ids: Vec<&String> = list.iter().map(|container| &container.id).collect();
        assert_eq!(ids, expected, "{filter:?}");
    }
    let selector = std::collections::HashMap::from([("app".to_owned(), "one".to_owned())]);
    let filter = v1::PodSandboxFilter {
        label_selector: selector,
        ..Default::default()
    };
    let request = v1::ListPodSandboxRequest { filter: Some(filter) };
    let list = node
        .cri
        .list_pod_sandbox(request)
        .await
        .unwrap()
        .into_inner()
        .items;
    assert_eq!(list.iter().map(|s| &s.id).collect::<Vec<_>>(), [&sandbox]);
    node.finish().await;
}

#[tokio::test]
async fn events_tell_every_step() {
    let mut node = Node::start().await;
    let mut events = node
        .cri
        .get_container_events(v1::GetEventsRequest {})
        .await
        .unwrap()
        .into_inner();
    let (_, sandbox, id) = node.run("pod", "exit 7").await;
    node.exited(&id).await;
    node.cri
        .remove_container(v1::RemoveContainerRequest {
            container_id: id.clone(),
        })
        .await
        .unwrap();
    use v1::ContainerEventType as Type;
    for (about, kind) in [
        (&sandbox, Type::ContainerCreatedEvent),
        (&sandbox, Type::ContainerStartedEvent),
        (&id, Type::ContainerCreatedEvent),
        (&id, Type::ContainerStartedEvent),
        (&id, Type::ContainerStoppedEvent),
        (&id, Type::ContainerDeletedEvent),
    ] {
        let event = events.message().await.unwrap().unwrap();
        assert_eq!(
            (&event.container_id, event.container_event_type),
            (about, kind as i32)
        );
        assert_eq!(event.pod_sandbox_status.unwrap().id, sandbox);
        if kind == Type::ContainerStoppedEvent {
            assert_eq!(event.containers_statuses[0].exit_code, 7);
        }
    }
    drop(events);
    node.finish().await;
}

#[tokio::test]
async fn names_are_unique() {
    let mut node = Node::start().await;
    let pod = node.pod("pod");
    let sandbox = node.run_pod(&pod).await;
    let request = v1::RunPodSandboxRequest {
        config: Some(pod.clone()),
        ..Default::default()
    };
    let error = node.cri.run_pod_sandbox(request).await.unwrap_err();
    assert!(error.message().contains("is reserved for"), "{error}");
    node.create(&sandbox, &pod, shell("main", "")).await.unwrap();
    assert!(node.create(&sandbox, &pod, shell("main", "")).await.is_err());
    node.finish().await;
}

/// Children of this process that ended and were not waited for.
fn zombies() -> Vec<String> {
    let stats = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let stat = std::fs::read_to_string(entry.ok()?.path().join("stat")).ok()?;
        let (name, rest) = stat.rsplit_once(") ")?;
        let mut fields = rest.split(' ');
        let zombie = fields.next() == Some("Z") && fields.next() == Some(&std::process::id().to_string());
        zombie.then(|| name.to_owned())
    });
    stats.collect()
}

#[tokio::test]
async fn shims_leave_no_zombies() {
    let mut node = Node::start().await;
    for round in 0..3 {
        let (_, sandbox, id) = node.run(&format!("pod{round}"), "exit 0").await;
        node.exited(&id).await;
        for request in [true, false] {
            let pod_sandbox_id = sandbox.clone();
            if request {
                let stop = v1::StopPodSandboxRequest { pod_sandbox_id };
                node.cri.stop_pod_sandbox(stop).await.unwrap();
            } else {
                let remove = v1::RemovePodSandboxRequest { pod_sandbox_id };
                node.cri.remove_pod_sandbox(remove).await.unwrap();
            }
        }
    }
    let end = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
    while !zombies().is_empty() {
        assert!(tokio::time::Instant::now() < end, "not reaped: {:?}", zombies());
        tokio::task::yield_now().await;
    }
    node.finish().await;
}
