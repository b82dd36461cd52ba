//! ServiceAccount: every pod runs as an account that exists, and gets its token and pull secrets.

use async_trait::async_trait;
use keelson_api::status::Status;
use serde_json::{Value, json};

use super::object::{MIRROR_POD, forbidden, list, list_mut, present, text, writes};
use super::{Attributes, MutatingPlugin};
use crate::registry::status_of;
use crate::resources::{Reader, Resources};

const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";
/// An hour, and seven seconds by which the issuer knows a token of this volume.
const EXPIRATION: i64 = 3607;

/// See the module.
pub(super) struct ServiceAccount {
    accounts: Reader,
}

impl ServiceAccount {
    pub(super) fn new(resources: &Resources) -> Self {
        Self {
            accounts: resources.resource("", "serviceaccounts"),
        }
    }
}

#[async_trait]
impl MutatingPlugin for ServiceAccount {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        writes(attributes, "", "pods", false)
    }

    async fn admit(&self, attributes: &Attributes<'_>, object: Option<&mut Value>) -> Result<(), Status> {
        let Some(pod) = object else { return Ok(()) };
        if pod.pointer(MIRROR_POD).is_some() {
            return check_mirror(pod).map_err(|why| forbidden(attributes, Some(pod), why));
        }
        if text(pod, "/spec/serviceAccountName").is_empty() {
            let alias = text(pod, "/spec/serviceAccount");
            let name = if alias.is_empty() { "default" } else { alias }.to_owned();
            pod["spec"]["serviceAccountName"] = name.into();
        }
        let name = text(pod, "/spec/serviceAccountName").to_owned();
        pod["spec"]["serviceAccount"] = name.as_str().into();
        let namespace = attributes.namespace;
        let account = match self.accounts.get(namespace, &name) {
            Some(account) => Some(account),
            None => self
                .accounts
                .get_latest(namespace, &name)
                .await
                .map_err(|e| status_of(&e))?,
        };
        let Some(account) = account else {
            let why = format!(
                "error looking up service account {namespace}/{name}: serviceaccount {name:?} not found"
            );
            return Err(forbidden(attributes, Some(pod), why));
        };
        let account = account.value();
        if text(
            account,
            "/metadata/annotations/kubernetes.io~1enforce-mountable-secrets",
        ) == "true"
        {
            check_secrets(pod, account).map_err(|why| forbidden(attributes, Some(pod), why))?;
        }
        let wants = |o: &Value, pointer: &str| o.pointer(pointer).and_then(Value::as_bool);
        let automount = wants(pod, "/spec/automountServiceAccountToken")
            .or_else(|| wants(account, "/automountServiceAccountToken"))
            .unwrap_or(true);
        if automount {
            mount_token(pod, &random_suffix());
        }
        if list(pod, "/spec/imagePullSecrets").is_empty() {
            let secrets = list(account, "/imagePullSecrets");
            if !secrets.is_empty() {
                pod["spec"]["imagePullSecrets"] = secrets.to_vec().into();
            }
        }
        Ok(())
    }
}

/// Five characters of the alphabet of generated names.
fn random_suffix() -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    (0..5)
        .map(|_| char::from(ALPHABET[rand::random_range(0..ALPHABET.len())]))
        .collect()
}

fn check_mirror(pod: &Value) -> Result<(), &'static str> {
    if !text(pod, "/spec/serviceAccountName").is_empty() {
        return Err("a mirror pod may not reference service accounts");
    }
    if !secrets_of(pod).is_empty() {
        return Err("a mirror pod may not reference secrets");
    }
    let projects = |v: &Value| {
        list(v, "/projected/sources")
            .iter()
            .any(|source| present(source, "/serviceAccountToken"))
    };
    if list(pod, "/spec/volumes").iter().any(projects) {
        return Err("a mirror pod may not use ServiceAccountToken volume projections");
    }
    Ok(())
}

/// Containers of all kinds.
pub(super) fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    [
        "/spec/initContainers",
        "/spec/containers",
        "/spec/ephemeralContainers",
    ]
    .into_iter()
    .flat_map(|pointer| list(pod, pointer))
}

