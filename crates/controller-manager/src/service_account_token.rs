//! serviceaccount-token-controller: fills Secrets of type `kubernetes.io/service-account-token` for the account that their
//! annotation names, deletes them when the account is gone, and takes deleted ones out of the account's `secrets`.
//!
//! As upstream since v1.24 it makes no Secret by itself: pods get bound tokens from the TokenRequest API.

use std::fmt;
use std::sync::Arc;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use keelson_client::{Change, Index, Informer, NamespacedName, Reconciled, WorkQueue};
use keelson_pki::PrivateKey;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::Context;
use crate::shared::owner::{name, namespace, uid};
use crate::shared::pod::annotation;
use crate::shared::{ReconcileError, api_error};

/// `--concurrent-serviceaccount-token-syncs`.
const WORKERS: usize = 5;
const TYPE: &str = "kubernetes.io/service-account-token";
const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";
const CA: &str = "ca.crt";
const NAMESPACE: &str = "namespace";
const TOKEN: &str = "token";

/// What a key of the queue means.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Task {
    /// An account is gone.
    AccountGone { account: NamespacedName, uid: String },
    /// A secret is there.
    Fill(NamespacedName),
    /// A secret is gone that was of this account.
    SecretGone { account: NamespacedName, secret: String },
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AccountGone { account, .. } => write!(f, "tokens of account {account}"),
            Self::Fill(secret) => write!(f, "secret {secret}"),
            Self::SecretGone { account, secret } => write!(f, "account {account} without secret {secret}"),
        }
    }
}

struct Tokens {
    client: Client,
    accounts: Informer<ServiceAccount>,
    secrets: Informer<Secret>,
    by_account: Index<NamespacedName, Secret>,
    key: PrivateKey,
    issuer: String,
    root_ca: Option<String>,
}

/// The account that a token secret is of.
fn account_of(secret: &Secret) -> Option<NamespacedName> {
    let account = annotation(secret, ACCOUNT_NAME).filter(|account| !account.is_empty())?;
    (secret.type_.as_deref() == Some(TYPE)).then(|| NamespacedName::new(namespace(secret), account))
}

/// Whether the secret says it is of the account with this UID, or does not say.
fn fits(secret: &Secret, account_uid: &str) -> bool {
    annotation(secret, ACCOUNT_UID).is_none_or(|wanted| wanted.is_empty() || wanted == account_uid)
}

/// Starts the controller; without a signing key in the configuration there are no tokens to make.
pub(crate) async fn start(context: Context) {
    let Some(pem) = &context.config().service_account_key_pem else {
        return;
    };
    let key = match PrivateKey::from_pem(pem) {
        Ok(key) => key,
        Err(error) => {
            tracing::error!(%error, "the service account signing key is not readable: no tokens for secrets");
            return;
        }
    };
    let accounts = context.informer::<ServiceAccount>();
    let secrets = context.informer_of::<Secret>(format!("type={TYPE}"));
    let queue: WorkQueue<Task> = WorkQueue::default();
    let tokens = Arc::new(Tokens {
        client: context.client(),
        accounts: accounts.clone(),
        secrets: secrets.clone(),
        by_account: secrets.index(|secret: &Secret| account_of(secret).into_iter().collect()),
        key,
        issuer: context.config().service_account_issuer.clone(),
        root_ca: context.config().root_ca_pem.clone(),
    });
    let sink = queue.clone();
    accounts.on_change(move |change| {
        if let Change::Deleted(account) = change {
            sink.add(Task::AccountGone {
                account: NamespacedName::of(account.as_ref()),
                uid: uid(account.as_ref()).to_owned(),
            });
        }
    });
    let sink = queue.clone();
    secrets.on_change(move |change| match change {
        Change::Added(secret) | Change::Updated(_, secret) => {
            sink.add(Task::Fill(NamespacedName::of(secret.as_ref())));
        }
        Change::Deleted(secret) => sink.add(Task::SecretGone {
            account: match account_of(secret) {
                Some(account) => account,
                None => return,
            },
            secret: name(secret.as_ref()).to_owned(),
        }),
    });
    let ready = async {
        tokio::join!(accounts.synced(), secrets.synced());
    };
    context
        .work_after(ready, queue, WORKERS, tokens, |tokens, task| async move {
            match task {
                Task::AccountGone { account, uid } => tokens.account_gone(&account, &uid).await,
                Task::Fill(secret) => tokens.fill(&secret).await,
                Task::SecretGone { account, secret } => tokens.secret_gone(&account, &secret).await,
            }
        })
        .await;
}

impl Tokens {
    fn api(&self, namespace: &str) -> Api<Secret> {
        Api::namespaced(self.client.clone(), namespace)
    }

    async fn account_gone(&self, account: &NamespacedName, uid: &str) -> Result<Reconciled, ReconcileError> {
        // One of the same name may be there by now: its secrets name another UID, or none yet.
        let gone = |secret: &Secret| match self.accounts.get(account) {
            None => fits(secret, uid),
            Some(_) => annotation(secret, ACCOUNT_UID) == Some(uid),
        };
        for secret in self.by_account.get(account) {
            if gone(&secret) {
                self.delete(&secret).await?;
            }
        }
        Ok(Reconciled::Done)
    }

