//! What pods and containers ask for.

use keelson_cri::v1;

use crate::fixture::{Node, secure, shell};

/// Runs a script in a container that `change` changes, and expects these lines on its stdout.
async fn check(
    node: &mut Node,
    name: &str,
    script: &str,
    expected: &[&str],
    change: impl FnOnce(&mut v1::ContainerConfig),
) {
    let mut config = shell("main", script);
    change(&mut config);
    let log = node.output(name, config).await;
    let lines: Vec<&str> = log.iter().map(|(_, line)| line.as_str()).collect();
    assert_eq!(lines, expected, "{name}: {log:?}");
}

fn security(config: &mut v1::ContainerConfig) -> &mut v1::LinuxContainerSecurityContext {
    config.linux.as_mut().unwrap().security_context.as_mut().unwrap()
}

#[tokio::test]
async fn process_settings() {
    let mut node = Node::start().await;
    let n = &mut node;
    check(
        n,
        "env",
        "echo $FROM_IMAGE $A $HOSTNAME $HOME; pwd",
        &["no 1 env /root", "/data"],
        |c| {
            c.working_dir = "/data".to_owned();
            let pair = |key: &str, value: &str| v1::KeyValue {
                key: key.to_owned(),
                value: value.to_owned(),
            };
            c.envs = vec![pair("FROM_IMAGE", "no"), pair("A", "1")];
        },
    )
    .await;
    check(
        n,
        "user",
        "id -u; id -g; id -G; echo x > /dev/stdout",
        &["33", "34", "34 7 50", "x"],
        |c| {
            security(c).run_as_username = "web".to_owned();
            security(c).supplemental_groups = vec![7];
        },
    )
    .await;
    let caps = "grep -E 'Cap(Eff|Bnd)|NoNewPrivs' /proc/self/status";
    check(
        n,
        "caps",
        caps,
        &[
            "CapEff:\t0000000000000400",
            "CapBnd:\t0000000000000400",
            "NoNewPrivs:\t1",
        ],
        |c| {
            let s = security(c);
            s.no_new_privs = true;
            s.capabilities = Some(v1::Capability {
                add_capabilities: vec!["NET_BIND_SERVICE".to_owned()],
                drop_capabilities: vec!["ALL".to_owned()],
                ..Default::default()
            });
        },
    )
    .await;
    check(
        n,
        "readonly",
        "touch /x 2>/dev/null || echo no; touch /dev/shm/x && echo yes",
        &["no", "yes"],
        |c| {
            security(c).readonly_rootfs = true;
        },
    )
    .await;
    check(
        n,
        "masked",
        "cat /proc/uptime; touch /proc/sys/kernel/hostname 2>&1 | grep -c Read-only",
        &["1"],
        |c| {
            security(c).masked_paths = vec!["/proc/uptime".to_owned()];
            security(c).readonly_paths = vec!["/proc/sys".to_owned()];
        },
    )
    .await;
    node.finish().await;
}

