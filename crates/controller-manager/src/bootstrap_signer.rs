//! bootstrap-signer-controller: signs the kubeconfig of the ConfigMap `kube-public/cluster-info` with every bootstrap token
//! made for that, so that whoever joins with such a token (kubeadm's discovery) can tell that it is the right cluster.
//!
//! A signature is a JSON web signature (HS256, the token's secret as key) without its content, under
//! `jws-kubeconfig-<token id>`.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use keelson_client::{Informer, NamespacedName, Reconciled, WorkQueue};
use kube::api::PostParams;
use kube::{Api, Client};
use ring::hmac;

use crate::Context;
use crate::shared::owner::name;
use crate::shared::{ReconcileError, api_error};
use crate::token_cleaner::{self, expiry};

const NAMESPACE: &str = "kube-public";
const NAME: &str = "cluster-info";
const CONTENT: &str = "kubeconfig";
const SIGNATURE: &str = "jws-kubeconfig-";

struct Signer {
    client: Client,
    maps: Informer<ConfigMap>,
    secrets: Informer<Secret>,
}

/// Id and secret of a token that signs.
fn signing_token(secret: &Secret, now: Timestamp) -> Option<(String, String)> {
    let value = |key: &str| {
        let value = secret.data.as_ref()?.get(key)?;
        String::from_utf8(value.0.clone())
            .ok()
            .filter(|text| !text.is_empty())
    };
    let (id, key) = (value("token-id")?, value("token-secret")?);
    let is_for_signing = value("usage-bootstrap-signing").as_deref() == Some("true");
    let is_expired = expiry(secret).is_some_and(|end| end <= now);
    let fits = name(secret) == format!("bootstrap-token-{id}") && is_for_signing && !is_expired;
    fits.then_some((id, key))
}

/// The signature of `content` by a token.
fn signature(content: &str, id: &str, secret: &str) -> String {
    let header = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"HS256","kid":"{id}"}}"#));
    let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(content));
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let tag = hmac::sign(&key, signed.as_bytes());
    format!("{header}..{}", URL_SAFE_NO_PAD.encode(tag))
}

/// The data with the signatures of `tokens` and of no others; `None` when there is nothing to sign.
fn signed(data: &BTreeMap<String, String>, tokens: &[(String, String)]) -> Option<BTreeMap<String, String>> {
    let content = data.get(CONTENT)?;
    let mut signed = data.clone();
    signed.retain(|key, _| !key.starts_with(SIGNATURE));
    for (id, secret) in tokens {
        signed.insert(format!("{SIGNATURE}{id}"), signature(content, id, secret));
    }
    Some(signed)
}

/// Runs the controller.
pub(crate) async fn start(context: Context) {
    let maps =
        context.informer_of::<ConfigMap>(format!("metadata.namespace={NAMESPACE},metadata.name={NAME}"));
    let secrets = context.informer_of::<Secret>(token_cleaner::SELECTOR);
    let queue: WorkQueue<NamespacedName> = WorkQueue::default();
    let key = || NamespacedName::new(NAMESPACE, NAME);
    let sink = queue.clone();
    maps.on_change(move |_| sink.add(key()));
    let sink = queue.clone();
    secrets.on_change(move |_| sink.add(key()));
    let signer = Arc::new(Signer {
        client: context.client(),
        maps: maps.clone(),
        secrets: secrets.clone(),
    });
    let ready = async {
        tokio::join!(maps.synced(), secrets.synced());
    };
    context
        .work_after(ready, queue, 1, signer, |signer, key| async move {
            signer.sync(&key).await
        })
        .await;
}

impl Signer {
    async fn sync(&self, key: &NamespacedName) -> Result<Reconciled, ReconcileError> {
        let Some(map) = self.maps.get(key) else {
            return Ok(Reconciled::Done);
        };
        let now = Timestamp::now();
        let secrets = self.secrets.list();
        let tokens: Vec<_> = secrets
            .iter()
            .filter_map(|secret| signing_token(secret, now))
            .collect();
        let data = map.data.clone().unwrap_or_default();
        if let Some(signed) = signed(&data, &tokens).filter(|signed| *signed != data) {
            let mut changed = ConfigMap::clone(&map);
            changed.data = Some(signed);
            let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), NAMESPACE);
            api_error::ignore_not_found(api.replace(NAME, &PostParams::default(), &changed).await)?;
        }
        Ok(Reconciled::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn signatures() {
        // Checked against another implementation of RFC 7515 (HMAC of the encoded header and content).
        let found = signature("config", "abcdef", "0123456789abcdef");
        let (header, tag) = found.split_once("..").unwrap();
        let header = String::from_utf8(URL_SAFE_NO_PAD.decode(header).unwrap()).unwrap();
        assert_eq!(header, r#"{"alg":"HS256","kid":"abcdef"}"#);
        assert_eq!(tag, "bTeHbksnlLJBm7Vi0Ei2oppeiyS8yaqjp8xiz72--Bs");
        let token = |id: &str| (id.to_owned(), "0123456789abcdef".to_owned());
        let data = BTreeMap::from([
            ("kubeconfig".to_owned(), "config".to_owned()),
            ("jws-kubeconfig-gone00".to_owned(), "old".to_owned()),
        ]);
        let signed = signed(&data, &[token("abcdef")]).unwrap();
        let keys: Vec<_> = signed.keys().map(String::as_str).collect();
        assert_eq!(keys, ["jws-kubeconfig-abcdef", "kubeconfig"]);
        assert_eq!(super::signed(&BTreeMap::new(), &[token("abcdef")]), None);
    }

    #[test]
    fn tokens_that_sign() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        let check = |change: Value, signs: bool| {
            let mut data = json!({"token-id": "abcdef", "token-secret": "0123456789abcdef", "usage-bootstrap-signing": "true",
                                  "expiration": "2026-01-01T00:00:01Z"});
            data.as_object_mut()
                .unwrap()
                .extend(change.as_object().unwrap().clone());
            for value in data.as_object_mut().unwrap().values_mut() {
                *value = json!(encode(value.as_str().unwrap()));
            }
            let metadata = json!({"name": "bootstrap-token-abcdef", "namespace": "kube-system"});
            let secret = json!({"metadata": metadata, "type": "bootstrap.kubernetes.io/token", "data": data});
            let secret: Secret = serde_json::from_value(secret).unwrap();
            assert_eq!(signing_token(&secret, now).is_some(), signs, "{change}");
        };
        check(json!({}), true);
        check(json!({"usage-bootstrap-signing": "false"}), false);
        check(json!({"expiration": "2026-01-01T00:00:00Z"}), false);
        check(json!({"token-id": "ghijkl"}), false);
        check(json!({"token-secret": ""}), false);
    }
}
