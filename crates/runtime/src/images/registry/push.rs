//! Uploading: one request to begin, one with the whole blob.

use bytes::Bytes;
use http::Method;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION};

use super::repository::Repository;
use crate::images::digest::Digest;
use crate::images::error::ImageError;

impl Repository<'_> {
    /// Uploads a blob unless the repository has it.
    pub(crate) async fn push_blob(&self, digest: &Digest, data: Bytes) -> Result<(), ImageError> {
        let headers = HeaderMap::new();
        match self
            .try_endpoints(&Method::HEAD, &format!("blobs/{digest}"), &headers, Bytes::new())
            .await
        {
            Ok(_) => return Ok(()),
            Err(ImageError::NotFound(_)) => {}
            Err(e) => return Err(e),
        }
        let (endpoint, response) = self
            .try_endpoints(&Method::POST, "blobs/uploads/", &headers, Bytes::new())
            .await?;
        let mut location = response
            .headers()
            .get(LOCATION)
            .and_then(|v| v.to_str().ok())
            .and_then(|v| endpoint.base.join(v).ok())
            .ok_or_else(|| ImageError::RegistryUnavailable("upload begun without a location".into()))?;
        location
            .query_pairs_mut()
            .append_pair("digest", &digest.to_string());
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        endpoint
            .request(&Method::PUT, &location, &headers, data)
            .await
            .map(drop)
    }

    /// Uploads a manifest under a tag or digest.
    pub(crate) async fn push_manifest(
        &self,
        selector: &str,
        media_type: &'static str,
        data: Bytes,
    ) -> Result<(), ImageError> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
        self.try_endpoints(&Method::PUT, &format!("manifests/{selector}"), &headers, data)
            .await
            .map(drop)
    }
}