#[tokio::test]
async fn pod_settings() {
    let mut node = Node::start().await;
    let mut pod = node.pod("pod");
    pod.hostname = "my-host".to_owned();
    pod.dns_config = Some(v1::DnsConfig {
        servers: vec!["10.96.0.10".to_owned()],
        searches: vec!["svc.cluster.local".to_owned()],
        options: vec!["ndots:5".to_owned()],
    });
    let sysctl = ("net.ipv4.ip_unprivileged_port_start".to_owned(), "77".to_owned());
    pod.linux.as_mut().unwrap().sysctls.extend([sysctl]);
    let sandbox = node.run_pod(&pod).await;
    let script = "hostname; cat /etc/resolv.conf /etc/hostname /proc/sys/net/ipv4/ip_unprivileged_port_start; \
                  ifconfig lo | grep -c UP; echo shared > /dev/shm/x; sleep 1000";
    let first = node.start_container(&sandbox, &pod, shell("first", script)).await;
    let second = node
        .start_container(&sandbox, &pod, shell("second", "sleep 1000"))
        .await;
    let expected = "my-host search svc.cluster.local nameserver 10.96.0.10 options ndots:5 my-host 77 1";
    let path = node.status(&first).await.log_path;
    loop {
        let log = crate::fixture::read_log(&path);
        if log.len() == 7 {
            let words: Vec<String> = log.into_iter().map(|(_, line)| line).collect();
            assert_eq!(words.join(" "), expected);
            break;
        }
        tokio::task::yield_now().await;
    }
    while node.exec(&second, "cat /dev/shm/x").await.1 != "shared\n" {}
    let namespaces = "for n in net ipc uts; do readlink /proc/self/ns/$n; done";
    assert_eq!(
        node.exec(&first, namespaces).await.1,
        node.exec(&second, namespaces).await.1
    );
    let mut host = node.pod("host");
    let options = v1::NamespaceOption {
        network: v1::NamespaceMode::Node as i32,
        ipc: v1::NamespaceMode::Node as i32,
        pid: v1::NamespaceMode::Node as i32,
        ..Default::default()
    };
    host.linux
        .as_mut()
        .unwrap()
        .security_context
        .as_mut()
        .unwrap()
        .namespace_options = Some(options.clone());
    let sandbox = node.run_pod(&host).await;
    let config = secure(shell("main", "sleep 1000"), |security| {
        security.namespace_options = Some(options)
    });
    let container = node.start_container(&sandbox, &host, config).await;
    let all = "for n in net ipc uts pid; do readlink /proc/self/ns/$n; done";
    let own = ["net", "ipc", "uts", "pid"].map(|name| {
        std::fs::read_link(format!("/proc/self/ns/{name}"))
            .unwrap()
            .display()
            .to_string()
            + "\n"
    });
    assert_eq!(node.exec(&container, all).await.1, own.concat());
    node.finish().await;
}

#[tokio::test]
async fn mounts() {
    let mut node = Node::start().await;
    let host = node.dir.join("host");
    std::fs::create_dir_all(host.join("sub")).unwrap();
    std::fs::write(host.join("file"), "content\n").unwrap();
    let at = |path: &str, readonly| v1::Mount {
        host_path: host.join(path).display().to_string(),
        container_path: format!("/mnt/{path}"),
        readonly,
        ..Default::default()
    };
    let n = &mut node;
    let script = "cat /mnt/file; touch /mnt/sub/x && echo rw; touch /mnt/file 2>/dev/null || echo ro; \
                  ls /mnt/made && echo made";
    check(n, "bind", script, &["content", "rw", "ro", "made"], |c| {
        c.mounts = vec![at("file", true), at("sub", false), at("made", false)];
    })
    .await;
    assert!(host.join("sub/x").exists());
    check(
        n,
        "recursive",
        "touch /mnt/sub/y 2>/dev/null || echo ro",
        &["ro"],
        |c| {
            c.mounts = vec![v1::Mount {
                recursive_read_only: true,
                ..at("sub", true)
            }];
        },
    )
    .await;

    // A mount made on the host later appears only where that is asked for.
    let shared = host.join("shared");
    std::fs::create_dir(&shared).unwrap();
    rustix::mount::mount_bind(&shared, &shared).unwrap();
    rustix::mount::mount_change(&shared, rustix::mount::MountPropagationFlags::SHARED).unwrap();
    std::fs::create_dir(shared.join("later")).unwrap();
    let pod = n.pod("propagation");
    let sandbox = n.run_pod(&pod).await;
    let mut ids = Vec::new();
    for (name, propagation) in [
        ("private", v1::MountPropagation::PropagationPrivate),
        ("follows", v1::MountPropagation::PropagationHostToContainer),
        ("both", v1::MountPropagation::PropagationBidirectional),
    ] {
        let mut config = shell(name, "sleep 1000");
        config.mounts = vec![v1::Mount {
            propagation: propagation as i32,
            ..at("shared", false)
        }];
        if name == "both" {
            security(&mut config).capabilities = Some(v1::Capability {
                add_capabilities: vec!["SYS_ADMIN".to_owned()],
                ..Default::default()
            });
        }
        ids.push(n.start_container(&sandbox, &pod, config).await);
    }
    let later = shared.join("later");
    rustix::mount::mount("tmpfs", &later, "tmpfs", rustix::mount::MountFlags::empty(), None).unwrap();
    std::fs::write(later.join("marker"), "").unwrap();
    let mut seen = Vec::new();
    for id in &ids {
        seen.push(n.exec(id, "test -e /mnt/shared/later/marker").await.0);
    }
    let (code, _, err) = n
        .exec(
            &ids[2],
            "mkdir /mnt/shared/in && mount -t tmpfs in /mnt/shared/in",
        )
        .await;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let visible = mounts.contains(shared.join("in").to_str().unwrap());
    for path in [shared.join("in"), later, shared] {
        // The first is not there when the test fails.
        let _ = rustix::mount::unmount(&path, rustix::mount::UnmountFlags::DETACH);
    }
    assert_eq!(seen, [1, 0, 0]);
    assert!(code == 0 && visible, "{code} {err}");
    node.finish().await;
}

