//! Further processes in containers.

use keelson_cri::v1;

use crate::fixture::{IMAGE, Node, secure, shell};

#[tokio::test]
async fn exec_returns_output_and_code() {
    let mut node = Node::start().await;
    let (_, _, id) = node.run("pod", "sleep 1000").await;
    assert_eq!(
        node.exec(&id, "echo a; echo b >&2; exit 9").await,
        (9, "a\n".to_owned(), "b\n".to_owned())
    );
    assert_eq!(node.exec(&id, "kill -9 $$").await.0, 137);
    // Larger than a pipe holds.
    let (code, out, _) = node
        .exec(&id, "dd if=/dev/zero bs=1024 count=1000 2>/dev/null")
        .await;
    assert_eq!((code, out.len()), (0, 1_024_000));
    let request = v1::ExecSyncRequest {
        container_id: id.clone(),
        cmd: vec!["nothing".to_owned()],
        timeout: 5,
    };
    let error = node.cri.exec_sync(request).await.unwrap_err();
    assert!(
        error
            .message()
            .contains("exec: \"nothing\": executable file not found in $PATH"),
        "{error}"
    );
    let request = v1::ExecSyncRequest {
        container_id: id.clone(),
        cmd: ["sleep", "1000"].map(str::to_owned).to_vec(),
        timeout: 1,
    };
    let error = node.cri.exec_sync(request).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::DeadlineExceeded);
    assert_eq!(
        error.message(),
        "failed to exec in container: timeout 1s exceeded: context deadline exceeded"
    );
    let left = node.exec(&id, "ps").await.1;
    assert_eq!(left.matches("sleep 1000").count(), 1, "{left}");
    node.finish().await;
}

#[tokio::test]
async fn exec_is_confined_like_the_container() {
    let mut node = Node::start().await;
    let pod = node.pod("pod");
    let sandbox = node.run_pod(&pod).await;
    let show =
        "grep -E '^(Uid|Gid|Groups|CapEff|CapBnd|Seccomp|NoNewPrivs):' /proc/self/status; pwd; echo $HOME";
    for (number, no_new_privs) in [false, true].into_iter().enumerate() {
        let mut config = secure(
            shell(&format!("main{number}"), &format!("{show}; sleep 1000")),
            |security| {
                security.run_as_user = Some(v1::Int64Value { value: 33 });
                security.no_new_privs = no_new_privs;
                security.seccomp = Some(v1::SecurityProfile {
                    profile_type: v1::security_profile::ProfileType::RuntimeDefault as i32,
                    ..Default::default()
                });
            },
        );
        config.working_dir = "/data/not/there".to_owned();
        let id = node.start_container(&sandbox, &pod, config).await;
        let (code, out, err) = node.exec(&id, show).await;
        assert_eq!((code, err.as_str()), (0, ""));
        assert!(out.contains("Uid:\t33\t33\t33\t33"), "{out}");
        assert!(out.contains("Groups:\t34 50 \n"), "{out}");
        assert!(out.contains("Seccomp:\t2\n"), "{out}");
        assert!(
            out.contains(&format!("NoNewPrivs:\t{}\n", i32::from(no_new_privs))),
            "{out}"
        );
        assert!(out.ends_with("/data/not/there\n/home/web\n"), "{out}");
        let log_path = node.status(&id).await.log_path;
        let own: String = loop {
            let log = crate::fixture::read_log(&log_path);
            if log.len() >= out.lines().count() {
                break log.into_iter().map(|(_, line)| line + "\n").collect();
            }
            tokio::task::yield_now().await;
        };
        assert_eq!(own, out, "the container and the exec process differ");
        // The profile denies what it should.
        let (code, _, err) = node.exec(&id, "unshare -U true").await;
        assert!(
            code != 0 && err.contains("Operation not permitted"),
            "{code} {err}"
        );
    }
    node.finish().await;
}

#[tokio::test]
async fn a_shared_pid_namespace() {
    let mut node = Node::start().await;
    let mut pod = node.pod("pod");
    let linux = pod.linux.as_mut().unwrap();
    linux.security_context.as_mut().unwrap().namespace_options = Some(v1::NamespaceOption::default());
    let sandbox = node.run_pod(&pod).await;
    let shared = |name: &str, script: &str| {
        secure(shell(name, script), |security| {
            security.namespace_options = Some(v1::NamespaceOption::default())
        })
    };
    let first = node
        .start_container(&sandbox, &pod, shared("first", "sleep 4321"))
        .await;
    let second = node
        .start_container(&sandbox, &pod, shared("second", "sleep 1234 & sleep 5432"))
        .await;
    let (_, out, _) = node.exec(&first, "ps").await;
    assert!(out.contains("sleep 5432"), "{out}");
    let (_, pause, _) = node.exec(&first, "cat /proc/1/comm").await;
    assert_eq!(pause, "pause\n");
    // What a container leaves in the shared namespace is killed with it.
    node.cri
        .stop_container(v1::StopContainerRequest {
            container_id: second,
            timeout: 0,
        })
        .await
        .unwrap();
    let (_, out, _) = node.exec(&first, "ps").await;
    assert!(!out.contains("sleep 1234"), "{out}");
    // A debug container joins the namespace of its target.
    let target = node.pod("target");
    let target_sandbox = node.run_pod(&target).await;
    let main = node
        .start_container(&target_sandbox, &target, shell("main", "sleep 777"))
        .await;
    let debug = secure(shell("debug", "ps; sleep 1000"), |security| {
        security.namespace_options = Some(v1::NamespaceOption {
            pid: v1::NamespaceMode::Target as i32,
            target_id: main.clone(),
            ..Default::default()
        });
    });
    let debug = node.start_container(&target_sandbox, &target, debug).await;
    let (_, out, _) = node.exec(&debug, "ps").await;
    assert!(out.contains("sleep 777"), "{out}");
    node.finish().await;
}

#[tokio::test]
async fn image_volumes_are_read_only() {
    let mut node = Node::start().await;
    let pod = node.pod("pod");
    let sandbox = node.run_pod(&pod).await;
    let mut config = shell("main", "cat /volume/passwd | head -n 1; touch /volume/x");
    config.mounts.push(v1::Mount {
        container_path: "/volume".to_owned(),
        image: Some(v1::ImageSpec {
            image: IMAGE.to_owned(),
            ..Default::default()
        }),
        image_sub_path: "etc".to_owned(),
        readonly: true,
        ..Default::default()
    });
    let id = node.start_container(&sandbox, &pod, config).await;
    let status = node.exited(&id).await;
    assert_eq!(status.exit_code, 1);
    let log = crate::fixture::read_log(&status.log_path);
    assert_eq!(log[0].1, "root:x:0:0::/root:/bin/sh");
    assert!(log[1].1.contains("Read-only file system"), "{log:?}");
    node.finish().await;
}
