//! Probes by the gRPC health checking protocol.

use std::time::Duration;

use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Endpoint;
use tonic_prost::ProstCodec;

use super::Outcome;

/// `grpc.health.v1.HealthCheckRequest`
#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`; status 1 is SERVING.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

const SERVING: i32 = 1;

pub(super) async fn probe(host: &str, port: u16, service: &str, limit: Duration) -> Outcome {
    let address = if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    };
    match tokio::time::timeout(limit, check(&address, service)).await {
        Ok(Ok(SERVING)) => Outcome::Success,
        Ok(Ok(status)) => {
            let name = match status {
                0 => "UNKNOWN",
                2 => "NOT_SERVING",
                3 => "SERVICE_UNKNOWN",
                _ => "UNRECOGNIZED",
            };
            Outcome::Failure(format!("service unhealthy (responded with \"{name}\")"))
        }
        Ok(Err(error)) => Outcome::Failure(error),
        Err(_) => Outcome::Failure(format!(
            "timeout: failed to connect service {address:?} within {}s: context deadline exceeded",
            limit.as_secs()
        )),
    }
}

async fn check(address: &str, service: &str) -> Result<i32, String> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|error| error.to_string())?;
    let refused = |error: tonic::transport::Error| format!("error: this server is not reachable: {error}");
    let channel = endpoint
        .user_agent("kube-probe/1.36")
        .map_err(refused)?
        .connect()
        .await
        .map_err(refused)?;
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.map_err(|error| error.to_string())?;
    let path = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let request = tonic::Request::new(HealthCheckRequest {
        service: service.to_owned(),
    });
    let codec: ProstCodec<HealthCheckRequest, HealthCheckResponse> = ProstCodec::default();
    match client.unary(request, path, codec).await {
        Ok(response) => Ok(response.into_inner().status),
        Err(status) if status.code() == tonic::Code::Unimplemented => Err(
            "error: this server does not implement the grpc health protocol (grpc.health.v1.Health)".into(),
        ),
        Err(status) => Err(format!(
            "error: health rpc failed: {}",
            crate::container::rpc_error(&status)
        )),
    }
}