    async fn delete(&self, secret: &Secret) -> Result<(), ReconcileError> {
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: secret.metadata.uid.clone(),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        match self.api(namespace(secret)).delete(name(secret), &params).await {
            // A conflict is the UID: another secret has that name by now.
            Err(error) if !api_error::is_not_found(&error) && !api_error::is_conflict(&error) => {
                Err(error.into())
            }
            _ => Ok(()),
        }
    }

    async fn fill(&self, key: &NamespacedName) -> Result<Reconciled, ReconcileError> {
        let Some(secret) = self.secrets.get(key) else {
            return Ok(Reconciled::Done);
        };
        let Some(account) = account_of(&secret) else {
            return Ok(Reconciled::Done);
        };
        let Some(account) = self.account(&account, &secret).await? else {
            self.delete(&secret).await?;
            return Ok(Reconciled::Done);
        };
        let Some(filled) = self.filled(&secret, &account)? else {
            return Ok(Reconciled::Done);
        };
        let written = self
            .api(&key.namespace)
            .replace(&key.name, &PostParams::default(), &filled)
            .await;
        match written {
            // Its change, or its end, brings it back.
            Err(error) if api_error::is_conflict(&error) || api_error::is_not_found(&error) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => {}
        }
        Ok(Reconciled::Done)
    }

    /// The account of the secret; the server is asked when the cache does not have it.
    async fn account(
        &self,
        key: &NamespacedName,
        secret: &Secret,
    ) -> Result<Option<Arc<ServiceAccount>>, ReconcileError> {
        let right = |account: &Arc<ServiceAccount>| fits(secret, uid(account.as_ref()));
        if let Some(account) = self.accounts.get(key).filter(right) {
            return Ok(Some(account));
        }
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &key.namespace);
        Ok(api.get_opt(&key.name).await?.map(Arc::new).filter(right))
    }

    /// The secret with everything that it lacks; `None` if it lacks nothing.
    fn filled(&self, secret: &Secret, account: &ServiceAccount) -> Result<Option<Secret>, ReconcileError> {
        let mut filled = secret.clone();
        let data = filled.data.get_or_insert_default();
        if let Some(ca) = &self.root_ca {
            data.insert(CA.into(), ByteString(ca.clone().into_bytes()));
        }
        if data.get(NAMESPACE).is_none_or(|text| text.0.is_empty()) {
            data.insert(NAMESPACE.into(), ByteString(namespace(secret).into()));
        }
        if data.get(TOKEN).is_none_or(|token| token.0.is_empty()) {
            let claims = claims(&self.issuer, secret, account);
            let token = self
                .key
                .sign_jwt(&claims)
                .map_err(|error| ReconcileError::Invalid(error.to_string()))?;
            data.insert(TOKEN.into(), ByteString(token.into_bytes()));
        }
        if filled.data == secret.data {
            return Ok(None);
        }
        let annotations = filled.metadata.annotations.get_or_insert_default();
        annotations.insert(ACCOUNT_NAME.into(), name(account).into());
        annotations.insert(ACCOUNT_UID.into(), uid(account).into());
        Ok(Some(filled))
    }

    async fn secret_gone(
        &self,
        account: &NamespacedName,
        secret: &str,
    ) -> Result<Reconciled, ReconcileError> {
        let refers = |account: &ServiceAccount| {
            let mut secrets = account.secrets.iter().flatten();
            secrets.any(|reference| reference.name.as_deref() == Some(secret))
        };
        let again = self.secrets.get(&NamespacedName::new(&account.namespace, secret));
        if again.is_some() {
            return Ok(Reconciled::Done);
        }
        // The server is asked: the cache may be behind whoever wrote the reference just before.
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &account.namespace);
        let Some(mut found) = api.get_opt(&account.name).await? else {
            return Ok(Reconciled::Done);
        };
        if refers(&found) {
            let secrets = found.secrets.get_or_insert_default();
            secrets.retain(|reference| reference.name.as_deref() != Some(secret));
            let written = api.replace(&account.name, &PostParams::default(), &found).await;
            api_error::ignore_not_found(written)?;
        }
        Ok(Reconciled::Done)
    }
}

/// What such a token says.
fn claims(issuer: &str, secret: &Secret, account: &ServiceAccount) -> Value {
    let (space, account_name) = (namespace(account), name(account));
    json!({
        "iss": issuer,
        "sub": format!("system:serviceaccount:{space}:{account_name}"),
        "kubernetes.io/serviceaccount/namespace": space,
        "kubernetes.io/serviceaccount/service-account.name": account_name,
        "kubernetes.io/serviceaccount/service-account.uid": uid(account),
        "kubernetes.io/serviceaccount/secret.name": name(secret),
    })
}
