//! The objects that a binding chooses as parameters.

use std::sync::Arc;

use keelson_api::gvk::GroupVersionKind;
use keelson_api::selector::LabelSelector;
use serde_json::Value;

use super::source::ParamRef;
use crate::registry::{Kind, KindSource, served};
use crate::resources::Resources;
use crate::watch_cache::CachedObject;

/// Reads parameters.
pub(super) struct Parameters {
    resources: Resources,
    kinds: KindSource,
}

/// A parameter, or none where the policy or the binding wants none.
pub(super) type Parameter = Option<Value>;

impl Parameters {
    pub(super) fn new(resources: &Resources, kinds: &KindSource) -> Self {
        Self {
            resources: resources.clone(),
            kinds: kinds.clone(),
        }
    }

    /// The row of the policy's parameters.
    ///
    /// # Errors
    /// The kind is not served.
    pub(super) fn kind(&self, kind: Option<&GroupVersionKind>) -> Result<Option<Arc<Kind>>, String> {
        let Some(kind) = kind else { return Ok(None) };
        let row = self.kinds.load().by_kind(kind);
        match row.filter(|row| row.cache.is_some()) {
            Some(row) => Ok(Some(row)),
            None => Err(format!(
                "failed to find resource referenced by paramKind: '{kind}'"
            )),
        }
    }

    /// The parameters that a binding chooses for a request in a namespace; each is an evaluation of its own.
    ///
    /// # Errors
    /// In upstream's words.
    pub(super) async fn collect(
        &self,
        kind: Option<&Arc<Kind>>,
        reference: Option<&ParamRef>,
        namespace: &str,
    ) -> Result<Vec<Parameter>, String> {
        let (Some(kind), Some(reference)) = (kind, reference) else {
            return Ok(vec![None]);
        };
        let namespace = match (kind.info.namespaced, reference.namespace.as_str()) {
            (true, "") if namespace.is_empty() => {
                let why =
                    "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources";
                return Err(why.to_owned());
            }
            (true, "") => namespace,
            (true, given) => given,
            (false, "") => "",
            (false, _) => {
                let why = "paramRef.namespace must not be provided for a cluster-scoped `paramKind`";
                return Err(why.to_owned());
            }
        };
        let found = if let Some(selector) = &reference.selector {
            self.select(kind, namespace, selector)
        } else {
            let found = self.named(kind, namespace, &reference.name).await?;
            found.into_iter().collect()
        };
        if found.is_empty() && reference.required {
            return Err("no params found for policy binding with `Deny` parameterNotFoundAction".to_owned());
        }
        Ok(found.iter().map(|object| Some(served(kind, object))).collect())
    }

    fn select(&self, kind: &Kind, namespace: &str, selector: &LabelSelector) -> Vec<Arc<CachedObject>> {
        let Some(cache) = &kind.cache else {
            return Vec::new();
        };
        let mut found = cache.list(Some(namespace).filter(|_| kind.info.namespaced));
        found.retain(|object| selector.matches_by(|key| object.label(key)));
        found
    }

    /// From the cache, which a parameter that was made a moment ago may not have reached.
    async fn named(
        &self,
        kind: &Kind,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<CachedObject>>, String> {
        let Some(cache) = &kind.cache else {
            return Ok(None);
        };
        if let Some(found) = cache.get(namespace, name) {
            return Ok(Some(found));
        }
        let caches = self.resources.caches();
        caches.wait_until_current().await.map_err(|e| e.to_string())?;
        Ok(cache.get(namespace, name))
    }
}
