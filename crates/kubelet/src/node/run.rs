//! Registers the node, then keeps its status: written when it changes, and every five minutes when it does not.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, NodeCondition, NodeStatus};
use k8s_openapi::jiff::Timestamp;
use keelson_client::EventType;
use keelson_cri::v1 as cri;
use kube::Api;
use kube::api::Patch;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{register, status};
use crate::kubelet::Kubelet;

/// Waits between attempts while the API server does not answer.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How often the state is looked at while the node is not ready.
const UNREADY_PERIOD: Duration = Duration::from_millis(250);

/// The runtime as last asked.
#[derive(Clone, Debug, Default)]
pub(crate) struct RuntimeState {
    pub(crate) runtime_error: Option<String>,
    pub(crate) network_error: Option<String>,
    pub(crate) handlers: Vec<cri::RuntimeHandler>,
    pub(crate) supplemental_groups_policy: bool,
}

async fn ask(kubelet: &Kubelet) -> RuntimeState {
    let response = kubelet
        .config
        .cri
        .runtime()
        .status(cri::StatusRequest { verbose: false })
        .await;
    let response = match response {
        Ok(response) => response.into_inner(),
        Err(status) => {
            let before = kubelet.runtime_state();
            return RuntimeState {
                runtime_error: Some(crate::container::rpc_error(&status)),
                ..before
            };
        }
    };
    let conditions = response
        .status
        .map(|status| status.conditions)
        .unwrap_or_default();
    let unmet = |kind: &str| {
        let found = conditions.iter().find(|condition| condition.r#type == kind);
        found.filter(|condition| !condition.status).map(|condition| {
            format!(
                "{kind}=false reason:{} message:{}",
                condition.reason, condition.message
            )
        })
    };
    RuntimeState {
        runtime_error: unmet("RuntimeReady"),
        network_error: unmet("NetworkReady"),
        handlers: response.runtime_handlers,
        supplemental_groups_policy: response
            .features
            .is_some_and(|features| features.supplemental_groups_policy),
    }
}

/// Runs until shutdown.
pub(crate) async fn run(kubelet: Arc<Kubelet>) {
    let api = Api::<Node>::all(kubelet.client.clone());
    let mut updater = Updater {
        kubelet: kubelet.clone(),
        api,
        sent: None,
        sent_at: None,
        conditions: Vec::new(),
        registered: false,
        pod_cidr: None,
    };
    let mut retry = RETRY.0;
    loop {
        let wait = tokio::select! {
            () = kubelet.shutdown.cancelled() => return,
            result = updater.step() => match result {
                Ok(true) => {
                    retry = RETRY.0;
                    kubelet.config.node_status_update_frequency
                }
                Ok(false) => {
                    retry = RETRY.0;
                    UNREADY_PERIOD
                }
                Err(error) => {
                    tracing::warn!(%error, "node status not written; trying again");
                    let wait = retry;
                    retry = (retry * 2).min(RETRY.1);
                    wait
                }
            },
        };
        tokio::select! {
            () = kubelet.shutdown.cancelled() => return,
            () = kubelet.pressure.changed() => {}
            () = sleep(wait) => {}
        }
    }
}

struct Updater {
    kubelet: Arc<Kubelet>,
    api: Api<Node>,
    sent: Option<NodeStatus>,
    sent_at: Option<Instant>,
    conditions: Vec<NodeCondition>,
    registered: bool,
    pod_cidr: Option<String>,
}

impl Updater {
    /// One look at the state; returns whether the node is ready.
    async fn step(&mut self) -> Result<bool, kube::Error> {
        let kubelet = self.kubelet.clone();
        let runtime = ask(&kubelet).await;
        let ready = runtime.runtime_error.is_none() && runtime.network_error.is_none();
        kubelet.set_runtime_state(runtime.clone());
        self.tell_pod_cidr().await;
        let mut new = status::make(&kubelet, &runtime).await;
        let conditions = |node: &Node| node.status.as_ref()?.conditions.clone();
        if self.conditions.is_empty()
            && let Some(known) = kubelet.node().and_then(|node| conditions(&node))
        {
            self.conditions = known;
        }
        status::stamp(&mut new, &self.conditions, Timestamp::now());
        let name = kubelet.config.node_name.clone();
        if !self.registered && kubelet.config.register_node {
            let before = register::register(&self.api, &kubelet.config, new.clone()).await?;
            self.registered = true;
            // What is as it was before this kubelet started has been so since then.
            if let Some(known) = before.and_then(|node| conditions(&node)) {
                self.conditions = known;
                status::stamp(&mut new, &self.conditions, Timestamp::now());
            }
        }
        let difference = status::difference(self.sent.as_ref(), &new);
        let due = self
            .sent_at
            .is_none_or(|at| at.elapsed() >= kubelet.config.node_status_report_frequency);
        let patch = match difference {
            Some(patch) => patch,
            None if due => status::patch(&new, |_| false),
            None => return Ok(ready),
        };
        let patch = json!({"status": patch});
        match self
            .api
            .patch_status(&name, &crate::kubelet::patch_params(), &Patch::Strategic(patch))
            .await
        {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {
                // Somebody deleted the node: it registers again.
                self.registered = false;
                self.sent = None;
                return Err(kube::Error::Api(status));
            }
            Err(error) => return Err(error),
        }
        self.announce(&new);
        self.conditions = new.conditions.clone().unwrap_or_default();
        self.sent = Some(new);
        self.sent_at = Some(Instant::now());
        Ok(ready)
    }

    /// Events for conditions that changed.
    fn announce(&self, new: &NodeStatus) {
        for condition in new.conditions.iter().flatten() {
            let old = self.conditions.iter().find(|old| old.type_ == condition.type_);
            if old.is_some_and(|old| old.status == condition.status) {
                continue;
            }
            let yes = condition.status == "True";
            let reason = match (condition.type_.as_str(), yes) {
                ("Ready", true) => "NodeReady",
                ("Ready", false) => "NodeNotReady",
                ("MemoryPressure", true) => "NodeHasInsufficientMemory",
                ("MemoryPressure", false) => "NodeHasSufficientMemory",
                ("DiskPressure", true) => "NodeHasDiskPressure",
                ("DiskPressure", false) => "NodeHasNoDiskPressure",
                ("PIDPressure", true) => "NodeHasInsufficientPID",
                _ => "NodeHasSufficientPID",
            };
            let text = format!("Node {} status is now: {reason}", self.kubelet.config.node_name);
            self.kubelet.node_event(EventType::Normal, reason, text);
        }
    }

    /// Gives the runtime the range of pod addresses, once it is known.
    async fn tell_pod_cidr(&mut self) {
        let cidr = self.kubelet.node().and_then(|node| {
            let spec = node.spec.clone()?;
            spec.pod_cidrs
                .filter(|cidrs| !cidrs.is_empty())
                .map(|cidrs| cidrs.join(","))
                .or(spec.pod_cidr)
        });
        let Some(cidr) = cidr.filter(|cidr| self.pod_cidr.as_ref() != Some(cidr)) else {
            return;
        };
        let network_config = Some(cri::NetworkConfig {
            pod_cidr: cidr.clone(),
        });
        let request = cri::UpdateRuntimeConfigRequest {
            runtime_config: Some(cri::RuntimeConfig { network_config }),
        };
        match self
            .kubelet
            .config
            .cri
            .runtime()
            .update_runtime_config(request)
            .await
        {
            Ok(_) => self.pod_cidr = Some(cidr),
            // The built-in runtime's network reads the range from the node by itself.
            Err(status) if status.code() == tonic::Code::Unimplemented => self.pod_cidr = Some(cidr),
            Err(status) => {
                tracing::warn!(cidr, %status, "the runtime did not take the range of pod addresses")
            }
        }
    }
}
