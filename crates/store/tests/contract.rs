//! The contract suite over the embedded backend: once as it is in production, once with tiny journal segments so that
//! everything goes through checkpoints.

#![expect(clippy::unwrap_used, reason = "test code")]

use std::sync::Arc;

use async_trait::async_trait;
use keelson_store::Store;
use keelson_store::contract::Backend;
use keelson_store::embedded::{EmbeddedStore, Options};
use parking_lot::Mutex;
use tempfile::TempDir;

struct Embedded {
    directory: TempDir,
    options: Options,
    open: Mutex<Option<Arc<EmbeddedStore>>>,
}

impl Embedded {
    fn new(options: Options) -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            options,
            open: Mutex::new(None),
        }
    }
}

#[async_trait]
impl Backend for Embedded {
    async fn start(&self) -> Arc<dyn Store> {
        let store = EmbeddedStore::open(self.directory.path(), self.options.clone()).unwrap();
        *self.open.lock() = Some(store.clone());
        store
    }

    async fn stop(&self, store: Arc<dyn Store>) {
        drop(store);
        let store = self.open.lock().take().unwrap();
        store.close().await;
    }
}

mod production {
    fn backend() -> super::Embedded {
        super::Embedded::new(keelson_store::embedded::Options::default())
    }

    keelson_store::contract_suite!(backend);
}

mod tiny_segments {
    fn backend() -> super::Embedded {
        let mut options = keelson_store::embedded::Options::default();
        options.segment_bytes = 2_000;
        options.watch_buffer = 2;
        super::Embedded::new(options)
    }

    keelson_store::contract_suite!(backend);
}
