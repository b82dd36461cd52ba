//! Keys and certificates of a cluster: certificate authorities, the leaf certificates and kubeconfigs of every
//! component, certificate signing requests, and the rustls configurations made from them.
//!
//! Laid out as kubeadm lays out `/etc/kubernetes/pki`, so that what people know stays true. Nothing here touches the
//! disk except [`Pki::ensure`] and the functions of [`file`]. Time always comes in from outside.
//!
//! Certificates are written by the small DER writer in `der`: rcgen cannot express a subject with several
//! organizations (which is how groups are spelled), nor keep the subject of a request byte for byte.

mod authority;
mod certificate;
mod csr;
mod der;
mod error;
pub mod file;
mod key;
mod kubeconfig;
mod layout;
mod pem;
pub mod tls;

pub use authority::{CertificateAuthority, Profile};
pub use certificate::{AltNames, Certificate, ExtendedUsage, KeyUsage, Subject};
pub use csr::CertificateRequest;
pub use error::Error;
pub use key::{JwsAlgorithm, PrivateKey, PublicKey};
pub use kubeconfig::Kubeconfig;
pub use layout::{ClusterNames, Identity, Leaf, Pki};
