//! What the components that run alone have in common.

use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result};
use jiff::{SignedDuration, Timestamp};
use keelson_cluster::preflight;
use keelson_pki::{AltNames, CertificateAuthority, Profile, Subject, file};
use uuid::Uuid;

/// Life of a self-signed serving certificate, as upstream's.
const SELF_SIGNED_VALIDITY: SignedDuration = SignedDuration::from_hours(24 * 365);

/// A file that a flag names.
pub(crate) fn read(flag: &str, path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read --{flag} {}", path.display()))
}

/// Like [`read`], as text.
pub(crate) fn read_text(flag: &str, path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read --{flag} {}", path.display()))
}

/// The identity of this process among all candidates for a Lease: `<host name>_<uuid>`.
pub(crate) fn leader_identity() -> String {
    let host = nix::unistd::gethostname()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    format!("{host}_{}", Uuid::new_v4())
}

/// The node's name: the flag in upstream's normal form, else the host name.
pub(crate) fn node_name(hostname_override: Option<&str>) -> Result<String> {
    match hostname_override.map(str::trim) {
        Some("") => anyhow::bail!("--hostname-override is empty"),
        Some(name) => Ok(name.to_lowercase()),
        None => Ok(preflight::host_name()?),
    }
}

/// This machine's address by the default route; the error names the flag that helps.
pub(crate) fn own_address(flag: &str) -> Result<IpAddr> {
    preflight::default_route_address().with_context(|| {
        format!("cannot find out this machine's address, there is no default route: use --{flag}")
    })
}

/// Chain and key, both PEM.
pub(crate) struct Serving {
    pub(crate) chain: Vec<u8>,
    pub(crate) key: Vec<u8>,
}

/// The certificate of `--tls-cert-file`, or, as upstream has it, the self-signed one `<name>.crt` in `cert_dir`, which is
/// made when it is missing.
pub(crate) fn serving(
    files: Option<(&Path, &Path)>,
    cert_dir: &Path,
    name: &str,
    hosts: &[String],
) -> Result<Serving> {
    if let Some((certificate, key)) = files {
        return Ok(Serving {
            chain: read("tls-cert-file", certificate)?,
            key: read("tls-private-key-file", key)?,
        });
    }
    let (certificate, key) = (
        cert_dir.join(format!("{name}.crt")),
        cert_dir.join(format!("{name}.key")),
    );
    if let (Some(chain), Some(key)) = (file::read(&certificate)?, file::read(&key)?) {
        return Ok(Serving {
            chain: chain.into_bytes(),
            key: key.into_bytes(),
        });
    }
    let made = self_signed(hosts)?;
    file::write(&key, &made.key, file::SECRET)?;
    file::write(&certificate, &made.chain, file::PUBLIC)?;
    tracing::info!(certificate = %certificate.display(), "made a self-signed serving certificate");
    Ok(made)
}

/// A certificate for `hosts` by an authority of its own whose key nobody keeps.
fn self_signed(hosts: &[String]) -> Result<Serving> {
    let now = Timestamp::now();
    let common_name = format!(
        "{}@{}",
        hosts.first().map_or("localhost", String::as_str),
        now.as_second()
    );
    let authority = CertificateAuthority::create(&format!("{common_name}-ca"), SELF_SIGNED_VALIDITY, now)?;
    let profile = Profile::server(SELF_SIGNED_VALIDITY);
    let subject = Subject::new(&common_name, &[]);
    let (certificate, key) = authority.issue(&subject, &AltNames::from_hosts(hosts), &profile, now)?;
    let chain = certificate.to_pem() + &authority.certificate().to_pem();
    Ok(Serving {
        chain: chain.into_bytes(),
        key: key.to_pem().into_bytes(),
    })
}

#[cfg(test)]
mod tests {
    use keelson_pki::Certificate;

    use super::*;

    #[test]
    fn a_self_signed_certificate_is_made_once() {
        let directory = tempfile::tempdir().unwrap();
        let hosts = ["node-1".to_owned(), "10.0.0.7".to_owned()];
        let first = serving(None, directory.path(), "kubelet", &hosts).unwrap();
        let chain = Certificate::all_from_pem(&String::from_utf8(first.chain.clone()).unwrap()).unwrap();
        let [leaf, authority] = chain.as_slice() else {
            panic!("{} certificates", chain.len())
        };
        assert!(leaf.is_signed_by(authority) && authority.is_ca() && leaf.server_auth());
        assert!(leaf.alt_names().covers(&AltNames::from_hosts(&hosts)));
        let second = serving(None, directory.path(), "kubelet", &hosts).unwrap();
        assert_eq!((first.chain, first.key), (second.chain, second.key));
    }

    #[test]
    fn identities_and_names() {
        let (one, two) = (leader_identity(), leader_identity());
        assert_ne!(one, two);
        assert!(
            one.rsplit_once('_')
                .is_some_and(|(host, id)| !host.is_empty() && id.len() == 36),
            "{one}"
        );
        assert_eq!(node_name(Some(" Node-1 ")).unwrap(), "node-1");
        assert!(node_name(Some(" ")).is_err());
    }

    #[test]
    fn a_missing_file_names_the_flag() {
        let error = read("client-ca-file", Path::new("/nonexistent")).unwrap_err();
        assert_eq!(error.to_string(), "cannot read --client-ca-file /nonexistent");
    }
}
