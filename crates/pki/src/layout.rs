//! The keys and certificates of a control plane, laid out as kubeadm's `/etc/kubernetes/pki`.

use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};

use crate::{
    AltNames, Certificate, CertificateAuthority, Error, Kubeconfig, PrivateKey, Profile, PublicKey, Subject,
    file,
};

const CA_VALIDITY: SignedDuration = SignedDuration::from_hours(24 * 3650);
const LEAF_VALIDITY: SignedDuration = SignedDuration::from_hours(24 * 365);

/// What the certificates of a cluster have to say.
#[derive(Clone, Debug)]
pub struct ClusterNames {
    /// `cluster.local`.
    pub cluster_domain: String,
    /// Further names and addresses of the API server: advertise addresses, host name, load balancer.
    pub hosts: Vec<String>,
    /// Address of the Service `kubernetes`: the first of the service range.
    pub service_ip: std::net::IpAddr,
}

impl Default for ClusterNames {
    fn default() -> Self {
        Self {
            cluster_domain: "cluster.local".to_string(),
            hosts: Vec::new(),
            service_ip: std::net::IpAddr::from([10, 96, 0, 1]),
        }
    }
}

impl ClusterNames {
    /// All names of the API server's serving certificate.
    pub fn apiserver(&self) -> AltNames {
        let mut hosts: Vec<String> = ["kubernetes", "kubernetes.default", "kubernetes.default.svc"]
            .map(String::from)
            .to_vec();
        hosts.push(format!("kubernetes.default.svc.{}", self.cluster_domain));
        hosts.push("localhost".to_string());
        hosts.push(self.service_ip.to_string());
        hosts.push("127.0.0.1".to_string());
        for host in &self.hosts {
            if !hosts.contains(host) {
                hosts.push(host.clone());
            }
        }
        AltNames::from_hosts(&hosts)
    }
}

/// The control plane's own identities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Identity {
    /// Serving certificate of the API server.
    Apiserver,
    /// API server towards kubelets; needs the ClusterRoleBinding `kubeadm:apiserver-kubelet-client`-like of bootstrap.
    ApiserverKubeletClient,
    /// API server towards extension API servers; signed by the front-proxy authority.
    FrontProxyClient,
    /// `kubernetes-admin` in group `kubeadm:cluster-admins`.
    Admin,
    /// `system:kube-controller-manager`.
    ControllerManager,
    /// `system:kube-scheduler`.
    Scheduler,
    /// `system:kube-proxy`.
    KubeProxy,
}

impl Identity {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Apiserver,
        Self::ApiserverKubeletClient,
        Self::FrontProxyClient,
        Self::Admin,
        Self::ControllerManager,
        Self::Scheduler,
        Self::KubeProxy,
    ];

    /// File name without extension.
    pub fn file_stem(self) -> &'static str {
        match self {
            Self::Apiserver => "apiserver",
            Self::ApiserverKubeletClient => "apiserver-kubelet-client",
            Self::FrontProxyClient => "front-proxy-client",
            Self::Admin => "admin",
            Self::ControllerManager => "controller-manager",
            Self::Scheduler => "scheduler",
            Self::KubeProxy => "kube-proxy",
        }
    }

    /// User and groups.
    pub fn subject(self) -> Subject {
        match self {
            Self::Apiserver => Subject::new("kube-apiserver", &[]),
            Self::ApiserverKubeletClient => Subject::new("kube-apiserver-kubelet-client", &[]),
            Self::FrontProxyClient => Subject::new("front-proxy-client", &[]),
            Self::Admin => Subject::new("kubernetes-admin", &["kubeadm:cluster-admins"]),
            Self::ControllerManager => Subject::new("system:kube-controller-manager", &[]),
            Self::Scheduler => Subject::new("system:kube-scheduler", &[]),
            Self::KubeProxy => Subject::new("system:kube-proxy", &["system:node-proxier"]),
        }
    }
}

/// A certificate with its key.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// The certificate.
    pub certificate: Certificate,
    /// Its key.
    pub key: PrivateKey,
}

/// All keys and certificates of a control plane.
#[derive(Clone, Debug)]
pub struct Pki {
    directory: PathBuf,
    /// The cluster's authority: serving certificates and clients.
    pub ca: CertificateAuthority,
    /// Authority of the front proxy: who may set the `X-Remote-*` headers.
    pub front_proxy_ca: CertificateAuthority,
    /// Signs service-account tokens.
    pub service_account_key: PrivateKey,
    leaves: Vec<(Identity, Leaf)>,
}

