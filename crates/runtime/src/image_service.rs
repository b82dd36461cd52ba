//! CRI's ImageService: the image store in CRI's words.

use std::pin::Pin;

use futures::Stream;
use keelson_cri::v1;
use keelson_cri::v1::image_service_server::ImageService;
use tonic::{Code, Request, Response, Status};

use crate::images::{AuthConfig, ErrorKind, FsUsage, ImageError, ImageRecord};
use crate::runtime::{Runtime, now};

type Answer<T> = Result<Response<T>, Status>;

fn status(error: &ImageError) -> Status {
    let code = match error.kind() {
        ErrorKind::InvalidArgument => Code::InvalidArgument,
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::PermissionDenied => Code::PermissionDenied,
        ErrorKind::Unavailable => Code::Unavailable,
        ErrorKind::FailedPrecondition => Code::FailedPrecondition,
        ErrorKind::AlreadyExists => Code::AlreadyExists,
        ErrorKind::ResourceExhausted => Code::ResourceExhausted,
        ErrorKind::DataLoss => Code::DataLoss,
        ErrorKind::Unimplemented => Code::Unimplemented,
        ErrorKind::Unknown => Code::Unknown,
    };
    Status::new(code, error.to_string())
}

fn describe(image: &ImageRecord) -> v1::Image {
    let (uid, username) = image.config.cri_user();
    v1::Image {
        id: image.id.to_string(),
        repo_tags: image.repo_tags.clone(),
        repo_digests: image.repo_digests.clone(),
        size: image.size,
        uid: uid.map(|value| v1::Int64Value { value }),
        username,
        spec: None,
        pinned: image.pinned,
    }
}

impl Runtime {
    fn described_images(&self, filter: Option<v1::ImageFilter>) -> Vec<v1::Image> {
        let wanted = filter.and_then(|filter| filter.image).map(|image| image.image);
        self.0
            .images
            .list(wanted.as_deref())
            .iter()
            .map(describe)
            .collect()
    }
}

#[tonic::async_trait]
impl ImageService for Runtime {
    type StreamImagesStream = Pin<Box<dyn Stream<Item = Result<v1::StreamImagesResponse, Status>> + Send>>;

    async fn list_images(&self, request: Request<v1::ListImagesRequest>) -> Answer<v1::ListImagesResponse> {
        let images = self.described_images(request.into_inner().filter);
        Ok(Response::new(v1::ListImagesResponse { images }))
    }

    async fn stream_images(
        &self,
        request: Request<v1::StreamImagesRequest>,
    ) -> Answer<Self::StreamImagesStream> {
        let images = self.described_images(request.into_inner().filter);
        let message = Ok(v1::StreamImagesResponse { images });
        Ok(Response::new(Box::pin(futures::stream::iter([message]))))
    }

    async fn image_status(
        &self,
        request: Request<v1::ImageStatusRequest>,
    ) -> Answer<v1::ImageStatusResponse> {
        let request = request.into_inner();
        let wanted = request.image.unwrap_or_default().image;
        let found = self.0.images.status(&wanted);
        let mut info = std::collections::HashMap::new();
        if let (true, Some(image)) = (request.verbose, &found) {
            let config = serde_json::to_value(&*image.config).unwrap_or_default();
            let value =
                serde_json::json!({"manifest": image.manifest.to_string(), "imageSpec": {"config": config}});
            info.insert("info".to_owned(), value.to_string());
        }
        Ok(Response::new(v1::ImageStatusResponse {
            image: found.as_ref().map(describe),
            info,
        }))
    }

    async fn pull_image(&self, request: Request<v1::PullImageRequest>) -> Answer<v1::PullImageResponse> {
        let request = request.into_inner();
        let reference = request.image.unwrap_or_default().image;
        let auth = request.auth.map(|auth| AuthConfig {
            username: auth.username,
            password: auth.password,
            auth: auth.auth,
            server_address: auth.server_address,
            identity_token: auth.identity_token,
            registry_token: auth.registry_token,
        });
        let (progress, _) = tokio::sync::watch::channel(Default::default());
        let image = self
            .0
            .images
            .pull(&reference, auth, progress)
            .await
            .map_err(|error| status(&error))?;
        Ok(Response::new(v1::PullImageResponse {
            image_ref: image.id.to_string(),
        }))
    }

    async fn remove_image(
        &self,
        request: Request<v1::RemoveImageRequest>,
    ) -> Answer<v1::RemoveImageResponse> {
        let image = request.into_inner().image.unwrap_or_default().image;
        self.0
            .images
            .remove(&image)
            .await
            .map_err(|error| status(&error))?;
        Ok(Response::new(v1::RemoveImageResponse {}))
    }

    async fn image_fs_info(
        &self,
        _request: Request<v1::ImageFsInfoRequest>,
    ) -> Answer<v1::ImageFsInfoResponse> {
        let info = self.0.images.fs_info().await.map_err(|error| status(&error))?;
        let timestamp = now();
        let usage = |usage: FsUsage| v1::FilesystemUsage {
            timestamp,
            fs_id: Some(v1::FilesystemIdentifier {
                mountpoint: info.mountpoint.display().to_string(),
            }),
            used_bytes: Some(v1::UInt64Value { value: usage.bytes }),
            inodes_used: Some(v1::UInt64Value { value: usage.inodes }),
        };
        Ok(Response::new(v1::ImageFsInfoResponse {
            image_filesystems: vec![usage(info.images)],
            container_filesystems: vec![usage(info.containers)],
        }))
    }
}