#[tokio::test]
async fn what_is_not_supported_is_refused() {
    let mut node = Node::start().await;
    let pod = node.pod("pod");
    let sandbox = node.run_pod(&pod).await;
    let localhost = |reference: &str| {
        Some(v1::SecurityProfile {
            profile_type: v1::security_profile::ProfileType::Localhost as i32,
            localhost_ref: reference.to_owned(),
        })
    };
    let refused = [
        (
            "apparmor",
            secure(shell("a", ""), |s| s.apparmor = localhost("profile")),
        ),
        (
            "seccomp profile",
            secure(shell("b", ""), |s| s.seccomp = localhost("none.json")),
        ),
        (
            "no privileged container allowed in sandbox",
            secure(shell("c", ""), |s| s.privileged = true),
        ),
        (
            "unable to find user nobody",
            secure(shell("d", ""), |s| s.run_as_username = "nobody".to_owned()),
        ),
    ];
    for (expected, config) in refused {
        let error = node.create(&sandbox, &pod, config).await.unwrap_err();
        assert!(error.message().contains(expected), "{error}");
    }
    let mut userns = node.pod("userns");
    let options = userns.linux.as_mut().unwrap().security_context.as_mut().unwrap();
    options.namespace_options.as_mut().unwrap().userns_options = Some(v1::UserNamespace {
        mode: v1::NamespaceMode::Pod as i32,
        ..Default::default()
    });
    let request = v1::RunPodSandboxRequest {
        config: Some(userns),
        ..Default::default()
    };
    assert_eq!(
        node.cri.run_pod_sandbox(request).await.unwrap_err().code(),
        tonic::Code::Unimplemented
    );
    // Calls that would have no effect say so.
    let error = node
        .cri
        .update_runtime_config(v1::UpdateRuntimeConfigRequest::default())
        .await
        .unwrap_err();
    assert_eq!(error.code(), tonic::Code::Unimplemented);
    let error = node
        .cri
        .update_pod_sandbox_resources(v1::UpdatePodSandboxResourcesRequest::default())
        .await
        .unwrap_err();
    assert_eq!(error.code(), tonic::Code::Unimplemented);
    node.finish().await;
}

#[tokio::test]
async fn privileged_containers() {
    let mut node = Node::start().await;
    let mut pod = node.pod("pod");
    pod.linux
        .as_mut()
        .unwrap()
        .security_context
        .as_mut()
        .unwrap()
        .privileged = true;
    let sandbox = node.run_pod(&pod).await;
    let script = "mount -t tmpfs t /data && echo mounted; test -w /sys/kernel && echo writable; ls /dev | grep -c loop0";
    let config = secure(shell("main", script), |security| security.privileged = true);
    let id = node.start_container(&sandbox, &pod, config).await;
    let status = node.exited(&id).await;
    let log = crate::fixture::read_log(&status.log_path);
    assert_eq!(log[0].1, "mounted", "{log:?}");
    assert_eq!(log[1].1, "writable", "{log:?}");
    node.finish().await;
}
