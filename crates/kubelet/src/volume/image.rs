//! image volumes: an OCI image, mounted read-only by the runtime.

use k8s_openapi::api::core::v1::ImageVolumeSource;

use super::manager::{Context, Mounted, PluginError};
use crate::container::{images, sandbox};

pub(super) async fn set_up(
    context: &Context<'_>,
    source: &ImageVolumeSource,
) -> Result<Mounted, PluginError> {
    let reference = source.reference.clone().unwrap_or_default();
    let policy = source.pull_policy.as_deref().unwrap_or("IfNotPresent");
    let config = sandbox::config(context.kubelet, context.pod, 0)
        .await
        .map_err(PluginError::Invalid)?;
    let name = &context.volume.name;
    let ensured = images::ensure_named(context.kubelet, context.pod, name, &reference, policy, &config).await;
    let present = ensured.map_err(|failure| {
        PluginError::Invalid(format!("{}: {}", failure.error.reason, failure.error.message))
    })?;
    Ok(Mounted {
        image: Some(present.reference),
        read_only: true,
        ..Mounted::default()
    })
}
