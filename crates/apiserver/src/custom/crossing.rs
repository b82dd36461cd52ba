//! From one version of a custom resource to another.
//!
//! Objects stay in the cache in the version that they are stored in. A row of another version converts them when somebody
//! reads, and the converted object stays beside the original for those who ask next: however many watchers there are, a
//! change is converted once for each version that is watched.

use std::sync::Arc;

use keelson_api::schema::Schema;
use keelson_api::status::{Reason, Status};
use serde_json::Value;

use super::shape;
use super::webhook::Webhook;
use crate::watch_cache::{CachedObject, KindSpec};

/// How a row reads and writes objects of other versions.
pub(crate) struct Crossing {
    /// This row's version.
    pub(super) spec: Arc<KindSpec>,
    pub(super) schema: Arc<Schema>,
    /// The version that is written.
    pub(super) storage: Arc<KindSpec>,
    pub(super) storage_schema: Arc<Schema>,
    /// `None`: `apiVersion` alone changes.
    pub(super) webhook: Option<Arc<Webhook>>,
    pub(super) list_kind: String,
}

fn failure(message: String) -> Status {
    Status::failure(500, Reason::Unknown, message)
}

impl Crossing {
    fn has_form(&self, object: &CachedObject) -> bool {
        object.spec().api_version == self.spec.api_version
    }

    /// The objects in this row's version. Those of a list are converted together.
    pub(crate) async fn read(
        &self,
        mut objects: Vec<Arc<CachedObject>>,
        list: bool,
    ) -> Result<Vec<Arc<CachedObject>>, Status> {
        let mut missing = Vec::new();
        for (at, object) in objects.iter_mut().enumerate() {
            if self.has_form(object) {
                continue;
            }
            match object.form(&self.spec.api_version) {
                Some(form) => *object = form,
                None => missing.push(at),
            }
        }
        if missing.is_empty() {
            return Ok(objects);
        }
        let originals: Vec<Value> = missing.iter().map(|at| objects[*at].parse()).collect();
        let what = if list {
            format!("{}, Kind={}", self.spec.api_version, self.list_kind)
        } else {
            let spec = objects[missing[0]].spec();
            format!("{}, Kind={}", spec.api_version, spec.kind)
        };
        let converted = self.convert(originals, &self.spec, &what, list).await?;
        for (at, mut value) in missing.into_iter().zip(converted) {
            shape::prune(&self.schema, &mut value);
            objects[at] = objects[at].keep_form(&self.spec, &value);
        }
        Ok(objects)
    }

    /// The object in this row's version if it was read before.
    pub(crate) fn known(&self, object: &Arc<CachedObject>) -> Option<Arc<CachedObject>> {
        if self.has_form(object) {
            return Some(object.clone());
        }
        object.form(&self.spec.api_version)
    }

    /// The object in the version that is written.
    pub(crate) async fn store(&self, object: Value) -> Result<Value, Status> {
        if self.spec.api_version == self.storage.api_version {
            return Ok(object);
        }
        let what = format!("{}, Kind={}", self.spec.api_version, self.spec.kind);
        let mut converted = self.convert(vec![object], &self.storage, &what, false).await?;
        let mut object = converted.pop().unwrap_or_default();
        shape::prune(&self.storage_schema, &mut object);
        Ok(object)
    }

    async fn convert(
        &self,
        mut objects: Vec<Value>,
        to: &KindSpec,
        what: &str,
        list: bool,
    ) -> Result<Vec<Value>, Status> {
        match &self.webhook {
            Some(webhook) => webhook
                .convert(&objects, &to.api_version, what, list)
                .await
                .map_err(failure),
            None => {
                for object in &mut objects {
                    object["apiVersion"] = to.api_version.as_str().into();
                }
                Ok(objects)
            }
        }
    }
}
