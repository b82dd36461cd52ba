//! A store whose values are encrypted in the one behind it.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use keelson_store::{
    Error, KeyValue, LeaseId, Precondition, RangeRequest, RangeResponse, Revision, Store, WatchMessage,
    WatchSource, WatchStream, WriteOutcome,
};

use super::config::{EncryptionConfig, TransformError};

/// See the module.
pub(crate) struct EncryptedStore {
    inner: Arc<dyn Store>,
    config: Arc<EncryptionConfig>,
}

#[derive(Debug, thiserror::Error)]
#[error("{key}: {source}")]
struct KeyError {
    key: String,
    source: TransformError,
}

fn failed(operation: &'static str, key: &[u8], source: TransformError) -> Error {
    Error::Backend {
        operation,
        source: Box::new(KeyError {
            key: String::from_utf8_lossy(key).into_owned(),
            source,
        }),
    }
}

fn decrypt(config: &EncryptionConfig, kv: &mut KeyValue) -> Result<(), Error> {
    // Deletions carry no value.
    if kv.value.is_empty() {
        return Ok(());
    }
    if let Some(providers) = config.providers(&kv.key) {
        let decrypted = providers.decrypt(&kv.key, &kv.value);
        let (value, _) = decrypted.map_err(|e| failed("decrypt", &kv.key, e))?;
        kv.value = value.into();
    }
    Ok(())
}

impl EncryptedStore {
    /// Encrypts what `config` names in `inner`.
    pub(crate) fn new(inner: Arc<dyn Store>, config: EncryptionConfig) -> Self {
        Self {
            inner,
            config: Arc::new(config),
        }
    }

    /// Writes everything anew that the first provider with its first key would write otherwise; returns how much that was. What
    /// others write meanwhile is left to them.
    pub(crate) async fn rewrite(&self) -> Result<usize, Error> {
        let mut written = 0;
        for kv in self.inner.range(RangeRequest::prefix("/registry/")).await?.kvs {
            let Some(providers) = self.config.providers(&kv.key) else {
                continue;
            };
            let decrypted = providers.decrypt(&kv.key, &kv.value);
            let (value, stale) = decrypted.map_err(|e| failed("decrypt", &kv.key, e))?;
            if !stale {
                continue;
            }
            let sealed = providers
                .encrypt(&kv.key, &value)
                .map_err(|e| failed("encrypt", &kv.key, e))?;
            let unchanged = Precondition::ModRevision(kv.mod_revision);
            if let WriteOutcome::Committed { .. } =
                self.inner.put(kv.key, sealed.into(), unchanged, kv.lease).await?
            {
                written += 1;
            }
        }
        Ok(written)
    }

    fn outcome(&self, outcome: WriteOutcome) -> Result<WriteOutcome, Error> {
        let decrypted = |kv: Option<KeyValue>| -> Result<Option<KeyValue>, Error> {
            let Some(mut kv) = kv else { return Ok(None) };
            decrypt(&self.config, &mut kv)?;
            Ok(Some(kv))
        };
        Ok(match outcome {
            WriteOutcome::Committed { revision, previous } => WriteOutcome::Committed {
                revision,
                previous: decrypted(previous)?,
            },
            WriteOutcome::Conflict { revision, current } => WriteOutcome::Conflict {
                revision,
                current: decrypted(current)?,
            },
        })
    }
}

#[async_trait]
impl Store for EncryptedStore {
    async fn revision(&self) -> Result<Revision, Error> {
        self.inner.revision().await
    }

    async fn get(&self, key: &[u8], revision: Option<Revision>) -> Result<Option<KeyValue>, Error> {
        let mut found = self.inner.get(key, revision).await?;
        if let Some(kv) = &mut found {
            decrypt(&self.config, kv)?;
        }
        Ok(found)
    }

    async fn range(&self, request: RangeRequest) -> Result<RangeResponse, Error> {
        let mut response = self.inner.range(request).await?;
        for kv in &mut response.kvs {
            decrypt(&self.config, kv)?;
        }
        Ok(response)
    }

    async fn put(
        &self,
        key: Bytes,
        value: Bytes,
        precondition: Precondition,
        lease: Option<LeaseId>,
    ) -> Result<WriteOutcome, Error> {
        let value = match self.config.providers(&key) {
            Some(providers) => providers
                .encrypt(&key, &value)
                .map_err(|e| failed("encrypt", &key, e))?
                .into(),
            None => value,
        };
        self.outcome(self.inner.put(key, value, precondition, lease).await?)
    }

    async fn delete(&self, key: Bytes, precondition: Precondition) -> Result<WriteOutcome, Error> {
        self.outcome(self.inner.delete(key, precondition).await?)
    }

    async fn watch(&self, prefix: Bytes, from: Option<Revision>) -> Result<WatchStream, Error> {
        let inner = self.inner.watch(prefix, from).await?;
        Ok(WatchStream::from_source(Box::new(Decrypted {
            inner,
            config: self.config.clone(),
        })))
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        self.inner.compact(revision).await
    }

    async fn lease_grant(&self, ttl_seconds: u64) -> Result<LeaseId, Error> {
        self.inner.lease_grant(ttl_seconds).await
    }

    async fn lease_keep_alive(&self, lease: LeaseId) -> Result<(), Error> {
        self.inner.lease_keep_alive(lease).await
    }

    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), Error> {
        self.inner.lease_revoke(lease).await
    }

    async fn leases(&self) -> Result<Vec<(LeaseId, u64)>, Error> {
        self.inner.leases().await
    }

    async fn size(&self) -> Result<u64, Error> {
        self.inner.size().await
    }
}

struct Decrypted {
    inner: WatchStream,
    config: Arc<EncryptionConfig>,
}

#[async_trait]
impl WatchSource for Decrypted {
    async fn next(&mut self) -> Option<WatchMessage> {
        let mut events = match self.inner.next().await? {
            WatchMessage::Events(events) => events,
            other => return Some(other),
        };
        for event in &mut events {
            let previous = event
                .previous
                .as_mut()
                .map_or(Ok(()), |kv| decrypt(&self.config, kv));
            if let Err(error) = decrypt(&self.config, &mut event.kv).and(previous) {
                // Who lists again is told what is wrong.
                tracing::error!(%error, "the watch of the store ends");
                return Some(WatchMessage::Lagged);
            }
        }
        Some(WatchMessage::Events(events))
    }

    fn request_progress(&mut self) -> bool {
        self.inner.request_progress()
    }
}
