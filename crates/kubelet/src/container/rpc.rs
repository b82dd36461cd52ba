//! How a runtime's error reads in events and statuses.

/// As gRPC clients print it everywhere: `rpc error: code = NotFound desc = …`.
pub(crate) fn rpc_error(status: &tonic::Status) -> String {
    format!(
        "rpc error: code = {:?} desc = {}",
        status.code(),
        status.message()
    )
}
