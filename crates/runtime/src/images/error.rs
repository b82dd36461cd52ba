//! What can go wrong with images, in the words containerd uses where the kubelet and its users know them.

use std::io;
use std::path::{Path, PathBuf};

use super::digest::Digest;

/// Everything an image operation can fail with.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The text is no image reference (kubelet reason `InvalidImageName`).
    #[error("couldn't parse image name {name:?}: {reason}")]
    InvalidReference {
        /// What was given.
        name: String,
        /// Upstream's wording, for example `invalid reference format`.
        reason: String,
    },
    /// The text is no content digest.
    #[error("invalid digest {digest:?}: {reason}")]
    InvalidDigest {
        /// What was given.
        digest: String,
        /// Why it is refused.
        reason: &'static str,
    },
    /// The registries configuration or pull credentials cannot be used.
    #[error("invalid registry configuration: {0}")]
    InvalidConfig(String),
    /// A pull failed; `source` says at which step.
    #[error("failed to pull and unpack image {reference:?}: {source}")]
    Pull {
        /// Normalised reference.
        reference: String,
        /// The cause.
        source: Box<ImageError>,
    },
    /// The registry has no such manifest or blob, or the store no such image.
    #[error("{0}: not found")]
    NotFound(String),
    /// The registry refused the credentials, or wants some.
    #[error("pull access denied, repository does not exist or may require authorization: {0}")]
    Unauthorized(String),
    /// The image exists, but not for this platform.
    #[error("no match for platform in manifest {digest}: not found (wanted {wanted}, the image has {found})")]
    NoMatchForPlatform {
        /// Digest of the index or manifest.
        digest: Digest,
        /// `os/architecture[/variant]` of this node.
        wanted: String,
        /// What the image offers.
        found: String,
    },
    /// Content does not hash to what its descriptor says.
    #[error("{what}: unexpected digest {actual}, expected {expected}")]
    DigestMismatch {
        /// What was being read.
        what: String,
        /// Digest promised.
        expected: Digest,
        /// Digest of the bytes received.
        actual: Digest,
    },
    /// Content is shorter or longer than its descriptor says.
    #[error("{what}: unexpected size {actual}, expected {expected}")]
    SizeMismatch {
        /// What was being read.
        what: String,
        /// Bytes promised.
        expected: u64,
        /// Bytes received.
        actual: u64,
    },
    /// No connection, a broken connection or a 5xx answer, after all retries.
    #[error("RegistryUnavailable: {0}")]
    RegistryUnavailable(String),
    /// The registry's certificate is not trusted, or it does not speak TLS. Not worth a retry.
    #[error("RegistryUnavailable: TLS handshake with {host} failed: {reason}")]
    Tls {
        /// Host and port.
        host: String,
        /// What rustls says.
        reason: String,
        /// Whether the other side speaks TLS at all.
        peer_speaks_tls: bool,
    },
    /// An answer that the distribution protocol does not allow.
    #[error("unexpected status from {method} request to {url}: {status}{detail}")]
    UnexpectedStatus {
        /// HTTP method.
        method: String,
        /// URL without query.
        url: String,
        /// Status line.
        status: String,
        /// Registry's own error text, prefixed by `: `, or empty.
        detail: String,
    },
    /// A manifest, index or image configuration cannot be read.
    #[error("invalid {what}: {reason}")]
    InvalidManifest {
        /// Which document.
        what: String,
        /// Why.
        reason: String,
    },
    /// A form of image that is refused on purpose (docker schema 1, foreign layers, encrypted layers).
    #[error("unsupported: {0}")]
    Unsupported(String),
    /// A layer archive that is damaged or tries to leave its root.
    #[error("failed to extract layer {layer}: {reason}")]
    InvalidLayer {
        /// Layer digest.
        layer: String,
        /// Entry and cause.
        reason: String,
    },
    /// An image archive given to import is damaged, truncated or of an unknown form.
    #[error("invalid image archive: {0}")]
    InvalidArchive(String),
    /// The file system under the store is full; what was half done has been removed.
    #[error("no space left on device while {action} below {}", .path.display())]
    DiskFull {
        /// What was being done.
        action: String,
        /// Where.
        path: PathBuf,
    },
    /// A snapshot for this container exists already.
    #[error("rootfs of container {0:?} already exists")]
    RootfsExists(String),
    /// The store was written by a newer version.
    #[error("image store at {} has version {found}, this build reads up to {supported}", .path.display())]
    NewerVersion {
        /// Index file.
        path: PathBuf,
        /// Version in the file.
        found: u32,
        /// Newest version known here.
        supported: u32,
    },
    /// A file-system operation failed.
    #[error("{action} {}: {source}", .path.display())]
    Io {
        /// What was being done.
        action: String,
        /// To which file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

/// Classes of failure; each is one gRPC status code at the CRI boundary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// `INVALID_ARGUMENT`
    InvalidArgument,
    /// `NOT_FOUND`
    NotFound,
    /// `PERMISSION_DENIED`
    PermissionDenied,
    /// `UNAVAILABLE`
    Unavailable,
    /// `FAILED_PRECONDITION`
    FailedPrecondition,
    /// `ALREADY_EXISTS`
    AlreadyExists,
    /// `RESOURCE_EXHAUSTED`
    ResourceExhausted,
    /// `DATA_LOSS`: content arrived damaged.
    DataLoss,
    /// `UNIMPLEMENTED`
    Unimplemented,
    /// `UNKNOWN`
    Unknown,
}

impl ImageError {
    /// The class of the failure; [`ImageError::Pull`] has the class of its cause.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::InvalidReference { .. } | Self::InvalidDigest { .. } => ErrorKind::InvalidArgument,
            Self::InvalidConfig(_) | Self::NewerVersion { .. } => ErrorKind::FailedPrecondition,
            Self::Pull { source, .. } => source.kind(),
            Self::NotFound(_) | Self::NoMatchForPlatform { .. } => ErrorKind::NotFound,
            Self::Unauthorized(_) => ErrorKind::PermissionDenied,
            Self::DigestMismatch { .. } | Self::SizeMismatch { .. } => ErrorKind::DataLoss,
            Self::RegistryUnavailable(_) | Self::Tls { .. } => ErrorKind::Unavailable,
            Self::Unsupported(_) => ErrorKind::Unimplemented,
            Self::DiskFull { .. } => ErrorKind::ResourceExhausted,
            Self::RootfsExists(_) => ErrorKind::AlreadyExists,
            Self::InvalidArchive(_) | Self::InvalidManifest { .. } | Self::InvalidLayer { .. } => {
                ErrorKind::DataLoss
            }
            Self::UnexpectedStatus { .. } | Self::Io { .. } => ErrorKind::Unknown,
        }
    }

    /// Whether the same request may succeed when repeated.
    pub(crate) fn is_retryable(&self) -> bool {
        matches!(self, Self::RegistryUnavailable(_))
    }

    /// Wraps an I/O error, telling a full disk from everything else.
    pub(crate) fn io(action: &str, path: impl AsRef<Path>, source: io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        if matches!(
            source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        ) {
            Self::DiskFull {
                action: action.to_owned(),
                path,
            }
        } else {
            Self::Io {
                action: action.to_owned(),
                path,
                source,
            }
        }
    }

    pub(crate) fn manifest(what: &str, reason: impl ToString) -> Self {
        Self::InvalidManifest {
            what: what.to_owned(),
            reason: reason.to_string(),
        }
    }
}
