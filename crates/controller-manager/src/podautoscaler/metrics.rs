//! Usage of pods, as `metrics.k8s.io/v1beta1` tells it.

use std::collections::HashMap;

use keelson_api::quantity::Quantity;
use kube::Client;
use serde::Deserialize;

#[derive(Deserialize)]
struct PodMetricsList {
    #[serde(default)]
    items: Vec<PodMetrics>,
}

#[derive(Deserialize)]
struct PodMetrics {
    metadata: Metadata,
    #[serde(default)]
    containers: Vec<ContainerMetrics>,
}

#[derive(Deserialize)]
struct Metadata {
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
struct ContainerMetrics {
    #[serde(default)]
    name: String,
    #[serde(default)]
    usage: HashMap<String, String>,
}

/// Thousandths of the resource's unit that each pod uses, in one container or in all. A pod in which one of them does not
/// report has no entry.
pub(super) async fn usage(
    client: &Client,
    namespace: &str,
    selector: &str,
    resource: &str,
    container: Option<&str>,
) -> Result<HashMap<String, i64>, kube::Error> {
    let query = form_urlencode(selector);
    let path = format!("/apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods?labelSelector={query}");
    let request = http_get(&path)?;
    let list: PodMetricsList = client.request(request).await?;
    Ok(list
        .items
        .into_iter()
        .filter_map(|pod| Some((pod.metadata.name.clone(), sum(&pod, resource, container)?)))
        .collect())
}

fn http_get(path: &str) -> Result<http::Request<Vec<u8>>, kube::Error> {
    http::Request::get(path)
        .body(Vec::new())
        .map_err(kube::Error::HttpError)
}

fn sum(pod: &PodMetrics, resource: &str, container: Option<&str>) -> Option<i64> {
    let mut wanted = pod
        .containers
        .iter()
        .filter(|found| container.is_none_or(|name| found.name == name))
        .peekable();
    wanted.peek()?;
    wanted
        .map(|found| Some(Quantity::parse(found.usage.get(resource)?).ok()?.milli_value()))
        .sum()
}

/// Percent-encodes what a query may not contain.
fn form_urlencode(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| {
            if plain(byte) {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}