impl Pki {
    /// Loads what is in `directory`, makes what is missing, and renews leaves that are due, do not belong to the
    /// authority or lack a name. Authorities and the token key are never replaced. Safe to run again after a crash.
    pub fn ensure(directory: &Path, names: &ClusterNames, now: Timestamp) -> Result<Self, Error> {
        let ca = ensure_ca(directory, "ca", "kubernetes", now)?;
        let front_proxy_ca = ensure_ca(directory, "front-proxy-ca", "front-proxy-ca", now)?;
        let service_account_key = ensure_token_key(directory)?;
        let mut leaves = Vec::new();
        for identity in Identity::ALL {
            let authority = if identity == Identity::FrontProxyClient {
                &front_proxy_ca
            } else {
                &ca
            };
            leaves.push((identity, ensure_leaf(directory, identity, authority, names, now)?));
        }
        Ok(Self {
            directory: directory.to_path_buf(),
            ca,
            front_proxy_ca,
            service_account_key,
            leaves,
        })
    }

    /// The directory it was loaded from.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Certificate and key of an identity.
    pub fn leaf(&self, identity: Identity) -> &Leaf {
        let found = self.leaves.iter().find(|(i, _)| *i == identity);
        &found.expect("invariant: ensure makes every identity").1
    }

    /// Whether [`Pki::ensure`] would renew something now.
    pub fn needs_renewal(&self, now: Timestamp) -> bool {
        self.leaves
            .iter()
            .any(|(_, leaf)| leaf.certificate.needs_renewal(now))
    }

    /// The next instant at which [`Pki::needs_renewal`] becomes true.
    pub fn next_renewal(&self) -> Timestamp {
        let due = |c: &Certificate| {
            let life = c.not_after().as_second() - c.not_before().as_second();
            Timestamp::from_second(c.not_after().as_second() - life * 3 / 10 + 1).unwrap_or(c.not_after())
        };
        self.leaves
            .iter()
            .map(|(_, leaf)| due(&leaf.certificate))
            .min()
            .unwrap_or(Timestamp::MAX)
    }

    /// Names and ends of all certificates, authorities included, for `keelson status`.
    pub fn expirations(&self) -> Vec<(&'static str, Timestamp)> {
        let mut all = vec![
            ("ca", self.ca.certificate().not_after()),
            ("front-proxy-ca", self.front_proxy_ca.certificate().not_after()),
        ];
        all.extend(
            self.leaves
                .iter()
                .map(|(i, leaf)| (i.file_stem(), leaf.certificate.not_after())),
        );
        all
    }

    /// A kubeconfig for an identity, with everything embedded.
    pub fn kubeconfig(&self, identity: Identity, cluster: &str, server: &str) -> String {
        let leaf = self.leaf(identity);
        render(&self.ca, leaf, &identity.subject().common_name, cluster, server)
    }

    /// Client certificate `system:node:<name>` in group `system:nodes`, for a node of this very process; other nodes
    /// get theirs through the CSR API.
    pub fn issue_node_client(&self, node: &str, now: Timestamp) -> Result<Leaf, Error> {
        let subject = Subject::new(&format!("system:node:{node}"), &["system:nodes"]);
        let profile = Profile::client(LEAF_VALIDITY);
        let (certificate, key) = self.ca.issue(&subject, &AltNames::default(), &profile, now)?;
        Ok(Leaf { certificate, key })
    }

    /// Serving certificate of a kubelet with the given names and addresses.
    pub fn issue_node_server(&self, node: &str, hosts: &[String], now: Timestamp) -> Result<Leaf, Error> {
        let subject = Subject::new(&format!("system:node:{node}"), &["system:nodes"]);
        let profile = Profile::server(LEAF_VALIDITY);
        let (certificate, key) = self
            .ca
            .issue(&subject, &AltNames::from_hosts(hosts), &profile, now)?;
        Ok(Leaf { certificate, key })
    }

    /// kubeconfig of a leaf issued by this cluster's authority.
    pub fn kubeconfig_for(&self, leaf: &Leaf, cluster: &str, server: &str) -> String {
        render(
            &self.ca,
            leaf,
            &leaf.certificate.subject().common_name.clone(),
            cluster,
            server,
        )
    }

    /// `sha256:<hex>` of the authority's public key, as `--discovery-token-ca-cert-hash` wants it.
    pub fn ca_cert_hash(&self) -> String {
        let spki = self.ca.key().public();
        format!(
            "sha256:{}",
            hex::encode(ring::digest::digest(&ring::digest::SHA256, spki.spki()))
        )
    }

