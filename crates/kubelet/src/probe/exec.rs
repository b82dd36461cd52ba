//! Probes that run a command in the container.

use std::time::Duration;

use keelson_cri::v1 as cri;

use super::Outcome;
use crate::container::rpc_error;
use crate::cri::Cri;

/// Output beyond this is not reported.
const MAX_OUTPUT: usize = 10 << 10;

pub(super) async fn probe(cri: &Cri, container_id: &str, cmd: Vec<String>, timeout: Duration) -> Outcome {
    let shown = format!("{cmd:?}");
    let seconds = i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX);
    let request = cri::ExecSyncRequest {
        container_id: container_id.to_owned(),
        cmd,
        timeout: seconds,
    };
    match cri.runtime().exec_sync(request).await {
        Ok(response) => {
            let response = response.into_inner();
            if response.exit_code == 0 {
                return Outcome::Success;
            }
            let mut output = [response.stdout, response.stderr].concat();
            output.truncate(MAX_OUTPUT);
            Outcome::Failure(String::from_utf8_lossy(&output).into_owned())
        }
        Err(status) if status.code() == tonic::Code::DeadlineExceeded => Outcome::Failure(format!(
            "command timed out: {shown} timed out after {}s",
            timeout.as_secs()
        )),
        Err(status) => Outcome::Error(rpc_error(&status)),
    }
}