/// Names of the secrets that a pod names.
pub(super) fn secrets_of(pod: &Value) -> Vec<&str> {
    let mut names: Vec<&str> = list(pod, "/spec/imagePullSecrets")
        .iter()
        .map(|r| text(r, "/name"))
        .collect();
    for container in containers(pod) {
        names.extend(
            list(container, "/env")
                .iter()
                .map(|e| text(e, "/valueFrom/secretKeyRef/name")),
        );
        names.extend(
            list(container, "/envFrom")
                .iter()
                .map(|e| text(e, "/secretRef/name")),
        );
    }
    for volume in list(pod, "/spec/volumes") {
        names.push(text(volume, "/secret/secretName"));
        names.extend(
            list(volume, "/projected/sources")
                .iter()
                .map(|s| text(s, "/secret/name")),
        );
        for source in [
            "azureFile/secretName",
            "csi/nodePublishSecretRef/name",
            "cephfs/secretRef/name",
            "rbd/secretRef/name",
            "iscsi/secretRef/name",
            "flexVolume/secretRef/name",
            "scaleIO/secretRef/name",
            "storageos/secretRef/name",
            "cinder/secretRef/name",
        ] {
            names.push(text(volume, &format!("/{source}")));
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

/// Of an account that limits its secrets, only those may be used.
fn check_secrets(pod: &Value, account: &Value) -> Result<(), String> {
    let name = text(account, "/metadata/name");
    let mountable = |secret: &str| {
        list(account, "/secrets")
            .iter()
            .any(|s| text(s, "/name") == secret)
    };
    for volume in list(pod, "/spec/volumes") {
        let secret = text(volume, "/secret/secretName");
        if !secret.is_empty() && !mountable(secret) {
            return Err(format!(
                "volume with secret.secretName={secret:?} is not allowed because service account {name} does not \
                 reference that secret"
            ));
        }
    }
    for container in containers(pod) {
        for variable in list(container, "/env") {
            let secret = text(variable, "/valueFrom/secretKeyRef/name");
            if !secret.is_empty() && !mountable(secret) {
                return Err(format!(
                    "container {} with envVar {} referencing secret.secretName={secret:?} is not allowed because service \
                     account {name} does not reference that secret",
                    text(container, "/name"),
                    text(variable, "/name")
                ));
            }
        }
    }
    let pullable = |secret: &str| {
        list(account, "/imagePullSecrets")
            .iter()
            .any(|s| text(s, "/name") == secret)
    };
    for (at, reference) in list(pod, "/spec/imagePullSecrets").iter().enumerate() {
        let secret = text(reference, "/name");
        if !pullable(secret) {
            return Err(format!(
                "imagePullSecrets[{at}].name={secret:?} is not allowed because service account {name} does not reference \
                 that imagePullSecret"
            ));
        }
    }
    Ok(())
}

/// Mounts the token volume into every container that has nothing at its place.
fn mount_token(pod: &mut Value, suffix: &str) {
    let existing = list(pod, "/spec/volumes")
        .iter()
        .map(|volume| text(volume, "/name"))
        .find(|name| name.starts_with(VOLUME_PREFIX))
        .map(str::to_owned);
    let has_volume = existing.is_some();
    let volume = existing.unwrap_or_else(|| format!("{VOLUME_PREFIX}{suffix}"));
    let mut needed = false;
    for kind in ["initContainers", "containers"] {
        if list(pod, &format!("/spec/{kind}")).is_empty() {
            continue;
        }
        for container in list_mut(&mut pod["spec"], kind) {
            let mounted = list(container, "/volumeMounts")
                .iter()
                .any(|m| text(m, "/mountPath") == TOKEN_PATH);
            if !mounted {
                list_mut(container, "volumeMounts")
                    .push(json!({"name": volume, "readOnly": true, "mountPath": TOKEN_PATH}));
                needed = true;
            }
        }
    }
    if needed && !has_volume {
        list_mut(&mut pod["spec"], "volumes").push(json!({
            "name": volume,
            "projected": {
                "defaultMode": 420,
                "sources": [
                    {"serviceAccountToken": {"expirationSeconds": EXPIRATION, "path": "token"}},
                    {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                    {"downwardAPI": {"items": [
                        {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}},
                    ]}},
                ],
            },
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_volume() {
        let mut pod = json!({"spec": {
            "initContainers": [{"name": "i"}],
            "containers": [{"name": "a"}, {"name": "b", "volumeMounts": [{"name": "own", "mountPath": TOKEN_PATH}]}],
        }});
        mount_token(&mut pod, "abcde");
        assert_eq!(pod["spec"]["volumes"][0]["name"], "kube-api-access-abcde");
        assert_eq!(
            pod["spec"]["containers"][0]["volumeMounts"][0]["name"],
            "kube-api-access-abcde"
        );
        assert_eq!(
            pod["spec"]["initContainers"][0]["volumeMounts"][0]["mountPath"],
            TOKEN_PATH
        );
        assert_eq!(
            pod["spec"]["containers"][1]["volumeMounts"]
                .as_array()
                .unwrap()
                .len(),
            1
        );
        let before = pod.clone();
        mount_token(&mut pod, "fghij");
        assert_eq!(pod, before, "once is enough");
    }

    #[test]
    fn limits() {
        let mirror = |spec: Value| json!({"spec": spec});
        assert_eq!(check_mirror(&mirror(json!({"containers": []}))), Ok(()));
        assert!(check_mirror(&mirror(json!({"serviceAccountName": "x"}))).is_err());
        assert!(check_mirror(&mirror(json!({"volumes": [{"secret": {"secretName": "s"}}]}))).is_err());
        let account = json!({"metadata": {"name": "sa"}, "secrets": [{"name": "ok"}]});
        let pod = |s: &str| json!({"spec": {"volumes": [{"secret": {"secretName": s}}]}});
        assert_eq!(check_secrets(&pod("ok"), &account), Ok(()));
        assert_eq!(
            check_secrets(&pod("no"), &account).unwrap_err(),
            "volume with secret.secretName=\"no\" is not allowed because service account sa does not reference that secret"
        );
    }
}