    /// Keys whose tokens are accepted: the signing key's public half, then older ones kept in `sa.pub`.
    pub fn token_verification_keys(&self) -> Result<Vec<PublicKey>, Error> {
        let own = self.service_account_key.public();
        let mut keys = vec![own.clone()];
        if let Some(text) = file::read(&self.directory.join("sa.pub"))? {
            let older = PublicKey::all_from_pem(&text)?;
            keys.extend(older.into_iter().filter(|key| *key != own));
        }
        Ok(keys)
    }
}

fn render(ca: &CertificateAuthority, leaf: &Leaf, user: &str, cluster: &str, server: &str) -> String {
    Kubeconfig {
        cluster,
        server,
        certificate_authority: &ca.certificate().to_pem(),
        user,
        client: Some((&leaf.certificate.to_pem(), &leaf.key.to_pem())),
        token: None,
        context: None,
    }
    .render()
}

fn in_file<T>(path: &Path, result: Result<T, Error>) -> Result<T, Error> {
    result.map_err(|source| Error::InFile {
        path: path.to_path_buf(),
        source: Box::new(source),
    })
}

/// Certificate and key of a stem; `None` when either is missing (a crash between both writes).
fn load_pair(directory: &Path, stem: &str) -> Result<Option<(Certificate, PrivateKey)>, Error> {
    let (certificate, key) = (
        directory.join(format!("{stem}.crt")),
        directory.join(format!("{stem}.key")),
    );
    match (file::read(&certificate)?, file::read(&key)?) {
        (Some(c), Some(k)) => Ok(Some((
            in_file(&certificate, Certificate::from_pem(&c))?,
            in_file(&key, PrivateKey::from_pem(&k))?,
        ))),
        _ => Ok(None),
    }
}

/// The key first: a certificate is never there without its key.
fn save_pair(directory: &Path, stem: &str, certificate: &Certificate, key: &PrivateKey) -> Result<(), Error> {
    file::write(
        &directory.join(format!("{stem}.key")),
        key.to_pem().as_bytes(),
        file::SECRET,
    )?;
    file::write(
        &directory.join(format!("{stem}.crt")),
        certificate.to_pem().as_bytes(),
        file::PUBLIC,
    )
}

fn ensure_ca(
    directory: &Path,
    stem: &str,
    name: &str,
    now: Timestamp,
) -> Result<CertificateAuthority, Error> {
    if let Some((certificate, key)) = load_pair(directory, stem)? {
        let path = directory.join(format!("{stem}.crt"));
        return in_file(&path, CertificateAuthority::from_parts(certificate, key));
    }
    let path = directory.join(format!("{stem}.crt"));
    if let Some(text) = file::read(&path)? {
        // Replacing an authority whose key is kept elsewhere would cut every client off.
        in_file(&path, Certificate::from_pem(&text))?;
        return in_file(&path, Err(Error::Key(format!("{stem}.key is missing beside it"))));
    }
    let ca = CertificateAuthority::create(name, CA_VALIDITY, now)?;
    save_pair(directory, stem, ca.certificate(), ca.key())?;
    Ok(ca)
}

fn ensure_token_key(directory: &Path) -> Result<PrivateKey, Error> {
    let path = directory.join("sa.key");
    if let Some(text) = file::read(&path)? {
        return in_file(&path, PrivateKey::from_pem(&text));
    }
    let key = PrivateKey::generate()?;
    file::write(&path, key.to_pem().as_bytes(), file::SECRET)?;
    file::write(
        &directory.join("sa.pub"),
        key.public().to_pem().as_bytes(),
        file::PUBLIC,
    )?;
    Ok(key)
}

fn ensure_leaf(
    directory: &Path,
    identity: Identity,
    authority: &CertificateAuthority,
    names: &ClusterNames,
    now: Timestamp,
) -> Result<Leaf, Error> {
    let server = identity == Identity::Apiserver;
    let (alt_names, profile) = if server {
        (names.apiserver(), Profile::server(LEAF_VALIDITY))
    } else {
        (AltNames::default(), Profile::client(LEAF_VALIDITY))
    };
    if let Some((certificate, key)) = load_pair(directory, identity.file_stem())? {
        let fits = certificate
            .public_key()
            .is_ok_and(|public| public == key.public())
            && certificate.is_signed_by(authority.certificate())
            && certificate.alt_names().covers(&alt_names)
            && *certificate.subject() == identity.subject()
            && !certificate.needs_renewal(now)
            && certificate.not_before() <= now;
        if fits {
            return Ok(Leaf { certificate, key });
        }
    }
    let (certificate, key) = authority.issue(&identity.subject(), &alt_names, &profile, now)?;
    save_pair(directory, identity.file_stem(), &certificate, &key)?;
    Ok(Leaf { certificate, key })
}
