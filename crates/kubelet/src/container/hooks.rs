//! Lifecycle hooks: exec, httpGet and sleep.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod};
use keelson_cri::v1 as cri;

use super::rpc_error;
use crate::kubelet::Kubelet;
use crate::probe::{self, http};

/// How long a hook's HTTP request may take, where the caller sets no limit.
const HTTP_TIMEOUT: Duration = Duration::from_secs(30);

/// Runs `hook` for a running container; the error is what the event shows.
pub(crate) async fn run(
    kubelet: &Kubelet,
    _pod: &Pod,
    container: &Container,
    container_id: &str,
    pod_ip: &str,
    hook: &LifecycleHandler,
) -> Result<(), String> {
    if let Some(exec) = &hook.exec {
        let cmd = exec.command.clone().unwrap_or_default();
        let request = cri::ExecSyncRequest {
            container_id: container_id.to_owned(),
            cmd: cmd.clone(),
            timeout: 0,
        };
        let response = kubelet
            .config
            .cri
            .runtime()
            .exec_sync(request)
            .await
            .map_err(|status| rpc_error(&status))?;
        let response = response.into_inner();
        if response.exit_code != 0 {
            let output = [response.stdout, response.stderr].concat();
            return Err(format!(
                "command '{}' exited with {}: {}",
                cmd.join(" "),
                response.exit_code,
                String::from_utf8_lossy(&output)
            ));
        }
        return Ok(());
    }
    if let Some(action) = &hook.http_get {
        let port = probe::resolve_port(&action.port, container)?;
        let result = http::get(action, pod_ip, port, HTTP_TIMEOUT).await;
        return match result {
            Ok(response) if response.status < 400 => Ok(()),
            Ok(response) => Err(format!("HTTP hook failed with status code {}", response.status)),
            Err(error) => Err(error),
        };
    }
    if let Some(sleep) = &hook.sleep {
        tokio::time::sleep(Duration::from_secs(
            u64::try_from(sleep.seconds).unwrap_or_default(),
        ))
        .await;
        return Ok(());
    }
    Err("invalid handler: only exec, httpGet and sleep are supported".into())
}
