//! From paths to answers.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use keelson_cri::v1 as cri;
use serde_json::json;

use super::auth::{Authenticator, Refusal, User};
use super::{logs, streaming};
use crate::container;
use crate::kubelet::Kubelet;
use crate::pod::handle::PodHandle;
use crate::stats::{self, Detail};

/// The body of an answer.
pub(super) type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// A whole body.
pub(super) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// An answer in plain text.
pub(super) fn text(status: StatusCode, text: impl Into<String>) -> Response<Body> {
    let mut response = Response::new(full(text.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

fn json(value: &serde_json::Value) -> Response<Body> {
    let mut response = Response::new(full(value.to_string()));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("application/json"),
    );
    response
}

fn metrics(body: String) -> Response<Body> {
    let mut response = text(StatusCode::OK, body);
    let kind = header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// The parameters of a query.
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(query: Option<&str>) -> Self {
        let decode = |text: &str| percent_decode(&text.replace('+', " "));
        let pairs = query
            .unwrap_or_default()
            .split('&')
            .filter(|pair| !pair.is_empty());
        Self(
            pairs
                .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
                .map(|(k, v)| (decode(k), decode(v)))
                .collect(),
        )
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    pub(super) fn all(&self, name: &str) -> Vec<String> {
        self.0
            .iter()
            .filter(|(key, _)| key == name)
            .map(|(_, value)| value.clone())
            .collect()
    }

    /// Whether any of the names is set and true.
    pub(super) fn is_true(&self, names: &[&str]) -> bool {
        names.iter().any(|name| {
            self.get(name)
                .is_some_and(|value| matches!(value, "1" | "true" | "True" | "TRUE" | "t"))
        })
    }
}

fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while index < bytes.len() {
        let code = (bytes[index] == b'%')
            .then(|| {
                text.get(index + 1..index + 3)
                    .and_then(|digits| u8::from_str_radix(digits, 16).ok())
            })
            .flatten();
        match code {
            Some(code) => {
                decoded.push(code);
                index += 3;
            }
            None => {
                decoded.push(bytes[index]);
                index += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// Finds a pod by namespace and name, with an optional UID that it must have.
pub(super) fn find_pod(
    kubelet: &Kubelet,
    namespace: &str,
    name: &str,
    uid: Option<&str>,
) -> Option<Arc<PodHandle>> {
    kubelet
        .pods
        .by_name(namespace, name)
        .filter(|handle| uid.is_none_or(|uid| uid == handle.uid))
}

/// Answers one request.
pub(super) async fn handle(
    kubelet: &Arc<Kubelet>,
    authenticator: &Authenticator,
    peer: Option<User>,
    request: Request<Incoming>,
) -> Response<Body> {
    match authenticator.check(kubelet, peer, &request).await {
        Ok(_) => {}
        Err(Refusal::Unauthorized) => return text(StatusCode::UNAUTHORIZED, "Unauthorized"),
        Err(Refusal::Forbidden(message)) => return text(StatusCode::FORBIDDEN, message),
        Err(Refusal::Failed(message)) => {
            tracing::warn!(message, "a request could not be authorized");
            return text(StatusCode::INTERNAL_SERVER_ERROR, "Authorization error");
        }
    }
    let path = request.uri().path().to_owned();
    let parts: Vec<String> = path
        .split('/')
        .filter(|part| !part.is_empty())
        .map(percent_decode)
        .collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let query = Query::parse(request.uri().query());
    let get = request.method() == Method::GET;
    match parts.as_slice() {
        ["healthz" | "livez" | "readyz"] | ["healthz", "ping" | "log" | "syncloop"] if get => {
            text(StatusCode::OK, "ok")
        }
        ["pods" | "runningpods"] if get => pods(kubelet),
        ["configz"] if get => configz(kubelet),
        ["metrics"] if get => metrics(stats::kubelet_metrics(kubelet)),
        ["metrics", "resource"] if get => metrics(stats::resource_metrics(kubelet).await),
        ["metrics", "cadvisor"] if get => match stats::cadvisor_metrics(kubelet).await {
            Ok(body) => metrics(body),
            Err(status) => text(StatusCode::INTERNAL_SERVER_ERROR, container::rpc_error(&status)),
        },
        ["metrics", "probes"] if get => metrics(kubelet.probes.metrics()),
        ["stats", "summary"] if get || request.method() == Method::POST => {
            let detail = if query.is_true(&["only_cpu_and_memory"]) {
                Detail::CpuAndMemory
            } else {
                Detail::Full
            };
            match stats::summary(kubelet, detail).await {
                Ok(value) => json(&value),
                Err(status) => text(StatusCode::INTERNAL_SERVER_ERROR, container::rpc_error(&status)),
            }
        }
        ["containerLogs", namespace, pod, container] if get => {
            logs::container_logs(kubelet, namespace, pod, container, &query).await
        }
        ["exec", namespace, pod, container] => {
            streaming::exec(kubelet, request, (namespace, pod, None), container, &query).await
        }
        ["exec", namespace, pod, uid, container] => {
            streaming::exec(kubelet, request, (namespace, pod, Some(uid)), container, &query).await
        }
        ["attach", namespace, pod, container] => {
            streaming::attach(kubelet, request, (namespace, pod, None), container, &query).await
        }
        ["attach", namespace, pod, uid, container] => {
            streaming::attach(kubelet, request, (namespace, pod, Some(uid)), container, &query).await
        }
        ["portForward", namespace, pod] => {
            streaming::port_forward(kubelet, request, (namespace, pod, None), &query).await
        }
        ["portForward", namespace, pod, uid] => {
            streaming::port_forward(kubelet, request, (namespace, pod, Some(uid)), &query).await
        }
        ["run", namespace, pod, container] | ["run", namespace, pod, _, container] => {
            run(kubelet, namespace, pod, container, &query).await
        }
        _ => text(StatusCode::NOT_FOUND, "404 page not found\n"),
    }
}

fn pods(kubelet: &Kubelet) -> Response<Body> {
    let items: Vec<serde_json::Value> = kubelet
        .pods
        .list()
        .iter()
        .map(|handle| {
            let mut pod = (*handle.pod()).clone();
            pod.status = handle.status().map(|status| (*status).clone()).or(pod.status);
            serde_json::to_value(pod).unwrap_or_default()
        })
        .collect();
    json(&json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}))
}

/// The settings that others read, under the names of KubeletConfiguration.
fn configz(kubelet: &Kubelet) -> Response<Body> {
    let config = &kubelet.config;
    let driver = match config.cgroup_driver {
        crate::config::CgroupDriver::Cgroupfs => "cgroupfs",
        crate::config::CgroupDriver::Systemd => "systemd",
    };
    let size = format!("{}Mi", config.container_log_max_size >> 20);
    json(&json!({"kubeletconfig": {
        "staticPodPath": config.static_pod_path,
        "address": config.server.as_ref().map(|server| server.address.to_string()),
        "port": config.server.as_ref().map(|server| server.port),
        "clusterDomain": config.cluster_domain,
        "clusterDNS": config.cluster_dns,
        "nodeStatusUpdateFrequency": format!("{}s", config.node_status_update_frequency.as_secs()),
        "nodeStatusReportFrequency": crate::pod::sync::go_duration(config.node_status_report_frequency),
        "nodeLeaseDurationSeconds": config.node_lease_duration.as_secs(),
        "imageGCHighThresholdPercent": config.image_gc_high_threshold_percent,
        "imageGCLowThresholdPercent": config.image_gc_low_threshold_percent,
        "cgroupsPerQOS": config.cgroups_per_qos,
        "cgroupRoot": config.cgroup_root,
        "cgroupDriver": driver,
        "maxPods": config.max_pods,
        "podPidsLimit": config.pod_pids_limit.unwrap_or(-1),
        "resolvConf": config.resolv_conf,
        "serializeImagePulls": config.serialize_image_pulls,
        "maxParallelImagePulls": config.max_parallel_image_pulls,
        "containerLogMaxSize": size,
        "containerLogMaxFiles": config.container_log_max_files,
        "systemReserved": config.system_reserved,
        "kubeReserved": config.kube_reserved,
        "seccompDefault": config.seccomp_default,
        "containerRuntimeEndpoint": config.cri.endpoint(),
        "kind": "KubeletConfiguration",
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
    }}))
}

async fn run(kubelet: &Kubelet, namespace: &str, pod: &str, name: &str, query: &Query) -> Response<Body> {
    let Some(handle) = find_pod(kubelet, namespace, pod, None) else {
        return text(StatusCode::NOT_FOUND, "pod does not exist");
    };
    let runtime = handle.runtime();
    let Some(record) = runtime.running().find(|record| record.name == name) else {
        return text(StatusCode::NOT_FOUND, format!("container not found ({name:?})"));
    };
    let cmd = query
        .get("cmd")
        .unwrap_or_default()
        .split(' ')
        .map(str::to_owned)
        .collect();
    let request = cri::ExecSyncRequest {
        container_id: record.id.clone(),
        cmd,
        timeout: 0,
    };
    match kubelet.config.cri.runtime().exec_sync(request).await {
        Ok(response) => {
            let response = response.into_inner();
            let output = [response.stdout, response.stderr].concat();
            let mut answer = Response::new(full(output));
            if response.exit_code != 0 {
                *answer.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            }
            answer
        }
        Err(status) => text(StatusCode::INTERNAL_SERVER_ERROR, container::rpc_error(&status)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded() {
        let query = Query::parse(Some(
            "command=sh&command=-c&command=echo+a%20%26b&input=1&tty=false&x",
        ));
        assert_eq!(query.all("command"), ["sh", "-c", "echo a &b"]);
        assert!(query.is_true(&["stdin", "input"]) && !query.is_true(&["tty"]) && !query.is_true(&["x"]));
    }
}
